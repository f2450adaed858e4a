import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix import unpadded_base64
from homeserver.matrix.canonical_json import MAX_INTEGER, NotCanonical, encode_canonical
from homeserver.matrix.errors import BadJson
from homeserver.matrix.hashes import content_hash, reference_bytes
from homeserver.matrix.request_signing import sign_request
from homeserver.matrix.room_versions import ROOM_VERSIONS, V2, V3, V7, V8, V11, V12
from homeserver.matrix.signing import (
    SignatureError,
    SigningKey,
    _is_signature,
    servers_that_must_sign,
    sign_event,
    sign_json,
    signature_key_ids,
    verify_event_signature,
    verify_signed_json,
)

KEY = SigningKey.generate("a", bytes(range(32)))
OTHER = SigningKey.generate("b", bytes(range(1, 33)))
KEYS = {KEY.key_id: KEY.verify_key}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
scalars = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | texts
objects = st.dictionaries(
    texts.filter(lambda key: key not in {"signatures", "unsigned"}),
    scalars | st.lists(scalars, max_size=3) | st.dictionaries(texts, scalars, max_size=3),
    max_size=5,
)


def test_the_published_key_has_its_public_key(vectors, vector_key):
    expected = vectors["published"]["signing_key"]["public_key_unpadded_base64 (derived)"]
    assert unpadded_base64.encode(vector_key.verify_key) == expected


def test_the_published_objects_are_signed_as_published(vectors, vector_key):
    for vector in vectors["published"]["json_signing"]:
        assert encode_canonical(vector["input"]) == vector["signed_bytes_utf8"].encode()
        assert sign_json(vector["input"], "domain", vector_key) == vector["output"]
        verify_signed_json(vector["output"], "domain", {vector_key.key_id: vector_key.verify_key})


def test_the_published_events_are_hashed_and_signed_as_published_up_to_version_10(vectors, vector_key):
    for vector in vectors["published"]["event_signing"]:
        assert vector["room_versions_whose_redaction_reproduces_it"] == list(range(1, 11))
        for version, rules in ROOM_VERSIONS.items():
            hashed = {**vector["input"], "hashes": {"sha256": content_hash(vector["input"], rules)}}
            assert hashed["hashes"]["sha256"] == vector["content_hash"]
            signed = sign_event(hashed, rules, "domain", vector_key)
            if int(version) <= 10:
                assert reference_bytes(hashed, rules) == vector["bytes_signed"].encode()
                assert signed == vector["output"]
                verify_event_signature(signed, rules, "domain", {vector_key.key_id: vector_key.verify_key})
            else:
                assert signed["signatures"] != vector["output"]["signatures"]


def test_the_derived_requests_have_their_authorization_header(vectors, vector_key):
    cases = vectors["derived"]["x_matrix"]
    assert len(cases) == 2
    for vector in cases:
        request = vector["request"]
        header = sign_request(
            request["method"],
            request["uri"],
            origin=request["origin"],
            destination=request["destination"],
            content=request.get("content"),
            key=vector_key,
        )
        assert header == vector["header"]


@given(objects, st.dictionaries(texts, scalars, max_size=2))
def test_a_signature_verifies_whatever_unsigned_says(obj, unsigned):
    signed = sign_json({**obj, "unsigned": {}}, "example.org", KEY)
    verify_signed_json({**signed, "unsigned": unsigned}, "example.org", KEYS)
    assert {k: v for k, v in signed.items() if k not in {"signatures", "unsigned"}} == obj


@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_signature_fails_on_any_flipped_bit_of_message_or_signature(content, data):
    signed = sign_json({"content": content.hex()}, "example.org", KEY)
    signature = unpadded_base64.decode(signed["signatures"]["example.org"][KEY.key_id])
    at = data.draw(st.integers(0, 8 * len(signature) - 1), label="bit of the signature")
    damaged = unpadded_base64.encode(_flip(signature, at))
    with pytest.raises(SignatureError, match="is wrong"):
        verify_signed_json({**signed, "signatures": {"example.org": {KEY.key_id: damaged}}}, "example.org", KEYS)
    at = data.draw(st.integers(0, 8 * len(content) - 1), label="bit of the message")
    with pytest.raises(SignatureError, match="is wrong"):
        verify_signed_json({**signed, "content": _flip(content, at).hex()}, "example.org", KEYS)


def test_every_flipped_byte_of_the_signed_bytes_breaks_the_signature_of_an_event():
    event = _event(content={"membership": "join"})
    signed = sign_event(event, V12, "example.org", KEY)
    message = reference_bytes(event, V12)
    signature = signed["signatures"]["example.org"][KEY.key_id]
    raw = unpadded_base64.decode(signature)
    assert _is_signature(signature, message, KEY.verify_key)
    for at in range(len(message)):
        assert not _is_signature(signature, _flip(message, 8 * at), KEY.verify_key)
    for at in range(len(raw)):
        assert not _is_signature(unpadded_base64.encode(_flip(raw, 8 * at)), message, KEY.verify_key)


