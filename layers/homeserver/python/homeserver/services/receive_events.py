"""Events that other servers made: judged, put where they belong in the room's graph, and committed.

Whoever calls this has checked format, signatures and hashes already, and asks for what is missing afterwards. An event
may stand anywhere in the graph. Its own state is what its parents' states resolve to; the room's state is what the
states of the forward extremities resolve to.

Source: server-server API v1.19, "Checks performed on receipt of a PDU" (4 to 6), "Rejection", "Soft failure".
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

from homeserver.matrix import state_tree
from homeserver.matrix.errors import AuthRuleViolation, MatrixError, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, auth_event_keys, check_event_auth
from homeserver.matrix.event_builder import Edge
from homeserver.matrix.relations import relation_of
from homeserver.observability import fault_point, log
from homeserver.services.attempts import attempts
from homeserver.services.received_batch import (
    CREATE,
    check_by_authority,
    in_order,
    local_members,
    records_wanted,
    state_keys,
    with_policy_signature,
)
from homeserver.services.received_redactions import (
    WAITING,
    WAITING_PREFIX,
    Effect,
    effect_of_redaction,
    redaction_of_late_event,
    waiting_item,
)
from homeserver.services.relationships import relate
from homeserver.services.resolve_state import known_resolution, resolve_roots
from homeserver.services.room_draft import RoomDraft
from homeserver.services.room_placement import Placement, Raced
from homeserver.storage.auth_events import KnownEvent, cover_for, known_events
from homeserver.storage.event_places import EventPlace, read_places
from homeserver.storage.event_records import NewRecord
from homeserver.storage.room_items import EventRecord
from homeserver.storage.room_lease import take_lease
from homeserver.storage.rooms import RoomView, StateKey, load_room

_AT_ONCE = 100  # events that are read for one commit: as many as a transaction of a server has, twice
_RACES_BEFORE_LEASE = 3


class Verdict(Enum):
    """What became of an event."""

    KNOWN = "known"
    ACCEPTED = "accepted"
    SOFT_FAILED = "soft_failed"
    REJECTED = "rejected"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event: why it was refused, by the rule's number and in words; what it waits for."""

    verdict: Verdict
    rule: str = ""
    reason: str = ""
    prev: tuple[str, ...] = ()
    auth: tuple[str, ...] = ()


KNOWN, ACCEPTED = Outcome(Verdict.KNOWN), Outcome(Verdict.ACCEPTED)


def receive_events(
    room_id: str, events: Sequence[Event], *, origin: str = "remote", states_after: Mapping[str, bytes] | None = None
) -> dict[str, Outcome]:
    """Take events into a room, in whatever order they come; returns what became of each.

    origin: "relay" for events that this server accepted from a server that joins or leaves through it, and has to send
    on to the others; else "remote". states_after: the roots of the states after events that are unknown here, whose
    trees and events are stored: an event that follows on such a parent becomes an anchor, whose timeline entry names
    the parents that are unknown (`gap`).

    An event whose parents or authorising events are unknown is not kept: the outcome names them. Everything else is
    stored when this returns. Raises NotFound for a room that this server is not in, LimitExceeded for one that is too
    busy, MissingAuthEvents where a state cannot be resolved; what was committed until then stays, repeating is safe.
    """
    outcomes: dict[str, Outcome] = {}
    left = in_order(events)
    while left:
        outcomes |= _receive_some(_Delivery(room_id, left[:_AT_ONCE], origin, states_after or {}))
        left = [event for event in left if event.event_id not in outcomes]
    for event_id, outcome in outcomes.items():
        if outcome.verdict in {Verdict.REJECTED, Verdict.SOFT_FAILED}:
            verdict = "rejected" if outcome.verdict is Verdict.REJECTED else "soft-failed"
            log.info("event %s is %s by rule %s: %s", event_id, verdict, outcome.rule or "-", outcome.reason)
    return outcomes


