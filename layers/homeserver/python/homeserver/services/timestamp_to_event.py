"""The event of a room that is closest to a time.

Source: client-server API v1.19, "Getting events for a room", `timestamp_to_event`; server-server API, "Retrieving
events".

A timeline is in the order in which events arrived, and the specification asks for the closest one by
`origin_server_ts`, which any server writes as it likes. So there are two steps. A search over positions, of which each
round looks at nine places at once, narrows the timeline down to about a hundred entries; what counts at a place is the
median of three neighbours, so that a single wrong clock leads nowhere. Then everything within a margin of that place
is read, and the visible event that is closest by `origin_server_ts` wins. An event whose clock was so wrong that it
lies further away than the margin among events of another time is not found. Work: about log10(n / 100) rounds of
27 small reads, one round for what is read whole, and at most `_FURTHER` more where all of that is hidden or lies on
the wrong side of the time.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from homeserver.matrix.errors import NotFound
from homeserver.services.access_tokens import Requester
from homeserver.services.backfill import SECONDS, event_elsewhere, fill_gap, is_placed, lowest_of
from homeserver.services.server_access import check_access
from homeserver.services.server_visibility import reader_for
from homeserver.services.visibility import reader_of
from homeserver.storage.backfilled_timeline import read_backfilled
from homeserver.storage.rooms import RoomView
from homeserver.storage.timeline import Entry, read_entry, read_positions
from homeserver.storage.timestamps import read_timestamps

_PLACES = 9  # that one round of the search looks at
_NARROW = 100  # positions below which the search ends
_MARGIN = 50  # positions that are read on either side of where it ended
_STEP = 100  # positions of each further read
_FURTHER = 5
_MOST_ANCHORS = 3  # among what is read
_CHECKED_FIRST = 10  # of the closest events, before the visibility of all is looked up


class _Reader(Protocol):
    """Who asks: a user of this server, or another server."""

    @property
    def view(self) -> RoomView: ...
    @property
    def last_position(self) -> int: ...
    def visible(self, entries: Sequence[Entry]) -> list[Entry]: ...


def timestamp_to_event(requester: Requester, room_id: str, ts: int, *, backwards: bool) -> dict[str, Any]:
    """`event_id` and `origin_server_ts` of the closest event at `ts` (milliseconds) or after it, or before it.

    Only what the requester may see counts. Where the time may lie in a gap of the history other servers are asked, and
    what lies before it is fetched, for about ten seconds. Raises Forbidden for a room that the requester cannot read,
    NotFound where there is no such event.
    """
    reader = reader_of(requester.user_id, room_id)
    joined = reader.row.joined_since if reader.row is not None else None
    return _Search(reader, ts, backwards, fills=True).event(int(joined or 0))


def timestamp_to_event_for_server(origin: str, room_id: str, ts: int, *, backwards: bool) -> dict[str, Any]:
    """The same for another server, of what is here: nobody else is asked. Raises what `check_access` does, NotFound."""
    reader = reader_for(check_access(room_id, origin), origin)
    joined = reader.row.joined_since if reader.row is not None else None
    return _Search(reader, ts, backwards, fills=False).event(int(joined or 0))


@dataclass(frozen=True, slots=True)
class _Search:
    """A search for the event closest to a time; `fills`: gaps of the history are filled, if that may help."""

    reader: _Reader
    ts: int
    backwards: bool
    fills: bool

    def event(self, joined: int) -> dict[str, Any]:
        """The answer. `joined`: the position from which the reader certainly sees the room. Raises NotFound."""
        room_id, last = self.reader.view.room_id, self.reader.last_position
        low, high = _narrow(partial(read_timestamps, room_id), self.ts, 1, last)
        low, high = max(1, low - _MARGIN), min(last, high + _MARGIN)
        for _ in range(1 + _FURTHER):
            entries = read_positions(room_id, low, high)
            found = self._closest(entries)
            # What was fetched later, or is still to be fetched, lies between positions.
            for anchor in [entry for entry in entries if entry.has_history][:_MOST_ANCHORS]:
                found = self._closer(found, self._in_history(anchor, found))
            if found is not None and found.pdu is not None:
                return {"event_id": found.event_id, "origin_server_ts": found.pdu["origin_server_ts"]}
            if self.backwards:
                low, high = low - _STEP, low - 1
            else:
                # Who came to the room later sees it from there on, at the least.
                low = max(high + 1, joined)
                high = low + _STEP - 1
            low, high = max(1, low), min(last, high)
            if high < low:
                break
        direction = "backward" if self.backwards else "forward"
        raise NotFound(f"There is no event from {self.ts} in {direction} direction.")

    def _in_history(self, anchor: Entry, best: Entry | None) -> Entry | None:
        """The closest event before an anchor; one that is closer than the best so far is fetched, if there is one."""
        view, ts = self.reader.view, self.ts
        found = self._closest_before(anchor)
        lowest = lowest_of(view.room_id, anchor)
        if not self.fills or not anchor.gap or lowest.pdu is None or lowest.pdu["origin_server_ts"] <= ts:
            return found
        deadline = time.monotonic() + SECONDS
        told = event_elsewhere(view, anchor, lowest, ts, backwards=self.backwards, deadline=deadline)
        closest = self._closer(best, found)
        if told is None or (closest is not None and self._distance(closest) <= abs(told.origin_server_ts - ts)):
            return found
        while (left := deadline - time.monotonic()) > 0 and not is_placed(told.event_id):
            filled = fill_gap(view.room_id, anchor.position, seconds=left)
            if not filled.placed or not filled.is_open:
                break
        return self._closest_before(read_entry(view.room_id, anchor.position) or anchor)

    def _closest_before(self, anchor: Entry) -> Entry | None:
        """The closest event among those that were fetched for an anchor."""
        if not anchor.backfilled:
            return None
        room_id, position = self.reader.view.room_id, anchor.position
        low, high = _narrow(partial(read_timestamps, room_id, anchor=position), self.ts, -anchor.backfilled, -1)
        low, high = max(-anchor.backfilled, low - _MARGIN), min(-1, high + _MARGIN)
        entries = read_backfilled(room_id, position, low, high)
        return self._closest([entries[offset] for offset in sorted(entries)])

    def _distance(self, entry: Entry) -> int:
        return abs(int(entry.pdu["origin_server_ts"]) - self.ts) if entry.pdu is not None else 0

    def _closer(self, one: Entry | None, other: Entry | None) -> Entry | None:
        return min((entry for entry in (one, other) if entry is not None), key=self._distance, default=None)

    def _closest(self, entries: Sequence[Entry]) -> Entry | None:
        """The visible entry that is closest to the time, on the right side of it; of equals, the first on the way."""
        by_distance: list[tuple[int, tuple[int, ...], Entry]] = []
        for entry in entries:
            if entry.pdu is not None:
                away = entry.pdu["origin_server_ts"] - self.ts
                if away == 0 or (away < 0) is self.backwards:
                    place = tuple(-number if self.backwards else number for number in entry.place)
                    by_distance.append((abs(away), place, entry))
        ordered = [entry for _, _, entry in sorted(by_distance, key=lambda found: found[:2])]
        for part in (ordered[:_CHECKED_FIRST], ordered[_CHECKED_FIRST:]):
            visible = {entry.place for entry in self.reader.visible(part)}
            for entry in part:
                if entry.place in visible:
                    return entry
        return None


def _narrow(read_clocks: Callable[[Iterable[int]], dict[int, int]], ts: int, low: int, high: int) -> tuple[int, int]:
    """Two places, not far from each other, between which a timeline passes a time."""
    while high - low >= _NARROW:
        places = [low + (high - low) * number // (_PLACES + 1) for number in range(1, _PLACES + 1)]
        read = read_clocks([place + near for place in places for near in (-1, 0, 1)])
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
