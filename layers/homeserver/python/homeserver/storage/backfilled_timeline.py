"""History that was fetched later: what was backfilled for an anchor, which lies before it.

An anchor is an entry whose parents were unknown when it came. What is fetched for it takes the offsets -1, -2, ..
before it, newest first, in partitions of its own. The anchor's entry says how many of them are taken (`backfilled`),
and which events are to be fetched next (`gap`: its backward extremities; empty once nothing is left to fetch).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pynamodb.expressions.update import Action

from homeserver.matrix.event_codec import pack
from homeserver.storage.connection import Transaction, in_parallel, query_raw
from homeserver.storage.event_records import NewRecord, write_record
from homeserver.storage.relations import parse_aggregate
from homeserver.storage.room_items import BUCKET_POSITIONS, TimelineEntry, line_of
from homeserver.storage.timeline import Entry, parse_entry


def read_backfilled(room_id: str, anchor: int, low: int, high: int) -> dict[int, Entry]:
    """The entries from offset low to high (both below 0) before an anchor, by offset, consistently: one round.

    An offset that is missing is not taken (yet).
    """
    high = min(high, -1)
    if high < low:
        return {}
    calls = []
    for start in range((-high - 1) // BUCKET_POSITIONS, (-low - 1) // BUCKET_POSITIONS + 1):
        first, last = max(low, -(start + 1) * BUCKET_POSITIONS), min(high, -start * BUCKET_POSITIONS - 1)
        bucket = line_of(room_id, anchor, last)[0]
        # Behind each line lies its aggregate.
        calls.append(lambda b=bucket, f=first, t=last: query_raw(TimelineEntry, b, f, t + 0.5, consistent=True))
    entries: dict[int, Entry] = {}
    for raw in (raw for part in in_parallel(*calls) for raw in part):
        if "." not in raw["pos"]["N"]:
            entry = parse_entry(raw, anchor)
            entries[entry.offset] = entry
        elif (offset := math.floor(float(raw["pos"]["N"]))) in entries:
            entries[offset] = replace(entries[offset], aggregate=parse_aggregate(raw))
    return entries


def write_backfilled(
    transaction: Transaction,
    room_id: str,
    record: NewRecord,
    *,
    arrived: int,
    replaces: str | None,
    redacted_because: Mapping[str, Any] | None,
) -> None:
    """Add the line and the record of a backfilled event, whose record names its place.

    `arrived`: milliseconds. `replaces`: the state event that it took the place of. `redacted_because`: the PDU
    and ID of what redacted it before it came; the event of the record is pruned already.
    """
    if record.position is None or not record.offset or record.state_before is None:
        raise ValueError("a backfilled event has a place and states")
    event = record.event
    after = record.state_after if record.state_after is not None else record.state_before
    line = TimelineEntry(
        *line_of(room_id, record.position, record.offset),
        event_id=event.event_id,
        room_root=after,
        origin="remote",
        arrived=arrived,
        replaces=replaces,
    )
    if "h" not in record.flags:
        line.packed = pack(event.pdu)
    if redacted_because is not None:
        line.redacted_because = pack(redacted_because)
    transaction.put(f"timeline {record.offset}", line)
    write_record(transaction, room_id, record)


def move_gap(transaction: Transaction, room_id: str, anchor: Entry, *, gap: list[str], backfilled: int) -> None:
    """Let the transaction change what is left to fetch for an anchor, which must still be as it was read.

    The label is `anchor`.
    """
    line = TimelineEntry(*line_of(room_id, anchor.position))
    actions: list[Action] = [TimelineEntry.gap.set(gap), TimelineEntry.backfilled.set(backfilled)]
    count = TimelineEntry.backfilled
    unchanged = count == anchor.backfilled if anchor.backfilled else (count.does_not_exist() | (count == 0))
    transaction.update("anchor", line, actions, (TimelineEntry.gap == list(anchor.gap or ())) & unchanged)
