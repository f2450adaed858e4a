"""Two people talk: the whole way through the handlers and the follower."""

from functions.harness import User
from functions.rooms import create_room, follow, get, post, send, sync


def bodies(events):
    return [event["content"].get("body") for event in events if event["type"] == "m.room.message"]


def test_two_people_talk_and_see_each_other(server, alice: User, bob: User) -> None:
    from homeserver.services import server_setup
    server_setup_identity()
    room_id = create_room(alice, name="Tea", invite=[bob.user_id])
    follow()
    invited = sync(bob)
    assert list(invited["rooms"]["invite"]) == [room_id]
    types = {event["type"] for event in invited["rooms"]["invite"][room_id]["invite_state"]["events"]}
    assert {"m.room.create", "m.room.name", "m.room.member"} <= types
    assert post(bob, room_id, "join").status == 200
    joined = sync(bob, invited["next_batch"])
    assert list(joined["rooms"]) == ["join"]
    assert send(alice, room_id, "hello", "1").status == 200
    follow()
    news = sync(bob, joined["next_batch"])
    assert bodies(news["rooms"]["join"][room_id]["timeline"]["events"]) == ["hello"]
    assert news["rooms"]["join"][room_id]["timeline"]["limited"] is False
    assert news["rooms"]["join"][room_id]["state"]["events"] == []
    page = get(bob, "rooms", room_id, "messages", dir="b", limit=50)
    assert bodies(page.json["chunk"]) == ["hello"]
    assert "end" not in page.json
    assert sync(bob, news["next_batch"]).keys() == {"next_batch"}


def server_setup_identity() -> None:
    from homeserver.storage.server import Identity, replace_identity
    replace_identity(None, Identity("example.org", 1, 0))
