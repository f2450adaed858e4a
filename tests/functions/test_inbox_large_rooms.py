"""Rooms with very many local members are not fanned out: their readers look at the head. Here three are very many."""

import json
from typing import Any

import pytest

from functions.harness import User, register
from functions.rooms import create_room, follow, post, say, texts
from functions.syncing import Device, sync
from homeserver.adapters import aws
from homeserver.observability import metered
from homeserver.services import inboxes
from homeserver.services.inboxes import CURSOR, follow_part, follow_room
from homeserver.storage import large_rooms
from homeserver.storage.inbox import read_inbox
from homeserver.storage.inbox_shards import SlotState
from homeserver.storage.large_rooms import look_at_heads
from homeserver.storage.room_items import HEAD, Cursor, Head, LocalMember

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture(autouse=True)
def thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_rooms, "LARGE_FROM", 3)
    monkeypatch.setattr(large_rooms, "LARGE_UNTIL", 3)


@pytest.fixture
def members(alice: User, bob: User) -> list[User]:
    return [alice, bob, register("carol"), register("dave")]


def head_of(room_id: str) -> int:
    head = Head.fetch(room_id, HEAD)
    assert head is not None
    return int(head.position)


def slot_of(user: User, room_id: str) -> SlotState:
    row = LocalMember.fetch(room_id, f"local/{user.user_id}")
    assert row is not None
    assert row.slot is not None
    return read_inbox(user.user_id, consistent=True).slots[int(row.slot)]


def is_large(room_id: str) -> bool:
    cursor = Cursor.fetch(room_id, CURSOR)
    return cursor is not None and cursor.large == 1


def told(device: Device, room_id: str) -> list[str | None]:
    room = device.sync().get("rooms", {}).get("join", {}).get(room_id)
    return texts(room["timeline"]["events"]) if room else []


def test_a_room_that_grows_large_is_marked_once_and_then_no_inbox_is_written(members: list[User]) -> None:
    room_id = create_room(*members)
    follow()
    assert is_large(room_id)
    assert [slot_of(member, room_id).large for member in members] == [True] * 4
    position = head_of(room_id)
    say(members[0], room_id, "one", "two")
    with metered() as meter:
        follow_room(room_id)
    assert (meter.calls, meter.rounds) == (2, 2)  # the room is read, the cursor written
    assert [slot_of(member, room_id).position for member in members] == [position] * 4


def test_members_are_told_of_what_their_inboxes_do_not_follow(members: list[User]) -> None:
    room_id = create_room(*members)
    follow()
    devices = [Device(member) for member in members]
    for device in devices:
        device.sync()
    say(members[0], room_id, "hello")
    assert [told(device, room_id) for device in devices] == [["hello"]] * 4  # the head needs no follower
    follow()
    assert [list(device.sync()) for device in devices] == [["next_batch"]] * 4


def test_who_joins_a_large_room_is_marked_and_who_leaves_it_no_more(members: list[User]) -> None:
    room_id = create_room(*members, preset="public_chat")
    follow()
    erin, frank = register("erin"), register("frank")
    for user in (erin, frank):
        assert post(user, room_id, "join").status == 200
    follow()
    assert slot_of(erin, room_id).large
    devices = [Device(erin), Device(frank)]
    for device in devices:
        device.sync()
    assert post(erin, room_id, "leave").status == 200
    assert post(members[0], room_id, "kick", {"user_id": frank.user_id}).status == 200
    follow()
    assert [slot_of(user, room_id).large for user in (erin, frank)] == [False, False]
    say(members[0], room_id, "not for them")
    for device in devices:
        (room,) = device.sync()["rooms"]["leave"].values()
        assert room["timeline"]["events"][-1]["content"]["membership"] == "leave"
        assert texts(room["timeline"]["events"]) == []
        assert list(device.sync()) == ["next_batch"]


def test_a_room_that_shrinks_is_followed_again_and_nothing_is_lost_or_told_twice(members: list[User]) -> None:
    room_id = create_room(*members)
    follow()
    device = Device(members[1])
    device.sync()
    say(members[0], room_id, "while large")
    follow()
    for member in members[2:]:
        assert post(member, room_id, "leave").status == 200
    follow()
    assert not is_large(room_id)
    assert [slot_of(member, room_id).large for member in members] == [False] * 4
    assert slot_of(members[1], room_id).position == head_of(room_id)
    say(members[0], room_id, "while small")
    follow()
    assert slot_of(members[1], room_id).position == head_of(room_id)
    assert told(device, room_id) == ["while large", "while small"]
    assert list(device.sync()) == ["next_batch"]


def test_between_the_thresholds_a_room_stays_what_it_is(members: list[User]) -> None:
    room_id = create_room(*members[:3])
    follow()
    assert not is_large(room_id)
    grown = create_room(*members)
    follow()
    assert post(members[3], grown, "leave").status == 200
    follow()
    assert is_large(grown)


def test_the_later_decision_wins_whichever_is_written_last(
    members: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that marks is late: its member has left meanwhile."""
    parts: list[dict[str, Any]] = []
    monkeypatch.setattr(inboxes, "MEMBERS_AT_ONCE", 2)
    monkeypatch.setattr(inboxes, "send_json", lambda _queue, part: parts.append(json.loads(json.dumps(part))))
    room_id = create_room(*members)
    follow()
    assert len(parts) == 2
    assert post(members[3], room_id, "leave").status == 200
    follow()
    for part in parts:
        follow_part(part)
    assert [slot_of(member, room_id).large for member in members] == [True, True, True, False]
    for part in parts:
        follow_part(part)
    assert [slot_of(member, room_id).large for member in members] == [True, True, True, False]


def test_only_users_of_large_rooms_pay_for_looking_at_heads(members: list[User]) -> None:
    large = create_room(*members)
    small = create_room(members[0])
    lonely = register("lonely")
    create_room(lonely)
    follow()
    calls: list[str] = []

    def dispatch(operation: str, request: dict[str, Any]) -> dict[str, Any]:
        calls.append(operation)
        answer: dict[str, Any] = aws.client("dynamodb").batch_get_item(**request)
        return answer

    look_at_heads(dispatch, lonely.user_id, read_inbox(lonely.user_id, consistent=True), consistent=True)
    assert calls == []
    say(members[0], large, "hello")
    inbox = read_inbox(members[0].user_id, consistent=True)
    look_at_heads(dispatch, members[0].user_id, inbox, consistent=True)
    assert calls == ["BatchGetItem"] * 2  # which rooms the slots are, and their heads
    assert sorted(state.position for state in inbox.slots.values()) == sorted([head_of(small), head_of(large)])
    look_at_heads(dispatch, members[0].user_id, inbox, consistent=True)
    assert calls == ["BatchGetItem"] * 3


def test_a_first_sync_tells_a_large_room_up_to_its_head(members: list[User]) -> None:
    room_id = create_room(*members)
    follow()
    say(members[0], room_id, "hello")
    assert texts(sync(members[2])["rooms"]["join"][room_id]["timeline"]["events"]) == ["hello"]
