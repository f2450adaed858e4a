"""Filling the gap before an anchor: whom to ask, and how what they give becomes part of the room.

An anchor is an event whose parents were unknown when it came: the user's own join to a room elsewhere, or the first
event after an outage. Its gap names the events that are to be fetched next. A page of them is fetched, checked, judged
and written newest first, in transactions each of which moves the gap on: so a crash leaves whole transactions, and of
two who fill the same gap only one writes. An event that is known already, at another place, ends its branch; the create
event ends the history.

Source: server-server API v1.19, "Backfilling and retrieving missing events"; `docs/architecture.md`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from homeserver.adapters.federation_http import FederationError, QueryValue, Unreachable
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import domain_of, is_event_id, is_user_id
from homeserver.observability import fault_point, log
from homeserver.services.asked_server import AskedServer
from homeserver.services.backfill_fetching import earlier_events
from homeserver.services.backfill_judging import Judge, Judged
from homeserver.services.backfill_order import gap_after, newest_first, reachable
from homeserver.services.backfill_writing import write_page
from homeserver.services.fetched_state import fetch_authority
from homeserver.services.receive_outliers import receive_outliers
from homeserver.services.received_batch import CREATE
from homeserver.settings import settings
from homeserver.storage.connection import in_parallel, query_range
from homeserver.storage.event_places import EventPlace, read_places
from homeserver.storage.room_items import RemoteServer
from homeserver.storage.rooms import RoomView, load_room
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import Entry, read_entry

PAGE = 100
SECONDS = 10.0
_MOST_SERVERS = 6  # that one call asks
_MOST_ASKED_FOR_TIME = 3
_MOST_ASKED_FOR = 20  # backward extremities in one request
_MOST_GAP = 200  # that an anchor keeps: an event has at most 20 parents, and liars invent them
_PATIENCE_S = (
    30.0  # before a gap that nobody could fill is tried again, and a server that did not answer is asked first
)
_REMEMBERED = 5_000

_POWER_LEVELS = ("m.room.power_levels", "")
_tried: dict[tuple[str, int], float] = {}
_silent: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Filled:
    """What came of an attempt: how many events were placed, and whether something is still to be fetched."""

    placed: int
    is_open: bool


def fill_gap(
    room_id: str, anchor: int, limit: int = PAGE, *, seconds: float = SECONDS, server: str | None = None
) -> Filled:
    """Fetch at most `limit` events (100) before what is known of an anchor's history, within about some seconds.

    anchor: its position. Servers of the room are asked one after the other until one of them has something, or only
    `server` is. Whoever reads the history afterwards reads the anchor again. Raises NotFound for a room that does not
    exist.
    """
    deadline = time.monotonic() + seconds
    (view, _), entry = in_parallel(
        partial(load_room, room_id, [CREATE, _POWER_LEVELS]), partial(read_entry, room_id, anchor)
    )
    if view is None or entry is None or not entry.gap:
        return Filled(0, False)
    known = read_places(entry.gap)
    if all(event_id in known and not known[event_id].is_outlier for event_id in entry.gap):
        write_page(view, entry, [], lambda _: [])
        return Filled(0, False)
    if (server is None and _is_recent(_tried, (room_id, anchor))) or not int(view.head.local_members):
        return Filled(0, True)
    lowest = lowest_of(room_id, entry)
    unusable: list[tuple[AskedServer, list[Event]]] = []
    for name in [server] if server else _servers(view, lowest, entry)[:_MOST_SERVERS]:
        if time.monotonic() >= deadline:
            break
        source = AskedServer(name, room_id, view.rules, deadline)
        try:
            fetched = earlier_events(source, entry.gap[-_MOST_ASKED_FOR:], min(limit, PAGE))
        except FederationError as error:
            log.info("nothing to backfill %s with: %s", room_id, error)
            if isinstance(error, Unreachable):
                _note(_silent, name)
            continue
        filled = _Page(view, entry, lowest, source).take(fetched)
        if filled.placed or not filled.is_open:
            return filled
        unusable.append((source, fetched))
    for source, fetched in unusable:
        # Nobody has what is needed to judge the next event: the history goes on behind it.
        filled = _Page(view, entry, lowest, source).take(fetched, skips=True)
        if filled.placed or not filled.is_open:
            return filled
    if server is None:
        _note(_tried, (room_id, anchor))
    return Filled(0, True)


def _is_recent(times: Mapping[Any, float], key: object) -> bool:
    return time.monotonic() < times.get(key, 0.0)


def _note(times: dict[Any, float], key: object) -> None:
    times.pop(key, None)
    times[key] = time.monotonic() + _PATIENCE_S
    while len(times) > _REMEMBERED:
        times.pop(next(iter(times)), None)


def lowest_of(room_id: str, anchor: Entry) -> Entry:
    """The entry next to the gap: what was backfilled last, or the anchor itself."""
    entry = read_entry(room_id, anchor.position, -anchor.backfilled) if anchor.backfilled else None
    return entry or anchor


def is_placed(event_id: str) -> bool:
    """Whether an event has its place in a room's graph here."""
    place = read_places([event_id]).get(event_id)
    return place is not None and not place.is_outlier


@dataclass(frozen=True, slots=True)
class EventElsewhere:
    """An event that another server tells of, and its time (milliseconds)."""

    event_id: str
    origin_server_ts: int


