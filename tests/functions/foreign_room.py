"""A room that only another server is in, for tests: the events that this server is told of it, signed by the other.

room = ForeignRoom("remote.test", KEY)
invitation = room.invite("@alice:example.org")
"""

import itertools
from collections.abc import Mapping
from typing import Any

from homeserver.matrix.client_event import stripped_state_event
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import auth_event_keys
from homeserver.matrix.event_builder import Edge, EventDraft, build_event
from homeserver.matrix.hashes import content_hash, event_from_pdu
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import SigningKey, sign_event

Key = tuple[str, str]
_numbers = itertools.count(1)


class ForeignRoom:
    """A room that `owner` made; its state as plain dictionaries, its events in a line."""

    def __init__(
        self, server: str, key: SigningKey, *, version: str = "10", join_rule: str = "invite", name: str = "Elsewhere"
    ) -> None:
        self.server, self.key, self.rules = server, key, ROOM_VERSIONS[version]
        self.owner = f"@owner:{server}"
        number = next(_numbers)
        self.room_id: str | None = None if self.rules.room_id_is_create_hash else f"!far{number}:{server}"
        self.state: dict[Key, Event] = {}
        self.last: Event | None = None
        self.now = 1_700_000_000_000 + 1000 * number
        create: dict[str, Any] = {"room_version": version}
        if not self.rules.creator_is_sender:
            create["creator"] = self.owner
        self.add("m.room.create", create)
        self.add("m.room.member", {"membership": "join"}, state_key=self.owner)
        users = {} if self.rules.creators_have_infinite_power else {self.owner: 100}
        self.add("m.room.power_levels", {"users": users})
        self.add("m.room.join_rules", {"join_rule": join_rule})
        self.add("m.room.name", {"name": name})

    @property
    def id(self) -> str:
        assert self.room_id is not None
        return self.room_id

    def make(
        self,
        event_type: str,
        content: Mapping[str, Any],
        *,
        sender: str | None = None,
        state_key: str | None = "",
        server: str | None = None,
        key: SigningKey | None = None,
    ) -> Event:
        """An event behind the last one; signed by `server` with `key` instead, where they are given."""
        sender = sender or self.owner
        keys = auth_event_keys(event_type, sender, state_key, content, self.rules)
        self.now += 1
        event = build_event(
            EventDraft(event_type, content, state_key),
            rules=self.rules,
            room_id=self.room_id,
            sender=sender,
            prev_events=[Edge.to(self.last)] if self.last is not None else [],
            auth_events=[Edge.to(self.state[key]) for key in keys if key in self.state],
            origin_server_ts=self.now,
            server_name=server or self.server,
            key=key or self.key,
            opaque_id=f"far{self.now}" if self.rules.hashed_edges else None,
        )
        self.room_id = event.room_id
        # As most servers do it, with the name of the server beside: the specification's examples have it.
        pdu = {**event.pdu, "origin": self.server, "signatures": {}} if event_type == "m.room.member" else event.pdu
        if pdu is event.pdu:
            return event
        pdu = {**pdu, "hashes": {"sha256": content_hash(pdu, self.rules)}}
        return event_from_pdu(sign_event(pdu, self.rules, server or self.server, key or self.key), self.rules)

    def add(self, event_type: str, content: Mapping[str, Any], **more: Any) -> Event:
        """Make an event that is then in the room."""
        return self.take(self.make(event_type, content, **more))

    def take(self, event: Event) -> Event:
        """Let an event be the last of the room, and of its state."""
        self.last = event
        if event.is_state:
            self.state[event.key] = event
        return event

    def member(self, sender: str, membership: str, target: str, **more: Any) -> Event:
        content = {"membership": membership, **more.pop("content", {})}
        return self.make("m.room.member", content, sender=sender, state_key=target, **more)

    def invite(self, target: str, **content: Any) -> Event:
        """The owner invites somebody."""
        return self.take(self.member(self.owner, "invite", target, content=content))

    def kick(self, target: str, sender: str | None = None) -> Event:
        return self.take(self.member(sender or self.owner, "leave", target))

    def stripped(self) -> list[dict[str, Any]]:
        """What an invitation shows of the room."""
        shown = ("m.room.create", "m.room.name", "m.room.join_rules")
        return [stripped_state_event(self.state[event_type, ""].pdu) for event_type in shown]