@dataclass(frozen=True, slots=True)
class _Delivery:
    """What `receive_events` was given, or some of it. `signed`: by the room's policy server, as far as it was asked."""

    room_id: str
    events: Sequence[Event]
    origin: str
    states_after: Mapping[str, bytes]
    signed: dict[str, Event | None] = field(default_factory=dict)


def _receive_some(delivery: _Delivery) -> dict[str, Outcome]:
    """As many of the events, from the first on, as one commit takes."""
    holder = secrets.token_hex(8)
    for attempt in attempts("The room"):
        reception = _Reception(delivery, holder)
        if attempt >= _RACES_BEFORE_LEASE and take_lease(reception.view.head, holder):
            reception = _Reception(delivery, holder)
        try:
            return reception.receive()
        except Raced:
            fault_point("receive.raced")
    raise AssertionError("attempts() never ends by itself")


class _Reception:
    """Events to be received by one commit, with what was read for them."""

    def __init__(self, delivery: _Delivery, holder: str) -> None:
        room_id, events = delivery.room_id, delivery.events
        self._events, self._origin = events, delivery.origin
        self._states_after, self._signed = delivery.states_after, delivery.signed
        self._ids = {event.event_id for event in events}
        view, found = load_room(
            room_id,
            state_keys(events),
            local_users=local_members(events),
            extras=records_wanted(events),
        )
        if view is None or view.head.kind != "full":
            raise NotFound("This server is not in this room.")
        self.view: RoomView = view
        self._found = found
        self._draft = RoomDraft(view, view.rules, lease_holder=holder)
        self._holder = holder
        records = {
            item.event_id: item
            for item in found.values()
            if isinstance(item, EventRecord) and item.room is not None and not item.event_id.startswith(WAITING_PREFIX)
        }
        self._places = {event_id: EventPlace.of_record(record) for event_id, record in records.items()}
        self._known = {event_id: KnownEvent.of_record(record, view.rules) for event_id, record in records.items()}
        for entry in view.state.values():
            self._known[entry.event.event_id] = KnownEvent(room_id, "", entry.event, entry.cover)
        authority = {auth_id for event in events for auth_id in event.auth_event_ids}
        self._known |= known_events(authority - self._known.keys() - self._ids, view.rules)
        self._taken: set[str] = set()  # chain items of this commit
        self._is_closed = False

    def receive(self) -> dict[str, Outcome]:
        """Judge and place one event after the other, as many as fit, and commit them. Raises Raced."""
        outcomes: dict[str, Outcome] = {}
        for event in self._events:
            if self._is_closed or (outcomes and self._draft.is_full):
                break
            outcome = self._receive(event)
            if outcome is None:
                break
            outcomes[event.event_id] = outcome
        if not self._draft.is_empty:
            fault_point("receive.before_commit")
            self._draft.commit()
        return outcomes

    def _receive(self, event: Event) -> Outcome | None:
        """What becomes of an event; None if what stands in the commit already must be committed first."""
        place = self._places.get(event.event_id)
        if place is not None and not place.is_outlier:
            return KNOWN
        if waiting_item(event.event_id) in self._draft.waiting:
            return None
        missing = self._missing(event)
        if missing is not None:
            return missing
        wrong = self._not_of_this_room(event)
        if wrong is not None:
            return wrong
        roots = self._roots_before(event)
        before = known_resolution(self._draft.nodes.room_id, roots) if roots else state_tree.EMPTY_ROOT
        if before is None:
            if not self._draft.is_empty:
                return None
            before = resolve_roots(self._draft.nodes, self.view.rules, roots)
        try:
            check_by_authority(event, self._known, self.view.event(*CREATE))
            self._check_state(event, before)
        except AuthRuleViolation as violation:
            self._refuse(event, before, "r")
            return Outcome(Verdict.REJECTED, violation.rule, str(violation))
        try:
            if self._draft.root != before:
                self._check_state(event, self._draft.root)
        except AuthRuleViolation as violation:
            self._refuse(event, before, "s")
            return Outcome(Verdict.SOFT_FAILED, violation.rule, str(violation))
        if self._draft.changes_policy:
            return None
        signed = with_policy_signature(event, self.view.head, self._signed) if self._draft.has_policy else event
        if signed is None:
            self._refuse(event, before, "s")
            return Outcome(Verdict.SOFT_FAILED, "7", "the room's policy server has not signed it")
        event = signed
        return ACCEPTED if self._accept(event, before) else None

    # ── What an event refers to ──────────────────────────────────────────────

    def _gap(self, event: Event) -> tuple[str, ...]:
        """Its parents that have no place here."""
        return tuple(
            event_id
            for event_id in event.prev_event_ids
            if event_id not in self._places or self._places[event_id].is_outlier
        )

    def _missing(self, event: Event) -> Outcome | None:
        prev = tuple(event_id for event_id in self._gap(event) if event_id not in self._states_after)
        auth = tuple(event_id for event_id in event.auth_event_ids if event_id not in self._known)
        return Outcome(Verdict.MISSING, prev=prev, auth=auth) if prev or auth else None

    def _not_of_this_room(self, event: Event) -> Outcome | None:
        """What no rule would refuse, because none can be asked; it is not kept."""
        room_id = self.view.room_id
        before = [self._places[event_id] for event_id in event.prev_event_ids if event_id in self._places]
        if event.room_id != room_id or any(place.room_id != room_id for place in before):
            return Outcome(Verdict.REJECTED, reason="it, or an event before it, is of another room")
        if event.type == "m.room.create":
            return Outcome(Verdict.REJECTED, "R1", "the room has another create event")
        return None

    def _roots_before(self, event: Event) -> set[bytes]:
        prev = set(event.prev_event_ids)
        if prev == {edge.event_id for edge in self._draft.extremities}:
            return {self._draft.root}  # which is what their states resolve to
        gap = set(self._gap(event))
        given = {self._states_after[event_id] for event_id in gap}
        return given | {after for event_id in prev - gap if (after := self._places[event_id].after) is not None}

    # ── Judging ──────────────────────────────────────────────────────────────

    def _check_state(self, event: Event, root: bytes) -> None:
        """Checks 5 and 6: the rules by a state of the room. Raises AuthRuleViolation."""
        keys = auth_event_keys(event.type, event.sender, event.state_key, event.content, event.rules)
        check_event_auth(event, AuthState(self._state_at(root, [CREATE, *keys])))

    def _state_at(self, root: bytes, keys: Iterable[StateKey]) -> dict[StateKey, Event]:
        ids = state_tree.get_many(self._draft.nodes, root, keys)
        entries = self._draft.entries(ids.values())
        return {key: entries[event_id].event for key, event_id in ids.items()}

    # ── Placing ──────────────────────────────────────────────────────────────

    def _cover(self, event: Event) -> tuple[bytes | None, str | None]:
        """Packed cover and chain item; of an outlier, which has both, only the cover."""
        place = self._places.get(event.event_id)
        if place is not None:
            return self._known[event.event_id].cover, None
        auth = [self._known[event_id] for event_id in event.auth_event_ids]
        cover, item = cover_for(event, [(known.event, known.cover) for known in auth if known.event], self._taken)
        if item is not None:
            self._taken.add(item)
        return cover.pack() if cover else None, item

    def _refuse(self, event: Event, before: bytes, flag: str) -> None:
        after = self._after(event, before) if flag == "s" else before
        cover, item = self._cover(event) if flag == "s" else (None, None)
        if flag == "s":
            _, event = self._redacted_if_late(event)
        outlier = event.event_id in self._places
        self._draft.keep(
            NewRecord(
                event,
                flag,
                state_before=before,
                state_after=after,
                cover=cover,
                chain_item=item,
                keeps_body=True,
                was_outlier=outlier,
            )
        )
        self._learn(event, flag, before, after, cover)

    def _after(self, event: Event, before: bytes) -> bytes:
        """The root of the event's own state after it."""
        if not event.is_state:
            return before
        update = state_tree.update(self._draft.nodes, before, {event.key: event.event_id})
        self._draft.nodes.add(update.new_nodes)
        return update.root

    def _accept(self, event: Event, before: bytes) -> bool:
        """Place the event; false if what stands in the commit already must be committed first."""
        effect = self._effect_of(event, before)
        if effect is Effect.LATER:
            return False
        after = self._after(event, before)
        extremities = self._extremities_with(event)
        others = read_places([e.event_id for e in extremities if e.event_id not in self._places])
        self._places |= others
        roots = {after, *(self._places[edge.event_id].after or b"" for edge in extremities)}
        cover, item = self._cover(event)
        pending = {event.event_id: KnownEvent(event.room_id, "", event, cover)}
        room_root = known_resolution(self.view.room_id, roots)
        if room_root is None:
            if not self._draft.is_empty:
                return False
            room_root = resolve_roots(self._draft.nodes, self.view.rules, roots, pending)
        because, stored = self._redacted_if_late(event)
        placement = Placement(
            before,
            after,
            room_root,
            [*extremities, Edge.to(event)],
            cover=cover,
            chain_item=item,
            was_outlier=event.event_id in self._places,
            is_hidden=effect is Effect.HIDDEN,
            redacted_because=because,
            gap=self._gap(event),
            origin=self._origin,
        )
        self._draft.place(stored, placement)
        # A relationship that cannot be, as a second reaction with the same key, forms nothing; the event stands.
        with suppress(MatrixError):
            relate(self._draft, stored, self._found)
        self._learn(stored, "h" if placement.is_hidden else "", before, after, cover)
        return True

    def _extremities_with(self, event: Event) -> list[Edge]:
        """The forward extremities that remain beside the event: it refers to the others.

        Events that were refused are no extremities, so what they refer to counts as referred to by who comes after.
        """
        referred: set[str] = set()
        level = set(event.prev_event_ids)
        while level:
            referred |= level
            self._places |= read_places([event_id for event_id in level if event_id not in self._places])
            refused = [self._places[i] for i in level if i in self._places and not self._places[i].is_referable]
            level = {event_id for place in refused for event_id in place.prev} - referred
        return [edge for edge in self._draft.extremities if edge.event_id not in referred]

    def _learn(self, event: Event, flags: str, before: bytes, after: bytes, cover: bytes | None) -> None:
        """What is now known of an event of this commit, to those that come after it."""
        event_id = event.event_id
        position = None if flags and flags != "h" else self._draft.position
        self._places[event_id] = EventPlace(
            event_id, event.room_id, flags, tuple(event.prev_event_ids), position, before, after
        )
        judged = Event(event_id, event.room_id, event.pdu, event.rules, rejected=flags == "r")
        self._known[event_id] = KnownEvent(event.room_id, flags, judged, cover)
        if flags != "h":
            self._draft.know(judged, cover)

    # ── Redactions ───────────────────────────────────────────────────────────

    def _effect_of(self, event: Event, before: bytes) -> Effect:
        """What a redaction does to its target. An event that relates to another only wants a commit of its own."""
        is_redaction = event.type == "m.room.redaction" and event.redacts is not None
        if not is_redaction and relation_of(event.content) is None:
            return Effect.NONE
        # Both change items of which a commit can change each once.
        if not self._draft.is_empty:
            return Effect.LATER
        self._is_closed = True
        if not is_redaction:
            return Effect.NONE
        state = AuthState(self._state_at(before, _power_keys(event)))
        return effect_of_redaction(self._draft, self.view, event, state, self._found)

    def _redacted_if_late(self, event: Event) -> tuple[Event | None, Event]:
        """The redaction that waited for this event, if one does and may redact it, and what is left of the event."""
        waiting = self._found.get((EventRecord, waiting_item(event.event_id), None))
        if not isinstance(waiting, EventRecord) or not waiting.waiting:
            return None, event
        return redaction_of_late_event(self._draft, event, list(waiting.waiting)[:WAITING], self._state_at)


def _power_keys(event: Event) -> list[StateKey]:
    return [CREATE, ("m.room.power_levels", ""), ("m.room.member", event.sender)]
