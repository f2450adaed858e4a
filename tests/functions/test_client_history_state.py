"""GET /rooms/{roomId}/state, /state/{eventType}/{stateKey}, /members and /joined_members."""

from typing import Any

import pytest

from functions.harness import Answer, User, register
from functions.rooms import (
    create_room,
    follow,
    get,
    messages,
    path,
    post,
    put,
    request,
    say,
    set_state,
    state,
    sync,
)
from functions.test_client_history import UNKNOWN_ROOM, refusal


def keys(answer: Answer) -> dict[tuple[str, str], Any]:
    assert answer.status == 200, answer
    return {(found["type"], found["state_key"]): found["content"] for found in answer.json}


def whole(user: User, room_id: str) -> Answer:
    return get(user, "rooms", room_id, "state")


def members(user: User, room_id: str, **query: Any) -> dict[str, str]:
    answer = get(user, "rooms", room_id, "members", **query)
    assert answer.status == 200, answer
    return {found["state_key"]: found["content"]["membership"] for found in answer.json["chunk"]}


def test_the_state_of_a_room_is_every_state_event_and_no_message(alice: User) -> None:
    room_id = create_room(alice, name="Tea")
    say(alice, room_id, "x")
    set_state(alice, room_id, "org.example.t", {"n": 1}, "a/b")
    set_state(alice, room_id, "org.example.t", {"n": 2}, "a/b")
    found = keys(whole(alice, room_id))
    assert set(found) == {
        ("m.room.create", ""),
        ("m.room.member", alice.user_id),
        ("m.room.power_levels", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""),
        ("m.room.name", ""),
        ("org.example.t", "a/b"),
    }
    assert found["m.room.name", ""] == {"name": "Tea"}
    assert found["org.example.t", "a/b"] == {"n": 2}
    assert {event["room_id"] for event in whole(alice, room_id).json} == {room_id}


def test_one_state_event_is_its_content_or_the_whole_event(alice: User) -> None:
    room_id = create_room(alice, name="Tea")
    where = ("rooms", room_id, "state", "m.room.name", "")
    assert state(alice, room_id, "m.room.name").json == {"name": "Tea"}
    event = get(alice, *where, format="event").json
    assert event["content"] == {"name": "Tea"}
    assert (event["type"], event["state_key"], event["sender"], event["room_id"]) == (
        "m.room.name",
        "",
        alice.user_id,
        room_id,
    )
    assert event["event_id"].startswith("$")
    assert refusal(get(alice, *where, format="pdu")) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    ("event_type", "key"),
    [("m.room.topic", ""), ("m.room.name", "x"), ("t" * 256, ""), ("t", "k" * 256), ("t" * 3000, "k" * 3000)],
)
def test_state_that_the_room_does_not_have(alice: User, event_type: str, key: str) -> None:
    room_id = create_room(alice, name="Tea")
    assert refusal(state(alice, room_id, event_type, key)) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("rest", [["state"], ["state", "m.room.name", ""], ["members"], ["joined_members"]])
def test_who_may_not_read_the_state(alice: User, bob: User, rest: list[str]) -> None:
    room_id = create_room(alice, name="Tea", invite=[bob.user_id])
    for room in (room_id, UNKNOWN_ROOM):
        assert refusal(get(bob, "rooms", room, *rest)) == (403, "M_FORBIDDEN")
    assert refusal(get(bob, "rooms", "!" + "r" * 3000, *rest)) == (400, "M_INVALID_PARAM")
    where = path("rooms", room_id, *rest)
    assert refusal(request("client_history", "GET", where)) == (401, "M_MISSING_TOKEN")
    assert refusal(request("client_history", "GET", where, token="x")) == (401, "M_UNKNOWN_TOKEN")


