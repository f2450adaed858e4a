"""The first /sync of a device, and what filters make of it."""

import json
from importlib import import_module

import pytest

from functions.harness import User, call, payload, register
from functions.rooms import create_room, follow, get, path, post, say, set_state, texts
from functions.syncing import Device, ask, ids, keys, sync

pytestmark = pytest.mark.usefixtures("set_up")


def limited_to(limit: int, **room: object) -> dict:
    return {"room": {"timeline": {"limit": limit}, **room}}


def set_account_data(user: User, data_type: str, content: dict, *room: str) -> None:
    segments = ["user", user.user_id, *(["rooms", *room] if room else []), "account_data", data_type]
    assert call("client_user", "PUT", path(*segments), content, token=user.token).status == 200


def test_an_empty_account_gets_a_token_and_nothing_else(alice: User) -> None:
    body = sync(alice)
    assert list(body) == ["next_batch"]
    assert sync(alice, body["next_batch"]) == body


def test_a_short_room_is_told_whole(alice: User) -> None:
    room_id = create_room(alice, name="Tea", preset="public_chat")
    say(alice, room_id, "hello")
    follow()
    room = sync(alice, filter=limited_to(50))["rooms"]["join"][room_id]
    assert room["timeline"]["limited"] is False
    assert room["timeline"]["events"][0]["type"] == "m.room.create"
    assert texts(room["timeline"]["events"]) == ["hello"]
    assert room["state"]["events"] == []
    assert room["summary"] == {"m.joined_member_count": 1, "m.invited_member_count": 0}
    assert all("room_id" not in event for event in room["timeline"]["events"])


@pytest.mark.parametrize(("limit", "expected"), [(None, 10), (3, 3), (1000, 100)])
def test_the_timeline_has_ten_events_or_what_the_filter_says_up_to_a_hundred(
    alice: User, limit: int | None, expected: int
) -> None:
    room_id = create_room(alice)
    say(alice, room_id, *[f"text {n}" for n in range(110)])
    follow()
    query = {"filter": limited_to(limit)} if limit else {}
    timeline = sync(alice, **query)["rooms"]["join"][room_id]["timeline"]
    assert texts(timeline["events"]) == [f"text {n}" for n in range(110 - expected, 110)]
    assert timeline["limited"] is True


def test_history_goes_on_exactly_where_a_limited_timeline_begins(alice: User) -> None:
    room_id = create_room(alice)
    sent = say(alice, room_id, *[f"text {n}" for n in range(12)])
    follow()
    timeline = sync(alice, filter=limited_to(5))["rooms"]["join"][room_id]["timeline"]
    page = get(alice, "rooms", room_id, "messages", dir="b", limit=4, **{"from": timeline["prev_batch"]})
    assert [*reversed(ids(page.json["chunk"])), *ids(timeline["events"])] == sent[-9:]


def test_state_is_the_state_at_the_start_of_the_timeline(alice: User) -> None:
    room_id = create_room(alice, name="before")
    set_state(alice, room_id, "m.room.topic", {"topic": "early"})
    say(alice, room_id, "one")
    set_state(alice, room_id, "m.room.name", {"name": "after"})
    say(alice, room_id, "two", "three")
    follow()
    room = sync(alice, filter=limited_to(4))["rooms"]["join"][room_id]
    state = {(event["type"], event["state_key"]): event["content"] for event in room["state"]["events"]}
    assert state["m.room.name", ""] == {"name": "before"}
    assert state["m.room.topic", ""] == {"topic": "early"}
    assert ("m.room.member", alice.user_id) in state
    named = [event["content"] for event in room["timeline"]["events"] if event["type"] == "m.room.name"]
    assert named == [{"name": "after"}]


def test_with_use_state_after_state_is_the_state_at_the_end_and_has_another_name(alice: User) -> None:
    room_id = create_room(alice, name="before")
    set_state(alice, room_id, "m.room.name", {"name": "after"})
    follow()
    room = sync(alice, filter=limited_to(1), use_state_after=True)["rooms"]["join"][room_id]
    assert "state" not in room
    names = [event["content"]["name"] for event in room["state_after"]["events"] if event["type"] == "m.room.name"]
    assert names == ["after"]


