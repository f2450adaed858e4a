"""Searching the texts of rooms: messages, names and topics.

Source: client-server API v1.19, "Server Side Search".

A search goes through the user's rooms from now into the past: it always advances in the rooms whose part that was not
searched yet is the newest, until it knows the newest matches for certain. What a request may read is bounded; what
remains is in `next_batch`, which says how far each room was searched. So pages never repeat a result and skip none,
whatever happens in the rooms meanwhile. `order_by` recent is that order; with rank each page is ordered by how closely
its results match, as ordering all results would take reading all of them first.
"""

import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from heapq import nlargest
from typing import Any

from homeserver.matrix import search_terms
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.filters import RoomEventFilter
from homeserver.matrix.search_cursor import Place, SearchCursor, room_hash
from homeserver.matrix.search_terms import SearchTerm
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.ignored_users import ignored_by
from homeserver.services.search_index import SEARCHED, find_candidates, searched_text
from homeserver.services.search_results import EventContext, Found, group_results, show_results, states_of
from homeserver.services.visibility import Reader, reader_of
from homeserver.storage.connection import in_parallel, query_range
from homeserver.storage.room_items import Head, Membership
from homeserver.storage.rooms import load_heads
from homeserver.storage.search_index import bucket_number
from homeserver.storage.server import identity
from homeserver.storage.timeline import Entry, read_entries

KEYS = tuple(SEARCHED.values())
DEFAULT_LIMIT = 10
MAX_LIMIT = 50
# A search is dear and people type slowly; clients page by pressing a button.
_PER_SECOND, _BURST = 1.0, 20
_SECONDS = 8.0
_MOST_ROOMS = 400  # the most recently active ones: `next_batch` names them, and has to fit into an address
_MOST_BUILT = 200  # timeline buckets that one request reads whole
_MOST_VERIFIED = 1_000  # entries that one request reads to see whether they match
_FIRST_STEP, _LONGEST_STEP = 2, 32  # timeline buckets at once, in one room
_ROOMS_AT_ONCE = 8
_ENTRIES_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class RoomEventSearch:
    """The category `room_events` of a request."""

    term: str
    keys: frozenset[str] = frozenset(KEYS)
    event_filter: RoomEventFilter = field(default_factory=RoomEventFilter)
    by_rank: bool = True
    context: EventContext | None = None
    include_state: bool = False
    group_by: tuple[str, ...] = ()

    @property
    def limit(self) -> int:
        """How many results a page has at the most."""
        return self.event_filter.limit_within(default=DEFAULT_LIMIT, cap=MAX_LIMIT)


@dataclass(slots=True)
class _Scan:
    """One room: where to go on searching (None before the first look, 0 at the end), and how new that can be."""

    head: Head
    position: int | None
    upper: int
    reader: Reader | None = None
    found: list[Found] = field(default_factory=list)
    step: int = _FIRST_STEP

    @property
    def is_done(self) -> bool:
        return self.position == 0


@dataclass(slots=True)
class _Budget:
    """What the request may still spend."""

    deadline: float
    built: int
    verified: int

    @property
    def is_spent(self) -> bool:
        return self.built <= 0 or self.verified <= 0 or time.monotonic() > self.deadline


def search(requester: Requester, wanted: RoomEventSearch, next_batch: str | None = None) -> dict[str, Any]:
    """One page of results: the `room_events` of the answer.

    Rooms that the user is or was in and has not forgotten are searched, as far as the user may see them. Raises
    InvalidParam for a `next_batch` that is none, LimitExceeded.
    """
    cursor = SearchCursor.decode(next_batch) if next_batch is not None else SearchCursor()
    rate_limits.take(f"search-user/{requester.user_id}", per_second=_PER_SECOND, burst=_BURST)
    term = SearchTerm.parse(wanted.term)
    if term.is_empty or wanted.event_filter.excludes_everything or not wanted.keys:
        return {"count": 0, "highlights": sorted(term.words | term.runs), "results": []}
    scans = _scans(requester, wanted, cursor)
    budget = _Budget(time.monotonic() + _SECONDS, _MOST_BUILT, _MOST_VERIFIED)
    ignored = ignored_by(requester.user_id)
    _Searcher(requester, wanted, term, cursor, budget, identity().epoch, ignored).run(scans)
    results, page = show_results(requester, _newest(scans, wanted.limit), wanted.context, ignored)
    after = _cursor_after(cursor, scans, page)
    answer: dict[str, Any] = {
        "count": cursor.told + sum(len(scan.found) for scan in scans),
        "highlights": sorted(term.words | term.runs | {word for found in page for word in found.match.highlights}),
        "results": sorted(results, key=lambda result: -result["rank"]) if wanted.by_rank else results,
    }
    if after is not None:
        answer["next_batch"] = after.encode()
    if wanted.include_state:
        answer["state"] = states_of(requester, page)
    if wanted.group_by:
        answer["groups"] = {key: group_results(key, page, after) for key in wanted.group_by}
    return answer


def _scans(requester: Requester, wanted: RoomEventSearch, cursor: SearchCursor) -> list[_Scan]:
    rooms = [row.room for row in query_range(Membership, requester.user_id, consistent=True)]
    kind, value = cursor.group
    rooms = [room for room in rooms if wanted.event_filter.includes_room(room) and (kind != "room_id" or room == value)]
    heads = nlargest(_MOST_ROOMS, load_heads(rooms).values(), key=lambda head: int(head.arrived))
    scans = []
    for head in heads:
        place = cursor.place(head.room)
        if place is None:
            scans.append(_Scan(head, None, int(head.arrived)))
        else:
            scans.append(_Scan(head, place.position, min(place.upper, int(head.arrived))))
    return scans


