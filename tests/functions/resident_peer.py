"""A homeserver on loopback that is in rooms: it lets users of this server in, refuses them, or lies to them.

with ResidentPeer(folder, room_of=...) as peer:
    room = peer.room(version="10", join_rule="public")
    peer.twist["make_join"] = lambda answer: {**answer, "room_version": "99"}

What it is sent it checks as the specification says, without the services under test.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from federation_peer import Peer
from functions.foreign_room import ForeignRoom
from functions.harness import SERVER_NAME
from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, auth_event_keys, check_event_auth
from homeserver.matrix.event_builder import Edge, EventDraft, build_event
from homeserver.matrix.event_format import check_event_format
from homeserver.matrix.hashes import check_content_hash, event_from_pdu
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import sign_event, verify_event_signature

Twist = Callable[[Any], Any]
FEDERATION = "/_matrix/federation/"


class Refusal(Exception):
    """An error that it answers with."""

    def __init__(self, status: int, errcode: str, **extra: Any) -> None:
        super().__init__(errcode)
        self.answer = status, {"errcode": errcode, "error": "so it is", **extra}


def edges_of(room: ForeignRoom, events: list[Event]) -> list[Any]:
    if not room.rules.hashed_edges:
        return [event.event_id for event in events]
    return [[event.event_id, {"sha256": Edge.to(event).sha256}] for event in events]


def _own_keys() -> dict[str, bytes]:
    from homeserver.adapters.signing_key import signing_key

    key = signing_key()
    return {key.key_id: key.verify_key}


class ResidentPeer(Peer):
    """`rooms`: those it is in. `twist`: changes answers, by endpoint. `refuse`: errors instead of answers, by endpoint.

    `sent`: the events that this server sent it, by endpoint. `slow`: seconds that it thinks about an endpoint.
    `home`: the name of this server, with whose `home_keys` it signs (by default those of this process).
    """

    def __init__(
        self,
        folder: Path,
        *,
        home: str = SERVER_NAME,
        home_keys: Callable[[], Mapping[str, bytes]] | None = None,
        **more: Any,
    ) -> None:
        self.home, self._home_keys = home, home_keys or _own_keys
        self.rooms: dict[str, ForeignRoom] = {}
        self.aliases: dict[str, tuple[str, list[str]]] = {}
        self.twist: dict[str, Twist] = {}
        self.refuse: dict[str, Refusal] = {}
        self.slow: dict[str, float] = {}
        self.sent: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        super().__init__(folder, **more)

    def room(self, **more: Any) -> ForeignRoom:
        """A room that a user of it made."""
        return self.take_in(ForeignRoom(self.name, self.key, **more))

    def take_in(self, room: ForeignRoom) -> ForeignRoom:
        """Be in a room that another peer made, too."""
        self.rooms[room.id] = room
        return room

    def count(self, endpoint: str) -> int:
        """How often an endpoint was asked."""
        return sum(f"/{endpoint}/" in path for path in self.paths())

    # ── Answers ──────────────────────────────────────────────────────────────

    def respond(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        if not path.startswith(FEDERATION):
            return super().respond(method, path, query, body)
        version, endpoint, *rest = [unquote(part) for part in path.removeprefix(FEDERATION).split("/")]
        time.sleep(self.slow.get(endpoint, 0))
        try:
            with self._lock:
                answer = self._answer(version, endpoint, rest, query, json.loads(body) if body else None)
        except Refusal as refusal:
            return refusal.answer
        if answer is None:
            return super().respond(method, path, query, body)
        return 200, self.twist.get(endpoint, lambda found: found)(answer)

    def _answer(self, version: str, endpoint: str, rest: list[str], query: Mapping[str, list[str]], body: Any) -> Any:
        if endpoint in self.refuse:
            raise self.refuse[endpoint]
        if f"{version}/{endpoint}" in self.refuse:
            raise self.refuse[f"{version}/{endpoint}"]
        if (endpoint, rest) == ("query", ["directory"]):
            room_id, servers = self.aliases.get(query["room_alias"][0], (None, None))
            if room_id is None:
                raise Refusal(404, "M_NOT_FOUND")
            return {"room_id": room_id, "servers": servers}
        if endpoint == "invite":
            return self._invited(version, rest, body)
        if endpoint.startswith(("make_", "send_")):
            room = self.rooms.get(rest[0])
            if room is None:
                raise Refusal(404, "M_NOT_FOUND")
            what, kind = endpoint.split("_")
            if what == "make":
                return self._template(room, kind, rest[1], query)
            return self._taken(room, version, kind, rest[1], body)
        return None

    def _template(self, room: ForeignRoom, kind: str, user_id: str, query: Mapping[str, list[str]]) -> dict[str, Any]:
        if kind != "leave" and room.rules.version not in query.get("ver", ["1"]):
            raise Refusal(400, "M_INCOMPATIBLE_ROOM_VERSION", room_version=room.rules.version)
        content = {"membership": kind}
        if kind == "join" and room.state["m.room.join_rules", ""].content["join_rule"] == "restricted":
            member = room.state.get(("m.room.member", user_id))
            if member is None or member.content["membership"] not in {"invite", "join"}:
                content["join_authorised_via_users_server"] = f"@owner:{self.name}"
        keys = auth_event_keys("m.room.member", user_id, user_id, content, room.rules)
        assert room.last is not None
        template: dict[str, Any] = {
            "type": "m.room.member",
            "room_id": room.id,
            "sender": user_id,
            "state_key": user_id,
            "content": content,
            "depth": room.last.depth + 1,
            "origin": self.name,
            "origin_server_ts": room.now,
            "prev_events": edges_of(room, [room.last]),
            "auth_events": edges_of(room, [room.state[key] for key in keys if key in room.state]),
        }
        # A restricted join without the signature that it gets later cannot be judged yet.
        self._check_allowed(room, user_id, content)
        return {"room_version": room.rules.version, "event": template}

    def _check_allowed(self, room: ForeignRoom, user_id: str, content: Mapping[str, Any]) -> None:
        keys = auth_event_keys("m.room.member", user_id, user_id, content, room.rules)
        assert room.last is not None
        trial = build_event(
            EventDraft("m.room.member", content, user_id),
            rules=room.rules,
            room_id=room.id,
            sender=user_id,
            prev_events=[Edge.to(room.last)],
            auth_events=[Edge.to(room.state[key]) for key in keys if key in room.state],
            origin_server_ts=room.now,
            server_name=self.name,
            key=self.key,
            opaque_id="trial" if room.rules.hashed_edges else None,
        )
        try:
            check_event_auth(trial, AuthState(room.state))
        except AuthRuleViolation:
            raise Refusal(403, "M_FORBIDDEN") from None

    def _taken(self, room: ForeignRoom, version: str, kind: str, event_id: str, pdu: dict[str, Any]) -> Any:
        event = self._checked(room, kind, event_id, pdu)
        self.sent.setdefault(f"send_{kind}", []).append(pdu)
        state = [found.pdu for found in room.state.values()]
        if "join_authorised_via_users_server" in event.content:
            signed = sign_event(event.pdu, room.rules, self.name, self.key)
            event = Event(event.event_id, room.id, signed, room.rules)
        room.take(event)
        if kind == "leave":
            return {} if version == "v2" else [200, {}]
        if kind == "knock":
            return {"knock_room_state": [room.state["m.room.create", ""].pdu, room.state["m.room.name", ""].pdu]}
        answer = {"state": state, "auth_chain": state, "event": event.pdu, "origin": self.name}
        return answer if version == "v2" else [200, answer]

    def _checked(self, room: ForeignRoom, kind: str, event_id: str, pdu: dict[str, Any]) -> Event:
        """What a resident server has to check of an event that it is sent."""
        check_event_format(pdu, room.rules)
        event = event_from_pdu(pdu, room.rules, room_id=room.id)
        assert event.event_id == event_id
        assert check_content_hash(pdu, room.rules)
        assert (event.type, event.content["membership"], event.sender) == ("m.room.member", kind, event.state_key)
        assert event.sender.endswith(f":{self.home}")
        self._verify(event)
        try:
            check_event_auth(event, AuthState(room.state))
        except AuthRuleViolation:
            raise Refusal(403, "M_FORBIDDEN") from None
        return event

    def _verify(self, event: Event) -> None:
        verify_event_signature(event.pdu, event.rules, self.home, self._home_keys())

    def _invited(self, version: str, rest: list[str], body: dict[str, Any]) -> Any:
        """Sign an invitation of one of its users."""
        room_version = body["room_version"] if version == "v2" else "1"
        pdu = body["event"] if version == "v2" else {k: v for k, v in body.items() if k != "unsigned"}
        rules = ROOM_VERSIONS[room_version]
        check_event_format(pdu, rules)
        event = event_from_pdu(pdu, rules, room_id=rest[0])
        assert event.event_id == rest[1]
        assert event.content["membership"] == "invite"
        assert str(event.state_key).endswith(f":{self.name}")
        self._verify(event)
        self.sent.setdefault("invite", []).append(body)
        answer = {"event": sign_event(pdu, rules, self.name, self.key)}
        return answer if version == "v2" else [200, answer]
