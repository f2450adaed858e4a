"""Receipts, typing, markers and tags as a device sees them: through /sync, from endpoint to answer."""

from typing import Any

import pytest

from functions.ephemeral import mark, mark_read, type_in
from functions.harness import User, register
from functions.rooms import create_room, follow, path, post, request, say
from functions.syncing import Device
from homeserver.matrix.sync_token import SyncToken
from homeserver.services import ephemeral, ignored_users, sync_news, typing
from homeserver.services.sync_wait import is_ahead
from homeserver.storage import large_rooms
from homeserver.storage.inbox import read_inbox

pytestmark = pytest.mark.usefixtures("set_up")
PRIVATE = "m.read.private"
START = 1_795_000_000_000


@pytest.fixture(autouse=True)
def forget_ignored_users() -> None:
    ignored_users._lists.clear()


def told(device: Device, room_id: str) -> list[dict[str, Any]]:
    """The ephemeral events of one sync of the device, which tells of no other room."""
    rooms = device.sync().get("rooms", {})
    assert set(rooms) <= {"join"}
    assert set(rooms.get("join", {})) <= {room_id}
    events: list[dict[str, Any]] = rooms.get("join", {}).get(room_id, {}).get("ephemeral", {}).get("events", [])
    return events


def who_read(events: list[dict[str, Any]]) -> dict[str, dict[str, list[str]]]:
    (content,) = (event["content"] for event in events if event["type"] == "m.receipt")
    return {event_id: {kind: sorted(users) for kind, users in kinds.items()} for event_id, kinds in content.items()}


def waits(device: Device, now: int = 0) -> bool:
    """Whether the waiting loop would go on waiting with the device's token."""
    token = SyncToken.decode(device.since or "", user_id=device.user.user_id)
    return not is_ahead(read_inbox(device.user.user_id, consistent=True), token, now=now / 1000)