def test_who_has_left_sees_the_state_as_it_was_then(alice: User, bob: User) -> None:
    carol = register()
    room_id = create_room(alice, bob, name="Before")
    post(bob, room_id, "leave")
    set_state(alice, room_id, "m.room.name", {"name": "After"})
    set_state(alice, room_id, "org.example.later", {})
    post(alice, room_id, "invite", {"user_id": carol.user_id})
    post(carol, room_id, "join")
    found = keys(whole(bob, room_id))
    assert found["m.room.name", ""] == {"name": "Before"}
    assert found["m.room.member", bob.user_id]["membership"] == "leave"
    assert ("org.example.later", "") not in found
    assert state(bob, room_id, "m.room.name").json == {"name": "Before"}
    assert refusal(state(bob, room_id, "org.example.later")) == (404, "M_NOT_FOUND")
    assert refusal(state(bob, room_id, "m.room.member", carol.user_id)) == (404, "M_NOT_FOUND")
    assert members(bob, room_id) == {alice.user_id: "join", bob.user_id: "leave"}
    assert refusal(get(bob, "rooms", room_id, "joined_members")) == (403, "M_FORBIDDEN")
    assert keys(whole(alice, room_id))["m.room.name", ""] == {"name": "After"}


def test_members_are_picked_by_what_they_are_or_are_not(alice: User, bob: User) -> None:
    carol, dave = register(), register()
    room_id = create_room(alice, bob)
    for user, action in ((carol, "invite"), (dave, "ban")):
        post(alice, room_id, action, {"user_id": user.user_id})
    everybody = {alice.user_id: "join", bob.user_id: "join", carol.user_id: "invite", dave.user_id: "ban"}
    assert members(alice, room_id) == everybody
    assert set(members(alice, room_id, membership="join")) == {alice.user_id, bob.user_id}
    assert set(members(alice, room_id, not_membership="join")) == {carol.user_id, dave.user_id}
    # Both together are an "or".
    assert set(members(alice, room_id, membership="ban", not_membership="join")) == {carol.user_id, dave.user_id}
    assert members(alice, room_id, membership="join", not_membership="leave") == everybody
    assert members(alice, room_id, membership="knock") == {}
    for name in ("membership", "not_membership"):
        assert refusal(get(alice, "rooms", room_id, "members", **{name: "x"})) == (400, "M_INVALID_PARAM")


@pytest.mark.usefixtures("set_up")
def test_members_at_a_token(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    follow()
    since = sync(alice)["next_batch"]
    there = messages(alice, room_id, dir="f", limit=100).json["end"]
    post(bob, room_id, "leave")
    assert members(alice, room_id) == {alice.user_id: "join", bob.user_id: "leave"}
    for token in (since, there):
        assert members(alice, room_id, at=token) == {alice.user_id: "join", bob.user_id: "join"}
    assert members(alice, room_id, at="t2_0") == {alice.user_id: "join"}
    assert members(alice, room_id, at="t0_0") == {}
    assert members(alice, room_id, at="t999_0") == members(alice, room_id)
    for token in ("x", "", since + "A", "t1"):
        assert refusal(get(alice, "rooms", room_id, "members", at=token)) == (400, "M_INVALID_PARAM")


def test_joined_members_come_with_their_profiles_in_the_room(alice: User, bob: User) -> None:
    carol = register()
    room_id = create_room(alice, bob)
    post(alice, room_id, "invite", {"user_id": carol.user_id})
    profile = {"membership": "join", "displayname": "Bob in the room", "avatar_url": "mxc://example.org/b"}
    set_state(bob, room_id, "m.room.member", profile, bob.user_id)
    assert get(alice, "rooms", room_id, "joined_members").json == {
        "joined": {
            alice.user_id: {"display_name": "alice"},
            bob.user_id: {"display_name": "Bob in the room", "avatar_url": "mxc://example.org/b"},
        }
    }
    odd = {"membership": "join", "displayname": 5, "avatar_url": None}
    assert put(bob, room_id, "state", "m.room.member", bob.user_id, body=odd).status == 200
    assert get(alice, "rooms", room_id, "joined_members").json["joined"][bob.user_id] == {}


def test_a_room_that_the_world_may_read_is_read_by_strangers(alice: User, bob: User) -> None:
    room_id = create_room(alice, name="Open")
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    assert state(bob, room_id, "m.room.name").json == {"name": "Open"}
    assert keys(whole(bob, room_id)) == keys(whole(alice, room_id))
    assert members(bob, room_id) == {alice.user_id: "join"}
    assert refusal(get(bob, "rooms", room_id, "joined_members")) == (403, "M_FORBIDDEN")
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "shared"})
    assert refusal(whole(bob, room_id)) == (403, "M_FORBIDDEN")
