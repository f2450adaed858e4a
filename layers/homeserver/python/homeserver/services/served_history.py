"""Walks through a room's events from given ones into the past, for other servers: `backfill`, `get_missing_events`.

Source: server-server API v1.19, "Backfilling and retrieving missing events".

Walks go along the edges between events, so they find whatever there is: history that was fetched later, forks, events
that were soft-failed (others may refer to them). Rejected events are passed over, with what is only before them. Most
events follow on the one a position before, so what is read for one brings along those that lie before it: a walk takes
two rounds of reads, and two more where it jumps.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from homeserver.matrix.errors import InvalidParam, TooLarge
from homeserver.matrix.identifiers import is_event_id
from homeserver.services.served_events import MOST_BYTES, ServedEvent, shown_to, size_of, transaction_of
from homeserver.services.server_access import check_access
from homeserver.services.server_visibility import reader_for
from homeserver.storage.backfilled_timeline import read_backfilled
from homeserver.storage.connection import Key, batch_get, in_parallel
from homeserver.storage.room_items import EventRecord
from homeserver.storage.timeline import Entry, read_positions

MOST_EVENTS = 100  # of one answer, and in one question
MISSING_DEFAULT = 10
_MOST_JUMPS = 30  # of one walk, which may always end early

_Place = tuple[int, int, int]  # position, offset, and how far behind that a refused event lies


def backfill(room_id: str, origin: str, event_ids: Sequence[str], limit: int) -> dict[str, Any]:
    """The events and what precedes them, the newest first, at most `limit`: the body of `GET /backfill/{roomId}`.

    Events that are not in the room count for nothing. Raises what `check_access` does, InvalidParam for what is no
    event ID, TooLarge.
    """
    _check_ids(event_ids)
    view = check_access(room_id, origin)
    graph = _Graph(room_id, limit)
    graph.load(event_ids)
    found: list[ServedEvent] = []
    size = 0
    head: _Place = (int(view.head.position), 0, 0)
    coming: list[tuple[_Place, str]] = []
    seen = set(event_ids)
    for event_id in seen:
        _push(coming, graph, event_id, head)
    while coming:
        back, event_id = heapq.heappop(coming)
        event = graph.events[event_id]
        size += size_of(event.pdu)
        if found and size > MOST_BYTES:
            break
        found.append(event)
        if len(found) == limit:
            break
        parents = [parent for parent in event.prev if parent not in seen]
        seen.update(parents)
        graph.load(parents)
        for parent in parents:
            _push(coming, graph, parent, (-back[0], -back[1], -back[2]))
    return transaction_of(shown_to(reader_for(view, origin), found))


def _push(coming: list[tuple[_Place, str]], graph: "_Graph", event_id: str, child: _Place) -> None:
    if event_id in graph.events:
        place = _place(graph.events[event_id], child)
        heapq.heappush(coming, ((-place[0], -place[1], -place[2]), event_id))


def _place(event: ServedEvent, child: _Place) -> _Place:
    """Where an event comes in the order of a walk: a refused one right behind the event that refers to it."""
    if event.position is None:
        return child[0], child[1], child[2] - 1
    return event.position, event.offset, 0


def missing_events(
    room_id: str,
    origin: str,
    *,
    latest: Sequence[str],
    earliest: Sequence[str],
    min_depth: int,
    limit: int,
) -> dict[str, Any]:
    """What lies between `earliest` and `latest`, without both: the body of `POST /get_missing_events/{roomId}`.

    The search is breadth first, from the latest; the answer has the oldest first. Events of a depth below `min_depth`
    end it. Raises what `check_access` does, InvalidParam for what is no event ID, TooLarge.
    """
    _check_ids(latest)
    view = check_access(room_id, origin)
    graph = _Graph(room_id, limit)
    graph.load(latest)
    seen = {*earliest, *latest}
    head: _Place = (int(view.head.position), 0, 0)
    level: dict[str, _Place] = {}
    for event_id in dict.fromkeys(latest):
        if event_id in graph.events:
            level |= _parents(graph.events[event_id], _place(graph.events[event_id], head), seen)
    found: list[tuple[_Place, ServedEvent]] = []
    size = 0
    while level and len(found) < limit and size <= MOST_BYTES:
        graph.load(level)
        below: dict[str, _Place] = {}
        for event_id, child in level.items():
            event = graph.events.get(event_id)
            if event is None or event.pdu["depth"] < min_depth:
                continue
            size += size_of(event.pdu)
            if len(found) >= limit or (found and size > MOST_BYTES):
                break
            place = _place(event, child)
            found.append((place, event))
            below |= _parents(event, place, seen)
        level = below
    oldest_first = [event for _, event in sorted(found, key=lambda each: each[0])]
    return {"events": shown_to(reader_for(view, origin), oldest_first)}


def _parents(event: ServedEvent, place: _Place, seen: set[str]) -> dict[str, _Place]:
    """The parents of an event that no one came to yet, each with the event's place."""
    parents = [parent for parent in event.prev if parent not in seen]
    seen.update(parents)
    return dict.fromkeys(parents, place)


