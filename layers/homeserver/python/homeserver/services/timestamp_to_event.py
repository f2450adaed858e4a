"""The event of a room that is closest to a time.

Source: client-server API v1.19, "Getting events for a room", `timestamp_to_event`.

A timeline is in the order in which events arrived, and the specification asks for the closest one by
`origin_server_ts`, which any server writes as it likes. So there are two steps. A search over positions, of which each
round looks at nine places at once, narrows the timeline down to about a hundred entries; what counts at a place is the
median of three neighbours, so that a single wrong clock leads nowhere. Then everything within a margin of that place
is read, and the visible event that is closest by `origin_server_ts` wins. An event whose clock was so wrong that it
lies further away than the margin among events of another time is not found. Work: about log10(n / 100) rounds of
27 small reads, one round for what is read whole, and at most `_FURTHER` more where all of that is hidden or lies on
the wrong side of the time.
"""

from collections.abc import Sequence
from typing import Any

from homeserver.matrix.errors import NotFound
from homeserver.services.access_tokens import Requester
from homeserver.services.visibility import Reader, reader_of
from homeserver.storage.timeline import Entry, read_positions
from homeserver.storage.timestamps import read_timestamps

_PLACES = 9  # that one round of the search looks at
_NARROW = 100  # positions below which the search ends
_MARGIN = 50  # positions that are read on either side of where it ended
_STEP = 100  # positions of each further read
_FURTHER = 5
_CHECKED_FIRST = 10  # of the closest events, before the visibility of all is looked up


def timestamp_to_event(requester: Requester, room_id: str, ts: int, *, backwards: bool) -> dict[str, Any]:
    """`event_id` and `origin_server_ts` of the closest event at `ts` (milliseconds) or after it, or before it.

    Only what the requester may see counts. Raises Forbidden for a room that the requester cannot read, NotFound where
    there is no such event.
    """
    reader = reader_of(requester.user_id, room_id)
    last = reader.last_position
    low, high = _narrow(room_id, ts, last)
    low, high = max(1, low - _MARGIN), min(last, high + _MARGIN)
    for _ in range(1 + _FURTHER):
        found = _closest(reader, read_positions(room_id, low, high), ts, backwards=backwards)
        if found is not None and found.pdu is not None:
            return {"event_id": found.event_id, "origin_server_ts": found.pdu["origin_server_ts"]}
        if backwards:
            low, high = low - _STEP, low - 1
        else:
            # Who came to the room later sees it from there on, at the least.
            joined = int(reader.row.joined_since or 0) if reader.row is not None else 0
            low = max(high + 1, joined)
            high = low + _STEP - 1
        low, high = max(1, low), min(last, high)
        if high < low:
            break
    direction = "backward" if backwards else "forward"
    raise NotFound(f"There is no event from {ts} in {direction} direction.")


def _narrow(room_id: str, ts: int, last: int) -> tuple[int, int]:
    """Two positions, not far from each other, between which the timeline passes a time."""
    low, high = 1, last
    while high - low >= _NARROW:
        places = [low + (high - low) * number // (_PLACES + 1) for number in range(1, _PLACES + 1)]
        read = read_timestamps(room_id, [place + near for place in places for near in (-1, 0, 1)])
        for place in places:
            clocks = sorted(read[place + near] for near in (-1, 0, 1) if place + near in read)
            if not clocks:  # markers only
                continue
            if clocks[len(clocks) // 2] >= ts:
                high = place
                break
            low = place
        else:
            if low < places[-1]:  # nothing but markers at the end of what was left
                break
    return low, high


def _closest(reader: Reader, entries: Sequence[Entry], ts: int, *, backwards: bool) -> Entry | None:
    """The visible entry that is closest to a time, on the right side of it; of equals, the first on the way."""
    by_distance: list[tuple[int, int, Entry]] = []
    for entry in entries:
        if entry.pdu is not None:
            away = entry.pdu["origin_server_ts"] - ts
            if away == 0 or (away < 0) is backwards:
                by_distance.append((abs(away), -entry.position if backwards else entry.position, entry))
    ordered = [entry for _, _, entry in sorted(by_distance, key=lambda found: found[:2])]
    for part in (ordered[:_CHECKED_FIRST], ordered[_CHECKED_FIRST:]):
        visible = {entry.position for entry in reader.visible(part)}
        for entry in part:
            if entry.position in visible:
                return entry
    return None
