"""The other side of the handshakes, for function tests: a server that makes its users join, leave and knock here.

guest = Guest(checked, peer)
answer = guest.enter("join", room_id, guest.user("carol"))
"""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from federation_peer import Peer
from functions.federating import signed
from functions.harness import SERVER_NAME, Answer
from homeserver.matrix import unpadded_base64
from homeserver.matrix.event import Event
from homeserver.matrix.hashes import content_hash, event_from_pdu
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersionRules
from homeserver.matrix.signing import SigningKey, sign_event, sign_json

FUNCTION = "federation_rooms"
FEDERATION = "/_matrix/federation"
EVERY_VERSION = list(ROOM_VERSIONS)
IDENTITY_KEY = SigningKey.generate("0", b"i" * 32)


def path(version: str, *segments: str, **query: Any) -> str:
    """A federation path with every segment escaped, and a query of which lists are repeated."""
    found = "/".join([FEDERATION, version, *(quote(segment, safe="") for segment in segments)])
    lists = {name: values if isinstance(values, list) else [values] for name, values in query.items()}
    pairs = [(name, value) for name, values in lists.items() for value in values]
    return found + ("?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in pairs) if pairs else "")


class InvitedServer(Peer):
    """A server that signs invitations of its users, and takes those that an address was exchanged for."""

    def answer(self, method: str, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if method == "PUT" and path.startswith(f"{FEDERATION}/v2/invite/"):
            body = json.loads(self.asked[-1][3])
            rules = ROOM_VERSIONS[body["room_version"]]
            return 200, {"event": sign_event(body["event"], rules, self.name, self.key)}
        if method == "PUT" and "/exchange_third_party_invite/" in path:
            return 200, {}
        return super().answer(method, path, query)


def address_invite() -> dict[str, Any]:
    """The content of an `m.room.third_party_invite` whose key nobody has to be asked about."""
    key = unpadded_base64.encode(IDENTITY_KEY.verify_key)
    return {"display_name": "c...@e...", "public_key": key, "public_keys": [{"public_key": key}]}


def statement(mxid: str, token: str = "token", key: SigningKey = IDENTITY_KEY) -> dict[str, Any]:
    """What the identity server says of a user who has bound an address that was invited."""
    return sign_json({"mxid": mxid, "token": token}, "id.example", key)


def exchange_request(room_id: str, inviter: str, user: str, **change: Any) -> dict[str, Any]:
    """The body of `exchange_third_party_invite`."""
    invitation = {"display_name": "c...", "signed": statement(user)}
    body = {
        "type": "m.room.member",
        "room_id": room_id,
        "sender": inviter,
        "state_key": user,
        "content": {"membership": "invite", "third_party_invite": invitation},
    }
    return {**body, **change}


def notice(user: str, *invites: dict[str, Any]) -> dict[str, Any]:
    """The body of `3pid/onbind`."""
    return {"medium": "email", "address": "bob@example.com", "mxid": user, "invites": list(invites)}


def pending(room_id: str, inviter: str, user: str, **change: Any) -> dict[str, Any]:
    """An invitation as such a notice has it."""
    own = {"medium": "email", "address": "bob@example.com", "mxid": user, "room_id": room_id, "sender": inviter}
    return {**own, "signed": statement(user), **change}


class Guest:
    """A server elsewhere, which is `peer`; `call` sends the requests (`checked`: by the specification's schema)."""

    def __init__(self, call: Callable[..., Answer], peer: Peer, destination: str = SERVER_NAME) -> None:
        self._call, self.peer, self.name, self._destination = call, peer, peer.name, destination
        self._events = 0

    def user(self, name: str) -> str:
        return f"@{name}:{self.name}"

    def ask(self, method: str, uri: str, body: Any = None, **more: Any) -> Answer:
        return signed(self._call, self.peer, FUNCTION, method, uri, body=body, destination=self._destination, **more)

    def make(self, kind: str, room_id: str, user: str, versions: list[str] | None = None) -> Answer:
        """GET make_join, make_leave or make_knock."""
        query = {} if kind == "leave" else {"ver": EVERY_VERSION if versions is None else versions}
        return self.ask("GET", path("v1", f"make_{kind}", room_id, user, **query))

    def sign(self, template: Mapping[str, Any], *, key: SigningKey | None = None, **change: Any) -> Event:
        """The event of a template as the user's server signs it; `change` goes over its fields, None takes one away."""
        rules: RoomVersionRules = ROOM_VERSIONS[template["room_version"]]
        pdu = {name: value for name, value in {**template["event"], **change}.items() if value is not None}
        if rules.hashed_edges:
            self._events += 1
            pdu["event_id"] = f"$guest{self._events}:{self.name}"
        pdu["hashes"] = {"sha256": content_hash(pdu, rules)}
        pdu = sign_event(pdu, rules, self.name, key or self.peer.key)
        return event_from_pdu(pdu, rules)

    def send(self, kind: str, event: Event, version: str | None = None, **more: Any) -> Answer:
        """PUT send_join, send_leave or send_knock."""
        version = version or ("v1" if kind == "knock" else "v2")
        query = more.pop("query", {})
        uri = path(
            version, f"send_{kind}", more.pop("room_id", event.room_id), more.pop("event_id", event.event_id), **query
        )
        return self.ask("PUT", uri, dict(event.pdu), **more)

    def event(self, kind: str, room_id: str, user: str, **change: Any) -> Event:
        """The signed event of a handshake's first half, which must succeed."""
        answer = self.make(kind, room_id, user)
        assert answer.status == 200, answer
        return self.sign(answer.json, **change)

    def enter(self, kind: str, room_id: str, user: str, **more: Any) -> Answer:
        """Both halves."""
        return self.send(kind, self.event(kind, room_id, user), **more)

    def invite(self, event: Event, state: Any = None, version: str | None = None, **more: Any) -> Answer:
        """PUT invite, of version 2."""
        body = {
            "room_version": version or event.rules.version,
            "event": dict(event.pdu),
            "invite_room_state": state or [],
        }
        uri = path("v2", "invite", more.pop("room_id", event.room_id), more.pop("event_id", event.event_id))
        return self.ask("PUT", uri, body, **more)
