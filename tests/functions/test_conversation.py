"""Two people talk: the whole way through the handlers and the follower."""

import pytest

from functions.harness import User
from functions.rooms import follow, get, make, post, redact, send, texts
from functions.syncing import Device, keys

pytestmark = pytest.mark.usefixtures("set_up")


def test_two_people_talk_and_see_each_other(alice: User, bob: User) -> None:
    room_id = make(alice, name="Tea", invite=[bob.user_id]).json["room_id"]
    follow()
    phone = Device(bob)
    invited = phone.sync()
    assert list(invited["rooms"]) == ["invite"]
    told = invited["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert {("m.room.create", ""), ("m.room.name", ""), ("m.room.member", bob.user_id)} <= keys(told)
    assert post(bob, room_id, "join").status == 200
    assert list(phone.sync()["rooms"]) == ["join"]
    hello = send(alice, room_id, "hello", "1").json["event_id"]
    follow()
    room = phone.sync()["rooms"]["join"][room_id]
    assert texts(room["timeline"]["events"]) == ["hello"]
    assert room["timeline"]["limited"] is False
    assert room["state"]["events"] == []
    page = get(bob, "rooms", room_id, "messages", dir="b", limit=50)
    assert texts(page.json["chunk"]) == ["hello"]
    assert "end" not in page.json
    assert phone.sync().keys() == {"next_batch"}
    redaction = redact(alice, room_id, hello).json["event_id"]
    follow()
    (event,) = phone.sync()["rooms"]["join"][room_id]["timeline"]["events"]
    assert (event["event_id"], event["redacts"]) == (redaction, hello)
