"""A server elsewhere, for tests: it has a signing key, makes real signed events, and knows the graph that it makes.

    remote = RemoteServer(room_id)
    remote.accepted(remote.join("@carol:remote.test"))

It keeps its own picture of the graph, as plain dictionaries: own states of events, auth chains as sets, and state
resolution on these. So what the server under test makes of trees, chains and stored aggregates is held against
something that has none of them. What local users did is read from the store.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.chain_cover import ChainCover, Coordinates
from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, auth_event_keys, check_event_auth
from homeserver.matrix.event_builder import Edge, EventDraft, build_event
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersionRules
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.state_resolution import Forks, resolve
from homeserver.services.receive_events import Outcome, Verdict, receive_events
from homeserver.storage.event_places import read_places
from homeserver.storage.room_items import HEAD, EventRecord, Head
from homeserver.storage.rooms import current_state, fetch_state_events
from homeserver.storage.state_nodes import StateNodes

KEY = SigningKey.generate("r1", bytes(range(1, 33)))
Key = tuple[str, str]
State = dict[Key, str]


def head_of(room_id: str) -> Head:
    head = Head.fetch(room_id, HEAD)
    assert head is not None
    return head


def state_of(room_id: str, root: bytes | None = None) -> State:
    """The room's state by its root: event IDs by key."""
    return state_tree.items(StateNodes(room_id), bytes(head_of(room_id).root) if root is None else root)


def rows_of(room_id: str) -> State:
    """The room's state as its rows, and the tree where they are late, show it."""
    head = head_of(room_id)
    entries = current_state(head, ROOM_VERSIONS[head.room_version])
    return {key: entry.event.event_id for key, entry in entries.items()}


class _Graph:
    """`ports.AuthEvents` of a dictionary of events: each event is a chain of its own."""

    def __init__(self, events: dict[str, Event]) -> None:
        self.all = events

    def events(self, ids: Collection[str]) -> dict[str, Event]:
        return {event_id: self.all[event_id] for event_id in ids if event_id in self.all}

    def covers(self, ids: Collection[str]) -> dict[str, ChainCover]:
        return {event_id: ChainCover(event_id, 0, dict.fromkeys(self.chain(event_id), 0)) for event_id in ids}

    def at(self, coordinates: Collection[Coordinates]) -> dict[Coordinates, str]:
        return {place: place[0] for place in coordinates}

    def chain(self, event_id: str) -> set[str]:
        """The auth chain of an event, without it."""
        found: set[str] = set()
        level = set(self.all[event_id].auth_event_ids)
        while level:
            found |= level
            level = {auth_id for i in level for auth_id in self.all[i].auth_event_ids} - found
        return found


class _Agreed:
    """`ports.UnconflictedState` of a dictionary."""

    def __init__(self, state: State, graph: _Graph) -> None:
        self._state, self._graph = state, graph

    def get_many(self, keys: Collection[Key]) -> State:
        return {key: self._state[key] for key in keys if key in self._state}

    def reached(self, coordinates: Collection[Coordinates]) -> set[Coordinates]:
        chains: set[str] = set().union(*(self._graph.chain(event_id) for event_id in self._state.values()))
        return {place for place in coordinates if place[0] in chains}


