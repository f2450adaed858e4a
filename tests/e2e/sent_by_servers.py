"""What another server sends: transactions with all that there can be in one, for what has to be seen of all."""

import base64
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

from e2e.client import Client, segments
from e2e.let_in import guest_of, ok
from federation_peer import Peer
from functions.handshakes import Guest
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import auth_event_keys
from homeserver.matrix.event_builder import Edge, EventDraft, build_event
from homeserver.matrix.hashes import event_id_of

SEND = "/_matrix/federation/v1/send"
PULL = "/_matrix/federation/v1/pull/"
MOST_MESSAGES = 1000  # to the devices of a user, as homeserver.storage.to_device has it
_numbers = itertools.count(1)


class Sending:
    """A guest's server that sends what its users do."""

    def __init__(self, nobody: Client, peer: Peer) -> None:
        self.guest: Guest = guest_of(nobody, peer)
        self.peer = peer

    def send(self, pdus: list[Any] | None = None, edus: list[Any] | None = None, **more: Any) -> str:
        """A transaction, all of whose PDUs must be taken; its ID."""
        txn = f"t{next(_numbers)}"
        body = {"origin": self.peer.name, "origin_server_ts": 1, "pdus": pdus or [], "edus": edus or [], **more}
        answer = ok(self.guest.ask("PUT", f"{SEND}/{txn}", body))
        assert all(result == {} for result in answer["pdus"].values()), answer
        return txn

    def joined(self, room_id: str, user: str) -> "Member":
        """A user who comes into the room."""
        join = self.guest.event("join", room_id, user)
        return Member(self, join, ok(self.guest.send("join", join)))


class Member:
    """A user of the guest's server in a room; says one thing after the other."""

    def __init__(self, sending: Sending, join: Event, answer: dict[str, Any]) -> None:
        self.sending, self.user, self.room_id, self.last = sending, join.sender, join.room_id, join
        self._state = {(pdu["type"], pdu["state_key"]): event_id_of(pdu, join.rules) for pdu in answer["state"]}
        self._state[join.key] = join.event_id

    def make(self, said: str | EventDraft, prev: Event | None = None) -> Event:
        """An event (a message, if it is text) after another one."""
        draft = said if isinstance(said, EventDraft) else _message(said)
        prev = prev or self.last
        keys = auth_event_keys(draft.type, self.user, draft.state_key, draft.content, prev.rules)
        return build_event(
            draft,
            rules=prev.rules,
            room_id=self.room_id,
            sender=self.user,
            prev_events=[Edge.to(prev)],
            auth_events=[Edge(self._state[key], 1) for key in keys if key in self._state],
            origin_server_ts=time.time_ns() // 1_000_000,
            server_name=self.sending.peer.name,
            key=self.sending.peer.key,
        )

    def say(self, said: str | EventDraft) -> Event:
        """The same, sent at once."""
        self.last = self.make(said)
        self.sending.send([dict(self.last.pdu)])
        return self.last

    def types(self) -> dict[str, Any]:
        content = {"room_id": self.room_id, "user_id": self.user, "typing": True}
        return {"edu_type": "m.typing", "content": content}

    def has_read(self, event_id: str) -> dict[str, Any]:
        read = {self.user: {"event_ids": [event_id], "data": {"ts": 1}}}
        return {"edu_type": "m.receipt", "content": {self.room_id: {"m.read": read}}}

    def tells(self, number: int) -> list[dict[str, Any]]:
        """What is kept about a user: presence, a device, signing keys."""
        push = [{"user_id": self.user, "presence": ("online", "unavailable")[number % 2]}]
        device = {"user_id": self.user, "device_id": "PHONE", "stream_id": number, "prev_id": [], "keys": {}}
        keys = {"user_id": self.user, "master_key": {"number": number}}
        told = {"m.presence": {"push": push}, "m.device_list_update": device, "m.signing_key_update": keys}
        return [{"edu_type": edu_type, "content": content} for edu_type, content in told.items()]

    def writes_to(self, user: str, count: int, message_id: str) -> dict[str, Any]:
        """Messages to devices of a user."""
        messages = {user: {f"DEVICE{number}": {"n": number} for number in range(count)}}
        content = {"sender": self.user, "type": "m.dummy", "message_id": message_id, "messages": messages}
        return {"edu_type": "m.direct_to_device", "content": content}


def _message(body: str) -> EventDraft:
    return EventDraft("m.room.message", {"msgtype": "m.text", "body": body})


def full_device_box(user: str) -> list[dict[str, Any]]:
    """Items of TO_DEVICE of a user who has as many messages as there can be."""
    expires = {"N": str(int(time.time()) + 3600)}
    message = {"user": {"S": user}, "s": {"S": "@a:b"}, "ty": {"S": "x"}, "expires": expires}
    items = [message | {"k": {"S": f"OLD/{number:013d}"}} for number in range(1, MOST_MESSAGES + 1)]
    return [*items, {"user": {"S": user}, "k": {"S": "count"}, "n": {"N": str(MOST_MESSAGES)}, "expires": expires}]