def _check_ids(event_ids: Sequence[str]) -> None:
    if len(event_ids) > MOST_EVENTS:
        raise TooLarge(f"One question may be about {MOST_EVENTS} events.")
    if not all(is_event_id(event_id) for event_id in event_ids):
        raise InvalidParam("This is not an event ID.")


class _Graph:
    """The events of a room that a walk has come near to."""

    def __init__(self, room_id: str, ahead: int) -> None:
        self.events: dict[str, ServedEvent] = {}
        self._room_id = room_id
        self._ahead = ahead
        self._absent: set[str] = set()
        self._jumps_left = _MOST_JUMPS

    def load(self, event_ids: Iterable[str]) -> None:
        """Bring events into memory, with some that lie before them; those that are not in the room stay away."""
        wanted = [i for i in event_ids if i not in self.events and i not in self._absent]
        if not wanted or self._jumps_left == 0:
            return
        self._jumps_left -= 1
        keys: list[Key] = [(EventRecord, event_id, None) for event_id in wanted]
        records = {
            record.event_id: record
            for record in batch_get(keys, consistent=True).values()
            if record.room == self._room_id and not set(record.flags or "") & {"o", "r"}
        }
        places = {(int(r.position), int(r.offset or 0)) for r in records.values() if r.position is not None}
        for entry in self._around(places):
            event = ServedEvent.of_entry(entry)
            if event is not None:
                self.events.setdefault(event.event_id, event)
        for event_id in wanted:
            event = ServedEvent.of_record(records[event_id]) if event_id in records else None
            if event_id not in self.events and event is not None:
                self.events[event_id] = event
            elif event_id not in self.events:
                self._absent.add(event_id)

    def _around(self, places: set[tuple[int, int]]) -> list[Entry]:
        """The entries at these places, and those before each of them: as many in all as the walk may need."""
        ahead = max(1, self._ahead // max(1, len(places)))
        calls: list[Callable[[], list[Entry]]] = []
        covered: tuple[int, int] | None = None  # the last place that was asked for
        for position, offset in sorted(places, reverse=True):
            if covered is not None and not offset and not covered[1] and covered[0] - ahead < position:
                continue
            if covered is not None and offset and covered[0] == position and covered[1] - ahead < offset:
                continue
            covered = position, offset
            if offset:
                calls.append(partial(self._read_backfilled, position, offset - ahead + 1, offset))
            else:
                calls.append(partial(read_positions, self._room_id, position - ahead + 1, position))
        return [entry for part in in_parallel(*calls) for entry in part]

    def _read_backfilled(self, anchor: int, low: int, high: int) -> list[Entry]:
        return list(read_backfilled(self._room_id, anchor, low, high).values())
