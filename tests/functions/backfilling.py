"""Rooms of other servers with a history, which those servers tell of over TLS on loopback.

history = HistoryRoom(peer)
history.say(history.user("carol"), "before anybody came")
enter(history, alice)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from federation_peer import Peer
from functions.harness import SERVER_NAME, User
from functions.remote_server import KEY, RemoteServer, _Graph
from functions.rooms import messages
from homeserver.adapters.signing_key import signing_key
from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import auth_event_keys
from homeserver.matrix.event_builder import Edge, EventDraft, build_event
from homeserver.matrix.identifiers import domain_of
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import SigningKey
from homeserver.services.enter_room import enter_room
from homeserver.services.receive_events import Verdict, receive_events
from homeserver.services.receive_outliers import receive_outliers
from homeserver.storage.state_nodes import StateNodes

FEDERATION = "/_matrix/federation/v1/"


class HistoryRoom(RemoteServer):
    """A room that is known only to servers elsewhere: its graph is in memory. `tip` are its forward extremities."""

    def __init__(
        self,
        name: str,
        *,
        version: str = "11",
        visibility: str | None = None,
        keys: Mapping[str, SigningKey] | None = None,
        start: int = 1_700_000_000_000,
    ) -> None:
        self.name, self.now, self.rules = name, start, ROOM_VERSIONS[version]
        self.events, self.after, self._hashes = {}, {}, {}
        self.keys = {name: KEY, **self._home_keys(), **(keys or {})}
        self.tip: list[str] = []
        self.room_id = "" if self.rules.room_id_is_create_hash else f"!room{start}:{name}"
        founder = self.user("carol")
        content = {"room_version": version} | ({} if self.rules.creator_is_sender else {"creator": founder})
        create = self._build("m.room.create", content, founder, "", prev=[], auth=[])
        self.room_id = create.room_id
        self.create = create
        self._enter_graph(create, {})
        self.join(founder)
        users = {} if self.rules.creators_have_infinite_power else {founder: 100}
        self.make("m.room.power_levels", {"users": users}, founder, state_key="")
        self.make("m.room.join_rules", {"join_rule": "public"}, founder, state_key="")
        if visibility is not None:
            self.make("m.room.history_visibility", {"history_visibility": visibility}, founder, state_key="")

    def _home_keys(self) -> Mapping[str, SigningKey]:
        """The keys that local users' events are signed with."""
        return {SERVER_NAME: signing_key()}

    def tips(self) -> list[str]:
        return self.tip

    def _know(self, event_ids: Iterable[str]) -> None:
        """Everything is known."""

    def _build(
        self,
        event_type: str,
        content: Mapping[str, Any],
        sender: str,
        state_key: str | None,
        *,
        prev: Sequence[str],
        auth: Sequence[str],
        redacts: str | None = None,
    ) -> Event:
        self.now += 1
        server = domain_of(sender)
        return build_event(
            EventDraft(event_type, content, state_key, redacts),
            rules=self.rules,
            room_id=self.room_id or None,
            sender=sender,
            prev_events=[Edge.to(self.events[event_id]) for event_id in prev],
            auth_events=[Edge.to(self.events[event_id]) for event_id in auth],
            origin_server_ts=self.now,
            server_name=server,
            key=self.keys[server],
            opaque_id=f"made{len(self.events)}" if self.rules.hashed_edges else None,
        )

    def make(
        self,
        event_type: str,
        content: Mapping[str, Any],
        sender: str,
        *,
        state_key: str | None = None,
        prev: Sequence[str] | None = None,
        auth: Sequence[str] | None = None,
        redacts: str | None = None,
    ) -> Event:
        prev = self.tip if prev is None else list(prev)
        before = self.resolved([self.after[event_id] for event_id in prev])
        if auth is None:
            keys = auth_event_keys(event_type, sender, state_key, content, self.rules)
            auth = [before[key] for key in keys if key in before]
        event = self._build(event_type, content, sender, state_key, prev=prev, auth=auth, redacts=redacts)
        self._enter_graph(event, before)
        return event

    def _enter_graph(self, event: Event, before: dict[tuple[str, str], str]) -> None:
        self.events[event.event_id] = event
        self.after[event.event_id] = before
        if event.is_state and self.is_allowed(event, before):
            self.after[event.event_id] = {**before, event.key: event.event_id}
        self.tip = [i for i in self.tip if i not in event.prev_event_ids] + [event.event_id]

    def before(self, event: Event) -> dict[tuple[str, str], str]:
        """The room's state before an event."""
        if not event.prev_event_ids:
            return {}
        return self.resolved([self.after[event_id] for event_id in event.prev_event_ids])

    def chain(self, event_ids: Iterable[str]) -> list[Event]:
        """The auth chains of events, without them."""
        graph = _Graph(self.events)
        ids = set().union(*(graph.chain(event_id) for event_id in event_ids))
        return [event for event in self.events.values() if event.event_id in ids]

    def says(self, count: int, *, by: str | None = None) -> list[str]:
        """Messages, numbered on from those there are; their bodies."""
        number = sum(event.type == "m.room.message" for event in self.events.values())
        texts = [f"m{n}" for n in range(number, number + count)]
        for text in texts:
            self.say(by or self.user("carol"), text)
        return texts