@dataclass(frozen=True, slots=True)
class _Searcher:
    """One request's search through the rooms."""

    requester: Requester
    wanted: RoomEventSearch
    term: SearchTerm
    cursor: SearchCursor
    budget: _Budget
    epoch: int
    ignored: AbstractSet[str]

    def run(self, scans: Sequence[_Scan]) -> None:
        """Search until the newest `limit` results are certain, there is nothing left, or the budget is spent."""
        while not self.budget.is_spent:
            live = [scan for scan in scans if not scan.is_done]
            frontier = max((scan.upper for scan in live), default=None)
            if frontier is None:
                return
            certain = sum(found.order >= frontier for scan in scans for found in scan.found)
            if certain >= self.wanted.limit:
                return
            newest = nlargest(_ROOMS_AT_ONCE, live, key=lambda scan: scan.upper)
            in_parallel(*[partial(self._advance, scan) for scan in newest])

    def _advance(self, scan: _Scan) -> None:
        if scan.reader is None and not self._open(scan):
            scan.position = 0
            return
        last = int(scan.head.position)
        position = scan.position or 0
        if position < 1:
            scan.position = 0
            return
        buckets = max(1, min(scan.step, self.budget.built, bucket_number(position) + 1))
        scan.step = min(scan.step * 2, _LONGEST_STEP)
        found = find_candidates(
            scan.head.room, self.term, position, buckets=buckets, last_position=last, epoch=self.epoch
        )
        self.budget.built -= found.built
        for first in range(0, len(found.positions), _ENTRIES_AT_ONCE):
            part = found.positions[first : first + _ENTRIES_AT_ONCE]
            self._verify(scan, part, found.entries)
            if len(scan.found) >= self.wanted.limit or self.budget.is_spent:
                if part[-1] > found.low:
                    scan.position = part[-1] - 1
                    return
                break
        scan.position, scan.upper = found.low - 1, min(scan.upper, found.started)

    def _open(self, scan: _Scan) -> bool:
        """Whether the user has ever been in the room, and what they may read there."""
        try:
            reader = reader_of(self.requester.user_id, scan.head.room)
        except Forbidden:
            return False
        if reader.row is None or reader.row.joined_since is None:
            return False
        scan.reader = reader
        # What came after the heads were read belongs to the next search.
        last = min(reader.last_position, int(scan.head.position))
        scan.position = last if scan.position is None else min(scan.position, last)
        return True

    def _verify(self, scan: _Scan, positions: Sequence[int], known: Mapping[int, Entry]) -> None:
        room_id, reader = scan.head.room, scan.reader
        if reader is None:
            raise ValueError("a room is opened before it is searched")
        missing = [position for position in positions if position not in known]
        read = read_entries((room_id, position) for position in missing) if missing else {}
        entries = [known.get(position) or read.get((room_id, position)) for position in positions]
        self.budget.verified -= len(positions)
        matching: list[tuple[Entry, search_terms.Match]] = []
        for entry in entries:
            match = self._match(entry, room_id) if entry is not None else None
            if entry is not None and match is not None:
                matching.append((entry, match))
        visible = {entry.position for entry in reader.visible([entry for entry, _ in matching])}
        for entry, match in matching:
            if entry.position in visible:
                order = min(entry.arrived, scan.found[-1].order if scan.found else entry.arrived)
                scan.found.append(Found(reader, entry, match, order))
        oldest = entries[-1]
        if oldest is not None:
            scan.upper = min(scan.upper, oldest.arrived)

    def _match(self, entry: Entry, room_id: str) -> search_terms.Match | None:
        pdu = entry.pdu
        if pdu is None or SEARCHED.get(pdu["type"]) not in self.wanted.keys:
            return None
        if pdu["sender"] in self.ignored and "state_key" not in pdu:
            return None
        kind, value = self.cursor.group
        if kind == "sender" and pdu["sender"] != value:
            return None
        text = searched_text(pdu)
        if text is None or not self.wanted.event_filter.matches(pdu, room_id):
            return None
        return self.term.match(text)


def _newest(scans: Sequence[_Scan], limit: int) -> list[Found]:
    """The page, newest first.

    If the budget ended before any result was certain to be the newest, those that there are make the page.
    """
    frontier = max((scan.upper for scan in scans if not scan.is_done), default=None)
    everything = [found for scan in scans for found in scan.found]
    # Equal times: by room, and within a room by position.
    everything.sort(key=lambda found: (found.order, *found.place), reverse=True)
    certain = [found for found in everything if frontier is None or found.order >= frontier]
    return (certain or everything)[:limit]


def _cursor_after(cursor: SearchCursor, scans: Sequence[_Scan], page: Sequence[Found]) -> SearchCursor | None:
    """Where the next page begins; None if there is none."""
    told = {found.place for found in page}
    places: dict[bytes, Place] = {}
    is_over = True
    for scan in scans:
        room_id = scan.head.room
        rest = [found for found in scan.found if found.place not in told]
        if rest:
            places[room_hash(room_id)] = Place(rest[0].entry.position, rest[0].order)
        elif scan.position is not None:
            places[room_hash(room_id)] = Place(scan.position, scan.upper)
        is_over = is_over and scan.is_done and not rest
    return None if is_over else SearchCursor(cursor.told + len(page), cursor.group, places)
