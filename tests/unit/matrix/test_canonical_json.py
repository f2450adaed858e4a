import enum
import json

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.canonical_json import (
    MAX_DEPTH,
    MAX_INTEGER,
    NotCanonical,
    check_canonical,
    encode_canonical,
    encode_for_room,
    encode_lenient,
    parse_json,
)
from homeserver.matrix.errors import NotJson
from homeserver.matrix.room_versions import V5, V6

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | texts
canonical_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5), max_leaves=25
)


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def test_the_published_vectors_have_their_canonical_form(vectors):
    published = vectors["published"]["canonical_json"]
    strict = [vector for vector in published if "note" not in vector]
    assert (len(strict), len(published)) == (9, 10)
    for vector in strict:
        assert encode_canonical(parse_json(vector["input"].encode())) == vector["canonical"].encode()
    for vector in published:
        assert encode_lenient(parse_json(vector["input"].encode())) == vector["canonical"].encode()


def test_the_vector_with_exponent_and_negative_zero_is_refused_where_canonical_json_is_enforced(vectors):
    (lenient,) = [vector for vector in vectors["published"]["canonical_json"] if "note" in vector]
    value = parse_json(lenient["input"].encode())
    assert encode_for_room(value, V5) == lenient["canonical"].encode()
    with pytest.raises(NotCanonical, match="a is a float"):
        encode_for_room(value, V6)


def test_the_derived_vectors_have_their_canonical_form(vectors):
    for vector in vectors["derived"]["canonical_json_more"]:
        assert encode_canonical(vector["input"]) == vector["canonical"].encode()


def test_every_text_that_must_be_refused_is_refused(vectors):
    texts_to_refuse = vectors["derived"]["canonical_json_must_refuse_v6plus"]
    assert len(texts_to_refuse) == 8
    for text in texts_to_refuse:
        with pytest.raises((NotCanonical, NotJson)):
            check_canonical(parse_json(text.encode()))


@given(canonical_values)
def test_encoding_agrees_with_an_independent_encoder_and_reads_back(value):
    encoded = encode_canonical(value)
    assert encoded == canonicaljson.encode_canonical_json(value)
    assert encode_lenient(value) == encoded
    assert parse_json(encoded) == value


@given(st.dictionaries(texts, st.integers(0, 9), min_size=2))
def test_keys_are_in_the_order_of_code_points(value):
    keys = list(json.loads(encode_canonical(value)))
    assert keys == sorted(value, key=lambda key: [ord(character) for character in key])


def test_an_astral_key_comes_after_the_end_of_the_basic_plane():
    # UTF-16 would put the surrogates of the first key before the second.
    assert encode_canonical({"\U00010000": 1, "\uffff": 2}) == '{"\uffff":2,"\U00010000":1}'.encode()


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": {"b": [0, 1.5]}}, r"a\.b\[1\] is a float"),
        ({"a": 1.0}, "a is a float"),
        ({"a": -0.0}, "a is a float"),
        (float("nan"), "the value is a float"),
        ({"a": 2**53}, "a is an integer outside"),
        ({"a": -(2**53)}, "a is an integer outside"),
        ({"a": 2**70}, "a is an integer outside"),
        ({1: "a"}, "a key that is no string"),
        ({"x": {None: "a"}}, "x has a key that is no string"),
        ({"a": "\ud800"}, "a holds a lone surrogate"),
        ({"\udfff": 1}, "a key with a lone surrogate"),
        ({"a": b"bytes"}, "a is of a type"),
        ({"a": (1, 2)}, "a is of a type"),
        ({"a": Colour.RED}, "a is of a type"),
        (nested(MAX_DEPTH + 1), "levels"),
    ],
)
def test_a_value_without_canonical_form_is_refused_with_place_and_reason(value, reason):
    with pytest.raises(NotCanonical, match=reason):
        encode_canonical(value)


def test_the_deepest_allowed_nesting_is_encoded():
    assert encode_canonical(nested(MAX_DEPTH)) == b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("[1.0,-2.0,1e3]", "[1,-2,1000]"),
        ("[1.5,-0.25]", "[1.5,-0.25]"),
        ("[-0,-0.0]", "[0,0]"),
        ("[9007199254740993]", "[9007199254740993]"),
        ("[1180591620717411303425]", "[1180591620717411303425]"),
        ("[1e300]", "[1e+300]"),
        ('{"é":1.5,"\\u0001":"\\u007f\\u001f\\n"}', '{"\\u0001":"\x7f\\u001f\\n","é":1.5}'),
    ],
)
def test_old_room_versions_bear_numbers_that_are_not_canonical(text, canonical):
    assert encode_lenient(parse_json(text.encode())) == canonical.encode()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1: 1.5}, [1.5, "\ud800"], {"\ud800": 1.5}, [1.5, b"x"], [1.5, nested(MAX_DEPTH + 1)]],
)
def test_even_old_room_versions_refuse_what_no_json_can_hold(value):
    with pytest.raises(NotCanonical, match=r"."):
        encode_lenient(value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b'{"a":NaN}',
        b"[1e400]",
        b"'a'",
        b'"\\ud800"',
        b'"\xff"',
        b'"\n"',
        b"{}{}",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"[" * 100_000 + b"]" * 100_000,
        b"[" + b"9" * 5000 + b"]",
    ],
)
def test_a_body_that_is_not_json_is_refused(body):
    with pytest.raises(NotJson):
        parse_json(body)


@pytest.mark.parametrize("number", [2**53, 2**63, 2**64 + 1, 2**70 + 1, -(2**63) - 1, 10**100 + 7])
def test_no_integer_is_rounded_by_reading_it(number):
    value = parse_json(b'{"a": [%d ]}' % number)
    assert value == {"a": [number]}
    assert type(value["a"][0]) is int
    with pytest.raises(NotCanonical, match=r"a\[0\] is an integer outside"):
        check_canonical(value)


def test_a_negative_zero_is_seen_wherever_it_stands():
    for body in (b"-0", b"[-0]", b"[1, -0 , 2]", b'{"a":-0}', b"[\n-0\n]", b"-0\n"):
        with pytest.raises(NotCanonical, match="is a float"):
            check_canonical(parse_json(body))


def test_digits_inside_strings_stay_what_they_are():
    assert parse_json(b'{"a":"-0, 2024-01-01","b":"18446744073709551617","c":-1}') == {
        "a": "-0, 2024-01-01",
        "b": "18446744073709551617",
        "c": -1,
    }


def test_the_last_of_repeated_keys_wins_on_both_ways_of_reading():
    assert parse_json(b'{"a":1,"a":2}') == {"a": 2}
    assert parse_json(b'{"a":1,"a":18446744073709551617}') == {"a": 18446744073709551617}
