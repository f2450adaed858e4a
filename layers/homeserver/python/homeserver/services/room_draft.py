"""A commit in the making: events are added one by one, each authorised by the state that those before it made.

A local event refers to the room's forward extremities, so its own state is the room's. Only where there are more of
them than an event may refer to, the two differ.
"""

import secrets
from collections.abc import Iterable, Sequence

from homeserver.adapters.signing_key import signing_key
from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, auth_event_keys, check_event_auth
from homeserver.matrix.event_builder import Edge, EventDraft, build_event
from homeserver.services.resolve_state import resolve_roots
from homeserver.services.room_changes import RoomChanges
from homeserver.services.room_placement import LETTERS, Changes, Placement, Raced
from homeserver.settings import settings
from homeserver.storage.auth_events import cover_for
from homeserver.storage.event_places import states_after
from homeserver.storage.event_records import NewRecord
from homeserver.storage.rooms import StateEntry, StateKey

__all__ = ["Raced", "RoomDraft"]

MOST_PREV_EVENTS = 20  # that an event may have


class RoomDraft(RoomChanges):
    """Local events to be committed to one room, and the state of the room after them.

    `view` must have every state key loaded that the events need: those that authorise them (`auth_event_keys`) and
    the ones they replace.
    """

    _is_trial = False

    def trial(self) -> "RoomDraft":
        """A copy that is never committed: further events can be authorised on it."""
        copy = RoomDraft(self.view, self.rules, room_id=self.room_id, counters=self._counters)
        copy._is_trial = True
        copy.state, copy.locals, copy.rows = dict(self.state), dict(self.locals), self.rows.copy()
        copy.nodes.new = dict(self.nodes.new)
        copy.root, copy.extremities, copy.pending = self.root, list(self.extremities), dict(self.pending)
        copy._position, copy._depth, copy._rows_root = self._position, self._depth, self._rows_root
        copy._own_roots, copy._known = dict(self._own_roots), dict(self._known)
        return copy

    def add(self, draft: EventDraft, sender: str, *, client_transaction: str | None = None) -> Event:
        """Build, sign and authorise one event. Raises AuthRuleViolation, BadJson or TooLarge.

        In a room with a policy server that is asked to sign the event too; raises as `signed_for_sending` does.
        """
        keys = auth_event_keys(draft.type, sender, draft.state_key, draft.content, self.rules)
        prev_events, others = self.extremities[-MOST_PREV_EVENTS:], self.extremities[:-MOST_PREV_EVENTS]
        before = self._state_of(prev_events) if others else self.root
        state = self.state if before == self.root else self._part_of(before, [("m.room.create", ""), *keys])
        auth = [state[key] for key in keys if key in state]
        event = build_event(
            draft,
            rules=self.rules,
            room_id=self.room_id,
            sender=sender,
            prev_events=[Edge(edge.event_id, self._depth, edge.sha256) for edge in prev_events],
            auth_events=[Edge.to(entry.event) for entry in auth],
            origin_server_ts=self._now,
            server_name=settings().server_name,
            key=signing_key(),
            opaque_id=secrets.token_urlsafe(18) if self.rules.hashed_edges else None,
        )
        check_event_auth(event, self.auth_state())
        if state is not self.state:
            check_event_auth(event, AuthState({key: entry.event for key, entry in state.items()}))
        if self.room_id is None:
            self.room_id = self.nodes.room_id = self.rows.room_id = event.room_id
        event = self._with_policy_signature(event)
        self._rely_on(keys, event)
        self._append(event, auth, before, others, client_transaction)
        return event

    def _with_policy_signature(self, event: Event) -> Event:
        if self.view is None or self._is_trial or LETTERS["m.room.policy", ""] not in self._authorising:
            return event
        # Few rooms have one, and every function that sends would start later with what it takes to ask other servers.
        from homeserver.services.policy_servers import policy_server, signed_for_sending  # noqa: PLC0415

        server = policy_server(self.view.head, self._authorising)
        return signed_for_sending(event, server) if server is not None else event

    def _state_of(self, extremities: Sequence[Edge]) -> bytes:
        """The state that some of the forward extremities resolve to."""
        ids = [edge.event_id for edge in extremities]
        missing = [event_id for event_id in ids if event_id not in self._own_roots]
        self._own_roots |= states_after(missing)
        return resolve_roots(self.nodes, self.rules, [self._own_roots[i] for i in ids], self.pending)

    def _part_of(self, root: bytes, keys: Iterable[StateKey]) -> dict[StateKey, StateEntry]:
        ids = state_tree.get_many(self.nodes, root, keys)
        entries = self.entries(ids.values())
        return {key: entries[event_id] for key, event_id in ids.items()}

    def _rely_on(self, keys: Iterable[StateKey], event: Event) -> None:
        for key in keys:
            entry = self.state.get(key)
            lags = self.view is not None and self.view.head.rows_root != self.view.head.root
            own = event.key if event.is_state else None
            if entry is not None and key not in LETTERS and entry.position <= self._start and key != own and not lags:
                self._relied_on[key] = entry.event.event_id

    def _append(
        self,
        event: Event,
        auth: list[StateEntry],
        before: bytes,
        others: Sequence[Edge],
        client_transaction: str | None,
    ) -> None:
        cover, chain_item = cover_for(event, [(entry.event, entry.cover) for entry in auth])
        packed_cover = cover.pack() if cover else None
        after = before
        if event.is_state:
            self.know(event, packed_cover)
            update = state_tree.update(self.nodes, before, {event.key: event.event_id})
            self.nodes.add(update.new_nodes)
            after = update.root
        self._own_roots[event.event_id] = after
        self.extremities = [*others, Edge.to(event)]
        root = self._state_of(self.extremities) if others else after
        record = NewRecord(event, state_before=before, state_after=after, cover=packed_cover, chain_item=chain_item)
        old = self.state.get(event.key) if event.is_state else None
        changes: Changes = {}
        if others:
            changes = state_tree.diff(self.nodes, self.root, root)
        elif event.is_state:
            changes = {event.key: (old.event.event_id if old else None, event.event_id)}
        placement = Placement(before, after, root, self.extremities)
        self._enter(record, root, changes, placement, origin="local", client_transaction=client_transaction)
