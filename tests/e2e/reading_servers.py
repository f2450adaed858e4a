"""What a server reads of rooms that it is in, and of users of this one: for what has to be seen of all."""

from functools import partial
from typing import Any
from urllib.parse import quote

from e2e.client import V3, Client, at_once
from e2e.let_in import guest_of, ok
from e2e.local_run import SERVER_NAME
from federation_peer import Peer
from functions.handshakes import Guest, path


def be_read(alice: Client, nobody: Client, peer: Peer) -> None:
    """A member of the peer comes into a space, and the peer asks everything that there is to ask."""
    guest = guest_of(nobody, peer)
    room_id = alice.create_room(
        preset="public_chat", room_version="11", room_alias_name="read", visibility="public", name="Read"
    )
    ok(guest.enter("join", room_id, guest.user("reader")))
    alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    said = [alice.send(room_id, f"read {number}") for number in range(3)]

    read = partial(read_with, guest)
    assert [pdu["content"]["body"] for pdu in read("event", said[0])["pdus"]] == ["read 0"]
    assert len(read("backfill", room_id, v=said[-1], limit=2)["pdus"]) == 2
    missing = read("get_missing_events", room_id, body={"latest_events": said[2:], "earliest_events": said[:1]})
    assert [pdu["content"]["body"] for pdu in missing["events"]] == ["read 1"]
    assert read("timestamp_to_event", room_id, ts=0, dir="f")["event_id"]
    state = read("state_ids", room_id, event_id=said[0])
    assert len(read("state", room_id, event_id=said[0])["pdus"]) == len(state["pdu_ids"])
    assert read("event_auth", room_id, said[0])["auth_chain"]
    for where in (("pdu", SERVER_NAME, said[0], ""), ("context", room_id, ""), ("state", room_id, "")):
        assert read(*where)["prev_ids"] == []
    of_users(alice, nobody, read)
    # Requests at the same time need connections of their own.
    rooms(alice, room_id, lambda *where, **query: read_with(guest_of(nobody.twin(), peer), *where, **query))


def read_with(guest: Guest, *where: str, body: Any = None, **query: Any) -> Any:
    """The answer to one question."""
    return ok(guest.ask("GET" if body is None else "POST", path("v1", *where, **query), body))


def rooms(alice: Client, room_id: str, read: Any) -> None:
    """Where there are rooms."""
    space = alice.create_room(preset="public_chat", creation_content={"type": "m.space"})
    alice.set_state(space, "m.space.child", {"via": [SERVER_NAME]}, room_id)
    assert [child["room_id"] for child in read("hierarchy", space)["children"]] == [room_id]
    assert read("query", "directory", room_alias=f"#read:{SERVER_NAME}")["room_id"] == room_id
    for found in at_once(*[partial(read, "publicRooms") for _ in range(8)]):  # faster than the rate limit's step
        assert "chunk" in found
    assert "chunk" in read("publicRooms", body={"filter": {"generic_search_term": "read"}})


def of_users(alice: Client, nobody: Client, read: Any) -> None:
    """Devices and keys of a user; who an OpenID token belongs to; and what no one knows."""
    assert read("user", "devices", alice.user_id)["devices"] == []
    assert read("user", "keys", "query", body={"device_keys": {alice.user_id: []}})["device_keys"]
    read("user", "keys", "claim", body={"one_time_keys": {}})
    for _ in range(2):
        issued = alice.ok("POST", f"{V3}/user/{quote(alice.user_id, safe='')}/openid/request_token", {})
        where = f"/_matrix/federation/v1/openid/userinfo?access_token={issued['access_token']}"
        assert nobody.ok("GET", where) == {"sub": alice.user_id}
