import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.errors import BadJson
from homeserver.matrix.event_format import check_event_format
from homeserver.matrix.hashes import (
    check_content_hash,
    content_hash,
    event_from_pdu,
    event_id_of,
    reference_hash,
    room_id_of_create,
)
from homeserver.matrix.redaction import redact
from homeserver.matrix.room_versions import ROOM_VERSIONS, V2, V3, V4, V6, V11, V12
from homeserver.matrix.signing import sign_event, verify_event_signature


def test_the_derived_events_have_their_hash_signature_and_id_in_every_version(vectors, vector_key):
    checked = 0
    for vector in vectors["derived"]["event_per_room_version"]:
        for version, expected in vector["per_room_version"].items():
            rules = ROOM_VERSIONS[version]
            hashed = {**vector["event"], "hashes": {"sha256": content_hash(vector["event"], rules)}}
            signed = sign_event(hashed, rules, "domain", vector_key)
            assert hashed["hashes"]["sha256"] == expected["content_hash"]
            assert signed["signatures"] == {"domain": {"ed25519:1": expected["signature"]}}
            assert event_id_of(signed, rules) == expected["event_id"]
            assert event_id_of(redact(signed, rules), rules) == expected["event_id"]
            verify_event_signature(signed, rules, "domain", {vector_key.key_id: vector_key.verify_key})
            checked += 1
    assert checked == 56


def test_the_create_event_of_version_12_makes_its_room_id(vectors, vector_key):
    vector = vectors["derived"]["room_version_12_create"]
    hashed = {**vector["event"], "hashes": {"sha256": content_hash(vector["event"], V12)}}
    signed = sign_event(hashed, V12, "domain", vector_key)
    assert signed == vector["signed"]
    check_event_format(signed, V12)
    event = event_from_pdu(signed, V12)
    assert (event.event_id, event.room_id) == (vector["event_id"], vector["room_id"])
    assert room_id_of_create(event.event_id) == vector["room_id"]
    with pytest.raises(BadJson, match="another room"):
        event_from_pdu(signed, V12, room_id="!" + "a" * 43)


def _pdu(**changes):
    return {
        "type": "m.room.message",
        "sender": "@u:domain",
        "room_id": "!r:domain",
        "content": {"body": "x"},
        "depth": 1,
        **changes,
    }


def test_the_content_hash_covers_all_but_hashes_signatures_and_unsigned():
    base = content_hash(_pdu(), V12)
    for key in ("hashes", "signatures", "unsigned"):
        assert content_hash(_pdu(**{key: {"a": 1}}), V12) == base
    assert content_hash(_pdu(content={"body": "y"}), V12) != base
    assert content_hash(_pdu(anything={"a": 1}), V12) != base


@pytest.mark.parametrize(
    ("rewrite", "right"),
    [
        (lambda h: {"sha256": h}, True),
        (lambda h: {"sha256": h + "="}, True),
        (lambda h: {"sha256": h.replace("+", "-").replace("/", "_")}, True),
        (lambda h: {"sha256": ("A" if h[0] != "A" else "B") + h[1:]}, False),
        (lambda _: {"sha256": ""}, False),
        (lambda _: {"sha256": "not base64!"}, False),
        (lambda _: {"sha256": 7}, False),
        (lambda _: {}, False),
        (lambda _: [], False),
    ],
)
def test_a_content_hash_is_compared_by_its_bytes(rewrite, right):
    assert check_content_hash(_pdu(hashes=rewrite(content_hash(_pdu(), V12))), V12) is right


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(list(ROOM_VERSIONS.values())))
def test_a_changed_body_changes_the_content_hash_and_not_the_reference_hash(body, rules):
    original, changed = _pdu(hashes={"sha256": "x"}), _pdu(hashes={"sha256": "x"}, content={"body": body + "!"})
    assert reference_hash(original, rules) == reference_hash(changed, rules)
    assert (content_hash(original, rules) == content_hash(changed, rules)) is (body + "!" == "x")


def test_the_id_is_a_field_in_version_2_and_a_hash_in_the_alphabet_of_its_version_later():
    assert event_id_of(_pdu(event_id="$e:domain"), V2) == "$e:domain"
    with pytest.raises(BadJson, match="event_id"):
        event_id_of(_pdu(), V2)
    standard = [event_id_of(_pdu(depth=depth), V3) for depth in range(8)]
    urlsafe = [event_id_of(_pdu(depth=depth), V4) for depth in range(8)]
    assert [event_id.translate(str.maketrans("+/", "-_")) for event_id in standard] == urlsafe
    assert standard != urlsafe  # some of eight hashes has a digit in which the alphabets differ
    assert {len(event_id) for event_id in standard} == {44}


def test_floats_are_hashed_in_old_rooms_and_refused_in_new_ones():
    assert content_hash(_pdu(content={"w": 1.0}), V4) == content_hash(_pdu(content={"w": 1}), V4)
    with pytest.raises(ValueError, match=r"content\.w is a float"):
        content_hash(_pdu(content={"w": 1.0}), V6)


def test_an_event_of_a_pdu_has_its_room_and_no_unsigned():
    event = event_from_pdu(_pdu(unsigned={"age": 1}), V11)
    assert (event.room_id, event.event_id) == ("!r:domain", event_id_of(_pdu(), V11))
    assert event.pdu == _pdu()
    assert event_from_pdu(_pdu(), V11, room_id="!r:domain") == event
    with pytest.raises(BadJson, match="another room"):
        event_from_pdu(_pdu(), V11, room_id="!other:domain")
