"""Reading a room's timeline: contiguous runs of positions, read consistently.

An entry comes with the aggregate of the events that relate to it, which lies half a position behind it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from homeserver.matrix.event_codec import unpack
from homeserver.matrix.relations import Aggregate
from homeserver.storage.connection import batch_get_raw, in_parallel, query_raw
from homeserver.storage.relations import parse_aggregate
from homeserver.storage.room_items import BUCKET_POSITIONS, TimelineEntry, bucket_of


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


def parse_entry(raw: Mapping[str, Any]) -> Entry:
    """An entry from DynamoDB's JSON; written out because timelines are what is read most."""
    room_root = bytes(raw["r"]["B"])
    return Entry(
        int(raw["pos"]["N"]),
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


def read_entries(positions: Iterable[tuple[str, int]], *, aggregates: bool = False) -> dict[tuple[str, int], Entry]:
    """Single entries of many rooms by (room, position), consistently, in one round; on demand with aggregates."""
    wanted = dict.fromkeys(positions)
    keys = {(bucket_of(room_id, position), str(position)): (room_id, position) for room_id, position in wanted}
    asked: list[tuple[str, float]] = [(bucket_of(room_id, position), position) for room_id, position in wanted]
    if aggregates:
        asked += [(bucket, position + 0.5) for bucket, position in asked]
    found = batch_get_raw(TimelineEntry, asked, consistent=True)
    entries = {keys[key]: parse_entry(raw) for key, raw in found.items() if key in keys}
    for (bucket, number), raw in found.items():
        key = keys.get((bucket, number.removesuffix(".5")))
        if number.endswith(".5") and key in entries:
            entries[key] = replace(entries[key], aggregate=parse_aggregate(raw))
    return entries


def read_entry(room_id: str, position: int, *, aggregate: bool = False) -> Entry | None:
    """One entry, consistently."""
    return read_entries([(room_id, position)], aggregates=aggregate).get((room_id, position))
