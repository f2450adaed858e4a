"""What backfilling asks one server of a room: events before others, the state before an event, authorising events.

Everything that comes is checked (`pdu_checks`) and bounded, in number, size and time; a server that says nothing useful
costs the others nothing. Authorising events and states are stored as outliers.

Source: server-server API v1.19, "Backfilling and retrieving missing events", "Retrieving events".
"""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from homeserver.adapters.federation_http import (
    BadAnswer,
    FederationClient,
    FederationError,
    QueryValue,
    federation_path,
)
from homeserver.matrix import state_tree
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import is_event_id
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.observability import log
from homeserver.services.pdu_checks import check_pdus
from homeserver.services.receive_outliers import receive_outliers
from homeserver.services.received_batch import CREATE
from homeserver.storage.auth_events import known_events
from homeserver.storage.state_nodes import StateNodes

_REQUEST_S = 6.0
_PAGE_BYTES = 8 * 1024 * 1024  # 100 events of 64 KiB
_STATE_BYTES = 24 * 1024 * 1024
_MOST_IDS = 200_000  # of events in a state, or in its auth chain
_SINGLY = 40  # events that are fetched one by one; beyond it the whole state is fetched
_MOST_CHAINS = 10  # auth chains that are asked for, for one page of events
_AT_ONCE = 8
_SMALL_PAGE = 20


@dataclass(frozen=True, slots=True)
class Source:
    """A server of the room to ask, until `deadline` (monotonic seconds)."""

    server: str
    room_id: str
    rules: RoomVersionRules
    deadline: float

    @property
    def seconds(self) -> float:
        """How much time is left."""
        return max(0.0, self.deadline - time.monotonic())

    def earlier_events(self, extremities: Sequence[str], limit: int) -> list[Event]:
        """At most `limit` events, beginning with the extremities and going back, those that pass the checks.

        Raises FederationError.
        """
        query: dict[str, QueryValue] = {"v": list(extremities), "limit": limit}
        try:
            answer = self.get(query, "backfill", self.room_id, max_bytes=_PAGE_BYTES)
        except BadAnswer:
            # It may have been too much for one answer.
            answer = self.get({**query, "limit": _SMALL_PAGE}, "backfill", self.room_id, max_bytes=_PAGE_BYTES)
        return self._checked(_list(answer, "pdus")[:limit])

    def state_before(self, event_id: str, like: bytes) -> bytes | None:
        """The root of the room's state before an event, as the server has it; None if it does not say.

        Its events are stored as outliers, what new nodes its tree needs too. Events of it that cannot be had, or that
        the rules refuse, are not part of it. `like`: a root of the room that is probably similar.
        """
        try:
            ids = self.get({"event_id": event_id}, "state_ids", self.room_id, max_bytes=_STATE_BYTES)
            state, chain = _ids(ids, "pdu_ids"), _ids(ids, "auth_chain_ids")
            known = known_events([*state, *chain], self.rules)
            missing = [i for i in dict.fromkeys([*chain, *state]) if i not in known]
            self._store(self._events(event_id, missing))
        except (FederationError, MatrixError) as error:
            log.info("no state of %s before %s: %s", self.room_id, event_id, error)
            return None
        return self._root(state, like)

    def fetch_authority(self, events: Sequence[Event]) -> None:
        """Store the events that authorise these and are not known, and what authorises them in turn."""
        own = {event.event_id for event in events}
        missing = {i for event in events for i in event.auth_event_ids if i not in own}
        missing -= known_events(missing, self.rules).keys()
        for event in [event for event in events if missing & set(event.auth_event_ids)][:_MOST_CHAINS]:
            if not missing & set(event.auth_event_ids):
                continue
            try:
                answer = self.get(None, "event_auth", self.room_id, event.event_id, max_bytes=_STATE_BYTES)
                self._store(self._checked(_list(answer, "auth_chain")))
            except (FederationError, MatrixError) as error:
                log.info("what authorises %s cannot be had from %s: %s", event.event_id, self.server, error)
                return
            missing -= known_events(missing, self.rules).keys()

    def get(self, query: dict[str, QueryValue] | None, *segments: str, max_bytes: int) -> Any:
        """What the server answers to a GET of the path with these segments. Raises FederationError."""
        timeout = min(_REQUEST_S, self.seconds)
        if timeout <= 0:
            raise FederationError(self.server, "there is no time left to ask")
        path = federation_path("v1", *segments)
        client = FederationClient()
        return client.request("GET", self.server, path, query, timeout_s=timeout, max_bytes=max_bytes)[1]

    def _checked(self, pdus: Sequence[Any]) -> list[Event]:
        checked = check_pdus(pdus, self.rules, self.room_id, seconds=self.seconds)
        return [one.event for one in checked if one.event is not None]

    def _events(self, at: str, missing: Sequence[str]) -> list[Event]:
        """The events of a state that are missing, and of its auth chain: one by one if they are few."""
        if not missing:
            return []
        if len(missing) > _SINGLY:
            answer = self.get({"event_id": at}, "state", self.room_id, max_bytes=_STATE_BYTES)
            pdus = [*_list(answer, "auth_chain"), *_list(answer, "pdus")]
        else:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                calls = [partial(copy_context().run, self._event, event_id) for event_id in missing]
                pdus = [pdu for found in pool.map(lambda call: call(), calls) for pdu in found]
        wanted = set(missing)
        return [event for event in self._checked(pdus) if event.event_id in wanted]

    def _event(self, event_id: str) -> list[Any]:
        try:
            answer = self.get(None, "event", event_id, max_bytes=1024 * 1024)
        except FederationError:
            return []
        return _list(answer, "pdus")[:1]

    def _store(self, events: Sequence[Event]) -> None:
        if events:
            receive_outliers(self.room_id, [event for event in events if event.is_state])

    def _root(self, state: Sequence[str], like: bytes) -> bytes | None:
        nodes = StateNodes(self.room_id)
        before = state_tree.items(nodes, like)
        wanted, there = set(state), set(before.values())
        changes: dict[tuple[str, str], str | None] = {key: None for key, i in before.items() if i not in wanted}
        known = known_events(wanted - there, self.rules)
        added: set[tuple[str, str]] = set()
        kept = {key for key, i in before.items() if i in wanted}
        for event_id, found in known.items():
            event = found.event
            if event is None or event.rejected or not event.is_state or found.room_id != self.room_id:
                continue
            if event.key in added or event.key in kept:
                log.info("%s names two events for one key of a state of %s", self.server, self.room_id)
                return None
            added.add(event.key)
            changes[event.key] = event_id
        if CREATE not in kept:
            log.info("%s names a state of %s without its create event", self.server, self.room_id)
            return None
        update = state_tree.update(nodes, like, changes)
        nodes.add(update.new_nodes)
        nodes.write()
        return update.root


def _list(answer: Any, key: str) -> list[Any]:
    found = answer.get(key) if isinstance(answer, dict) else None
    return found if isinstance(found, list) else []


def _ids(answer: Any, key: str) -> list[str]:
    """The event IDs of an answer. Raises FederationError where it has others, or too many."""
    found: Iterable[Any] = _list(answer, key)
    ids = [event_id for event_id in found if is_event_id(event_id)]
    if len(ids) > _MOST_IDS:
        raise MatrixError("the state is too large")
    return ids