def old_gap(server: str) -> dict[str, Any]:
    """The item of RECEIVED of a server one of whose transactions never came."""
    expires = {"N": str(int(time.time()) + 3600)}
    return {
        "server": {"S": server}, "txn": {"S": "peer"}, "t": {"N": "1"}, "l": {"S": "t0"}, "m": {"S": '["lost"]'},
        "s": {"S": "t0"}, "nt": {"N": "1"}, "expires": expires,
    }  # fmt: skip


def old_receipt() -> dict[str, Any]:
    """An item of STAGING that no worker has looked at, for a room that is not there any more."""
    packed = base64.b64encode(b'["@a:b","","$event",1]').decode()
    return {
        "room": {"S": "!gone:b"}, "k": {"S": f"late/{1:013d}/lost/0000"}, "o": {"S": "b"}, "j": {"B": packed},
        "n": {"N": "0"}, "expires": {"N": str(int(time.time()) + 3600)},
    }  # fmt: skip


def be_sent(owner: Client, crowd: str, nobody: Client, peer: Peer, newcomer: Peer) -> None:
    """Everything, twice: in transactions, and in the answer for one that was lost (the peer has an `old_gap`).

    crowd: a room of the owner's with more local members than one announces to at once. The owner's devices have as many
    messages as there can be.
    """
    sending = Sending(nobody, peer)
    member = sending.joined(crowd, sending.guest.user("sender"))
    said = member.say("hello")
    wait_until(lambda: "hello" in owner_bodies(owner, crowd))
    own = owner.send(crowd, "and to you")
    quiet = sending.joined(owner.create_room(preset="public_chat"), member.user)
    read = quiet.has_read(owner.send(quiet.room_id, "read twice"))
    edus = [member.types(), member.has_read(own), *member.tells(1), member.writes_to(owner.user_id, 50, "first")]
    sending.send([], edus)
    for _ in range(2):
        sending.send([], [read])
    member.say(EventDraft("m.room.member", {"membership": "join", "displayname": "Sender"}, member.user))
    redacted = member.say("redact me")
    content = {"redacts": redacted.event_id} if redacted.rules.redacts_in_content else {}
    redacts = None if content else redacted.event_id
    member.say(EventDraft("m.room.redaction", content, None, redacts))
    wait_until(lambda: None in owner_bodies(owner, crowd))
    said = member.last
    # One that waits for the one before it, which comes later; and one read before it came.
    first = member.make("first", said)
    second = member.make("second", first)
    sending.send([dict(second.pdu)], [member.has_read(second.event_id)])
    time.sleep(0.5)
    sending.send([dict(first.pdu)])
    wait_until(lambda: "second" in owner_bodies(owner, crowd))
    told = [member.types(), member.has_read(second.event_id), *member.tells(2)]
    told += [read, member.writes_to(owner.user_id, 50, "second")]
    peer.instead[PULL] = (200, json.dumps({"pdus": [dict(said.pdu)], "edus": told}).encode(), {})
    sending.send([], [], prev_ids=[])
    wait_until(lambda: any(path.startswith(PULL) for _, path, _, _ in peer.asked))
    # A server whose order nobody has noted, one of whose transactions is missing since a moment.
    other = Sending(nobody, newcomer)
    other.send()
    other.send(prev_ids=["never came"])
    time.sleep(1.0)


def be_sent_late(owner: Client, room_id: str, nobody: Client, peer: Peer) -> None:
    """In a room whose rows are late."""
    sending = Sending(nobody, peer)
    member = sending.joined(room_id, sending.guest.user("sender"))
    member.say("late hello")
    sending.send([], [member.types()])
    wait_until(lambda: "late hello" in owner_bodies(owner, room_id))
    # Once more when nobody else is at work here: functions of one process share what each forgets before it begins.
    time.sleep(1)
    sending.send([], [member.types()])


def crowded(owner: Client) -> str:
    """The owner's room with the most members."""
    rooms = owner.ok("GET", segments("joined_rooms"))["joined_rooms"]
    members = {room: owner.ok("GET", segments("rooms", room, "joined_members"))["joined"] for room in rooms}
    return str(max(rooms, key=lambda room_id: len(members[room_id])))


def owner_bodies(owner: Client, room_id: str) -> list[Any]:
    """The messages of a room, the latest first."""
    chunk = owner.ok("GET", segments("rooms", room_id, "messages"), query={"dir": "b", "limit": 50})["chunk"]
    return [event["content"].get("body") for event in chunk]


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
