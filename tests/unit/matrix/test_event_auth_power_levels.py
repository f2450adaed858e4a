"""Rule R10: which changes of power levels are allowed."""

from typing import Any

import pytest

from fixtures.auth.room import ALICE, ALL_VERSIONS, BOB, CAROL, CREATOR, OK, Room, versions

SCALARS = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")


def room_with(version: str, **levels: Any) -> Room:
    """Alice (power 50) may send power levels; the others are what the test gives."""
    room = Room(version)
    room.member(ALICE, "join")
    users = {ALICE: 50, **levels.pop("users", {})}
    events = {"m.room.power_levels": 50, **levels.pop("events", {})}
    room.levels(users=users, events=events, **levels)
    return room


def change(room: Room, *, sender: str = ALICE, **changed: Any) -> str:
    """The verdict on the levels in force with some keys replaced, or removed where the value is None."""
    content = {**room.state["m.room.power_levels", ""].content, **changed}
    return replace_levels(room, {key: value for key, value in content.items() if value is not None}, sender=sender)


def replace_levels(room: Room, content: dict[str, Any], *, sender: str = ALICE) -> str:
    return room.send("m.room.power_levels", content, sender=sender, state_key="")


def changed_table(room: Room, table: str, **entries: Any) -> dict[str, Any]:
    old = room.state["m.room.power_levels", ""].content.get(table, {})
    return {key: value for key, value in {**old, **entries}.items() if value is not None}


@pytest.mark.parametrize("name", SCALARS)
def test_from_version_10_a_level_is_an_integer(name: str) -> None:
    for version in versions(10, 12):
        for value in ("50", 1.5, 50.0, True, [], {}):
            assert change(room_with(version), **{name: value}) == "R10.1"
        assert replace_levels(room_with(version), {name: None}) == "R10.1"
        assert change(room_with(version), **{name: 49}) == OK


@pytest.mark.parametrize("name", SCALARS)
def test_before_version_10_a_level_may_be_a_string_and_before_version_6_a_float(name: str) -> None:
    for version in versions(1, 9):
        room = room_with(version)
        assert change(room, **{name: " +049 "}) == OK
        assert change(room, **{name: "fifty"}) == "R10.1"
        assert change(room, **{name: 49.9}) == (OK if version in versions(1, 5) else "R10.1")
        assert change(room, **{name: True}) == "R10.1"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_level_tables_are_objects_of_levels(version: str) -> None:
    room = room_with(version)
    checks_notifications = version in versions(6, 12)
    for value in ([], "x", 5, {"m.room.topic": "high"}, {"m.room.topic": True}, {"m.room.topic": None}):
        assert change(room, events=value) == "R10.1"
        assert change(room, notifications=value) == ("R10.1" if checks_notifications else OK)
    string_level = OK if version in versions(1, 9) else "R10.1"
    assert change(room, events=changed_table(room, "events", x="5")) == string_level
    assert change(room, notifications={"room": "5"}) == string_level
    assert change(room, notifications={"room": 5}) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_users_are_an_object_of_user_ids_and_levels(version: str) -> None:
    room = room_with(version)
    for value in ([], "x", 5):
        assert change(room, users=value) == "R10.2"
    for user_id in ("bob", "", "#bob:two.example", "@bob"):
        assert change(room, users=changed_table(room, "users", **{user_id: 1})) == "R10.2"
    for level in ("high", None, True, [], float("inf"), float("nan")):
        users = {**changed_table(room, "users"), BOB: level}
        assert change(room, users=users) == "R10.2"
    users = changed_table(room, "users", **{BOB: "5"})
    assert change(room, users=users) == (OK if version in versions(1, 9) else "R10.2")
    users = changed_table(room, "users", **{BOB: 5.5})
    assert change(room, users=users) == (OK if version in versions(1, 5) else "R10.2")
    assert change(room, users=changed_table(room, "users", **{BOB: 5})) == OK


def test_the_shape_is_asked_of_the_first_power_levels_too() -> None:
    room = Room("11")
    room.member(CREATOR, "join")
    assert replace_levels(room, {"ban": "50"}, sender=CREATOR) == "R10.1"
    assert replace_levels(room, {"users": []}, sender=CREATOR) == "R10.2"


def test_in_version_12_no_creator_is_among_the_users() -> None:
    room = Room("12", {"additional_creators": [BOB]})
    room.member(CREATOR, "join")
    for creator in (CREATOR, BOB):
        assert replace_levels(room, {"users": {creator: 100}}, sender=CREATOR) == "R10.3"
    assert replace_levels(room, {"users": {CAROL: 100}}, sender=CREATOR) == OK
    room.levels(users={CAROL: 100})
    room.member(CAROL, "join")
    assert replace_levels(room, {"users": {CAROL: 100, BOB: 1}}, sender=CAROL) == "R10.3"
    old = Room("11", {"additional_creators": [BOB]})
    old.member(CREATOR, "join")
    assert replace_levels(old, {"users": {CREATOR: 100, BOB: 100}}, sender=CREATOR) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_first_power_levels_may_say_anything(version: str) -> None:
    room = Room(version)
    room.member(CREATOR, "join")
    levels = {"ban": 1000, "users_default": 200, "users": {BOB: 500}, "events": {"x": 999}, "notifications": {"y": 999}}
    assert replace_levels(room, levels, sender=CREATOR) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("name", SCALARS)