def test_invitations_and_account_data_come_with_the_first_sync(alice: User, bob: User) -> None:
    invited_to = create_room(alice, name="Tea", invite=[bob.user_id])
    own = create_room(bob)
    set_account_data(bob, "org.example.global", {"a": 1})
    set_account_data(bob, "org.example.room", {"b": 2}, own)
    follow()
    body = sync(bob)
    assert body["account_data"]["events"] == [{"type": "org.example.global", "content": {"a": 1}}]
    assert body["rooms"]["join"][own]["account_data"]["events"] == [{"type": "org.example.room", "content": {"b": 2}}]
    assert list(body["rooms"]["invite"]) == [invited_to]
    told = body["rooms"]["invite"][invited_to]["invite_state"]["events"]
    assert {("m.room.create", ""), ("m.room.name", ""), ("m.room.member", bob.user_id)} <= keys(told)
    assert ("m.room.member", alice.user_id) in keys(told)
    assert all(set(event) == {"type", "state_key", "sender", "content"} for event in told)


def test_left_rooms_are_told_only_with_include_leave_and_end_with_the_own_leave(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    left = post(bob, room_id, "leave")
    assert left.status == 200
    say(alice, room_id, "behind bob's back")
    follow()
    assert "rooms" not in sync(bob)
    room = sync(bob, filter=limited_to(10, include_leave=True))["rooms"]["leave"][room_id]
    last = room["timeline"]["events"][-1]
    assert (last["type"], last["state_key"], last["content"]["membership"]) == ("m.room.member", bob.user_id, "leave")
    assert texts(room["timeline"]["events"]) == []


def test_room_filters_hold_for_joined_rooms_and_invitations(alice: User, bob: User) -> None:
    rooms = [create_room(bob) for _ in range(2)]
    invited_to = [create_room(alice, invite=[bob.user_id]) for _ in range(2)]
    follow()
    told = sync(bob, filter={"room": {"rooms": [rooms[0], invited_to[0]]}})["rooms"]
    assert (list(told["join"]), list(told["invite"])) == ([rooms[0]], [invited_to[0]])
    told = sync(bob, filter={"room": {"not_rooms": [rooms[0], invited_to[0]]}})["rooms"]
    assert (list(told["join"]), list(told["invite"])) == ([rooms[1]], [invited_to[1]])


def test_lazy_loading_leaves_out_members_who_said_nothing(alice: User, bob: User) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob, carol, name="Tea")
    say(bob, room_id, "hello")
    follow()
    lazy = {"room": {"timeline": {"limit": 1}, "state": {"lazy_load_members": True}}}
    room = sync(alice, filter=lazy)["rooms"]["join"][room_id]
    members = {key for kind, key in keys(room["state"]["events"]) if kind == "m.room.member"}
    assert members == {alice.user_id, bob.user_id}  # the syncing user's own membership comes with a whole state
    assert room["summary"] == {"m.joined_member_count": 3, "m.invited_member_count": 0}


def test_event_fields_project_every_event(alice: User) -> None:
    room_id = create_room(alice)
    say(alice, room_id, "hello")
    follow()
    # The schema knows no projected events, so this answer is not checked by it.
    question = {"user_id": alice.user_id, "device_id": alice.device_id}
    wanted = {"event_fields": ["content.body"], "room": {"timeline": {"limit": 1}}}
    answer = import_module("sync_answer.app").lambda_handler({**question, "filter": json.dumps(wanted)}, None)
    room = json.loads(answer["body"])["rooms"]["join"][room_id]
    assert room["timeline"]["events"] == [{"content": {"body": "hello"}}]
    assert ask(alice, filter="no such filter")["status"] == 400


def test_a_device_that_syncs_in_small_steps_knows_the_room_as_the_server_does(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, name="Tea")
    say(alice, room_id, *[f"text {n}" for n in range(9)])
    follow()
    device = Device(bob, query={"filter": limited_to(2)})
    device.sync_until_quiet()
    told = {event["event_id"] for event in get(bob, "rooms", room_id, "state").json}
    assert set(device.states[room_id].values()) == told
    assert device.timelines[room_id] == ids(get(bob, "rooms", room_id, "messages", dir="f", limit=100).json["chunk"])


def test_the_recorded_question_is_answered(alice: User) -> None:
    room_id = create_room(alice)
    say(alice, room_id, *[f"text {n}" for n in range(7)])
    follow()
    answer = import_module("sync_answer.app").lambda_handler(payload("sync_answer"), None)
    assert (answer["status"], answer["empty"]) == (200, False)
    (room,) = json.loads(answer["body"])["rooms"]["join"].values()
    assert texts(room["timeline"]["events"]) == [f"text {n}" for n in range(2, 7)]