def _flip(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_signatures_of_other_servers_and_keys_are_kept():
    twice = sign_json(sign_json({"a": 1}, "one", KEY), "two", OTHER)
    thrice = sign_json(twice, "one", OTHER)
    assert {name: set(by_key) for name, by_key in thrice["signatures"].items()} == {
        "one": {"ed25519:a", "ed25519:b"},
        "two": {"ed25519:b"},
    }
    assert set(twice["signatures"]["one"]) == {"ed25519:a"}  # the first object was not changed
    assert signature_key_ids(thrice, "one") == {"ed25519:a", "ed25519:b"}
    assert signature_key_ids(thrice, "three") == set()


def test_unknown_algorithms_and_unknown_keys_are_passed_over():
    signed = sign_json({"a": 1}, "one", KEY)
    by_one = {**signed["signatures"]["one"], "rot13:x": "nonsense", "ed25519:gone": "nonsense"}
    verify_signed_json({**signed, "signatures": {"one": by_one}}, "one", KEYS)


def test_every_known_key_must_be_right():
    signed = sign_json({"a": 1}, "one", KEY)
    by_one = {**signed["signatures"]["one"], OTHER.key_id: KEY.sign(b"something else")}
    both = {**KEYS, OTHER.key_id: OTHER.verify_key}
    with pytest.raises(SignatureError, match="ed25519:b is wrong"):
        verify_signed_json({**signed, "signatures": {"one": by_one}}, "one", both)


@pytest.mark.parametrize(
    ("signatures", "reason"),
    [
        (None, "no Ed25519 signature"),
        ([], "no Ed25519 signature"),
        ({}, "no Ed25519 signature"),
        ({"two": {"ed25519:a": "x"}}, "no Ed25519 signature"),
        ({"one": []}, "no Ed25519 signature"),
        ({"one": {}}, "no Ed25519 signature"),
        ({"one": {"rot13:a": "x"}}, "no Ed25519 signature"),
        ({"one": {"ed25519:z": "x"}}, "known and valid"),
        ({"one": {"ed25519:a": "x"}}, "is wrong"),
        ({"one": {"ed25519:a": 7}}, "is wrong"),
        ({"one": {"ed25519:a": ""}}, "is wrong"),
        ({"one": {"ed25519:a": "A" * 86}}, "is wrong"),
    ],
)
def test_a_missing_or_malformed_signature_is_refused_with_its_reason(signatures, reason):
    with pytest.raises(SignatureError, match=reason):
        verify_signed_json({"a": 1, "signatures": signatures}, "one", KEYS)


def test_a_verify_key_of_a_wrong_length_verifies_nothing():
    with pytest.raises(SignatureError, match="is wrong"):
        verify_signed_json(sign_json({}, "one", KEY), "one", {KEY.key_id: KEY.verify_key[:31]})


def test_what_is_not_canonical_is_neither_signed_nor_verified():
    with pytest.raises(NotCanonical):
        sign_json({"a": 1.5}, "one", KEY)
    with pytest.raises(SignatureError, match="not canonical JSON: a is a float"):
        verify_signed_json({**sign_json({"a": 1}, "one", KEY), "a": 1.5}, "one", KEYS)


@pytest.mark.parametrize("rules", ROOM_VERSIONS.values(), ids=lambda rules: f"v{rules.version}")
def test_the_signature_of_an_event_outlives_its_redaction_and_covers_what_is_left(rules):
    signed = sign_event(_event(content={"membership": "join", "displayname": "A"}), rules, "example.org", KEY)
    without_name = {**signed, "content": {"membership": "join"}}
    verify_event_signature(without_name, rules, "example.org", KEYS)
    with pytest.raises(SignatureError, match="is wrong"):
        verify_event_signature({**signed, "content": {"membership": "leave"}}, rules, "example.org", KEYS)


def test_a_signing_key_hides_its_seed_and_refuses_malformed_parts():
    assert repr(KEY) == "SigningKey(key_id='ed25519:a')"
    assert SigningKey("ed25519:a", bytes(range(32))) == KEY
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey("ed25519:a", b"short")
    for key_id in ("a", "ed25519:", "ed25519:a b", "curve25519:a"):
        with pytest.raises(ValueError, match="ed25519:version"):
            SigningKey(key_id, bytes(32))


def _event(**changes):
    return {
        "type": "m.room.member",
        "state_key": "@u:example.org",
        "sender": "@u:example.org",
        "room_id": "!r:example.org",
        "event_id": "$e:relay.example",
        "origin_server_ts": 1,
        "depth": 1,
        "hashes": {"sha256": "x"},
        **changes,
    }


RESTRICTED = {"membership": "join", "join_authorised_via_users_server": "@v:other.example:8448"}
THIRD_PARTY = {"membership": "invite", "third_party_invite": {"signed": {}}}


@pytest.mark.parametrize(
    ("rules", "content", "servers"),
    [
        (V2, {"membership": "join"}, {"example.org", "relay.example"}),
        (V3, {"membership": "join"}, {"example.org"}),
        (V7, RESTRICTED, {"example.org"}),
        (V8, RESTRICTED, {"example.org", "other.example:8448"}),
        (V12, RESTRICTED, {"example.org", "other.example:8448"}),
        (V12, {**RESTRICTED, "membership": "leave"}, {"example.org"}),
        (V2, THIRD_PARTY, {"relay.example"}),
        (V11, THIRD_PARTY, set()),
        (V11, {**THIRD_PARTY, "membership": "join"}, {"example.org"}),
        (V11, {**THIRD_PARTY, "third_party_invite": None}, {"example.org"}),
    ],
)
def test_the_servers_that_must_sign_depend_on_version_and_kind_of_membership(rules, content, servers):
    assert servers_that_must_sign(_event(content=content), rules) == servers


def test_only_membership_events_have_exemptions_and_co_signers():
    for content in (RESTRICTED, THIRD_PARTY):
        assert servers_that_must_sign(_event(type="m.room.message", content=content), V12) == {"example.org"}


def test_an_authorising_user_that_is_no_user_is_bad_json():
    content = {"membership": "join", "join_authorised_via_users_server": ["@v:x"]}
    with pytest.raises(BadJson):
        servers_that_must_sign(_event(content=content), V8)
