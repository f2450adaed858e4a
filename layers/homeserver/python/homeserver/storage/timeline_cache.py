"""Timelines of rooms that a warm process has read before.

An entry never changes but for its redaction, and the head names the position of the room's last redaction: what was
kept under the same number is still right. An entry may be kept under a number only if it was certainly read after that
redaction. So every read knows a position that was committed before it began, and a redaction that lies below it is in
what was read. The very last commit is left out for a while: a transaction's items do not become visible at one moment.

The aggregate of the events that relate to an entry changes later than the entry. The head names the position of the
last change of any aggregate as well, and each kept entry the one under which its aggregate was right. An event can only
be related to by what comes after it, so an entry at or behind that position has no aggregate. Who shows aggregates asks
for them with `with_aggregates`; others pay nothing for them, and neither do rooms that never had one.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from homeserver.storage.room_items import Head
from homeserver.storage.timeline import Entry, read_positions, read_root

_CACHED_ROOMS = 2000
_CACHED_ENTRIES = 200  # of one room, the newest
_CACHED_ROOTS = 20_000
SETTLED_AFTER_MS = 5_000  # by then every item of a commit can be read

_rooms: dict[str, tuple[int, dict[int, Entry]]] = {}
# The room's state after positions that lie outside of what is kept of a timeline: it never changes.
_roots: dict[tuple[str, int], bytes] = {}
# By room and position: the `aggregate_position` under which the kept entry's aggregate was right; absent means 0
_aggregated: dict[str, dict[int, int]] = {}


@dataclass(frozen=True, slots=True)
class Ahead:
    """Entries that were read before the head was; position `committed` was known to be committed before that.

    `counted`: the stored counts of the room's members were read with them.
    """

    committed: int
    entries: Mapping[int, Entry]
    counted: bool = False


NOTHING_AHEAD = Ahead(0, {})


def known_root(room_id: str, position: int) -> bytes | None:
    """The root of a room's state after a position, where this process knows it."""
    known = _rooms.get(room_id)
    if known is not None and position in known[1]:
        return known[1][position].room_root
    return _roots.get((room_id, position))


def learn_root(room_id: str, position: int) -> None:
    """Learn the root of a room's state after a position: one round, or none.

    An eventual read: what it misses stays unknown.
    """
    root = read_root(room_id, position) if known_root(room_id, position) is None else None
    if root is not None:
        _roots[room_id, position] = root
    while len(_roots) > _CACHED_ROOTS:
        _roots.pop(next(iter(_roots)), None)


def is_settled(head: Head, committed: int) -> bool:
    """Whether a read that began when position `committed` was committed saw the room's last redaction for certain."""
    return _was_seen(head, int(head.redaction_position), committed)


def _was_seen(head: Head, change: int, committed: int) -> bool:
    if change < committed:
        return True
    return change <= committed and time.time() * 1000 - int(head.arrived) > SETTLED_AFTER_MS


def read_ahead(room_id: str, low: int, high: int) -> Ahead:
    """Entries from position low to `high`, which is committed, before the head is known: one round, or none.

    What the process knows already is not read, and not in the result either: the head decides if it is still right.
    """
    low = max(low, 1)
    known = _rooms.get(room_id)
    entries = known[1] if known is not None else {}
    missing = [position for position in range(low, high + 1) if position not in entries]
    if not missing:
        return Ahead(high, {})
    return Ahead(high, {entry.position: entry for entry in read_positions(room_id, missing[0], missing[-1])})


def read_timeline(head: Head, low: int, high: int, ahead: Ahead = NOTHING_AHEAD) -> list[Entry]:
    """The entries from position low to high of a room whose head was just read, up to the first that is missing.

    One round, or none. `ahead` is what was read before the head.
    """
    low = max(low, 1)
    redaction = int(head.redaction_position)
    known = _rooms.get(head.room)
    kept = known[1] if known is not None and known[0] == redaction else {}
    merged = {**kept, **ahead.entries} if ahead.entries else kept
    fresh = dict(ahead.entries) if ahead.entries and is_settled(head, ahead.committed) else {}
    missing = [position for position in range(low, high + 1) if position not in merged]
    if missing:
        read = {entry.position: entry for entry in read_positions(head.room, missing[0], missing[-1])}
        merged = {**merged, **read}
        if is_settled(head, int(head.position)):
            fresh.update(read)
    if fresh:
        _remember(head.room, redaction, {**kept, **fresh}, int(head.position))
        if head.aggregate_position:
            _mark(head, [entry for entry in fresh.values() if entry.position in ahead.entries], ahead.committed)
            _mark(head, [entry for entry in fresh.values() if entry.position not in ahead.entries], int(head.position))
    entries = []
    for position in range(low, high + 1):
        if position not in merged:
            break
        entries.append(merged[position])
    return entries


def _mark(head: Head, entries: Iterable[Entry], committed: int) -> None:
    """Note whether the aggregates of entries that were just read are those that the head means."""
    last = int(head.aggregate_position)
    mark = last if _was_seen(head, last, committed) else -1
    marks = _aggregated.setdefault(head.room, {})
    if len(marks) > 4 * _CACHED_ENTRIES:
        marks.clear()
    marks.update({entry.position: mark for entry in entries})


def with_aggregates(head: Head, entries: Sequence[Entry]) -> list[Entry]:
    """Entries of a room, as `read_timeline` gave them for the same head, with their aggregates as they are now.

    One round for those of which it is not known; none in a room without aggregates.
    """
    last = int(head.aggregate_position)
    marks = _aggregated.get(head.room, {})
    doubtful = [e.position for e in entries if e.position < last and marks.get(e.position, 0) != last]
    if not doubtful:
        return list(entries)
    read = {entry.position: entry for entry in read_positions(head.room, doubtful[0], doubtful[-1])}
    known = _rooms.get(head.room)
    if known is not None and known[0] == int(head.redaction_position) and is_settled(head, int(head.position)):
        kept = {position: entry for position, entry in read.items() if position in known[1]}
        known[1].update(kept)
        _mark(head, kept.values(), int(head.position))
    return [read.get(entry.position, entry) for entry in entries]


def _remember(room_id: str, redaction: int, entries: dict[int, Entry], head_position: int) -> None:
    if len(entries) > _CACHED_ENTRIES:
        oldest = head_position - _CACHED_ENTRIES
        entries = {position: entry for position, entry in entries.items() if position > oldest}
    _rooms.pop(room_id, None)
    _rooms[room_id] = (redaction, entries)
    while len(_rooms) > _CACHED_ROOMS:
        _aggregated.pop(oldest_room := next(iter(_rooms)), None)
        _rooms.pop(oldest_room, None)
