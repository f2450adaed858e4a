"""Timelines of rooms that a warm process has read before.

An entry never changes but for its redaction, and the head names the position of the room's last redaction: what was
kept under the same number is still right. An entry may be kept under a number only if it was certainly read after that
redaction. So every read knows a position that was committed before it began, and a redaction that lies below it is in
what was read. The very last commit is left out for a while: a transaction's items do not become visible at one moment.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from homeserver.storage.room_items import Head
from homeserver.storage.timeline import Entry, read_positions

_CACHED_ROOMS = 2000
_CACHED_ENTRIES = 200  # of one room, the newest
SETTLED_AFTER_MS = 5_000  # by then every item of a commit can be read

_rooms: dict[str, tuple[int, dict[int, Entry]]] = {}


@dataclass(frozen=True, slots=True)
class Ahead:
    """Entries that were read before the head was; position `committed` was known to be committed before that."""

    committed: int
    entries: Mapping[int, Entry]


NOTHING_AHEAD = Ahead(0, {})


def is_settled(head: Head, committed: int) -> bool:
    """Whether a read that began when position `committed` was committed saw the room's last redaction for certain."""
    redaction = int(head.redaction_position)
    if redaction < committed:
        return True
    return redaction <= committed and time.time() * 1000 - int(head.arrived) > SETTLED_AFTER_MS


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
    entries = []
    for position in range(low, high + 1):
        if position not in merged:
            break
        entries.append(merged[position])
    return entries


def _remember(room_id: str, redaction: int, entries: dict[int, Entry], head_position: int) -> None:
    if len(entries) > _CACHED_ENTRIES:
        oldest = head_position - _CACHED_ENTRIES
        entries = {position: entry for position, entry in entries.items() if position > oldest}
    _rooms.pop(room_id, None)
    _rooms[room_id] = (redaction, entries)
    while len(_rooms) > _CACHED_ROOMS:
        _rooms.pop(next(iter(_rooms)), None)