def test_a_level_above_the_senders_power_is_out_of_reach_on_either_side_of_the_change(version: str, name: str) -> None:
    # Added.
    room = room_with(version)
    assert change(room, **{name: 51}) == "R10.5"
    assert change(room, **{name: 50}) == OK
    # Changed or removed from above one's power. (These two levels also decide whether one may send at all.)
    room = room_with(version, **{name: 51})
    assert change(room, **{name: 50}) == "R10.5"
    assert change(room, **{name: None}) == "R10.5"
    assert change(room, **{name: 51}) == OK
    # Changed or removed from one's own power.
    room = room_with(version, **{name: 50})
    assert change(room, **{name: 51}) == "R10.5"
    assert change(room, **{name: 0}) == OK
    assert change(room, **{name: None}) == OK


@pytest.mark.parametrize("version", versions(1, 9))
def test_another_spelling_of_the_same_level_is_no_change(version: str) -> None:
    room = room_with(version, ban="0100", events={"x": " 100"}, users={BOB: "+100"})
    users, events = changed_table(room, "users", **{BOB: 100}), changed_table(room, "events", x=100)
    assert change(room, ban=100, users=users, events=events) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("table", ["events", "notifications"])
def test_a_level_in_a_table_above_the_senders_power_is_out_of_reach(version: str, table: str) -> None:
    checked = table == "events" or version in versions(6, 12)
    refusal = "R10.6" if checked else OK
    room = room_with(version, **{table: {"x": 51, "y": 50}})
    for entries, verdict in (
        ({"x": 50}, refusal),
        ({"x": None}, refusal),
        ({"y": 51}, refusal),
        ({"z": 51}, refusal),
        ({"x": 51}, OK),
        ({"y": 0}, OK),
        ({"y": None}, OK),
        ({"z": 50}, OK),
    ):
        assert change(room, **{table: changed_table(room, table, **entries)}) == verdict, entries
    without_table = {key: value for key, value in room.state["m.room.power_levels", ""].content.items() if key != table}
    assert replace_levels(room, without_table) == refusal


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_users_of_equal_power_are_out_of_reach_and_nobody_is_lifted_above_the_sender(version: str) -> None:
    dave = "@dave:two.example"
    room = room_with(version, users={BOB: 50, CAROL: 49, dave: 51})
    for entries, verdict in (
        ({BOB: 49}, "R10.7"),
        ({BOB: None}, "R10.7"),
        ({BOB: 51}, "R10.7"),
        ({dave: 50}, "R10.7"),
        ({dave: None}, "R10.7"),
        ({CAROL: 51}, "R10.7"),
        ({CREATOR + "x": 51}, "R10.7"),
        ({CAROL: 50}, OK),
        ({CAROL: 0}, OK),
        ({CAROL: None}, OK),
        ({CREATOR + "x": 50}, OK),
        ({BOB: 50, dave: 51}, OK),
        # The sender's own entry may only go down.
        ({ALICE: 49}, OK),
        ({ALICE: None}, OK),
        ({ALICE: 51}, "R10.7"),
    ):
        assert change(room, users=changed_table(room, "users", **entries)) == verdict, entries


def test_a_creator_of_version_12_may_change_every_level() -> None:
    room = Room("12")
    room.member(CREATOR, "join")
    room.levels(users={BOB: 2**53 - 1}, events={"x": 2**53 - 1}, ban=2**53 - 1, notifications={"room": 2**53 - 1})
    levels = {"users": {CAROL: 2**53 - 1}, "events": {"y": 2**53 - 1}, "kick": 2**53 - 1}
    assert replace_levels(room, levels, sender=CREATOR) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_power_levels_take_their_own_level_to_be_sent(version: str) -> None:
    room = Room(version)
    room.member(ALICE, "join")
    room.levels(users={ALICE: 50}, state_default=51)
    assert replace_levels(room, {"users": {ALICE: 50}, "state_default": 51}) == "R8"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_power_that_users_default_gives_counts_as_power(version: str) -> None:
    room = Room(version)
    room.member(ALICE, "join")
    room.levels(users_default=60)
    assert replace_levels(room, {"users_default": 60, "users": {BOB: 60}}) == OK
    assert replace_levels(room, {"users_default": 60, "users": {BOB: 61}}) == "R10.7"
