"""What a client of the 2014 draft writes, for what has to be seen of all: each endpoint under both prefixes."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from e2e.client import Client, segments
from e2e.draft_client import L
from e2e.elsewhere import resident
from e2e.local_run import SERVER_NAME

PREFIXES = (L, L.replace("/_matrix", "/matrix"))
MESSAGE = {"msgtype": "m.text", "body": "hello"}


def draft(client: Client, method: str, *parts: str, prefix: str = L, status: int = 200, **body: Any) -> Any:
    """A request of the draft, which must be answered with this status; what it was answered."""
    path = "/".join([prefix, *(quote(part, safe="") for part in parts)])
    answer = client.ask_anything(method, path, None if method == "DELETE" else body)
    assert answer.status == status, (method, parts, answer.status, answer.json)
    return answer.json


def write_as_in_2014(alice: Client, bob: Client, carol: Client) -> None:
    """Rooms of all kinds, who comes and goes there, what is said and set in them; names, aliases and profiles."""
    for number, prefix in enumerate(PREFIXES):
        _live_in_a_room(alice, bob, carol, prefix, f"of{number}")
        _name_things(alice, bob, prefix, f"of{number}")
    _meet(alice, bob)


def _live_in_a_room(alice: Client, bob: Client, carol: Client, prefix: str, name: str) -> None:
    def ask(client: Client, method: str, *parts: str, **body: Any) -> Any:
        return draft(client, method, *parts, prefix=prefix, **body)

    crowd = [f"@crowd{number}:{SERVER_NAME}" for number in range(100)]
    body = {"visibility": "public", "room_alias_name": name, "name": "Pub", "topic": "t", "invite": crowd}
    made = ask(alice, "PUT", "createRoom", name, **body)
    assert ask(alice, "PUT", "createRoom", name, **body) == made
    room_id = ask(alice, "POST", "createRoom", invite=[bob.user_id])["room_id"]
    public, room = ("rooms", made["room_id"]), ("rooms", room_id)
    ask(bob, "POST", "join", made["room_alias"])
    ask(bob, "PUT", "join", made["room_alias"], "t")
    ask(carol, "POST", "join", made["room_id"])
    ask(bob, "POST", *room, "join")
    ask(carol, "POST", *room, "join", status=404)
    ask(alice, "PUT", *room, "invite", "t", user_id=carol.user_id)
    ask(carol, "PUT", *room, "join", "t")
    for action in ("kick", "ban", "kick", "invite", "ban"):
        ask(alice, "POST", *room, action, user_id=carol.user_id)
    for action in ("kick", "ban"):
        ask(alice, "PUT", *public, action, "t", user_id=carol.user_id)
    member = (*room, "state", "m.room.member", carol.user_id)
    ask(alice, "PUT", *member, membership="leave")
    ask(bob, "PUT", *public, "leave", "t")
    ask(bob, "PUT", *public, "leave", "t")
    one = ask(bob, "POST", *room, "send", "m.room.message", **MESSAGE)["event_id"]
    two = ask(bob, "PUT", *room, "send", "m.room.message", "t", **MESSAGE)["event_id"]
    relation = {"m.relates_to": {"rel_type": "m.annotation", "event_id": one, "key": "+"}}
    reaction = ask(alice, "POST", *room, "send", "m.reaction", **relation)["event_id"]
    for kind in ("delivered", "read"):
        ask(alice, "POST", *room, "send", "m.room.message.feedback", type=kind, target_event_id=one)
        ask(alice, "PUT", *room, "send", "m.room.message.feedback", kind, type=kind, target_event_id=two)
        ask(alice, "POST", *room, "send", "m.room.message.feedback", type=kind, target_event_id=two)
    for thread in (one, two):  # more receipts than one item holds
        read = segments(*room, "receipt", "m.read.private", thread)
        for client in (alice, bob):
            client.ok("POST", read, {"thread_id": thread})
    three = ask(alice, "POST", *room, "send", "m.room.message", **MESSAGE)["event_id"]
    for kind in ("delivered", "read"):
        ask(bob, "POST", *room, "send", "m.room.message.feedback", type=kind, target_event_id=three)
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": one}}
    replies = [ask(alice, "POST", *room, "send", "m.room.message", **MESSAGE, **thread) for _ in range(2)]
    for reply in replies:
        ask(alice, "POST", *room, "redact", reply["event_id"])
    called = alice.ok("GET", segments(*public, "messages"), query={"dir": "f", "limit": 20})["chunk"]
    (name_event,) = [event["event_id"] for event in called if event["type"] == "m.room.name"]
    ask(alice, "POST", *public, "redact", name_event)  # so long ago that it may be in the index of the search
    ask(alice, "POST", *room, "redact", reaction)
    ask(alice, "PUT", *room, "redact", two, "t")
    for typing in (True, False):
        ask(alice, "PUT", *room, "typing", alice.user_id, typing=typing)
    ask(alice, "PUT", *room, "state", "m.room.topic", topic="another")
    ask(alice, "PUT", *room, "state", "m.room.topic", "", topic="a third")
    ask(alice, "PUT", *room, "state", "org.example.x", "key", x=1)
    ask(alice, "PUT", *room, "state", "m.room.ops_levels", ban_level=60)
    ask(alice, "PUT", *room, "state", "m.room.add_state_level", level=40)
    config = {"name": "Inn", "room_alias_name": f"inn-{name}", "kept": 1}
    for visibility in ("public", "private"):
        ask(alice, "PUT", *room, "state", "m.room.config", visibility=visibility, **config)
    ask(bob, "POST", *room, "leave")


def _name_things(alice: Client, bob: Client, prefix: str, name: str) -> None:
    room_id = draft(alice, "POST", "createRoom", prefix=prefix)["room_id"]
    alias = ("directory", "room", f"#another-{name}:{SERVER_NAME}")
    draft(alice, "PUT", *alias, prefix=prefix, room_id=room_id)
    draft(alice, "DELETE", *alias, prefix=prefix)
    me = ("profile", bob.user_id)
    draft(bob, "PUT", *me, "displayname", prefix=prefix, displayname="Robert")
    draft(bob, "PUT", *me, "displayname", prefix=prefix, displayname="")
    for avatar_url in ("http://pictures.test/bob.png", ""):
        draft(bob, "PUT", *me, "avatar_url", prefix=prefix, avatar_url=avatar_url)


def _meet(alice: Client, bob: Client) -> None:
    """Each asks for a room with the other; a room that takes the place of another; a room that lets others in."""
    first = draft(alice, "POST", "createRoom", direct_to=bob.user_id)
    assert draft(bob, "PUT", "createRoom", "direct", direct_to=alice.user_id) == first
    lobby = alice.create_room(preset="public_chat", room_version="10")
    draft(bob, "POST", "join", lobby)
    restricted = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": lobby}]}
    club = alice.create_room(room_version="10")
    draft(alice, "PUT", "rooms", club, "state", "m.room.join_rules", **restricted)
    draft(bob, "POST", "rooms", club, "join")
    tag = segments("user", bob.user_id, "rooms", lobby, "tags", "u.seen")
    bob.ok("PUT", tag, {"order": 0.5})
    upgraded = alice.ok("POST", segments("rooms", lobby, "upgrade"), {"new_version": "11"})["replacement_room"]
    draft(bob, "POST", "join", upgraded)


def write_elsewhere_as_in_2014(alice: Client, bob: Client, nobody: Client, folder: Path) -> None:
    """Into rooms of another server and out of them; its users are invited; who waits for it waits in vain."""
    with resident(folder / "draft", nobody) as peer:
        draft(alice, "POST", "createRoom", invite=[f"@first:{peer.name}"])  # whose server's keys are not known
        room = peer.room(join_rule="public", name="Open")
        alias = f"#draft:{peer.name}"
        peer.aliases[alias] = (room.id, [peer.name])
        assert draft(alice, "PUT", "join", alias, "t") == {"room_id": room.id}
        draft(alice, "POST", "rooms", room.id, "send", "m.room.message", **MESSAGE)
        own = alice.create_room()
        draft(alice, "POST", "rooms", own, "invite", user_id=f"@second:{peer.name}")
        draft(alice, "POST", "rooms", room.id, "leave")
        peer.slow |= {"make_join": 10.0, "send_join": 18.0}
        draft(bob, "POST", "join", alias, status=504)
        peer.slow.clear()


def type_in_a_crowd_as_in_2014(owner: Client, room_id: str) -> None:
    """In a room with more members than one request tells of it."""
    draft(owner, "PUT", "rooms", room_id, "typing", owner.user_id, typing=True)
