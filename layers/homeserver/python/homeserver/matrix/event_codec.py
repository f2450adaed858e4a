"""Events as they are stored: their JSON, deflated with a dictionary of what most events contain.

The first byte names the format; formats are only ever added, so that everything stored stays readable:

    0   JSON in UTF-8
    1   JSON, raw deflate with dictionary 1
    2   the same for what only the slower `json` of Python takes: integers beyond 64 bits, which room versions 1 to 5
        let pass, lone surrogates, deep nesting

Measured (Python 3.13 on a shared 2-core machine; a dictionary of 2.8 KB; microseconds):

    event                               JSON     without dictionary   stored   pack   unpack
    text message of 37 characters       675 B    523 B                425 B    18     7
    m.room.encrypted, 420 byte payload  1,349 B  1,042 B              899 B    23     9
    m.room.member                       728 B    545 B                428 B    17     7
    m.room.power_levels                 978 B    629 B                404 B    13     5
    text message of 16 KB               16.7 KB  2,640 B              2,509 B  54     18

Level 6 is where size stops falling: level 1 gains at most 5 us and costs 1 to 2 %, level 9 gains 1 % on long texts for
five times the time. (Hashes and signatures are random: two thirds of what is left of a small event.)
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import orjson

_PLAIN = 0
_DEFLATED = 1
_DEFLATED_WIDE = 2
_LEVEL = 6

# Later bytes are cheaper to refer to, so what is in every event stands at the end. It belongs to formats 1 and 2 and
# must never change: a better dictionary is a new format.
_DICTIONARY_1 = (
    b'"m.room.third_party_invite","m.room.tombstone","replacement_room":"!","m.room.server_acl","allow":["*"],"deny":['
    b'"allow_ip_literals":false,"m.room.pinned_events","pinned":["$"m.space.child","m.space.parent","via":["canonical":'
    b'true,"suggested":"order":"m.room.guest_access","guest_access":"can_join","forbidden","m.room.canonical_alias",'
    b'"alias":"#","alt_aliases":[],"m.room.avatar","m.room.topic","topic":"m.room.name","name":"'
    b'"m.room.join_rules","join_rule":"invite","public","restricted","allow":[{"type":"m.room_membership","room_id":"!'
    b'"m.room.history_visibility","history_visibility":"shared","world_readable","invited","joined",'
    b'"m.room.encryption","rotation_period_ms":604800000,"rotation_period_msgs":100,'
    b'"m.room.create","creator":"@","m.federate":true,"predecessor":{"event_id":"$"room_version":"10","11","12",'
    b'"additional_creators":["@"m.room.power_levels","ban":50,"events":{"m.room.avatar":50,"m.room.canonical_alias":50,'
    b'"m.room.encryption":100,"m.room.history_visibility":100,"m.room.name":50,"m.room.power_levels":100,'
    b'"m.room.server_acl":100,"m.room.tombstone":150},"events_default":0,"invite":0,"kick":50,"notifications":{"room":50}'
    b',"redact":50,"state_default":50,"users":{"@"users_default":0}'
    b'"m.sticker","m.call.invite","m.call.candidates","m.call.hangup","call_id":"m.poll.start","m.beacon",'
    b'"m.room.redaction","redacts":"$"reason":"m.reaction","m.annotation","key":"\xf0\x9f\x91\x8d\xef\xb8\x8f"'
    b'"msgtype":"m.image","info":{"h":w":"mimetype":"image/jpeg","image/png","size":"thumbnail_info":{"thumbnail_url":'
    b'"xyz.amorgan.blurhash":"url":"mxc://"filename":"file":{"hashes":{"sha256":"iv":"key":{"alg":"A256CTR","ext":true,'
    b'"k":"key_ops":["encrypt","decrypt"],"kty":"oct"},"v":"v2"}"msgtype":"m.video","m.audio","m.file","duration":'
    b'"msgtype":"m.notice","msgtype":"m.emote","m.new_content":{"body":"* "m.replace","m.thread","is_falling_back":true'
    b',"m.in_reply_to":{"event_id":"$"rel_type":"m.relates_to":{"m.mentions":{"user_ids":["@'
    b'"format":"org.matrix.custom.html","formatted_body":"<p></p><a href=\\"https://matrix.to/#/@</a><strong></strong>'
    b'"join_authorised_via_users_server":"is_direct":true,"membership":"ban","membership":"invite","membership":"leave",'
    b'{"avatar_url":"mxc://"displayname":"membership":"join"},"type":"m.room.member","state_key":"@'
    b'"content":{"body":"msgtype":"m.text"},"type":"m.room.message"'
    b'"content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"AwgA","device_id":"sender_key":"session_id":"'
    b'"type":"m.room.encrypted"},"unsigned":{"age":"age_ts":"prev_content":"replaces_state":"transaction_id":"m.'
    b'.com.org.net:matrix.org"'
    b'{"auth_events":["$","$","$"],"content":{"depth":1,"event_id":"$"hashes":{"sha256":"},"origin":"'
    b'"origin_server_ts":17,"prev_events":["$"],"prev_state":[],"room_id":"!","sender":"@'
    b'"signatures":{"ed25519:a_"}},"state_key":"","type":"m.room.'
)


def pack(event: Mapping[str, Any]) -> bytes:
    """The stored form of an event: a JSON object as a parser returns it. Raises TypeError for other values."""
    try:
        encoded = orjson.dumps(event)
    except orjson.JSONEncodeError:
        return _deflate(_DEFLATED_WIDE, json.dumps(event, separators=(",", ":")).encode())
    packed = _deflate(_DEFLATED, encoded)
    return packed if len(packed) <= len(encoded) else bytes([_PLAIN]) + encoded


def unpack(data: bytes) -> dict[str, Any]:
    """The JSON object of a stored event. Raises ValueError for an unknown format or damaged data."""
    if data[:1] == bytes([_PLAIN]):
        return orjson.loads(data[1:])  # type: ignore[no-any-return]
    if data[:1] == bytes([_DEFLATED]):
        return orjson.loads(_inflate(data))  # type: ignore[no-any-return]
    if data[:1] == bytes([_DEFLATED_WIDE]):
        return json.loads(_inflate(data))  # type: ignore[no-any-return]
    raise ValueError(f"a stored event of the unknown format {data[:1].hex() or '(empty)'}")


def _deflate(format_byte: int, encoded: bytes) -> bytes:
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15, zdict=_DICTIONARY_1)
    return bytes([format_byte]) + deflate.compress(encoded) + deflate.flush()


def _inflate(data: bytes) -> bytes:
    inflate = zlib.decompressobj(-15, zdict=_DICTIONARY_1)
    try:
        encoded = inflate.decompress(data[1:]) + inflate.flush()
    except zlib.error as error:
        raise ValueError("a stored event is damaged") from error
    if not inflate.eof or inflate.unused_data:
        raise ValueError("a stored event is cut off or has something behind it")
    return encoded
