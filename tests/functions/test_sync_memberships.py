"""What /sync tells of coming and going: join, rejoin, leave, kick, ban, invite, decline, forget."""

import pytest

from functions.harness import User, call
from functions.rooms import create_room, follow, get, path, post, redact, say, set_state, texts
from functions.syncing import Device, ids, keys

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture
def phone(bob: User) -> Device:
    device = Device(bob)
    device.sync()
    return device


@pytest.fixture
def tablet(bob: User) -> Device:
    """The same user, who never looks while the test does not say so."""
    device = Device(bob)
    device.sync()
    return device


def body_of(user: User) -> dict:
    return {"user_id": user.user_id}


def last_of(device: Device, section: str, room_id: str) -> dict:
    room: dict = device.sync()["rooms"][section][room_id]
    return room


def test_a_public_room_is_told_from_scratch_with_its_history(phone: Device, alice: User) -> None:
    room_id = create_room(alice, preset="public_chat", name="Tea")
    say(alice, room_id, *[f"text {n}" for n in range(12)])
    assert post(phone.user, room_id, "join").status == 200
    room = last_of(phone, "join", room_id)
    assert texts(room["timeline"]["events"]) == [f"text {n}" for n in range(3, 12)]
    assert room["timeline"]["events"][-1]["state_key"] == phone.user.user_id
    assert room["timeline"]["limited"] is True
    assert {("m.room.create", ""), ("m.room.name", ""), ("m.room.member", alice.user_id)} <= keys(
        room["state"]["events"]
    )
    assert room["summary"]["m.joined_member_count"] == 2


def test_history_from_before_a_join_stays_hidden_where_the_room_says_so(phone: Device, alice: User) -> None:
    room_id = create_room(alice, preset="public_chat")
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    say(alice, room_id, "before")
    assert post(phone.user, room_id, "join").status == 200
    say(alice, room_id, "after")
    follow()
    room = last_of(phone, "join", room_id)
    assert texts(room["timeline"]["events"]) == ["after"]
    assert "before" not in texts(get(phone.user, "rooms", room_id, "messages", dir="b", limit=50).json["chunk"])
    whole = {event["event_id"] for event in get(phone.user, "rooms", room_id, "state").json}
    assert set(phone.states[room_id].values()) == whole


def test_an_invitation_is_told_once_and_gone_when_accepted(phone: Device, tablet: Device, alice: User) -> None:
    room_id = create_room(alice, invite=[phone.user.user_id])
    follow()
    assert list(phone.sync()["rooms"]["invite"]) == [room_id]
    assert list(phone.sync()) == ["next_batch"]
    assert post(phone.user, room_id, "join").status == 200
    assert list(phone.sync()["rooms"]) == ["join"]
    follow()
    assert list(phone.sync()) == ["next_batch"]
    assert list(tablet.sync()["rooms"]) == ["join"]


def test_a_declined_invitation_is_told_to_the_other_device(phone: Device, tablet: Device, alice: User) -> None:
    room_id = create_room(alice, invite=[phone.user.user_id])
    follow()
    tablet.sync()
    assert post(phone.user, room_id, "leave").status == 200
    follow()
    (event,) = last_of(tablet, "leave", room_id)["timeline"]["events"]
    assert (event["state_key"], event["sender"]) == (phone.user.user_id, phone.user.user_id)
    assert tablet.invited == set()
    assert list(tablet.sync()) == ["next_batch"]


def test_a_withdrawn_invitation_is_told_as_left_and_a_new_one_as_new(phone: Device, alice: User) -> None:
    room_id = create_room(alice, invite=[phone.user.user_id])
    follow()
    phone.sync()
    assert post(alice, room_id, "kick", body_of(phone.user)).status == 200
    follow()
    (event,) = last_of(phone, "leave", room_id)["timeline"]["events"]
    assert (event["sender"], event["content"]["membership"]) == (alice.user_id, "leave")
    assert post(alice, room_id, "invite", body_of(phone.user)).status == 200
    follow()
    assert list(phone.sync()["rooms"]["invite"]) == [room_id]


@pytest.mark.parametrize("action", ["leave", "kick", "ban"])
def test_the_last_that_is_told_is_the_end_of_the_stay(phone: Device, alice: User, action: str) -> None:
    room_id = create_room(alice, phone.user)
    follow()
    phone.sync()
    say(alice, room_id, "still there")
    if action == "leave":
        assert post(phone.user, room_id, "leave").status == 200
    else:
        assert post(alice, room_id, action, body_of(phone.user)).status == 200
    say(alice, room_id, "not for bob")
    set_state(alice, room_id, "m.room.name", {"name": "not for bob"})
    follow()
    room = last_of(phone, "leave", room_id)
    assert texts(room["timeline"]["events"]) == ["still there"]
    end = room["timeline"]["events"][-1]
    assert end["state_key"] == phone.user.user_id
    assert end["content"]["membership"] == ("ban" if action == "ban" else "leave")
    assert room["state"]["events"] == []
    say(alice, room_id, "later")
    follow()
    assert list(phone.sync()) == ["next_batch"]
    assert list(phone.sync(full_state=True)) == ["next_batch"]


