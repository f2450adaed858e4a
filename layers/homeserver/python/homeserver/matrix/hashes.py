"""Hashes of events: the content hash, the reference hash, and the IDs made of it.

Source: Matrix v1.19, server-server API, "Calculating the content hash for an event" and "Calculating the reference
hash for an event"; "Event IDs" of room versions 3, 4 and 12.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from homeserver.matrix import unpadded_base64
from homeserver.matrix.canonical_json import encode_for_room
from homeserver.matrix.errors import BadJson
from homeserver.matrix.event import Event
from homeserver.matrix.redaction import redact
from homeserver.matrix.room_versions import EventIdFormat, RoomVersionRules

_NOT_CONTENT_HASHED = frozenset({"unsigned", "signatures", "hashes"})
_NOT_REFERENCE_HASHED = frozenset({"unsigned", "signatures"})


def content_hash(pdu: Mapping[str, Any], rules: RoomVersionRules) -> str:
    """Unpadded base64 of the SHA-256 of the whole event but `hashes`, `signatures` and `unsigned`.

    Raises NotCanonical.
    """
    hashed = {key: value for key, value in pdu.items() if key not in _NOT_CONTENT_HASHED}
    return unpadded_base64.encode(sha256(encode_for_room(hashed, rules)).digest())


def check_content_hash(pdu: Mapping[str, Any], rules: RoomVersionRules) -> bool:
    """Whether `hashes.sha256` is the content hash. Where it is not, the receiver goes on with the redacted event.

    Raises NotCanonical.
    """
    hashes = pdu.get("hashes")
    claimed = hashes.get("sha256") if isinstance(hashes, dict) else None
    if not isinstance(claimed, str):
        return False
    actual = content_hash(pdu, rules)
    try:
        return unpadded_base64.decode(claimed) == unpadded_base64.decode(actual)
    except ValueError:
        return False


def reference_bytes(pdu: Mapping[str, Any], rules: RoomVersionRules) -> bytes:
    """What the reference hash is made over, which is also what is signed: the redacted event without signatures."""
    redacted = redact(pdu, rules)
    return encode_for_room({k: v for k, v in redacted.items() if k not in _NOT_REFERENCE_HASHED}, rules)


def reference_hash(pdu: Mapping[str, Any], rules: RoomVersionRules) -> bytes:
    """The 32 bytes that identify an event whether it is redacted or not. Raises NotCanonical."""
    return sha256(reference_bytes(pdu, rules)).digest()


def event_id_from_hash(digest: bytes, rules: RoomVersionRules) -> str:
    """The event ID of a reference hash, in room versions 3 and later."""
    if rules.event_id_format is EventIdFormat.STANDARD_BASE64:
        return "$" + unpadded_base64.encode(digest)
    return "$" + unpadded_base64.encode_urlsafe(digest)


def event_id_of(pdu: Mapping[str, Any], rules: RoomVersionRules) -> str:
    """The ID of an event: a field of it in room versions 1 and 2, its reference hash later.

    Raises NotCanonical, and BadJson where the field is missing.
    """
    if rules.event_id_format is EventIdFormat.OPAQUE:
        event_id = pdu.get("event_id")
        if not isinstance(event_id, str):
            raise BadJson("event_id is missing")
        return event_id
    return event_id_from_hash(reference_hash(pdu, rules), rules)


def room_id_of_create(event_id: str) -> str:
    """The room ID that a create event of room version 12 makes: its own ID with the sigil of rooms."""
    return "!" + event_id[1:]


def event_from_pdu(pdu: Mapping[str, Any], rules: RoomVersionRules, *, room_id: str | None = None) -> Event:
    """The event of a PDU whose format has been checked: its ID and room computed, `unsigned` left out.

    `room_id` is the room that the event must be in, if the caller knows it. Raises BadJson when the event is of
    another room, and NotCanonical.
    """
    if "unsigned" in pdu:
        pdu = {key: value for key, value in pdu.items() if key != "unsigned"}
    event_id = event_id_of(pdu, rules)
    if rules.room_id_is_create_hash and pdu["type"] == "m.room.create":
        actual_room_id = room_id_of_create(event_id)
    else:
        actual_room_id = pdu["room_id"]
    if room_id is not None and room_id != actual_room_id:
        raise BadJson("The event is of another room")
    return Event(event_id, actual_room_id, pdu, rules)
