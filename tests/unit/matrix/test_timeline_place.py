"""Places of timelines as numbers."""

from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.timeline_place import after, before, parse_number, place_number, place_of

places = st.tuples(st.integers(1, 10_000_000), st.integers(-1_000_000, 0))


@given(places)
def test_a_number_stands_for_its_place_also_as_text(place: tuple[int, int]) -> None:
    number = place_number(*place)
    assert place_of(number) == place
    assert place_of(parse_number(str(number))) == place


@given(places, places)
def test_numbers_are_in_the_order_of_places(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (place_number(*one) < place_number(*other)) == (one < other)


@given(places)
def test_between_a_place_and_the_one_before_it_there_is_nothing(place: tuple[int, int]) -> None:
    number = place_number(*place)
    assert place_of(before(number)) == (place[0], place[1] - 1)
    assert after(before(number)) == number
    assert before(number) < number < after(number)


def test_a_position_is_its_own_number() -> None:
    assert (place_number(7), str(place_number(7)), place_number(7, -3)) == (7, "7", 6.9999997)


def test_offsets_that_cannot_be_stay_behind_the_position_before() -> None:
    assert 6 < place_number(7, -(10**17)) < place_number(7, -1_000_000)
