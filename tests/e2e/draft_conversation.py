"""What a client of the 2014 draft reads, for what has to be seen of all: each endpoint under both prefixes."""

from typing import Any
from urllib.parse import quote

from e2e.client import Client, segments
from e2e.draft_client import L

PREFIXES = (L, L.replace("/_matrix", "/matrix"))


def read_as_in_2014(alice: Client, bob: Client, nobody: Client) -> None:
    """A room with a past, read by who is in it and by who has left it; people, names and lists; and the stream."""
    name, server_name = alice.user_id[1:].partition(":")[0], alice.user_id.partition(":")[2]
    alias = f"#{name}-in-2014:{server_name}"
    room_id = alice.create_room(preset="public_chat", name="Tea", room_alias_name=alias[1:].partition(":")[0])
    bob.join(room_id)
    root = alice.send(room_id, "hello")
    alice.ok("POST", segments("rooms", room_id, "receipt", "m.read", root), {})
    for kind in ("m.thread", "m.reference"):
        reply = {"msgtype": "m.text", "body": "hi", "m.relates_to": {"rel_type": kind, "event_id": root}}
        alice.ok("PUT", segments("rooms", room_id, "send", "m.room.message", f"in-2014-{kind}"), reply)
    topic = alice.set_state(room_id, "m.room.topic", {"topic": "green"})
    alice.ok("PUT", segments("directory", "list", "room", room_id), {"visibility": "public"})
    bob.act(room_id, "leave")
    alice.ok("PUT", segments("profile", alice.user_id, "displayname"), {"displayname": "Alice"})
    alice.ok("PUT", segments("profile", alice.user_id, "avatar_url"), {"avatar_url": "mxc://e2e.test/picture"})
    for prefix in PREFIXES:
        _read_room(alice, prefix, room_id, (root, topic))
        _read_room(bob, prefix, room_id, (root, topic))
        _get(nobody, prefix, "publicRooms")
        _get(nobody, prefix, "directory", "room", alias)
        nobody.ask_anything("GET", _path(prefix, "directory", "room", "#tea:127.0.0.1:1"))  # nobody answers there
        _get(alice, prefix, "profile", alice.user_id)
        for field in ("displayname", "avatar_url"):
            _get(alice, prefix, "profile", alice.user_id, field)
        _get(alice, prefix, "admin", "whois", alice.user_id)
        since = _get(alice, prefix, "initialSync", feedback="true")["end"]
        _get(alice, prefix, "events", **{"from": since, "timeout": "0"})
        alice.send(room_id, f"news at {prefix}")
        assert _get(alice, prefix, "events", **{"from": since, "timeout": "5000"})["chunk"]


def _read_room(reader: Client, prefix: str, room_id: str, event_ids: tuple[str, ...]) -> None:
    for event_id in event_ids:
        assert _get(reader, prefix, "events", event_id)["room_id"] == room_id
    for what in ("initialSync", "messages"):
        _get(reader, prefix, "rooms", room_id, what, feedback="true")
    for what in ("members", "state"):
        _get(reader, prefix, "rooms", room_id, what)
    _get(reader, prefix, "rooms", room_id, "state", "m.room.config")
    _get(reader, prefix, "rooms", room_id, "state", "m.room.ops_levels", "")
    _get(reader, prefix, "rooms", room_id, "state", "m.room.member", reader.user_id)


def _path(prefix: str, *parts: str) -> str:
    return "/".join([prefix, *(quote(part, safe="") for part in parts)])


def _get(client: Client, prefix: str, *parts: str, **query: Any) -> Any:
    answer = client.ask_anything("GET", _path(prefix, *parts), query=query or None)
    assert answer.status == 200, (parts, answer.status, answer.json)
    return answer.json
