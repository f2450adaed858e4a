import json
import random
from base64 import b64encode, urlsafe_b64encode
from hashlib import sha256

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix import event_codec
from homeserver.matrix.event_codec import pack, unpack

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["m.room.message", "\ud800", "@alice:example.org"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


def base64(rng, length, encode=b64encode):
    return encode(rng.randbytes(length)).decode().rstrip("=")


def pdu(event_type, content, **more):
    rng = random.Random(7)
    ids = ["$" + base64(rng, 32, urlsafe_b64encode) for _ in range(4)]
    return {
        "auth_events": ids[:3],
        "content": content,
        "depth": 8123,
        "hashes": {"sha256": base64(rng, 32)},
        "origin_server_ts": 1783500123456,
        "prev_events": ids[3:],
        "room_id": "!" + base64(rng, 32, urlsafe_b64encode),
        "sender": "@alice:example.org",
        "signatures": {"example.org": {"ed25519:a_KqXf": base64(rng, 64)}},
        "type": event_type,
        **more,
    }


def encrypted():
    rng = random.Random(8)
    return pdu(
        "m.room.encrypted",
        {
            "algorithm": "m.megolm.v1.aes-sha2",
            "ciphertext": base64(rng, 420),
            "device_id": "JLAFKJWSCS",
            "sender_key": base64(rng, 32),
            "session_id": base64(rng, 32),
        },
    )


def message():
    return pdu("m.room.message", {"body": "Shall we meet at the station at noon?", "msgtype": "m.text"})


@given(st.dictionaries(st.text(), json_values, max_size=8))
def test_an_object_comes_back_as_it_was(obj):
    back = unpack(pack(obj))
    assert back == obj
    # Equality alone takes 1 for 1.0 and True, and another order of keys; the text does not.
    assert json.dumps(back) == json.dumps(obj)


def test_an_encrypted_event_takes_one_write_unit_of_one_kilobyte():
    event = encrypted()
    packed = pack(event)
    assert unpack(packed) == event
    assert len(orjson.dumps(event)) > 1300
    assert len(packed) < 920


def test_a_message_loses_more_than_a_third():
    event = message()
    packed = pack(event)
    assert unpack(packed) == event
    assert len(packed) < 0.65 * len(orjson.dumps(event))


def test_repetitive_content_shrinks_like_text():
    event = pdu("m.room.message", {"body": "la " * 10_000, "msgtype": "m.text"})
    assert len(pack(event)) < 700


def test_what_does_not_shrink_is_stored_as_it_is():
    assert pack({}) == b"\x00{}"
    noise = {"é": "".join(chr(random.Random(n).randint(0x4E00, 0x9FFF)) for n in range(5))}
    assert pack(noise) == b"\x00" + orjson.dumps(noise)
    assert unpack(pack(noise)) == noise


def test_integers_beyond_64_bits_stay_exact():
    event = {"type": "m.room.power_levels", "content": {"users_default": 2**70, "ban": -(2**70), "kick": 2**64 - 1}}
    packed = pack(event)
    assert packed[0] == 2
    assert unpack(packed) == event


def test_what_is_no_json_is_a_type_error():
    with pytest.raises(TypeError):
        pack({"content": {1, 2}})


def test_what_was_stored_with_dictionary_1_stays_readable():
    # Written by the first version of this module. If this fails, the dictionary was changed: add a format instead.
    stored = bytes.fromhex(
        "01ab262ae924e52759a55624e616e4a4828308d9724c39a420c24cac3a68c9d9293f095c59402b085011a290989e0849d668"
        "fe42b205c59b86a096a7514e5e52ae9b414a84570ed0dbb500"
    )
    assert (
        sha256(event_codec._DICTIONARY_1).hexdigest()
        == "fc39f7fd0a550b4f8be83ae97b476b4cedfb251f881cf5b64d688fdc940b39b3"
    )
    assert unpack(stored) == {
        "type": "m.room.member",
        "state_key": "@bob:example.org",
        "sender": "@bob:example.org",
        "content": {"membership": "join", "displayname": "Bob", "reason": "back again"},
        "signatures": {"example.org": {"ed25519:a_1": "c2lnbmF0dXJl"}},
    }


@pytest.mark.parametrize("data", [b"", b"\x03{}", b"\xff"])
def test_formats_of_the_future_are_refused(data):
    with pytest.raises(ValueError, match="unknown format"):
        unpack(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-5],
        lambda packed: packed[:1],
        lambda packed: packed + b"x",
        lambda packed: packed[:1] + b"\xff" + packed[2:],
        lambda _packed: b"\x00{",
        lambda _packed: b"\x01\x03\x00",
    ],
)
def test_damaged_data_is_a_value_error(damage):
    with pytest.raises(ValueError, match=r"damaged|cut off|unexpected end|zero-length"):
        unpack(damage(pack(message())))


def test_the_dictionary_fits_the_window_and_holds_what_events_are_made_of():
    assert len(event_codec._DICTIONARY_1) < 32_768
    for part in (b"auth_events", b"prev_events", b"origin_server_ts", b"m.megolm.v1.aes-sha2", b'"membership":"join"'):
        assert part in event_codec._DICTIONARY_1
