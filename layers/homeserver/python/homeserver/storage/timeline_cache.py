"""Timelines of rooms that a warm process has read before.

An entry never changes but for its redaction, and the head says where the last redaction was: entries that were read
under the same value are still right.
"""

from homeserver.storage.room_items import Head
from homeserver.storage.timeline import Entry, read_positions

_CACHED_ROOMS = 2000
_CACHED_ENTRIES = 200  # of one room, the newest

_rooms: dict[str, tuple[int, dict[int, Entry]]] = {}


def read_timeline(head: Head, low: int, high: int) -> list[Entry]:
    """The entries from position low to high of a room whose head was just read; one round, or none."""
    low = max(low, 1)
    redaction = int(head.redaction_position)
    known = _rooms.get(head.room)
    entries = known[1] if known is not None and known[0] == redaction else {}
    missing = [position for position in range(low, high + 1) if position not in entries]
    if not missing:
        return [entries[position] for position in range(low, high + 1)]
    read = {entry.position: entry for entry in read_positions(head.room, missing[0], missing[-1])}
    # A redaction may have come after the head was read: such entries are right, but not for the next reader.
    merged = {**entries, **read}
    _remember(head.room, redaction, merged, int(head.position))
    result = []
    for position in range(low, high + 1):
        if position not in merged:
            break
        result.append(merged[position])
    return result


def _remember(room_id: str, redaction: int, entries: dict[int, Entry], head_position: int) -> None:
    kept = {
        position: entry
        for position, entry in entries.items()
        if head_position - _CACHED_ENTRIES < position <= head_position
    }
    _rooms.pop(room_id, None)
    _rooms[room_id] = (redaction, kept)
    while len(_rooms) > _CACHED_ROOMS:
        _rooms.pop(next(iter(_rooms)), None)
