"""Receipts and typing in /sync: told once, also where nothing else happened, and with tokens of any length."""

import pytest

from functions.ephemeral import mark_read, type_in
from functions.harness import User
from functions.rooms import create_room, follow, post, say
from functions.syncing import JSON, Device, sync
from homeserver.matrix.sync_token import SyncToken
from homeserver.services import ephemeral, sync_delivered, sync_news

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    room_id = create_room(alice, bob, name="Tea")
    follow()
    return room_id


@pytest.fixture
def phone(room_id: str, bob: User) -> Device:
    device = Device(bob)
    device.sync()
    return device


def told(body: JSON, room_id: str) -> list[JSON]:
    room = body.get("rooms", {}).get("join", {}).get(room_id, {})
    events: list[JSON] = room.get("ephemeral", {}).get("events", [])
    return events


def readers(events: list[JSON], event_id: str) -> set[str]:
    receipts = [event["content"].get(event_id, {}) for event in events if event["type"] == "m.receipt"]
    return {user for receipt in receipts for user in receipt.get("m.read", {})}


def typing(events: list[JSON]) -> list[str] | None:
    return next((event["content"]["user_ids"] for event in events if event["type"] == "m.typing"), None)


def test_a_receipt_is_told_once_in_a_room_where_nothing_else_happens(phone: Device, room_id: str, alice: User) -> None:
    (event_id,) = say(alice, room_id, "hello")
    follow()
    phone.sync()
    assert mark_read(alice, room_id, event_id).status == 200
    body = phone.sync()
    assert set(body["rooms"]["join"][room_id]) == {"ephemeral"}
    assert readers(told(body, room_id), event_id) == {alice.user_id}
    assert list(phone.sync()) == ["next_batch"]


def test_a_receipt_comes_with_the_message_where_both_are_new(phone: Device, room_id: str, alice: User) -> None:
    (event_id,) = say(alice, room_id, "hello")
    mark_read(alice, room_id, event_id)
    follow()
    body = phone.sync()
    assert [event["event_id"] for event in body["rooms"]["join"][room_id]["timeline"]["events"]] == [event_id]
    assert readers(told(body, room_id), event_id) == {alice.user_id}


def test_a_first_sync_has_the_current_receipts(phone: Device, room_id: str, alice: User, bob: User) -> None:
    (event_id,) = say(alice, room_id, "hello")
    mark_read(alice, room_id, event_id)
    mark_read(bob, room_id, event_id)
    follow()
    assert readers(told(sync(bob), room_id), event_id) == {alice.user_id, bob.user_id}


def test_who_comes_into_a_room_gets_the_receipts_that_are_there(alice: User, bob: User) -> None:
    room_id = create_room(alice, preset="public_chat")
    (event_id,) = say(alice, room_id, "hello")
    mark_read(alice, room_id, event_id)
    follow()
    device = Device(bob)
    device.sync()
    post(bob, room_id, "join")
    follow()
    assert readers(told(device.sync(), room_id), event_id) == {alice.user_id}


def test_typing_is_told_and_that_it_ended_too(
    phone: Device, room_id: str, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type_in(alice, room_id, timeout=5_000).status == 200
    body = phone.sync()
    assert typing(told(body, room_id)) == [alice.user_id]
    token = SyncToken.decode(body["next_batch"], user_id=phone.user.user_id)
    (end,) = token.typing.values()
    assert list(phone.sync()) == ["next_batch"]
    # Nobody announces that time goes by; the token says when to look again.
    for module in (ephemeral, sync_news):
        monkeypatch.setattr(module, "now_ms", lambda: end + 1)
    body = phone.sync()
    assert typing(told(body, room_id)) == []
    assert SyncToken.decode(body["next_batch"], user_id=phone.user.user_id).typing == {}
    assert list(phone.sync()) == ["next_batch"]


def test_a_room_that_was_left_tells_no_receipts(phone: Device, room_id: str, alice: User) -> None:
    (event_id,) = say(alice, room_id, "hello")
    mark_read(alice, room_id, event_id)
    follow()
    post(phone.user, room_id, "leave")
    follow()
    assert "ephemeral" not in phone.sync()["rooms"]["leave"][room_id]
    assert list(phone.sync()) == ["next_batch"]


def test_ephemeral_events_that_a_filter_leaves_out_count_as_told(phone: Device, room_id: str, alice: User) -> None:
    (event_id,) = say(alice, room_id, "hello")
    follow()
    phone.sync()
    mark_read(alice, room_id, event_id)
    before = phone.since
    assert list(phone.sync(filter={"room": {"ephemeral": {"types": []}}})) == ["next_batch"]
    assert phone.since != before
    assert list(phone.sync()) == ["next_batch"]


def test_long_tokens_keep_what_was_told_in_their_base(alice: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_delivered, "LONGEST_TOKEN", 40)
    rooms = [create_room(alice, bob) for _ in range(12)]
    last = {room_id: say(alice, room_id, "hello")[0] for room_id in rooms}
    for room_id in rooms:
        mark_read(alice, room_id, last[room_id])
    follow()
    device = Device(bob)
    body = device.sync()
    assert all(readers(told(body, room_id), last[room_id]) == {alice.user_id} for room_id in rooms)
    token = SyncToken.decode(body["next_batch"], user_id=bob.user_id)
    assert (token.base > 0, token.ephemeral) == (True, {})
    assert list(device.sync()) == ["next_batch"]
    mark_read(bob, rooms[0], last[rooms[0]])
    body = device.sync()
    assert list(body["rooms"]["join"]) == [rooms[0]]
    assert list(device.sync()) == ["next_batch"]
