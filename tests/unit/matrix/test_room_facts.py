"""What strangers are told of a room, from whatever state people sent."""

from typing import Any

import pytest

from homeserver.matrix.event import Event
from homeserver.matrix.room_facts import RoomFacts, plain_topic, room_facts
from homeserver.matrix.room_versions import ROOM_VERSIONS


def facts(version: str = "11", **state: dict[str, Any]) -> RoomFacts:
    rules = ROOM_VERSIONS[version]
    events = {
        f"m.room.{name}": Event("$e", "!r:x", {"type": f"m.room.{name}", "state_key": "", "content": content}, rules)
        for name, content in state.items()
    }
    return room_facts(events.get, rules)


def test_a_room_without_state_is_closed_and_nameless() -> None:
    found = facts()
    assert found == RoomFacts("11")
    assert found.published_chunk("!r:x", 3) == {
        "room_id": "!r:x",
        "num_joined_members": 3,
        "world_readable": False,
        "guest_can_join": False,
        "join_rule": "invite",
    }


def test_all_that_is_set_is_told() -> None:
    found = facts(
        create={"type": "m.space"},
        name={"name": "Tea"},
        topic={"topic": "leaves"},
        canonical_alias={"alias": "#tea:x"},
        avatar={"url": "mxc://x/y"},
        join_rules={"join_rule": "public"},
        history_visibility={"history_visibility": "world_readable"},
        guest_access={"guest_access": "can_join"},
        encryption={"algorithm": "m.megolm.v1.aes-sha2"},
    )
    assert found.summary("!r:x", 1) == {
        "room_id": "!r:x",
        "num_joined_members": 1,
        "world_readable": True,
        "guest_can_join": True,
        "join_rule": "public",
        "name": "Tea",
        "topic": "leaves",
        "canonical_alias": "#tea:x",
        "avatar_url": "mxc://x/y",
        "room_type": "m.space",
        "room_version": "11",
        "encryption": "m.megolm.v1.aes-sha2",
    }
    assert found.is_space
    assert found.is_open


@pytest.mark.parametrize("wrong", [None, 7, [], {}, "", True])
def test_values_of_a_wrong_type_count_as_absent(wrong: Any) -> None:
    found = facts(
        create={"type": wrong},
        name={"name": wrong},
        topic={"topic": wrong},
        canonical_alias={"alias": wrong},
        avatar={"url": wrong},
        join_rules={"join_rule": wrong, "allow": wrong},
        history_visibility={"history_visibility": wrong},
        guest_access={"guest_access": wrong},
        encryption={"algorithm": wrong},
    )
    assert found == RoomFacts("11")


def test_an_alias_that_is_none_is_not_told() -> None:
    assert facts(canonical_alias={"alias": "tea"}).canonical_alias is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"topic": "plain"}, "plain"),
        ({"topic": ""}, None),
        ({"topic": "old", "m.topic": {"m.text": [{"body": "new"}]}}, "new"),
        ({"topic": "old", "m.topic": {"m.text": [{"mimetype": "text/html", "body": "<b>"}, {"body": "new"}]}}, "new"),
        ({"topic": "old", "m.topic": {"m.text": [{"mimetype": "text/html", "body": "<b>"}]}}, None),
        ({"topic": "old", "m.topic": {"m.text": "broken"}}, "old"),
        ({"topic": "old", "m.topic": {"m.text": [7]}}, None),
        ({"m.topic": {"m.text": [{"body": "new"}]}}, None),
    ],
)
def test_the_topic_is_its_plain_text(content: dict[str, Any], expected: str | None) -> None:
    assert plain_topic(content) == expected


@pytest.mark.parametrize(
    ("version", "rule", "knockable", "allowed"),
    [
        ("6", "knock", False, ()),
        ("7", "knock", True, ()),
        ("7", "restricted", False, ()),
        ("8", "restricted", False, ("!a:x",)),
        ("9", "knock_restricted", False, ()),
        ("10", "knock_restricted", True, ("!a:x",)),
    ],
)
def test_join_rules_mean_what_the_room_version_gives_them(
    version: str, rule: str, knockable: bool, allowed: tuple[str, ...]
) -> None:
    conditions = [
        {"type": "m.room_membership", "room_id": "!a:x"},
        {"type": "m.room_membership", "room_id": "!a:x"},
        {"type": "m.room_membership", "room_id": "a"},
        {"type": "org.example", "room_id": "!b:x"},
        "nothing",
    ]
    found = facts(version, join_rules={"join_rule": rule, "allow": conditions})
    assert (found.join_rule, found.knockable, found.allowed_room_ids) == (rule, knockable, allowed)


def test_a_copy_is_bounded_and_survives_being_stored() -> None:
    found = facts(
        name={"name": "é" * 9000},
        topic={"topic": "x" * 60_000},
        avatar={"url": "mxc://x/" + "y" * 9000},
        join_rules={
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": f"!{n}:x"} for n in range(500)],
        },
    )
    cut = found.cut()
    assert (len(cut.name or ""), len(cut.topic or ""), cut.avatar_url, len(cut.allowed_room_ids)) == (
        255,
        1000,
        None,
        20,
    )
    assert RoomFacts.from_json(cut.to_json()) == cut


def test_what_a_later_version_stored_is_ignored() -> None:
    assert RoomFacts.from_json({"room_version": "11", "colour": "red"}) == RoomFacts("11")
