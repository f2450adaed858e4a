"""Users who are ignored: no messages and no invitations of theirs, but their state."""

import pytest

from functions.harness import User, call
from functions.rooms import create_room, follow, path, say, set_state, texts
from functions.syncing import Device, keys, sync

pytestmark = pytest.mark.usefixtures("set_up")


def ignore(user: User, *others: User) -> None:
    where = path("user", user.user_id, "account_data", "m.ignored_user_list")
    content = {"ignored_users": {other.user_id: {} for other in others}}
    assert call("client_user", "PUT", where, content, token=user.token).status == 200


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    room_id = create_room(alice, bob, name="Tea")
    follow()
    return room_id


def test_messages_of_ignored_users_are_left_out_and_their_state_is_not(room_id: str, alice: User, bob: User) -> None:
    ignore(bob, alice)
    say(alice, room_id, "unheard")
    set_state(alice, room_id, "m.room.topic", {"topic": "seen"})
    say(bob, room_id, "monologue")
    follow()
    timeline = sync(bob)["rooms"]["join"][room_id]["timeline"]["events"]
    assert texts(timeline) == ["monologue"]
    assert ("m.room.topic", "") in keys(timeline)
    assert texts(sync(alice)["rooms"]["join"][room_id]["timeline"]["events"]) == ["unheard", "monologue"]


def test_a_change_of_the_list_takes_effect_with_the_next_sync(room_id: str, alice: User, bob: User) -> None:
    device = Device(bob)
    device.sync()
    say(alice, room_id, "heard")
    follow()
    assert texts(device.sync()["rooms"]["join"][room_id]["timeline"]["events"]) == ["heard"]
    ignore(bob, alice)
    say(alice, room_id, "unheard")
    follow()
    body = device.sync()
    assert "rooms" not in body
    assert body["account_data"]["events"][0]["type"] == "m.ignored_user_list"
    ignore(bob)
    say(alice, room_id, "heard again")
    follow()
    assert texts(device.sync()["rooms"]["join"][room_id]["timeline"]["events"]) == ["heard again"]


def test_a_timeline_is_filled_with_messages_of_others(room_id: str, alice: User, bob: User) -> None:
    wanted = say(bob, room_id, "mine")
    say(alice, room_id, *[f"noise {number}" for number in range(15)])
    ignore(bob, alice)
    follow()
    timeline = sync(bob, filter={"room": {"timeline": {"types": ["m.room.message"], "limit": 3}}})["rooms"]["join"]
    assert [event["event_id"] for event in timeline[room_id]["timeline"]["events"]] == wanted


def test_invitations_of_ignored_users_are_hidden_until_they_are_not_ignored(alice: User, bob: User) -> None:
    device = Device(bob)
    device.sync()
    ignore(bob, alice)
    hidden = create_room(alice, invite=[bob.user_id])
    follow()
    assert "rooms" not in device.sync()
    assert "rooms" not in sync(bob)
    ignore(bob)
    assert list(device.sync()["rooms"]["invite"]) == [hidden]
    assert list(device.sync()) == ["next_batch"]


def test_who_ignores_themselves_ignores_nobody(room_id: str, bob: User) -> None:
    ignore(bob, bob)
    say(bob, room_id, "mine")
    follow()
    assert texts(sync(bob)["rooms"]["join"][room_id]["timeline"]["events"]) == ["mine"]
