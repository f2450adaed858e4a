"""A user of the 2014 API and one of today's share a room: the same history, and each in their own words only."""

from typing import Any

import pytest

from functions.draft import levels, post, put
from functions.draft_reading import ok as read
from functions.harness import User, call
from functions.rooms import create_room, follow, path, say, set_state, state, sync
from functions.waiting import backend

__all__ = ["backend"]

pytestmark = pytest.mark.usefixtures("set_up", "backend")
OLD_KEYS = {"user_id", "age", "prev_content", "required_power_level", "feedback", "redacted_because"}
OLD_TYPES = {"m.room.config", "m.room.ops_levels", "m.room.add_state_level", "m.room.send_event_level"}
FEEDBACK = "m.room.message.feedback"


def read_today(user: User, *segments: str, **query: Any) -> Any:
    """Unchecked: `http` URLs in what the draft's clients send are none of today's."""
    answer = call("client_history", "GET", path(*segments), token=user.token, query=query or None)
    assert answer.status == 200, answer
    return answer.json


def history(user: User, room_id: str) -> list[dict[str, Any]]:
    chunk: list[dict[str, Any]] = read_today(user, "rooms", room_id, "messages", dir="b", limit=100)["chunk"]
    return chunk


@pytest.fixture
def room(alice: User, bob: User) -> str:
    """Alice speaks the draft, Bob speaks as one does today; both do all that they can."""
    room_id = create_room(alice, bob, room_version="11")
    content = levels(alice, room_id)
    given = {**content, "users": {**content["users"], bob.user_id: 50}}
    assert set_state(alice, room_id, "m.room.power_levels", given).status == 200
    picture = {
        "msgtype": "m.image",
        "body": "cat",
        "url": "http://x.test/c.png",
        "thumbnail_url": "http://x.test/t.png",
    }
    cat = post(alice, "rooms", room_id, "send", "m.room.message", **picture).json["event_id"]
    for event_type, body in (
        ("m.room.config", {"name": "Pub", "topic": "t", "visibility": "public"}),
        ("m.room.ops_levels", {"ban_level": 60, "kick_level": 60, "redact_level": 50}),
        ("m.room.add_state_level", {"level": 40}),
        ("m.room.power_levels", {alice.user_id: 100, bob.user_id: 50, "default": 0}),
    ):
        assert put(alice, "rooms", room_id, "state", event_type, **body).json == {}
    hello, oops = say(bob, room_id, "hello", "oops")
    assert set_state(bob, room_id, "m.room.topic", {"topic": "another"}).status == 200
    for kind in ("delivered", "read"):
        assert post(alice, "rooms", room_id, "send", FEEDBACK, type=kind, target_event_id=hello).status == 200
    assert post(bob, "rooms", room_id, "send", FEEDBACK, type="delivered", target_event_id=cat).status == 200
    assert post(alice, "rooms", room_id, "redact", oops).status == 200
    follow()
    return room_id


def everything_told(told: Any) -> list[dict[str, Any]]:
    """All events anywhere in an answer; a redaction that an event quotes has no age."""
    if isinstance(told, dict):
        here = [told] if isinstance(told.get("type"), str) and "content" in told else []
        parts = [value for key, value in told.items() if key != "redacted_because"]
        return here + [event for value in parts for event in everything_told(value)]
    return [event for value in told for event in everything_told(value)] if isinstance(told, list) else []


def test_clients_of_today_see_nothing_of_the_draft(room: str, alice: User, bob: User) -> None:
    for user in (alice, bob):
        answers = [
            sync(user),
            history(user, room),
            read_today(user, "rooms", room, "state"),
            read_today(user, "rooms", room, "members"),
        ]
        events = everything_told(answers)
        assert len(events) > 30
        for event in events:
            assert OLD_KEYS.isdisjoint(event), event
            assert event["type"] not in {*OLD_TYPES, FEEDBACK}
            if event["type"] == "m.room.power_levels":
                assert isinstance(event["content"]["users"], dict)
                assert "default" not in event["content"]
            if event["type"] == "m.receipt":
                assert {kind for kinds in event["content"].values() for kind in kinds} == {"m.read"}
            if event["content"].get("body") == "cat":
                assert "info" not in event["content"]


def test_clients_of_the_draft_see_levels_and_messages_as_they_know_them(room: str, alice: User, bob: User) -> None:
    for user in (alice, bob):
        answers = [
            read(user, "rooms", room, "messages", dir="b", limit=100),
            read(user, "rooms", room, "state"),
            read(user, "rooms", room, "members"),
            read(user, "rooms", room, "initialSync"),
            read(user, "initialSync"),
            read(user, "events", since="START", timeout=0),
        ]
        events = everything_told(answers)
        assert len(events) > 30
        for event in events:
            if "event_id" not in event:
                continue  # receipts, typing users: no events of the room
            assert event["user_id"] == event["sender"]
            assert event["age"] >= 0
            if event["type"] == "m.room.power_levels":
                assert set(event["content"]) <= {alice.user_id, bob.user_id, "default"}
                assert all(isinstance(level, int) for level in event["content"].values())
            if event["content"].get("body") == "cat":
                assert event["content"]["info"] == {"thumbnail_url": "http://x.test/t.png"}
            if "state_key" in event and event["type"] != "m.room.aliases":
                assert isinstance(event["required_power_level"], int)


def test_both_see_the_same_history(room: str, alice: User, bob: User) -> None:
    today = [event["event_id"] for event in history(bob, room)]
    draft = [event["event_id"] for event in read(alice, "rooms", room, "messages", dir="b", limit=100)["chunk"]]
    assert today == draft
    assert len(set(today)) == len(today) > 15


def test_what_the_one_sets_the_other_reads_in_their_own_words(room: str, alice: User, bob: User) -> None:
    def told(event_type: str) -> Any:
        return read(alice, "rooms", room, "state", event_type)

    assert told("m.room.config") == {"visibility": "public", "name": "Pub", "topic": "another"}
    assert told("m.room.add_state_level") == {"level": 40}
    assert state(bob, room, "m.room.name").json == {"name": "Pub"}
    assert levels(bob, room)["ban"] == 60
    content = {**levels(alice, room), "kick": 70, "users_default": 1}
    assert set_state(alice, room, "m.room.power_levels", content).status == 200
    assert told("m.room.ops_levels") == {"ban_level": 60, "kick_level": 70, "redact_level": 50}
    assert told("m.room.power_levels") == {alice.user_id: 100, bob.user_id: 50, "default": 1}


def test_an_event_is_as_in_the_worked_example_in_both_views(room: str, alice: User, bob: User) -> None:
    event_id = post(alice, "rooms", room, "send", "m.room.message", msgtype="m.emote", body="waves").json["event_id"]
    today = read_today(bob, "rooms", room, "event", event_id)
    draft = read(bob, "events", event_id)
    assert set(today) >= {"type", "event_id", "room_id", "sender", "origin_server_ts", "content", "unsigned"}
    assert draft["user_id"] == alice.user_id
    assert draft["age"] >= today["unsigned"]["age"]
    without_age = {key: value for key, value in draft.items() if key not in {"user_id", "age", "unsigned"}}
    assert without_age == {key: value for key, value in today.items() if key != "unsigned"}
