import pytest

from homeserver.matrix import identifiers
from homeserver.matrix.room_versions import EventIdFormat

HASH_43 = "Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"


@pytest.mark.parametrize(
    ("group", "check"),
    [
        ("user_id", identifiers.is_new_user_id),
        ("server_name", identifiers.is_server_name),
        ("room_id", identifiers.is_room_id),
        ("room_version", identifiers.is_room_version),
        ("opaque_identifier", identifiers.is_opaque_identifier),
        ("common_namespaced", identifiers.is_namespaced_identifier),
    ],
)
def test_every_grammar_vector_is_judged_as_the_specification_does(vectors, group, check):
    given = vectors["identifiers"][group]
    assert given["valid"]
    assert given["invalid"]
    assert [value for value in given["valid"] if not check(value)] == []
    assert [value for value in given["invalid"] if check(value)] == []


def test_a_historical_user_id_is_accepted_from_others_but_not_given_to_new_users(vectors):
    given = vectors["identifiers"]["user_id"]
    for value in given["historical_must_accept_over_federation"]:
        assert identifiers.is_user_id(value), value
        assert not identifiers.is_new_user_id(value), value
    assert all(identifiers.is_user_id(value) for value in given["valid"])
    assert not any(identifiers.is_user_id(value) for value in given["invalid"])


@pytest.mark.parametrize("check", [getattr(identifiers, name) for name in dir(identifiers) if name.startswith("is_")])
@pytest.mark.parametrize("value", [None, 1, True, 1.5, [], {}, b"@a:b", ["@a:b"], "", "\n", "\x00"])
def test_what_is_no_identifier_at_all_is_refused_and_never_raises(check, value):
    assert check(value) is False


@pytest.mark.parametrize(
    ("check", "sigil"),
    [(identifiers.is_user_id, "@"), (identifiers.is_room_id, "!"), (identifiers.is_room_alias, "#")],
)
def test_the_limit_of_255_counts_bytes_and_not_characters(check, sigil):
    assert check(sigil + "a" * 252 + ":b")
    assert not check(sigil + "a" * 253 + ":b")
    assert check(sigil + "é" * 126 + ":b")
    assert not check(sigil + "é" * 127 + ":b")


@pytest.mark.parametrize("value", ["@\ud800:b", "!\udfff:b", "#\ud800:b", "$\ud800:b"])
def test_a_lone_surrogate_makes_no_identifier(value):
    checks = (identifiers.is_user_id, identifiers.is_room_id, identifiers.is_room_alias, identifiers.is_event_id)
    assert not any(check(value) for check in checks)


def test_a_trailing_newline_is_not_overlooked():
    assert not identifiers.is_user_id("@a:b\n")
    assert not identifiers.is_server_name("b\n")
    assert not identifiers.is_valid_localpart("a\n")
    assert not identifiers.is_opaque_identifier("A\n")
    assert not identifiers.is_server_name("b:٣")  # a digit, but not of ASCII


def test_the_two_forms_of_room_id_are_told_apart():
    assert identifiers.is_room_id_with_domain("!a:b")
    assert not identifiers.is_room_id_with_domain("!" + HASH_43)
    assert identifiers.is_room_id_of_hash("!" + HASH_43)
    assert not identifiers.is_room_id_of_hash("!a:b")
    assert not identifiers.is_room_id_of_hash("!" + HASH_43 + "A")


@pytest.mark.parametrize(
    ("value", "formats"),
    [
        ("$opaque:example.org", {EventIdFormat.OPAQUE}),
        ("$" + "a+/" * 14 + "b", {EventIdFormat.STANDARD_BASE64}),
        ("$" + "a-_" * 14 + "b", {EventIdFormat.URLSAFE_BASE64}),
        ("$" + "a" * 43, {EventIdFormat.STANDARD_BASE64, EventIdFormat.URLSAFE_BASE64}),
        ("$" + "a" * 42, set()),
        ("$" + "a" * 44, set()),
        ("$:example.org", set()),
        ("!opaque:example.org", set()),
    ],
)
def test_an_event_id_belongs_to_the_formats_of_its_room_versions(value, formats):
    assert {f for f in EventIdFormat if identifiers.is_event_id(value, f)} == formats
    assert identifiers.is_event_id(value) == bool(formats)


@pytest.mark.parametrize(
    ("identifier", "domain", "localpart"),
    [
        ("@alice:example.org:8448", "example.org:8448", "alice"),
        ("@:x", "x", ""),
        ("@u:[1234::abcd]:1", "[1234::abcd]:1", "u"),
        ("!" + HASH_43, "", HASH_43),
    ],
)
def test_the_domain_is_everything_after_the_first_colon(identifier, domain, localpart):
    assert identifiers.domain_of(identifier) == domain
    assert identifiers.localpart_of(identifier) == localpart


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("mxc://example.org/Abc_-9", ("example.org", "Abc_-9")),
        ("mxc://example.org:8448/x", ("example.org:8448", "x")),
        ("mxc://example.org/", None),
        ("mxc:///x", None),
        ("mxc://example.org/a/b", None),
        ("mxc://example.org/..", None),
        ("mxc://../../x", None),
        ("mxc://example.org/x?y", None),
        ("https://example.org/x", None),
        (None, None),
    ],
)
def test_an_mxc_uri_has_a_server_and_a_media_id_and_nothing_else(uri, parts):
    assert identifiers.parse_mxc_uri(uri) == parts


@pytest.mark.parametrize(
    ("value", "valid"), [("ed25519:a_1", True), ("ed25519:", False), ("ed25519", False), ("ed25519:a-b", False)]
)
def test_a_key_id_is_an_algorithm_and_a_version(value, valid):
    assert identifiers.is_key_id(value) is valid
