"""`state_after`: the state at the end of the timeline, whatever that shows, under the name that was asked for."""

import json
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from functions.harness import User, register
from functions.rooms import create_room, follow, get, post, say, set_state
from functions.syncing import Device, ids, keys, sync
from homeserver.matrix.filters import RoomEventFilter
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.sync_state import Members, Window, room_state_update
from homeserver.services.visibility import Reader
from homeserver.storage.rooms import RoomView, load_heads
from homeserver.storage.timeline import Entry, read_positions

pytestmark = pytest.mark.usefixtures("set_up")

JSON = dict[str, Any]
UNSTABLE = "org.matrix.msc4222.use_state_after"


def names(body: JSON, room_id: str, section: str = "join") -> set[str]:
    return {name for name in body["rooms"][section][room_id] if "state" in name}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, {"state"}),
        ({"use_state_after": True}, {"state_after"}),
        ({"query": {UNSTABLE: "false"}}, {"state"}),
    ],
)
def test_the_state_has_the_name_that_was_asked_for(alice: User, query: JSON, expected: set[str]) -> None:
    room_id = create_room(alice)
    assert names(sync(alice, **query), room_id) == expected


def test_the_unstable_name_is_answered_with_the_unstable_name(alice: User) -> None:
    room_id = create_room(alice, name="Tea")
    answer = unchecked(alice, {UNSTABLE: "true"})
    assert names(answer, room_id) == {"org.matrix.msc4222.state_after"}
    room = answer["rooms"]["join"][room_id]
    assert ("m.room.name", "") in keys(room["org.matrix.msc4222.state_after"]["events"])


def unchecked(user: User, query: JSON, since: str | None = None) -> JSON:
    """The schema does not know the unstable name."""

    question = {"user_id": user.user_id, "device_id": user.device_id, "since": since, "query": query}
    answer = import_module("sync_answer.app").lambda_handler(question, None)
    assert answer["status"] == 200
    body: JSON = json.loads(answer["body"])
    return body


@pytest.fixture
def phone(alice: User, bob: User) -> Device:
    create_room(alice, bob, name="Tea", preset="public_chat")
    follow()
    device = Device(bob, query={"use_state_after": True})
    device.sync()
    return device


def room_of(device: Device) -> str:
    (room_id,) = device.joined
    return room_id


def whole(user: User, room_id: str) -> set[str]:
    return {event["event_id"] for event in get(user, "rooms", room_id, "state").json}


def test_what_the_timeline_shows_stands_in_state_after_too(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    set_state(alice, room_id, "m.room.topic", {"topic": "early"})
    changed = set_state(alice, room_id, "m.room.topic", {"topic": "late"}).json["event_id"]
    follow()
    room = phone.sync()["rooms"]["join"][room_id]
    assert len(room["timeline"]["events"]) == 2
    assert ids(room["state_after"]["events"]) == [changed]


def test_without_changes_state_after_is_there_and_empty(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    say(alice, room_id, "hello")
    follow()
    assert phone.sync()["rooms"]["join"][room_id]["state_after"] == {"events": []}


@pytest.mark.parametrize("limit", [1, 2, 20])
@pytest.mark.parametrize("lazy", [False, True])
def test_whatever_the_gap_the_state_is_that_of_the_server(phone: Device, alice: User, limit: int, lazy: bool) -> None:
    room_id = room_of(phone)
    phone.query["filter"] = {"room": {"timeline": {"limit": limit}, "state": {"lazy_load_members": lazy}}}
    carol, dave = register("carol"), register("dave")
    for number in range(3):
        set_state(alice, room_id, "m.room.topic", {"topic": str(number)})
        say(alice, room_id, f"text {number}")
    post(carol, room_id, "join")
    post(dave, room_id, "join")
    say(dave, room_id, "hello")
    follow()
    phone.sync_until_quiet()
    post(alice, room_id, "kick", {"user_id": carol.user_id})
    set_state(alice, room_id, "m.room.name", {"name": "Coffee"})
    follow()
    phone.sync_until_quiet()
    assert set(phone.states[room_id].values()) == whole(phone.user, room_id)


def test_a_kick_in_the_timeline_reaches_a_lazy_client(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    carol = register("carol")
    post(carol, room_id, "join")
    follow()
    phone.query["filter"] = {"room": {"state": {"lazy_load_members": True}}}
    phone.sync()
    kicked = post(alice, room_id, "kick", {"user_id": carol.user_id})
    assert kicked.status == 200
    follow()
    room = phone.sync()["rooms"]["join"][room_id]
    assert ("m.room.member", carol.user_id) in keys(room["state_after"]["events"])


def test_a_timeline_filter_hides_nothing_from_state_after(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    set_state(alice, room_id, "m.room.topic", {"topic": "hidden"})
    say(alice, room_id, "hello")
    follow()
    room = phone.sync(filter={"room": {"timeline": {"types": ["m.room.message"]}}})["rooms"]["join"][room_id]
    assert [event["content"] for event in room["state_after"]["events"]] == [{"topic": "hidden"}]


def test_full_state_is_the_whole_state_at_the_end(phone: Device, alice: User) -> None:
    room_id = room_of(phone)
    set_state(alice, room_id, "m.room.topic", {"topic": "new"})
    follow()
    room = phone.sync(full_state=True)["rooms"]["join"][room_id]
    assert set(ids(room["state_after"]["events"])) == whole(phone.user, room_id)


def test_left_rooms_and_ended_invitations_have_state_after_too(phone: Device, alice: User) -> None:
    room_id, invited = room_of(phone), create_room(alice, invite=[phone.user.user_id])
    follow()
    phone.sync()
    post(phone.user, room_id, "leave")
    post(alice, invited, "kick", {"user_id": phone.user.user_id})
    follow()
    body = phone.sync()
    assert names(body, room_id, "leave") == names(body, invited, "leave") == {"state_after"}
    assert ("m.room.member", phone.user.user_id) in keys(body["rooms"]["leave"][room_id]["state_after"]["events"])


def test_a_marker_moves_the_state_without_an_event(phone: Device, alice: User) -> None:
    """A resolution that changes the state at a position of its own: only the roots tell."""

    room_id = room_of(phone)
    say(alice, room_id, "before")
    changed = set_state(alice, room_id, "m.room.topic", {"topic": "resolved"}).json["event_id"]
    say(alice, room_id, "after")
    follow()

    head = load_heads([room_id])[room_id]
    last = int(head.position)
    entries = read_positions(room_id, last - 3, last)
    # As a marker is stored: the root after it, and no event.
    marked = [entry if entry.event_id != changed else _marker(entry) for entry in entries]
    shown = [entry for entry in marked[1:] if entry.pdu is not None]
    window = Window(marked[1:], shown, {entry.position: entry.room_root for entry in marked}, last - 3, last, False)
    reader = Reader(phone.user.user_id, RoomView(head, ROOM_VERSIONS[head.room_version]), None)
    for at_end in (True, False):
        update = room_state_update(reader, last - 3, window, RoomEventFilter(), Members(), at_end=at_end)
        assert [event.event_id for event in update] == [changed]


def _marker(entry: Entry) -> Entry:

    return replace(entry, event_id=None, pdu=None)
