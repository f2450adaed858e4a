"""Rooms in other servers' words."""

from typing import Any

import pytest

from homeserver.matrix.told_room import MOST_CHILDREN, ToldRoom, servers_in_via, told_children

WHOLE = {
    "room_id": "!r:far.test",
    "num_joined_members": 3,
    "name": "Tea",
    "topic": "Leaves",
    "canonical_alias": "#tea:far.test",
    "avatar_url": "mxc://far.test/a",
    "join_rule": "restricted",
    "room_type": "m.space",
    "world_readable": True,
    "guest_can_join": True,
    "room_version": "11",
    "encryption": "m.megolm.v1.aes-sha2",
    "allowed_room_ids": ["!s:far.test"],
}
LEAST = {"room_id": "!r:far.test", "num_joined_members": 0}


def read(**told: Any) -> ToldRoom:
    room = ToldRoom.read({**LEAST, **told})
    assert room is not None
    return room


def test_what_makes_sense_is_kept_and_what_is_unknown_is_left_out() -> None:
    room = ToldRoom.read({**WHOLE, "org.example.more": 1})
    assert room is not None
    assert room.summary() == WHOLE
    entry = {key: WHOLE[key] for key in WHOLE if key not in ("room_version", "encryption", "allowed_room_ids")}
    assert room.published_chunk() == entry
    assert ToldRoom.from_json(room.to_json()) == room


def test_a_room_without_a_join_rule_is_public_and_one_with_nonsense_is_closed() -> None:
    assert (read().facts.join_rule, read().facts.is_for_everybody) == ("public", True)
    for nonsense in (7, "", [], False):
        facts = read(join_rule=nonsense).facts
        assert (facts.join_rule, facts.is_for_everybody) == ("invite", False)


def test_the_least_that_is_told_says_nothing_more() -> None:
    closed = {"world_readable": False, "guest_can_join": False, "join_rule": "public"}
    assert read().summary() == {**LEAST, **closed}


@pytest.mark.parametrize(
    "key", ["name", "topic", "canonical_alias", "avatar_url", "room_type", "room_version", "encryption"]
)
@pytest.mark.parametrize("value", [7, "", None, ["x"], {"x": "y"}])
def test_values_of_wrong_types_count_as_absent(key: str, value: object) -> None:
    assert read(**{key: value}) == read()


def test_what_is_no_alias_and_rooms_that_are_none_are_left_out() -> None:
    assert read(canonical_alias="tea") == read()
    facts = read(join_rule="restricted", allowed_room_ids=["!a:b", 5, "x", "!a:b", "!c:d"]).facts
    assert facts.allowed_room_ids == ("!a:b", "!c:d")
    assert read(join_rule="invite", allowed_room_ids=["!a:b"]).facts.allowed_room_ids == ()
    assert read(join_rule="restricted", allowed_room_ids="!a:b").facts.allowed_room_ids == ()


def test_truth_is_true_and_nothing_else() -> None:
    facts = read(world_readable="true", guest_can_join=1).facts
    assert (facts.world_readable, facts.guest_can_join) == (False, False)


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        "!r:far.test",
        {},
        {"room_id": "!r:far.test"},
        {**LEAST, "room_id": "#r:far.test"},
        {**LEAST, "room_id": 7},
        {**LEAST, "num_joined_members": "3"},
        {**LEAST, "num_joined_members": True},
        {**LEAST, "num_joined_members": -1},
        {**LEAST, "num_joined_members": 2**53},
        {**LEAST, "num_joined_members": 1.5},
    ],
)
def test_what_is_no_room_is_none(told: object) -> None:
    assert ToldRoom.read(told) is None


def test_long_texts_are_cut() -> None:
    room = read(name="n" * 5000, topic="t" * 5000, room_version="9" * 500, avatar_url="mxc://" + "a" * 5000)
    assert (room.facts.name, room.facts.topic) == ("n" * 255, "t" * 1000)
    assert (room.facts.room_version, room.facts.avatar_url) == ("", None)


@pytest.mark.parametrize(
    ("version", "rule", "knockable"),
    [("6", "knock", False), ("7", "knock", True), ("", "knock", True), ("9001", "knock_restricted", True)],
)
def test_knocking_depends_on_the_version_if_that_is_known(version: str, rule: str, *, knockable: bool) -> None:
    assert read(room_version=version, join_rule=rule).facts.knockable is knockable


# ── Children ────────────────────────────────────────────────────────────────────────────────────────

CHILD = {
    "type": "m.space.child",
    "state_key": "!c:far.test",
    "content": {"via": ["far.test"]},
    "sender": "@carol:far.test",
    "origin_server_ts": 5,
}


def test_children_are_stripped() -> None:
    assert told_children([{**CHILD, "event_id": "$x", "room_id": "!r:far.test"}]) == [CHILD]


@pytest.mark.parametrize(
    "event",
    [
        None,
        "x",
        {**CHILD, "type": "m.space.parent"},
        {**CHILD, "state_key": None},
        {**CHILD, "content": []},
        {**CHILD, "sender": 7},
        {**CHILD, "origin_server_ts": "5"},
        {**CHILD, "origin_server_ts": True},
        {key: value for key, value in CHILD.items() if key != "origin_server_ts"},
    ],
)
def test_what_is_no_child_is_left_out(event: object) -> None:
    assert told_children([event, CHILD]) == [CHILD]
    assert told_children({"0": CHILD}) == []


def test_the_number_and_the_size_of_children_end() -> None:
    assert len(told_children([CHILD] * (MOST_CHILDREN + 5))) == MOST_CHILDREN
    assert len(told_children([{**CHILD, "content": {"x": "y" * 100_000}}] * 5)) == 2


def test_servers_in_via_are_server_names() -> None:
    assert servers_in_via({"via": ["a.test", 5, "no server", "b.test:8448"]}) == ["a.test", "b.test:8448"]
    assert servers_in_via({"via": "a.test"}) == servers_in_via({}) == []
