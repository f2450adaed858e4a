"""`next_batch` of a search."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.search_cursor import Place, SearchCursor, room_hash

NOW = 1_700_000_000_000
names = st.integers(0, 2**30).map(lambda number: room_hash(f"!{number}:example.org"))
places = st.builds(Place, st.integers(0, 2**40), st.integers(NOW - 10**11, NOW))
groups = st.sampled_from([("", ""), ("room_id", "!r:example.org"), ("sender", "@ü:example.org")])


@given(st.integers(0, 10**6), groups, st.dictionaries(names, places, max_size=30))
def test_a_cursor_comes_back_and_its_bounds_rise_by_less_than_a_second(
    told: int, group: tuple[str, str], places: dict[bytes, Place]
) -> None:
    back = SearchCursor.decode(SearchCursor(told, group, places).encode())
    assert (back.told, back.group, back.places.keys()) == (told, group, places.keys())
    for name, place in places.items():
        assert back.places[name].position == place.position
        if place.position:
            assert 0 <= back.places[name].upper - place.upper < 1000


def test_a_room_that_was_not_begun_has_no_place() -> None:
    cursor = SearchCursor(places={room_hash("!a:b"): Place(7, NOW)})
    assert cursor.place("!a:b") == Place(7, NOW)
    assert cursor.place("!c:d") is None


def test_four_hundred_rooms_fit_into_an_address() -> None:
    places = {room_hash(f"!{n}:example.org"): Place(20_000 + n, NOW - n * 86_400_000) for n in range(400)}
    assert len(SearchCursor(1000, ("", ""), places).encode()) < 6_500


good = SearchCursor(1, ("sender", "@a:b"), {room_hash("!a:b"): Place(7, NOW)}).encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "!",
        "é",
        good[:-3],
        "B" + good,
        "A" * 10_001,
        base64.urlsafe_b64encode(b"\1\0\0\7\0").decode().rstrip("="),
    ],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        SearchCursor.decode(text)