def event_elsewhere(
    view: RoomView, anchor: Entry, lowest: Entry, ts: int, *, backwards: bool, deadline: float
) -> EventElsewhere | None:
    """The event closest to a time that another server of the room knows, on the right side of it.

    `anchor` and `lowest` are those of the gap that it may be in. The server's word is all that there is for it.
    """
    if not int(view.head.local_members):
        return None
    query: dict[str, QueryValue] = {"ts": ts, "dir": "b" if backwards else "f"}
    for server in _servers(view, lowest, anchor)[:_MOST_ASKED_FOR_TIME]:
        source = AskedServer(server, view.room_id, view.rules, deadline)
        try:
            answer = source.ask("GET", "timestamp_to_event", view.room_id, query=query, max_bytes=65_536)
        except FederationError as error:
            log.info("no event of %s at a time: %s", view.room_id, error)
            continue
        event_id, at = (
            (answer.get(key) for key in ("event_id", "origin_server_ts")) if isinstance(answer, dict) else (0, 0)
        )
        if is_event_id(event_id) and type(at) is int and (at == ts or (at < ts) is backwards):
            return EventElsewhere(str(event_id), at)
    return None


def _servers(view: RoomView, lowest: Entry, anchor: Entry) -> list[str]:
    """Servers that may know what came before: first those that the next events lead to, then the largest.

    The servers of those who have power come last: the rows of the others may not be there yet after a join.
    """
    senders = [entry.pdu["sender"] for entry in (lowest, anchor) if entry.pdu is not None]
    rows = query_range(RemoteServer, view.room_id, "server/", consistent=False, limit=100)
    joined = sorted(
        (row for row in rows if row.left_at is None and int(row.members)), key=lambda row: -int(row.members)
    )
    levels, create = view.event(*_POWER_LEVELS), view.event(*CREATE)
    users = levels.content.get("users") if levels is not None else None
    powerful = [user for user in users if is_user_id(user)] if isinstance(users, Mapping) else []
    founders = [create.sender] if create is not None else []
    named = [
        *map(domain_of, senders),
        *(row.k.partition("/")[2] for row in joined),
        *map(domain_of, [*powerful, *founders]),
    ]
    own = settings().server_name
    found = [server for server in dict.fromkeys(named) if server != own]
    return sorted(found, key=lambda server: _is_recent(_silent, server))


@dataclass(slots=True)
class _Page:
    """A page of history that one server gave."""

    view: RoomView
    anchor: Entry
    lowest: Entry
    source: AskedServer
    _places: dict[str, EventPlace] = field(default_factory=dict)

    def take(self, fetched: Sequence[Event], *, skips: bool = False) -> Filled:
        """Judge what was fetched, and write what is usable; with `skips` what lies behind what is not, too."""
        create = self.view.event(*CREATE)
        if create is None:
            raise ValueError("the view has no create event")
        # A room has one beginning. (Who refers to another one refers to an event that does not exist.)
        events = {e.event_id: e for e in fetched if e.type != "m.room.create" or e == create}
        ordered = newest_first(self._unknown(events))
        judged: list[Judged] = []
        if ordered:
            judged = self._judged(ordered, create, skips=skips)
        gap = partial(self._gap, create=create)
        written = write_page(self.view, self.anchor, judged, gap)
        is_open = written < len(judged) or bool(gap([one.event for one in judged]))
        return Filled(sum(not one.is_skipped for one in judged[:written]), is_open)

    def _unknown(self, events: Mapping[str, Event]) -> dict[str, Event]:
        """What the gap leads to and is not known."""
        gap = list(self.anchor.gap or ())
        there = reachable(gap, events, ())
        self._read([*gap, *there, *(parent for event in there.values() for parent in event.prev_event_ids)])
        return reachable(gap, there, self._known)

    @property
    def _known(self) -> set[str]:
        return {event_id for event_id, place in self._places.items() if not place.is_outlier}

    def _read(self, event_ids: Sequence[str]) -> None:
        self._places |= read_places([event_id for event_id in dict.fromkeys(event_ids) if event_id not in self._places])

    def _judged(self, ordered: Sequence[Event], create: Event, *, skips: bool) -> list[Judged]:
        try:
            fetch_authority(self.source, ordered)
            states = [event for event in ordered if event.is_state]
            if states:
                receive_outliers(self.view.room_id, states)
            self._places |= read_places([event.event_id for event in states])
        except MatrixError as error:
            log.info("what authorises the history of %s cannot be stored: %s", self.view.room_id, error)
            return []
        nodes = StateNodes(self.view.room_id)
        child = read_places([self.lowest.event_id or ""]).get(self.lowest.event_id or "")
        gap = list(self.anchor.gap or ())
        is_only = child is not None and len(gap) == 1 and set(child.prev) == set(gap)
        judge = Judge(
            self.source,
            nodes,
            {event_id: place for event_id, place in self._places.items() if not place.is_outlier},
            create,
            bytes(self.lowest.own_root),
            child if is_only else None,
        )
        judged = judge.judge(ordered, skips=skips)
        nodes.write()
        fault_point("backfill.judged")
        return judged

    def _gap(self, placed: Sequence[Event], create: Event) -> list[str]:
        """What is to be fetched after these events."""
        if create in placed:
            return []  # there is nothing before it, whatever was said to be there
        return gap_after(self.anchor.gap or (), placed, self._known)[-_MOST_GAP:]


def forget_failures() -> None:
    """Forget which gaps nobody could fill and who did not answer: everything is tried again."""
    _tried.clear()
    _silent.clear()