class HistoryPeer(Peer):
    """A server that tells of rooms.

    `withheld`: events that it never gives; `most`: how many a page of it has; `times`: it finds events by their time.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"key": KEY, **more})
        self.rooms: dict[str, HistoryRoom] = {}
        self.withheld: set[str] = set()
        self.forged: dict[str, dict[str, Any]] = {}
        self.most = 100
        self.times = False

    def tells(self, room: HistoryRoom) -> HistoryRoom:
        self.rooms[room.room_id] = room
        return room

    def count(self, endpoint: str) -> int:
        """How often it was asked for something."""
        return sum(path.startswith(FEDERATION + endpoint + "/") for _, path, _, _ in self.asked)

    def answer(self, method: str, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if not path.startswith(FEDERATION):
            return super().answer(method, path, query)
        endpoint, *rest = [unquote(part) for part in path.removeprefix(FEDERATION).split("/")]
        if endpoint == "event":
            for room in self.rooms.values():
                if rest[0] in room.events and rest[0] not in self.withheld:
                    return 200, self._transaction([room.events[rest[0]]])
            return 404, {"errcode": "M_NOT_FOUND", "error": "no such event"}
        room = self.rooms.get(rest[0]) if rest else None
        if room is None:
            return super().answer(method, path, query)
        if endpoint == "backfill":
            limit = min(int(query["limit"][0]), self.most)
            return 200, self._transaction(self._earlier(room, query["v"], limit))
        if endpoint == "timestamp_to_event" and self.times:
            ts, back = int(query["ts"][0]), query["dir"] == ["b"]
            sides = [e for e in room.events.values() if e.origin_server_ts == ts or (e.origin_server_ts < ts) is back]
            if sides:
                closest = min(sides, key=lambda event: abs(event.origin_server_ts - ts))
                return 200, {"event_id": closest.event_id, "origin_server_ts": closest.origin_server_ts}
        event = room.events.get(rest[1] if endpoint == "event_auth" else query.get("event_id", [""])[0])
        if event is None:
            return 404, {"errcode": "M_NOT_FOUND", "error": "no such event"}
        if endpoint == "event_auth":
            return 200, {"auth_chain": self._pdus(room.chain([event.event_id]))}
        state = list(room.before(event).values())
        chain = room.chain(state)
        if endpoint == "state_ids":
            return 200, {"pdu_ids": state, "auth_chain_ids": [one.event_id for one in chain]}
        if endpoint == "state":
            return 200, {"pdus": self._pdus(room.events[i] for i in state), "auth_chain": self._pdus(chain)}
        return super().answer(method, path, query)

    def _earlier(self, room: HistoryRoom, extremities: Sequence[str], limit: int) -> list[Event]:
        found: dict[str, Event] = {}
        level = [room.events[i] for i in extremities if i in room.events]
        while level and len(found) < limit:
            level.sort(key=lambda event: event.depth)
            event = level.pop()
            if event.event_id not in found:
                found[event.event_id] = event
                level += [room.events[i] for i in event.prev_event_ids if i in room.events]
        return list(found.values())

    def _pdus(self, events: Iterable[Event]) -> list[Any]:
        given = [event for event in events if event.event_id not in self.withheld]
        return [self.forged.get(event.event_id, dict(event.pdu)) for event in given]

    def _transaction(self, events: Iterable[Event]) -> dict[str, Any]:
        return {"origin": self.name, "origin_server_ts": 1, "pdus": self._pdus(events)}


def enter(room: HistoryRoom, user: User) -> Event:
    """Let a local user join the room through its server; the join, whose parents this server does not know."""
    state = dict(room.resolved([room.after[event_id] for event_id in room.tip]))
    join = room.join(user.user_id)
    events = [room.events[event_id] for event_id in state.values()]
    enter_room(room.room_id, room.rules, join, events, room.chain([*state.values(), join.event_id]), room.name)
    return join


def skip_to(room: HistoryRoom, event: Event) -> None:
    """Let an event arrive whose parents did not: the states after those were asked for. It becomes an anchor."""
    nodes = StateNodes(room.room_id)
    roots = {}
    for parent in event.prev_event_ids:
        state = room.after[parent]
        receive_outliers(room.room_id, [*room.chain(state.values()), *(room.events[i] for i in state.values())])
        update = state_tree.update(nodes, state_tree.EMPTY_ROOT, state)
        nodes.add(update.new_nodes)
        roots[parent] = update.root
    nodes.write()
    outcome = receive_events(room.room_id, [event], states_after=roots)[event.event_id]
    assert outcome.verdict is Verdict.ACCEPTED, outcome


def arrives(room: HistoryRoom, *events: Event) -> None:
    """Let events arrive, whose parents are here."""
    outcomes = receive_events(room.room_id, events)
    assert all(outcome.verdict is Verdict.ACCEPTED for outcome in outcomes.values()), outcomes


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [one["event_id"] for one in events]


def page_back(user: User, room_id: str, start: str | None = None, **query: Any) -> list[dict[str, Any]]:
    """Everything that the user sees, newest first, page after page."""
    found: list[dict[str, Any]] = []
    for _ in range(60):
        answer = messages(user, room_id, **query, **({} if start is None else {"from": start}))
        assert answer.status == 200, answer
        found += answer.json["chunk"]
        if "end" not in answer.json:
            return found
        assert answer.json["end"] != start, "a page led nowhere"
        start = answer.json["end"]
    raise AssertionError("the history never ends")


def page_on(user: User, room_id: str, start: str, **query: Any) -> list[dict[str, Any]]:
    """Everything from a token on, page after page, until nothing comes any more."""
    found: list[dict[str, Any]] = []
    while True:
        answer = messages(user, room_id, dir="f", **query, **{"from": start}).json
        found += answer["chunk"]
        if not answer["chunk"] or "end" not in answer:
            return found
        start = answer["end"]
