"""Reads are no snapshots: whatever part of a commit /sync cannot see yet is told later, and never skipped."""

from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import User, call
from functions.rooms import create_room, follow, path, post, say, texts
from functions.syncing import Device
from homeserver.services import sync as service
from homeserver.services import sync_news, sync_state
from homeserver.services.sync_rooms import RoomTask
from homeserver.storage import invites, slots, timeline_cache, user_data

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture
def phone(alice: User, bob: User) -> Device:
    create_room(alice, bob, name="Tea")
    follow()
    device = Device(bob)
    device.sync()
    return device


def room_of(device: Device) -> str:
    (room_id,) = device.joined
    return room_id


Unseen = Callable[[object, str, Callable[[Any], Any]], None]


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> Unseen:
    """`unseen(module, name, change)`: what the function of this name answers is changed, once for each sync."""

    def patch(module: object, name: str, change: Callable[[Any], Any]) -> None:
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: change(original(*args, **kwargs)))

    return patch


def told_late(phone: Device, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Nothing is told while something cannot be seen, however often one asks; then this."""
    for _ in range(2):
        assert list(phone.sync()) == ["next_batch"]
    monkeypatch.undo()
    body = phone.sync()
    assert list(phone.sync()) == ["next_batch"]
    return body


def test_an_entry_that_is_not_visible_yet(
    phone: Device, alice: User, unseen: Unseen, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = room_of(phone)
    say(alice, room_id, "hello")
    follow()
    unseen(timeline_cache, "read_positions", lambda entries: [e for e in entries if e.pdu["type"] != "m.room.message"])
    timeline = told_late(phone, monkeypatch)["rooms"]["join"][room_id]["timeline"]
    assert texts(timeline["events"]) == ["hello"]
    assert timeline["limited"] is False


def test_of_several_entries_those_before_the_gap_are_told_first(
    phone: Device, alice: User, unseen: Unseen, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = room_of(phone)
    say(alice, room_id, "one", "two", "three")
    follow()
    with monkeypatch.context() as patched:
        read = timeline_cache.read_positions

        def torn(*args: Any) -> list[Any]:
            entries = read(*args)
            bodies = [entry.pdu["content"].get("body") for entry in entries]
            return entries[: bodies.index("two")] if "two" in bodies else []

        patched.setattr(timeline_cache, "read_positions", torn)
        assert texts(phone.sync()["rooms"]["join"][room_id]["timeline"]["events"]) == ["one"]
    assert texts(phone.sync()["rooms"]["join"][room_id]["timeline"]["events"]) == ["two", "three"]


def test_a_room_whose_slot_item_is_not_visible_yet(
    phone: Device, alice: User, unseen: Unseen, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = create_room(alice, preset="public_chat")
    assert post(phone.user, room_id, "join").status == 200
    unseen(slots, "rooms_of_slots", lambda rooms: {slot: room for slot, room in rooms.items() if room != room_id})
    assert list(told_late(phone, monkeypatch)["rooms"]["join"]) == [room_id]


def test_a_room_in_which_the_own_row_is_not_visible_yet(
    phone: Device, alice: User, unseen: Unseen, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = create_room(alice, preset="public_chat")
    assert post(phone.user, room_id, "join").status == 200
    unseen(sync_news, "_heads_and_rows", lambda found: ({room: (view[0], None) for room, view in found[0].items()}, {}))
    assert list(told_late(phone, monkeypatch)["rooms"]["join"]) == [room_id]


def test_a_rejoin_whose_row_shows_the_end_of_the_stay_before(
    phone: Device, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = create_room(alice, preset="public_chat")
    post(phone.user, room_id, "join")
    post(phone.user, room_id, "leave")
    phone.sync()
    read = sync_news._heads_and_rows
    before = read(phone.user.user_id, [RoomTask(room_id, 0, 1, 1, 0)], ())
    post(phone.user, room_id, "join")
    calls: list[int] = []

    def first_old(*args: Any) -> Any:
        calls.append(1)
        return before if len(calls) == 1 else read(*args)

    monkeypatch.setattr(sync_news, "_heads_and_rows", first_old)
    assert list(phone.sync()["rooms"]) == ["join"]


def test_state_that_is_not_visible_yet(
    phone: Device, alice: User, unseen: Unseen, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = create_room(alice, preset="public_chat", name="Tea")
    say(alice, room_id, *[f"text {n}" for n in range(12)])
    post(phone.user, room_id, "join")

    def missing(_events: Any) -> Any:
        raise KeyError("$not-visible-yet")

    unseen(sync_state, "state_events", missing)
    room = told_late(phone, monkeypatch)["rooms"]["join"][room_id]
    assert room["state"]["events"]
    assert len(room["timeline"]["events"]) == 10


def test_an_invitation_that_is_announced_but_not_visible_yet(
    phone: Device, alice: User, unseen: Unseen, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = create_room(alice, invite=[phone.user.user_id])
    follow()
    unseen(invites, "invites_of", lambda _found: [])
    assert list(told_late(phone, monkeypatch)["rooms"]["invite"]) == [room_id]


def test_an_invitation_that_is_newer_than_the_row(phone: Device, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    room_id = create_room(alice, invite=[phone.user.user_id])
    post(phone.user, room_id, "leave")
    follow()
    phone.sync()
    old = sync_news._heads_and_rows(phone.user.user_id, [], [room_id])
    assert post(alice, room_id, "invite", {"user_id": phone.user.user_id}).status == 200
    follow()
    monkeypatch.setattr(sync_news, "_heads_and_rows", lambda *_: old)
    assert list(told_late(phone, monkeypatch)["rooms"]["invite"]) == [room_id]


def test_account_data_that_is_announced_but_not_visible_yet(
    phone: Device, unseen: Unseen, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = path("user", phone.user.user_id, "account_data", "org.example.a")
    assert call("client_user", "PUT", where, {"a": 1}, token=phone.user.token).status == 200
    unseen(user_data, "changes_since", lambda _found: [])
    unseen(user_data, "all_of", lambda _found: [])
    events = told_late(phone, monkeypatch)["account_data"]["events"]
    assert events == [{"type": "org.example.a", "content": {"a": 1}}]


@pytest.mark.parametrize(("name", "bound"), [("MOST_BYTES", 1), ("MOST_SECONDS", 0.0)])
def test_rooms_that_do_not_fit_into_an_answer_come_with_the_next_ones(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch, name: str, bound: float
) -> None:
    monkeypatch.setattr(service, name, bound)
    rooms = {create_room(alice, bob) for _ in range(4)}
    left = create_room(alice, bob)
    post(bob, left, "leave")
    follow()
    device = Device(bob)
    answers = [device.sync() for _ in range(5)]
    told = [list(body.get("rooms", {}).get("join", {})) for body in answers]
    assert [len(found) for found in told] == [1, 1, 1, 1, 0]
    assert {room for found in told for room in found} == rooms
    assert all("leave" not in body.get("rooms", {}) for body in answers)
