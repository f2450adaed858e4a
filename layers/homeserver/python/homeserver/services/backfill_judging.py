"""The states before backfilled events, and what the rules say of them.

A backfilled event is authorised by the events that it names (check 4) and by its own state before it (check 5). That
state is worked out forward wherever the states after all its parents are known. It is taken from the event that follows
where that has no other parent and nothing in between changed the state. Only where neither is so, as a rule once for
each page that has state events, the server is asked for it.

Source: server-server API v1.19, "Checks performed on receipt of a PDU" (4 and 5), "Rejection".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.matrix import state_tree
from homeserver.matrix.errors import AuthRuleViolation, MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, auth_event_keys, check_event_auth
from homeserver.observability import log
from homeserver.services.asked_server import AskedServer
from homeserver.services.fetched_state import fetch_state
from homeserver.services.received_batch import CREATE, check_by_authority
from homeserver.services.resolve_state import resolve_roots
from homeserver.storage.auth_events import KnownEvent, known_events
from homeserver.storage.event_places import EventPlace
from homeserver.storage.rooms import StateKey, fetch_state_events
from homeserver.storage.state_nodes import StateNodes

_MOST_ASKED = 5  # states of one page


@dataclass(frozen=True, slots=True)
class Judged:
    """An event with its own state before and after it.

    `is_refused` by a rule; `is_skipped`: nobody can judge it, as what it depends on cannot be had.
    """

    event: Event
    before: bytes = b""
    after: bytes = b""
    is_refused: bool = False
    is_skipped: bool = False


@dataclass(slots=True)
class Judge:
    """Judges one page of history, newest first, that a server gave.

    `places` are those of the events' parents, as far as they are known; `child`: the place of the event that is next
    to the gap, of which the gap is the only parent; None if there is no such event. `create`: the room's create event.
    """

    source: AskedServer
    nodes: StateNodes
    places: Mapping[str, EventPlace]
    create: Event
    like: bytes
    child: EventPlace | None = None
    _asked: int = 0
    _events: dict[str, Event] = field(default_factory=dict)  # of states, as they were read

    def judge(self, ordered: Sequence[Event], *, skips: bool) -> list[Judged]:
        """The events from the first on, up to one whose state or authority cannot be had, unless those are skipped."""
        followed = self._followed(ordered)
        authority = known_events({i for event in ordered for i in event.auth_event_ids}, self.source.rules)
        messages = {event.event_id for event in ordered if not event.is_state}
        judged: dict[str, Judged] = {}
        for event in reversed(ordered):
            # A message event of this page that is named authorises nothing, and is none of what is waited for.
            if any(i not in authority and i not in messages for i in event.auth_event_ids):
                log.info("event %s waits for what authorises it", event.event_id)
                continue
            before = self._before(event, judged, followed)
            if before is None:
                continue
            is_refused = self._is_refused(event, before, authority)
            after = before if is_refused else self._after(event, before)
            judged[event.event_id] = Judged(event, before, after, is_refused)
        usable: list[Judged] = []
        for event in ordered:
            if event.event_id not in judged and not skips:
                break
            usable.append(judged.get(event.event_id) or Judged(event, is_skipped=True))
        return usable

    # ── States ───────────────────────────────────────────────────────────────

    def _followed(self, ordered: Sequence[Event]) -> dict[str, bytes]:
        """States before events that follow from the state of what comes after them: as long as nothing changes it."""
        befores: dict[str, bytes] = {}
        afters: dict[str, bytes] = {}
        if self.child is not None and self.child.before is not None:
            afters[self.child.prev[0]] = self.child.before
        for event in ordered:
            after = afters.get(event.event_id)
            if after is None or event.is_state:
                continue
            befores[event.event_id] = after
            if len(set(event.prev_event_ids)) == 1:
                afters[event.prev_event_ids[0]] = after
        return befores

    def _before(self, event: Event, judged: Mapping[str, Judged], followed: Mapping[str, bytes]) -> bytes | None:
        if event == self.create:
            return state_tree.EMPTY_ROOT
        roots: set[bytes] = set()
        for parent in event.prev_event_ids:
            after = judged[parent].after if parent in judged else None
            if after is None and parent in self.places:
                after = self.places[parent].after
            if after is None:
                roots.clear()
                break
            roots.add(after)
        if roots:
            try:
                return resolve_roots(self.nodes, self.source.rules, roots)
            except (MatrixError, LookupError) as error:
                log.info("the state before %s cannot be resolved: %s", event.event_id, error)
        if event.event_id in followed:
            return followed[event.event_id]
        if self._asked >= _MOST_ASKED:
            return None
        self._asked += 1
        return fetch_state(self.source, event.event_id, like=self.like)

    def _after(self, event: Event, before: bytes) -> bytes:
        if not event.is_state:
            return before
        update = state_tree.update(self.nodes, before, {event.key: event.event_id})
        self.nodes.add(update.new_nodes)
        return update.root

    # ── Rules ────────────────────────────────────────────────────────────────

    def _is_refused(self, event: Event, before: bytes, authority: Mapping[str, KnownEvent]) -> bool:
        if any(i not in authority for i in event.auth_event_ids):
            log.info("event %s is rejected by R3.2: it names a message event", event.event_id)
            return True
        try:
            check_by_authority(event, authority, self.create)
            keys = auth_event_keys(event.type, event.sender, event.state_key, event.content, event.rules)
            check_event_auth(event, AuthState(self._state_at(before, [CREATE, *keys])))
        except AuthRuleViolation as violation:
            log.info("event %s is rejected by %s: %s", event.event_id, violation.rule, violation)
            return True
        return False

    def _state_at(self, root: bytes, keys: Iterable[StateKey]) -> dict[StateKey, Event]:
        ids = state_tree.get_many(self.nodes, root, keys)
        missing = [event_id for event_id in ids.values() if event_id not in self._events]
        if missing:
            read = fetch_state_events(self.source.room_id, missing, self.source.rules, consistent=True)
            self._events.update((event_id, entry.event) for event_id, entry in read.items())
        return {key: self._events[event_id] for key, event_id in ids.items() if event_id in self._events}
