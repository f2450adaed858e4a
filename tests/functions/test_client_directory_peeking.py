"""Reading a room that the world may read, by users who never were in it."""

from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import Answer, User, register
from functions.rooms import create_room, event, follow, get, messages, path, post, say, set_state, texts

pytestmark = pytest.mark.usefixtures("signing_key_of_the_server")


def open_to_world(user: User, room_id: str, setting: str = "world_readable") -> None:
    answer = set_state(user, room_id, "m.room.history_visibility", {"history_visibility": setting})
    assert answer.status == 200, answer


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


@pytest.fixture
def carol() -> User:
    return register("carol")


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    """An invite-only room that the world may read."""
    room_id = create_room(alice, bob, name="Glass house")
    open_to_world(alice, room_id)
    return room_id


def test_a_stranger_reads_messages_both_ways_in_pages(room_id: str, alice: User, carol: User) -> None:
    say(alice, room_id, "one", "two", "three")
    assert texts(messages(carol, room_id, dir="b").json["chunk"]) == ["three", "two", "one"]
    assert texts(messages(carol, room_id, dir="f").json["chunk"]) == ["one", "two", "three"]
    first = messages(carol, room_id, dir="b", limit=2).json
    assert texts(first["chunk"]) == ["three", "two"]
    rest = messages(carol, room_id, dir="b", limit=1, **{"from": first["end"]}).json
    assert texts(rest["chunk"]) == ["one"]


def test_a_stranger_reads_state_whole_and_by_key(room_id: str, alice: User, carol: User) -> None:
    state = get(carol, "rooms", room_id, "state").json
    of_member = get(alice, "rooms", room_id, "state").json
    assert [found["event_id"] for found in state] == [found["event_id"] for found in of_member]
    assert ("m.room.name", {"name": "Glass house"}) in [(found["type"], found["content"]) for found in state]
    one = get(carol, "rooms", room_id, "state", "m.room.name", format="event")
    assert one.json["content"] == {"name": "Glass house"}
    assert refusal(get(carol, "rooms", room_id, "state", "m.room.topic", "")) == (404, "M_NOT_FOUND")


def test_a_stranger_sees_the_members_as_state_and_not_as_the_list_for_members(
    room_id: str, alice: User, bob: User, carol: User
) -> None:
    def members(user: User, **query: Any) -> set[tuple[str, str]]:
        chunk = get(user, "rooms", room_id, "members", **query).json["chunk"]
        return {(found["state_key"], found["content"]["membership"]) for found in chunk}

    assert members(carol) == {(alice.user_id, "join"), (bob.user_id, "join")}
    post(bob, room_id, "leave")
    assert members(carol) == {(alice.user_id, "join"), (bob.user_id, "leave")}
    assert members(carol, membership="join") == {(alice.user_id, "join")}
    assert refusal(get(carol, "rooms", room_id, "joined_members")) == (403, "M_FORBIDDEN")


def test_members_at_an_earlier_time_are_those_of_that_time(room_id: str, bob: User, alice: User, carol: User) -> None:
    say(alice, room_id, "before")
    at = messages(carol, room_id, dir="b", limit=1).json["start"]
    post(bob, room_id, "leave")
    for query, expected in (({"at": at}, {alice.user_id, bob.user_id}), ({}, {alice.user_id})):
        chunk = get(carol, "rooms", room_id, "members", membership="join", **query).json["chunk"]
        assert {found["state_key"] for found in chunk} == expected


def test_a_stranger_reads_single_events_and_what_is_around_them(room_id: str, alice: User, carol: User) -> None:
    ids = say(alice, room_id, "one", "two", "three")
    assert event(carol, room_id, ids[1]).json["content"]["body"] == "two"
    around = get(carol, "rooms", room_id, "context", ids[1], limit=2).json
    assert texts([*around["events_before"], around["event"], *around["events_after"]]) == ["one", "two", "three"]
    assert any(found["type"] == "m.room.create" for found in around["state"])


def test_what_was_said_before_the_room_was_opened_stays_hidden(alice: User, carol: User) -> None:
    room_id = create_room(alice)
    hidden = say(alice, room_id, "secret")[0]
    open_to_world(alice, room_id)
    say(alice, room_id, "public")
    assert texts(messages(carol, room_id).json["chunk"]) == ["public"]
    assert refusal(event(carol, room_id, hidden)) == (404, "M_NOT_FOUND")
    assert refusal(get(carol, "rooms", room_id, "context", hidden)) == (404, "M_NOT_FOUND")


def test_a_room_that_was_closed_again_is_closed_at_once(room_id: str, alice: User, carol: User) -> None:
    shown = say(alice, room_id, "shown")[0]
    assert event(carol, room_id, shown).status == 200
    open_to_world(alice, room_id, "shared")
    for segments in (("messages",), ("state",), ("state", "m.room.name"), ("members",), ("context", shown)):
        query = {"dir": "b"} if segments == ("messages",) else {}
        assert refusal(get(carol, "rooms", room_id, *segments, **query)) == (403, "M_FORBIDDEN"), segments
    assert refusal(event(carol, room_id, shown)) == (404, "M_NOT_FOUND")


def test_reading_is_not_being_there(room_id: str, alice: User, carol: User, call: Callable[..., Answer]) -> None:
    follow()
    body = {"msgtype": "m.text", "body": "hello"}
    where = path("rooms", room_id, "send", "m.room.message", "1")
    assert refusal(call("client_events", "PUT", where, body, token=carol.token)) == (403, "M_FORBIDDEN")
    assert carol.user_id not in str(get(alice, "rooms", room_id, "members").json)


def test_without_a_token_nothing_is_read(room_id: str, call: Callable[..., Answer]) -> None:
    for last in ("messages", "state", "members"):
        answer = call("client_history", "GET", path("rooms", room_id, last), query={"dir": "b"})
        assert refusal(answer) == (401, "M_MISSING_TOKEN")


def test_a_banned_user_reads_what_the_world_reads(room_id: str, alice: User, bob: User) -> None:
    """They could read it under any other name, too."""
    post(alice, room_id, "ban", {"user_id": bob.user_id})
    say(alice, room_id, "after")
    assert texts(messages(bob, room_id).json["chunk"]) == ["after"]