class RemoteServer:
    """Makes events of users of one server in one room. Each event is a millisecond later than the one before."""

    def __init__(self, room_id: str, name: str = "remote.test", *, start: int = 1_700_000_000_000) -> None:
        self.room_id, self.name = room_id, name
        self.now = start
        self.rules: RoomVersionRules = ROOM_VERSIONS[head_of(room_id).room_version]
        self.events: dict[str, Event] = {}
        self.after: dict[str, State] = {}
        self._hashes: dict[str, str] = {}  # reference hashes of events that are not of this server (versions 1 and 2)

    def user(self, name: str) -> str:
        return f"@{name}:{self.name}"

    def tips(self) -> list[str]:
        """The room's forward extremities, as the server under test has them."""
        tips = head_of(self.room_id).extremities
        self._hashes |= {edge[0]: edge[1] for edge in tips if not isinstance(edge, str)}
        return [edge if isinstance(edge, str) else edge[0] for edge in tips]

    # ── Its picture of the graph ─────────────────────────────────────────────

    def state_after(self, event_id: str) -> State:
        """The event's own state after it."""
        if event_id not in self.after:
            root = read_places([event_id])[event_id].after
            assert root is not None, event_id
            self.after[event_id] = state_of(self.room_id, root)
            self._know(self.after[event_id].values())
        return self.after[event_id]

    def _know(self, event_ids: Iterable[str]) -> None:
        """Take up state events from the store, and the auth chains behind them."""
        missing = {event_id for event_id in event_ids if event_id not in self.events}
        while missing:
            found = fetch_state_events(self.room_id, missing, self.rules)
            self.events |= {event_id: entry.event for event_id, entry in found.items()}
            missing = {i for entry in found.values() for i in entry.event.auth_event_ids if i not in self.events}

    def resolved(self, states: Sequence[State]) -> State:
        """What the states resolve to, worked out on dictionaries."""
        distinct = [state for number, state in enumerate(states) if state not in states[:number]]
        if len(distinct) == 1:
            return distinct[0]
        keys = {key for state in distinct for key in state}
        conflicted = {
            key: tuple(state.get(key) for state in distinct)
            for key in keys
            if len({state.get(key) for state in distinct}) > 1
        }
        agreed = {key: event_id for key, event_id in distinct[0].items() if key not in conflicted}
        graph = _Graph(self.events)
        values = resolve(self.rules, Forks(self.room_id, conflicted, _Agreed(agreed, graph)), graph)
        return agreed | {key: event_id for key, event_id in values.items() if event_id is not None}

    # ── Events ───────────────────────────────────────────────────────────────

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
        """An event after `prev` (the forward extremities). `auth`: its auth events, instead of the right ones."""
        prev = self.tips() if prev is None else list(prev)
        before = self.resolved([self.state_after(event_id) for event_id in prev])
        if auth is None:
            keys = auth_event_keys(event_type, sender, state_key, content, self.rules)
            auth = [before[key] for key in keys if key in before]
        self.now += 1
        event = build_event(
            EventDraft(event_type, content, state_key, redacts),
            rules=self.rules,
            room_id=self.room_id,
            sender=sender,
            prev_events=self._edges(prev),
            auth_events=self._edges(auth),
            origin_server_ts=self.now,
            server_name=self.name,
            key=KEY,
            opaque_id=f"made{len(self.events)}" if self.rules.hashed_edges else None,
        )
        self.events[event.event_id] = event
        self.after[event.event_id] = before
        if event.is_state and self.is_allowed(event, before):
            self.after[event.event_id] = {**before, event.key: event.event_id}
        return event

    def is_allowed(self, event: Event, state: State) -> bool:
        """Whether the rules let the event follow on a state."""
        try:
            check_event_auth(event, AuthState({key: self.events[event_id] for key, event_id in state.items()}))
        except AuthRuleViolation:
            return False
        return True

    def _edges(self, event_ids: Iterable[str]) -> list[Edge]:
        edges = []
        for event_id in event_ids:
            if event_id in self.events:
                edges.append(Edge.to(self.events[event_id]))
                continue
            record = EventRecord.fetch(event_id)
            edges.append(Edge(event_id, int(record.depth or 0) if record else 1, self._hashes.get(event_id)))
        return edges

    def join(self, user: str, **more: Any) -> Event:
        return self.member(user, "join", user, **more)

    def member(self, sender: str, membership: str, target: str, **more: Any) -> Event:
        return self.make("m.room.member", {"membership": membership}, sender, state_key=target, **more)

    def say(self, sender: str, body: str, **more: Any) -> Event:
        return self.make("m.room.message", {"msgtype": "m.text", "body": body}, sender, **more)

    def topic(self, sender: str, text: str, **more: Any) -> Event:
        return self.make("m.room.topic", {"topic": text}, sender, state_key="", **more)

    def power(self, sender: str, users: Mapping[str, int], **more: Any) -> Event:
        """Power levels: those in force, with other levels for some users."""
        before = self.resolved([self.state_after(event_id) for event_id in more.get("prev") or self.tips()])
        content = self.events[before["m.room.power_levels", ""]].content
        content = {**content, "users": {**content["users"], **users}}
        return self.make("m.room.power_levels", content, sender, state_key="", **more)

    # ── Delivery ─────────────────────────────────────────────────────────────

    def receive(self, *events: Event) -> list[Outcome]:
        """Deliver events in one batch; what became of each."""
        outcomes = receive_events(self.room_id, events)
        return [outcomes[event.event_id] for event in events]

    def accepted(self, *events: Event) -> None:
        """Deliver events one by one, all of which must be accepted."""
        for event in events:
            (outcome,) = self.receive(event)
            assert outcome.verdict is Verdict.ACCEPTED, (event.type, outcome)
