"""Reading power levels: values of each age, defaults, creators."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.auth.room import ALICE, ALL_VERSIONS, BOB, CAROL, CREATOR, Room, versions
from homeserver.matrix.power_levels import DEFAULT_LEVELS, INFINITE_POWER, PowerLevels, creators, read_level
from homeserver.matrix.room_versions import ROOM_VERSIONS, PowerLevelValues

LENIENT, STRINGS, INTEGER = PowerLevelValues.LENIENT, PowerLevelValues.INTEGER_OR_STRING, PowerLevelValues.INTEGER


def levels(version: str, content: dict[str, Any] | None, create_content: dict[str, Any] | None = None) -> PowerLevels:
    room = Room(version, create_content)
    event = None if content is None else room.levels(**content)
    return PowerLevels.from_events(event, room.create, room.rules)


@pytest.mark.parametrize(
    ("value", "lenient", "strings", "integer"),
    [
        (50, 50, 50, 50),
        (-50, -50, -50, -50),
        (0, 0, 0, 0),
        (2**60, 2**60, 2**60, 2**60),
        ("50", 50, 50, None),
        ("-50", -50, -50, None),
        ("+50", 50, 50, None),
        ("  50\t\n", 50, 50, None),
        (" -00050 ", -50, -50, None),
        ("000", 0, 0, None),
        ("0" * 5000 + "7", 7, 7, None),
        ("9" * 309, 10**309 - 1, 10**309 - 1, None),
        ("9" * 310, None, None, None),
        ("9" * 60000, None, None, None),
        (50.0, 50, None, None),
        (1.9, 1, None, None),
        (-1.9, -1, None, None),
        (1e3, 1000, None, None),
        (math.inf, None, None, None),
        (-math.inf, None, None, None),
        (math.nan, None, None, None),
        ("50.0", None, None, None),
        ("1e3", None, None, None),
        ("- 50", None, None, None),
        ("+-5", None, None, None),
        ("5 0", None, None, None),
        ("5_0", None, None, None),
        ("0x5", None, None, None),
        ("\u0665", None, None, None),
        ("\u00a05", None, None, None),
        ("", None, None, None),
        (" ", None, None, None),
        ("inf", None, None, None),
        (True, None, None, None),
        (False, None, None, None),
        (None, None, None, None),
        ([50], None, None, None),
        ({}, None, None, None),
    ],
)
def test_a_value_is_read_by_the_rules_of_its_room_version(
    value: object, lenient: int | None, strings: int | None, integer: int | None
) -> None:
    read = [read_level(value, values) for values in (LENIENT, STRINGS, INTEGER)]
    assert read == [lenient, strings, integer]
    assert all(level is None or type(level) is int for level in read)


@given(
    number=st.integers(), sign=st.sampled_from(["", "+"]), zeros=st.integers(0, 5), around=st.text(" \t\n", max_size=3)
)
def test_every_integer_is_read_back_from_any_spelling(number: int, sign: str, zeros: int, around: str) -> None:
    spelling = around + ("-" if number < 0 else sign) + "0" * zeros + str(abs(number)) + around
    assert read_level(spelling, STRINGS) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_cut_off_at_the_point(number: float) -> None:
    assert read_level(number, LENIENT) == math.trunc(number)


def test_each_version_has_its_kind_of_values() -> None:
    kinds = {version: rules.power_level_values for version, rules in ROOM_VERSIONS.items()}
    assert kinds == (
        dict.fromkeys(versions(1, 5), LENIENT)
        | dict.fromkeys(versions(6, 9), STRINGS)
        | dict.fromkeys(versions(10, 12), INTEGER)
    )


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("content", [None, {}])
def test_defaults_are_the_same_with_an_empty_event_and_without_one(
    version: str, content: dict[str, Any] | None
) -> None:
    found = levels(version, content)
    assert (found.ban, found.kick, found.redact, found.invite) == (50, 50, 50, 0)
    assert found.event_level("m.room.message", is_state=False) == 0
    assert found.event_level("m.room.topic", is_state=True) == 50
    assert found.notification_level("room") == 50
    assert (found.notifications, found.users_default) == ({}, 0)
    assert found.user_level(ALICE) == 0
    assert [found.written(name) for name in DEFAULT_LEVELS] == [None] * 7


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_creator_has_100_without_an_event_and_nothing_special_with_one_until_version_12(version: str) -> None:
    infinite = version == "12"
    assert levels(version, None).user_level(CREATOR) == (INFINITE_POWER if infinite else 100)
    assert levels(version, {}).user_level(CREATOR) == (INFINITE_POWER if infinite else 0)
    named = levels(version, {"users": {CREATOR: 20}, "users_default": 3})
    assert named.user_level(CREATOR) == (INFINITE_POWER if infinite else 20)


def test_an_event_gives_each_level() -> None:
    found = levels(
        "11",
        {
            "ban": 1,
            "kick": 2,
            "redact": 3,
            "invite": 4,
            "users_default": 5,
            "events_default": 6,
            "state_default": 7,
            "events": {"m.room.name": 8},
            "users": {ALICE: 9, BOB: 0},
            "notifications": {"room": 10},
        },
    )
    assert (found.ban, found.kick, found.redact, found.invite, found.users_default) == (1, 2, 3, 4, 5)
    assert found.event_level("m.room.message", is_state=False) == 6
    assert found.event_level("m.room.topic", is_state=True) == 7
    assert found.event_level("m.room.name", is_state=True) == 8
    assert found.event_level("m.room.name", is_state=False) == 8
    assert (found.user_level(ALICE), found.user_level(BOB), found.user_level(CAROL)) == (9, 0, 5)
    assert (found.notification_level("room"), found.notification_level("other")) == (10, 50)
    assert found.notifications == {"room": 10}
    assert found.table("users") == {ALICE: 9, BOB: 0}
    assert found.written("users_default") == 5


def test_levels_in_old_spellings_count() -> None:
    found = levels("5", {"ban": " 7 ", "users": {ALICE: "0100", BOB: 9.9}, "events": {"x": "3"}})
    assert (found.ban, found.user_level(ALICE), found.user_level(BOB)) == (7, 100, 9)
    assert found.event_level("x", is_state=True) == 3


def test_what_is_no_level_counts_as_absent() -> None:
    found = levels("11", {"ban": "7", "users": {ALICE: "100", BOB: 5}, "events": [], "users_default": None})
    assert (found.ban, found.user_level(ALICE), found.user_level(BOB)) == (50, 0, 5)
    assert found.event_level("x", is_state=True) == 50
    assert found.table("users") == {BOB: 5}
    assert found.table("events") == {}


def test_infinite_power_is_above_every_level_and_not_above_itself() -> None:
    assert INFINITE_POWER > 10**400
    one, other = (levels("12", None, {"additional_creators": [ALICE]}).user_level(user) for user in (CREATOR, ALICE))
    assert not one > other
    assert one >= other


def test_who_the_creators_are_in_each_version() -> None:
    content = {"creator": CAROL, "additional_creators": [ALICE, BOB]}
    found = {version: creators(Room(version, content).create, ROOM_VERSIONS[version]) for version in ALL_VERSIONS}
    assert found == (
        {version: {CAROL} for version in versions(1, 10)} | {"11": {CREATOR}} | {"12": {CREATOR, ALICE, BOB}}
    )


def test_creators_that_are_none_are_passed_over() -> None:
    for version in ALL_VERSIONS:
        assert creators(None, ROOM_VERSIONS[version]) == frozenset()
    for value in (None, 5, ["x"], {}):
        assert creators(Room("10", {"creator": value}).create, ROOM_VERSIONS["10"]) == frozenset()
    for value in (None, 5, ALICE, {ALICE: 1}):
        assert creators(Room("12", {"additional_creators": value}).create, ROOM_VERSIONS["12"]) == {CREATOR}
    mixed = Room("12", {"additional_creators": [1, ALICE, None, [BOB]]}).create
    assert creators(mixed, ROOM_VERSIONS["12"]) == {CREATOR, ALICE}