def test_a_kick_shows_before_the_follower_has_seen_it_if_anything_moved(phone: Device, alice: User) -> None:
    room_id = create_room(alice, phone.user)
    follow()
    phone.sync()
    say(alice, room_id, "one")
    follow()
    assert post(alice, room_id, "kick", body_of(phone.user)).status == 200
    room = last_of(phone, "leave", room_id)
    assert room["timeline"]["events"][-1]["content"]["membership"] == "leave"
    follow()
    assert list(phone.sync()) == ["next_batch"]


def test_a_rejoin_tells_the_whole_state_and_goes_on_where_the_timeline_was(phone: Device, alice: User) -> None:
    room_id = create_room(alice, preset="public_chat", name="Tea")
    post(phone.user, room_id, "join")
    follow()
    phone.sync()
    post(phone.user, room_id, "leave")
    phone.sync()
    set_state(alice, room_id, "m.room.name", {"name": "Coffee"})
    say(alice, room_id, "meanwhile")
    post(phone.user, room_id, "join")
    follow()
    phone.sync()
    visible = ids(get(phone.user, "rooms", room_id, "messages", dir="f", limit=100).json["chunk"])
    assert phone.timelines[room_id] == visible
    whole = {event["event_id"] for event in get(phone.user, "rooms", room_id, "state").json}
    assert set(phone.states[room_id].values()) == whole


def test_who_joined_and_left_between_two_syncs_is_told_that_they_left(tablet: Device, alice: User) -> None:
    room_id = create_room(alice, invite=[tablet.user.user_id])
    follow()
    tablet.sync()
    post(tablet.user, room_id, "join")
    post(tablet.user, room_id, "leave")
    follow()
    assert last_of(tablet, "leave", room_id)["timeline"]["events"][-1]["content"]["membership"] == "leave"
    assert tablet.invited == set()


def test_who_left_and_is_invited_again_is_told_of_the_invitation(phone: Device, alice: User) -> None:
    room_id = create_room(alice, phone.user)
    follow()
    phone.sync()
    post(phone.user, room_id, "leave")
    assert list(phone.sync()["rooms"]) == ["leave"]
    assert post(alice, room_id, "invite", body_of(phone.user)).status == 200
    follow()
    assert list(phone.sync()["rooms"]) == ["invite"]
    post(phone.user, room_id, "join")
    assert list(phone.sync()["rooms"]) == ["join"]


def test_a_forgotten_room_is_told_only_to_devices_that_believe_in_it(
    phone: Device, tablet: Device, alice: User
) -> None:
    room_id = create_room(alice, phone.user)
    follow()
    tablet.sync()
    phone.sync()
    say(alice, room_id, "unread")
    post(phone.user, room_id, "leave")
    assert list(phone.sync()["rooms"]) == ["leave"]
    assert post(phone.user, room_id, "forget").status == 200
    follow()
    (event,) = last_of(tablet, "leave", room_id)["timeline"]["events"]
    assert (event["type"], event["content"]["membership"]) == ("m.room.member", "leave")
    assert "rooms" not in Device(phone.user).sync(filter={"room": {"include_leave": True}})
    assert list(tablet.sync()) == ["next_batch"]
    assert list(phone.sync(full_state=True)) == ["next_batch"]


def test_a_redacted_message_is_redacted_for_who_joins_later(phone: Device, alice: User) -> None:
    room_id = create_room(alice, preset="public_chat")
    (secret,) = say(alice, room_id, "secret")
    Device(alice).sync()
    assert redact(alice, room_id, secret).status == 200
    post(phone.user, room_id, "join")
    room = last_of(phone, "join", room_id)
    assert texts(room["timeline"]["events"]) == [None]


@pytest.mark.parametrize("query", [{}, {"full_state": True}])
def test_what_a_user_notes_of_a_room_that_they_left_does_not_bring_it_back(
    phone: Device, alice: User, query: dict
) -> None:
    room_id, kept = create_room(alice, phone.user), create_room(alice, phone.user)
    phone.sync()
    assert post(phone.user, room_id, "leave").status == 200
    assert list(phone.sync()["rooms"]["leave"]) == [room_id]
    for room in (room_id, kept):
        where = path("user", phone.user.user_id, "rooms", room, "account_data", "org.example.note")
        assert call("client_user", "PUT", where, {"a": 1}, token=phone.user.token).status == 200
    rooms = phone.sync(**query)["rooms"]
    assert set(rooms) == {"join"}
    assert list(rooms["join"]) == [kept]
    assert rooms["join"][kept]["account_data"]["events"] == [{"type": "org.example.note", "content": {"a": 1}}]
    assert list(phone.sync()) == ["next_batch"]
