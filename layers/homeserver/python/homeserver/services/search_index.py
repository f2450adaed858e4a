"""Candidates of a search in a room: from the index where there is one, else from the timeline, which makes the index.

A bucket of the timeline (100 positions) that is complete is indexed when a search comes by for the first time; what is
newer is read as it is. So rooms in which nobody searches cost nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from homeserver.matrix.search_postings import build_postings, find_texts
from homeserver.matrix.search_terms import SearchTerm, index_terms
from homeserver.storage import search_index
from homeserver.storage.connection import in_parallel
from homeserver.storage.room_items import BUCKET_POSITIONS
from homeserver.storage.search_index import NOTHING_STORED, StoredBucket, bucket_number
from homeserver.storage.timeline import Entry, read_positions

# Source: client-server API v1.19, "Server Side Search": the keys that are searched, each of one type of event.
SEARCHED = {
    "m.room.message": "content.body",
    "m.room.name": "content.name",
    "m.room.topic": "content.topic",
}


def searched_text(pdu: Mapping[str, Any]) -> str | None:
    """The text of an event that a search looks at; None for all others, for redacted and encrypted ones too."""
    key = SEARCHED.get(pdu["type"])
    text = pdu["content"].get(key.removeprefix("content.")) if key is not None else None
    return text if isinstance(text, str) else None


@dataclass(slots=True)
class Candidates:
    """What may match among positions from `low` up: positions, descending; entries that were read on the way.

    `started` is when the entry at `low` arrived (milliseconds); `built` how many buckets had to be read whole.
    """

    low: int
    started: int
    positions: list[int]
    entries: dict[int, Entry] = field(default_factory=dict)
    built: int = 0


def find_candidates(
    room_id: str, term: SearchTerm, position: int, *, buckets: int, last_position: int, epoch: int
) -> Candidates:
    """The candidates from a position down through so many buckets of the timeline.

    `last_position` is the last one that the room has: the bucket above it is not complete. One Query for the index and
    one round for the buckets that have none, whose index is stored.
    """
    high = bucket_number(position)
    low = max(0, high - buckets + 1)
    complete = bucket_number(last_position + 1)  # buckets below this one are
    numbers = range(low, high + 1)
    stored: dict[int, StoredBucket] = {}
    if low < complete:
        stored = search_index.read_buckets(room_id, low, min(high, complete - 1), epoch)
    missing = [n for n in numbers if n >= complete or (n not in stored or stored[n].postings is None)]
    jobs = [
        partial(
            _read,
            room_id,
            number,
            term,
            based_on=stored.get(number, NOTHING_STORED) if number < complete else None,
            epoch=epoch,
        )
        for number in missing
    ]
    read = dict(zip(missing, in_parallel(*jobs), strict=True))
    result = Candidates(low * BUCKET_POSITIONS + 1, 0, [], built=len(missing))
    for number in reversed(numbers):
        first = number * BUCKET_POSITIONS + 1
        if number in read:
            bucket = read[number]
            result.entries.update(bucket.entries)
            found, started = bucket.found, bucket.started
        else:
            found, started = find_texts(stored[number].postings or b"", term.terms), stored[number].started
        result.positions += [first + n for n in reversed(found) if first + n <= position]
        result.started = started
    return result


@dataclass(frozen=True, slots=True)
class _Read:
    """A bucket that was read whole: which of its entries may match, by their place in it."""

    found: list[int]
    started: int
    entries: dict[int, Entry]


def _read(room_id: str, number: int, term: SearchTerm, *, based_on: StoredBucket | None, epoch: int) -> _Read:
    first = number * BUCKET_POSITIONS + 1
    entries = read_positions(room_id, first, first + BUCKET_POSITIONS - 1)
    terms = {}
    for entry in entries:
        text = searched_text(entry.pdu) if entry.pdu is not None else None
        if text is not None:
            terms[entry.position - first] = index_terms(text)
    started = entries[0].arrived if entries else 0
    if based_on is not None and len(entries) == BUCKET_POSITIONS:
        search_index.store_bucket(
            room_id,
            number,
            postings=build_postings(terms),
            started=started,
            epoch=epoch,
            changes=based_on.changes,
        )
    wanted = term.terms
    found = [place for place, having in terms.items() if wanted <= having]
    return _Read(found, started, {entry.position: entry for entry in entries if entry.position - first in set(found)})