def test_a_receipt_wakes_and_reaches_every_device_once(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    follow()
    devices = [Device(alice), Device(bob), Device(bob)]
    for device in devices:
        device.sync()
        assert waits(device)
    assert mark_read(bob, room_id, event_id).status == 200
    for device in devices:
        assert not waits(device)
        assert who_read(told(device, room_id)) == {event_id: {"m.read": [bob.user_id]}}
        assert waits(device)
        assert list(device.sync()) == ["next_batch"]


def test_a_private_receipt_reaches_the_own_devices_only_and_wakes_no_other(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    follow()
    others, mine = Device(alice), Device(bob)
    for device in (others, mine):
        device.sync()
    assert mark_read(bob, room_id, event_id, PRIVATE).status == 200
    assert waits(others)
    assert who_read(told(mine, room_id)) == {event_id: {PRIVATE: [bob.user_id]}}
    assert mark_read(alice, room_id, event_id).status == 200
    assert who_read(told(others, room_id)) == {event_id: {"m.read": [alice.user_id]}}
    first = Device(alice).sync()["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert who_read(first) == {event_id: {"m.read": [alice.user_id]}}


def test_a_first_sync_tells_all_receipts_and_who_types(alice: User, bob: User) -> None:
    users = [alice, bob, *(register() for _ in range(8))]
    room_id = create_room(*users)
    (event_id,) = say(alice, room_id, "hello")
    for user in users:
        assert mark_read(user, room_id, event_id).status == 200
    assert type_in(bob, room_id).status == 200
    follow()
    device = Device(alice)
    events = device.sync()["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert who_read(events) == {event_id: {"m.read": sorted(user.user_id for user in users)}}
    assert [e["content"] for e in events if e["type"] == "m.typing"] == [{"user_ids": [bob.user_id]}]
    assert list(device.sync()) == ["next_batch"]


def test_who_joins_is_told_what_was_there_before(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    (event_id,) = say(alice, room_id, "hello")
    assert mark_read(alice, room_id, event_id).status == 200
    device = Device(bob)
    device.sync()
    assert post(alice, room_id, "invite", {"user_id": bob.user_id}).status == 200
    assert post(bob, room_id, "join").status == 200
    follow()
    assert who_read(told(device, room_id)) == {event_id: {"m.read": [alice.user_id]}}
    assert post(bob, room_id, "leave").status == 200
    (later,) = say(alice, room_id, "later")
    assert mark_read(alice, room_id, later).status == 200
    device.sync()
    assert post(alice, room_id, "invite", {"user_id": bob.user_id}).status == 200
    assert post(bob, room_id, "join").status == 200
    follow()
    assert who_read(told(device, room_id)) == {later: {"m.read": [alice.user_id]}}


def test_who_left_is_told_nothing_and_waits_on(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    follow()
    device = Device(bob)
    device.sync()
    assert mark_read(alice, room_id, event_id).status == 200  # announced, and not told before bob leaves
    assert type_in(alice, room_id).status == 200
    assert post(bob, room_id, "leave").status == 200
    follow()
    body = device.sync()
    assert "ephemeral" not in body["rooms"]["leave"][room_id]
    for _ in range(3):
        if waits(device):
            break
        assert list(device.sync()) == ["next_batch"]
    assert waits(device)
    assert mark_read(alice, room_id, event_id, PRIVATE).status == 200
    assert type_in(alice, room_id, False).status == 200
    assert waits(device)


def test_typing_ends_in_time_for_a_device_to_which_nothing_more_is_announced(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [START]
    for module in (ephemeral, typing, sync_news):
        monkeypatch.setattr(module, "now_ms", lambda: now[0])
    room_id = create_room(alice, bob)
    follow()
    device = Device(alice)
    device.sync()
    assert type_in(bob, room_id, timeout=20_000).status == 200
    assert told(device, room_id) == [{"type": "m.typing", "content": {"user_ids": [bob.user_id]}}]
    assert waits(device, START + 19_999)
    assert list(device.sync()) == ["next_batch"]
    now[0] = START + 20_000
    assert not waits(device, now[0])
    assert told(device, room_id) == [{"type": "m.typing", "content": {"user_ids": []}}]
    assert waits(device, now[0] + 10**9)
    assert list(device.sync()) == ["next_batch"]


def test_who_goes_on_typing_wakes_a_device_without_anything_to_tell(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [START]
    for module in (ephemeral, typing, sync_news):
        monkeypatch.setattr(module, "now_ms", lambda: now[0])
    room_id = create_room(alice, bob)
    follow()
    device = Device(alice)
    device.sync()
    assert type_in(bob, room_id, timeout=20_000).status == 200
    assert len(told(device, room_id)) == 1
    now[0] += 15_000
    assert type_in(bob, room_id, timeout=20_000).status == 200
    assert waits(device, now[0])
    now[0] += 5_000
    assert not waits(device, now[0])
    assert list(device.sync()) == ["next_batch"]  # the token has the new time
    assert waits(device, now[0])
    now[0] += 15_000
    assert told(device, room_id) == [{"type": "m.typing", "content": {"user_ids": []}}]


def test_markers_and_tags_come_as_account_data_of_the_room(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    follow()
    device, other = Device(bob), Device(alice)
    for one in (device, other):
        one.sync()
    assert mark(bob, room_id, fully_read=event_id).status == 200
    where = path("user", bob.user_id, "rooms", room_id, "tags", "m.favourite")
    assert request("client_user", "PUT", where, {"order": 0.5}, token=bob.token).status == 200
    assert not waits(device)
    events = device.sync()["rooms"]["join"][room_id]["account_data"]["events"]
    assert events == [
        {"type": "m.fully_read", "content": {"event_id": event_id}},
        {"type": "m.tag", "content": {"tags": {"m.favourite": {"order": 0.5}}}},
    ]
    assert waits(other)
    assert request("client_user", "DELETE", where, token=bob.token).status == 200
    events = device.sync()["rooms"]["join"][room_id]["account_data"]["events"]
    assert events == [{"type": "m.tag", "content": {"tags": {}}}]


def test_ignored_users_neither_read_nor_type(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    where = path("user", alice.user_id, "account_data", "m.ignored_user_list")
    content = {"ignored_users": {bob.user_id: {}}}
    assert request("client_user", "PUT", where, content, token=alice.token).status == 200
    follow()
    device = Device(alice)
    device.sync()
    assert mark_read(bob, room_id, event_id).status == 200
    assert type_in(bob, room_id).status == 200
    assert list(device.sync()) == ["next_batch"]
    assert waits(device)


def test_in_a_large_room_receipts_come_with_what_else_is_told(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_rooms, "LARGE_FROM", 1)
    monkeypatch.setattr(large_rooms, "LARGE_UNTIL", 1)
    room_id = create_room(alice, bob)
    (event_id,) = say(alice, room_id, "hello")
    follow()
    device = Device(alice)
    device.sync()
    assert mark_read(bob, room_id, event_id).status == 200
    assert waits(device)
    assert who_read(told(device, room_id)) == {event_id: {"m.read": [bob.user_id]}}
    assert list(device.sync()) == ["next_batch"]
