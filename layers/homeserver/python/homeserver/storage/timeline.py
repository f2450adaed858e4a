"""Reading a room's timeline: contiguous runs of positions, read consistently.

An entry comes with the aggregate of the events that relate to it, which lies half a position behind it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from homeserver.matrix.event_codec import unpack
from homeserver.matrix.relations import Aggregate
from homeserver.matrix.timeline_place import place_number, place_of
from homeserver.storage.connection import batch_get_raw, in_parallel, query_raw
from homeserver.storage.relations import parse_aggregate
from homeserver.storage.room_items import BUCKET_POSITIONS, TimelineEntry, bucket_of, line_of


@dataclass(frozen=True, slots=True)
class Entry:
    """One position of a timeline as it is stored; `event_id` and `pdu` are None at a marker."""

    position: int
    event_id: str | None
    pdu: Mapping[str, Any] | None
    room_root: bytes
    own_root: bytes
    arrived: int
    transaction: str | None = None
    replaces: str | None = None
    previous: Mapping[str, Any] | None = None
    redacted_because: Mapping[str, Any] | None = None
    gap: tuple[str, ...] | None = None
    # As it was when the entry was read: unlike the rest it changes later
    aggregate: Aggregate | None = None
    # 0, or how far before the anchor at `position` a backfilled event lies (negative)
    offset: int = 0
    # Of an anchor: how many events were backfilled for it
    backfilled: int = 0
    # "local", "relay" or "remote": where the event came from
    origin: str = "local"

    @property
    def place(self) -> tuple[int, int]:
        """Position and offset: entries of a room are in the order of these."""
        return self.position, self.offset

    @property
    def number(self) -> float:
        """The place as one number: what relations are kept under."""
        return place_number(self.position, self.offset)

    @property
    def has_history(self) -> bool:
        """Whether something that does not lie at the positions before comes, or belongs, right before the entry."""
        return self.gap is not None and bool(self.gap or self.backfilled)


def parse_entry(raw: Mapping[str, Any], anchor: int | None = None) -> Entry:
    """An entry from DynamoDB's JSON; written out because timelines are what is read most.

    `anchor`: the entry is among what was backfilled for the one at this position.
    """
    room_root = bytes(raw["r"]["B"])
    number = int(raw["pos"]["N"])
    return Entry(
        number if anchor is None else anchor,
        raw["e"]["S"] if "e" in raw else None,
        unpack(raw["j"]["B"]) if "j" in raw else None,
        room_root,
        bytes(raw["or"]["B"]) if "or" in raw else room_root,
        int(raw["t"]["N"]),
        raw["x"]["S"] if "x" in raw else None,
        raw["pe"]["S"] if "pe" in raw else None,
        unpack(raw["pc"]["B"]) if "pc" in raw else None,
        unpack(raw["rb"]["B"]) if "rb" in raw else None,
        tuple(extremity["S"] for extremity in raw["gap"]["L"]) if "gap" in raw else None,
        offset=0 if anchor is None else number,
        backfilled=int(raw["bf"]["N"]) if "bf" in raw else 0,
        origin=raw["o"]["S"] if "o" in raw else "local",
    )


def read_positions(room_id: str, low: int, high: int) -> list[Entry]:
    """The entries from position low to high, ascending, up to the first that is missing: one round.

    A position that is missing was not committed yet; whoever reads a log stops there and never skips it.
    """
    low = max(low, 1)
    if high < low:
        return []
    calls = []
    for first in range((low - 1) // BUCKET_POSITIONS * BUCKET_POSITIONS + 1, high + 1, BUCKET_POSITIONS):
        start, end = max(low, first), min(high, first + BUCKET_POSITIONS - 1)
        calls.append(lambda start=start, end=end: _query(room_id, start, end))
    entries: list[Entry] = []
    for part in in_parallel(*calls):
        for raw in part:
            if "." in raw["pos"]["N"]:
                _take_aggregate(entries, raw)
            elif int(raw["pos"]["N"]) == low + len(entries):
                entries.append(parse_entry(raw))
            else:
                return entries
    return entries


def _take_aggregate(entries: list[Entry], raw: Mapping[str, Any]) -> None:
    # One whose entry is missing belongs to an event beyond the gap.
    if entries and entries[-1].position == int(float(raw["pos"]["N"])):
        entries[-1] = replace(entries[-1], aggregate=parse_aggregate(raw))


def _query(room_id: str, low: int, high: int) -> list[dict[str, Any]]:
    return query_raw(TimelineEntry, bucket_of(room_id, low), low, high + 0.5, consistent=True)


EntryKey = tuple[str, float]
"""Room, and the number of a place (`matrix.timeline_place`): the position, where nothing was backfilled."""


def read_entries(places: Iterable[EntryKey], *, aggregates: bool = False) -> dict[EntryKey, Entry]:
    """Single entries of many rooms, by what was asked for, consistently, in one round; on demand with aggregates."""
    lines = {line_of(room_id, *place_of(number)): (room_id, number) for room_id, number in places}
    bundles = {(bucket, number + 0.5): place for (bucket, number), place in lines.items()} if aggregates else {}
    keys: list[tuple[str, float]] = [*lines, *bundles]
    found = batch_get_raw(TimelineEntry, keys, consistent=True)
    entries: dict[EntryKey, Entry] = {}
    for (bucket, number), place in lines.items():
        raw = found.get((bucket, str(number)))
        if raw is not None:
            position, offset = place_of(place[1])
            entries[place] = parse_entry(raw, position if offset else None)
    for (bucket, half), place in bundles.items():
        raw = found.get((bucket, str(half)))
        if raw is not None and place in entries:
            entries[place] = replace(entries[place], aggregate=parse_aggregate(raw))
    return entries


def read_root(room_id: str, position: int) -> bytes | None:
    """The root of the room's state after a position: one round, eventually consistent; None if it is not seen yet.

    What an entry says of it never changes.
    """
    found = query_raw(TimelineEntry, bucket_of(room_id, position), position, position, consistent=False)
    return bytes(found[0]["r"]["B"]) if found else None


def read_entry(room_id: str, position: int, offset: int = 0, *, aggregate: bool = False) -> Entry | None:
    """One entry, consistently."""
    place = (room_id, place_number(position, offset))
    return read_entries([place], aggregates=aggregate).get(place)
