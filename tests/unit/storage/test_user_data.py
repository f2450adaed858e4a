"""How account data is keyed and packed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.storage.user_data import AccountData, _parse_key, account_data_key, pack, unpack


@given(st.none() | st.text(min_size=1), st.text(min_size=1))
def test_a_key_says_room_and_type_whatever_characters_they_have(room_id: str | None, data_type: str) -> None:
    assert _parse_key(account_data_key(room_id, data_type)) == (room_id, data_type)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_no_two_rooms_and_types_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (account_data_key(*one) == account_data_key(*other)) == (one == other)


@given(st.binary() | st.binary(min_size=10, max_size=20).map(lambda part: part * 200))
def test_packing_loses_nothing_and_costs_one_byte_at_the_most(content: bytes) -> None:
    packed = pack(content)
    assert unpack(packed) == content
    assert len(packed) <= len(content) + 1


def test_large_content_is_deflated_and_small_content_is_not() -> None:
    assert pack(b'{"a":1}') == b'\0{"a":1}'
    large = pack(b'{"a":"' + b"x" * 2000 + b'"}')
    assert (large[:1], len(large) < 100) == (b"\1", True)


def test_an_unknown_format_is_refused() -> None:
    for packed in (b"", b"\2{}"):
        with pytest.raises(ValueError, match="unknown format"):
            unpack(packed)


def test_content_is_the_parsed_json() -> None:
    assert AccountData(None, "m.direct", 1, b'{"@a:b":["!c"]}').content == {"@a:b": ["!c"]}
