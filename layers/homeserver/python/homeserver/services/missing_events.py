"""Receiving events whose parents, or what authorises them, is not here: that is asked for, and judged as they are.

What lies between the room and the events is asked for backwards, a page at a time (`get_missing_events`). What
authorises events is stored as outliers (`event_auth`, `event`). Where the way back to the room is too long, or nobody
gives it, the state behind the first unknown parents is asked for (`state_ids`, `state`), and the events that follow on
them become anchors. What nobody gives stays missing, and is stored by nobody.

Every answer may be a lie. Only what the events refer to is taken from it, by ID; it is checked as what came first was;
and number, size and time end, whatever the other servers say. Every step is whole by itself and finds what is there
already: whoever is cut off begins again.

Source: Matrix v1.19, server-server API, "Backfilling and retrieving missing events", "Retrieving event authorization
information", "Checks performed on receipt of a PDU".
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from homeserver.adapters.federation_http import FederationError
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import domain_of
from homeserver.observability import fault_point, log
from homeserver.services.asked_server import AskedServer, listed
from homeserver.services.fetched_state import fetch_authority, fetch_state, fetch_state_after
from homeserver.services.receive_events import Outcome, Verdict, receive_events
from homeserver.settings import settings
from homeserver.storage.connection import query_range
from homeserver.storage.event_places import read_places
from homeserver.storage.room_items import Head, RemoteServer
from homeserver.storage.rooms import load_heads

_MOST_EVENTS = 400  # between the room and what came; beyond it the room has a gap, and history is fetched on demand
_MOST_PAGES = 25
_PAGE = 50
_MOST_STATES = 10  # behind parents that nobody gives
_MOST_SERVERS = 4
_MOST_EXTREMITIES = 50


def receive_with_missing(
    room_id: str, events: Sequence[Event], origin: str, *, seconds: float = 60.0
) -> dict[str, Outcome]:
    """Take events that passed `pdu_checks` into a room, with what they need; returns what became of each of them.

    `origin` sent them, and is asked first; other servers of the room after it, until everything is here or the seconds
    are over. Raises what `receive_events` raises; no answer of another server, or none, raises anything.
    """
    outcomes = receive_events(room_id, events)
    left = _missing(events, outcomes)
    if not left:
        return outcomes
    deadline = time.monotonic() + seconds
    for name in _servers(room_id, origin, left.values()):
        server = AskedServer(name, room_id, events[0].rules, deadline)
        if not left or not server.has_time:
            break
        found = _Search(server, left).outcomes()
        outcomes |= {event_id: found[event_id] for event_id in left if event_id in found}
        left = _missing(left.values(), outcomes)
    return outcomes


def _missing(events: Iterable[Event], outcomes: Mapping[str, Outcome]) -> dict[str, Event]:
    return {e.event_id: e for e in events if outcomes[e.event_id].verdict is Verdict.MISSING}


def _servers(room_id: str, origin: str, events: Iterable[Event]) -> list[str]:
    """Whom to ask: who sent the events, who made them, and the servers with the most members."""
    rows = query_range(RemoteServer, room_id, "server/", consistent=False, limit=100)
    joined = sorted((row for row in rows if int(row.members)), key=lambda row: -int(row.members))
    senders = [domain_of(event.sender) for event in events]
    named = [origin, *senders[:_MOST_SERVERS], *(row.k.partition("/")[2] for row in joined)]
    return [server for server in dict.fromkeys(named) if server != settings().server_name][:_MOST_SERVERS]


class _Search:
    """One server, asked for what some events of a room need."""

    def __init__(self, server: AskedServer, events: Mapping[str, Event]) -> None:
        self._server, self._room_id = server, server.room_id
        self._events = dict(events)  # to be received, with those found before them
        self._placed: set[str] = set()  # event IDs that have a place in the room

    def outcomes(self) -> dict[str, Outcome]:
        """Ask, and receive what can be received; what became of everything that was found."""
        self._go_back()
        fetch_authority(self._server, list(self._events.values()))
        fault_point("missing.fetched")
        outcomes = receive_events(self._room_id, list(self._events.values()))
        left = _missing(self._events.values(), outcomes)
        gaps = {event_id: [i for i in outcomes[event_id].prev if i not in self._events] for event_id in left}
        states = self._states_after({event_id: gap for event_id, gap in gaps.items() if gap})
        if states:
            fault_point("missing.states_stored")
            outcomes |= receive_events(self._room_id, list(left.values()), states_after=states)
        return outcomes

    # ── The events between ───────────────────────────────────────────────────

    def _go_back(self) -> None:
        """Find the events between the room and those that came, until they meet or the limits are reached."""
        earliest = _extremities(self._head())[-_MOST_EXTREMITIES:]
        for _ in range(_MOST_PAGES):
            unknown = self._unknown_parents()
            if not unknown or len(self._events) >= _MOST_EVENTS or not self._server.has_time:
                return
            latest = [i for i, event in self._events.items() if unknown & set(event.prev_event_ids)]
            body = {"latest_events": latest[:_PAGE], "earliest_events": earliest, "limit": _PAGE, "min_depth": 0}
            try:
                answer = self._server.ask("POST", "get_missing_events", self._room_id, content=body)
            except FederationError as error:
                log.info("no missing events of %s: %s", self._room_id, error)
                return
            if not self._take(listed(answer, "events")[:_PAGE], unknown):
                return

    def _unknown_parents(self) -> set[str]:
        prev = {i for event in self._events.values() for i in event.prev_event_ids}
        unknown = prev - self._events.keys() - self._placed
        places = read_places(unknown)
        self._placed |= {event_id for event_id, place in places.items() if not place.is_outlier}
        return unknown - self._placed

    def _take(self, pdus: Sequence[Any], wanted: set[str]) -> bool:
        """Take up the events of an answer that others refer to; whether there was one."""
        found = {event.event_id: event for event in self._server.checked(pdus)}
        level, taken = wanted, False
        while level:
            new = [found[i] for i in level if i in found and i not in self._events]
            for event in new[: max(0, _MOST_EVENTS - len(self._events))]:
                self._events[event.event_id] = event
                taken = True
            level = {i for event in new for i in event.prev_event_ids if event.event_id in self._events}
        return taken

    # ── States ───────────────────────────────────────────────────────────────

    def _states_after(self, gaps: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
        """The roots of the states after parents that are not here, as far as the server tells them.

        gaps: these parents, by the events that follow on them. Where a parent cannot be had, as it is from before this
        server was in the room, the state before who follows on it has to do.
        """
        states: dict[str, bytes | None] = {}
        like = bytes(self._head().root)
        for event_id in sorted({i for gap in gaps.values() for i in gap})[:_MOST_STATES]:
            # Only the event itself says whether it changes the state.
            event = self._server.event(event_id) if self._server.has_time else None
            states[event_id] = fetch_state_after(self._server, event, like=like) if event is not None else None
        for event_id, gap in list(gaps.items())[:_MOST_STATES]:
            lacking = [i for i in gap if states.get(i) is None]
            if lacking and self._server.has_time:
                states |= dict.fromkeys(lacking, fetch_state(self._server, event_id, like=like))
        return {event_id: root for event_id, root in states.items() if root is not None}

    def _head(self) -> Head:
        return load_heads([self._room_id])[self._room_id]


def _extremities(head: Head) -> list[str]:
    return [edge if isinstance(edge, str) else edge[0] for edge in head.extremities]
