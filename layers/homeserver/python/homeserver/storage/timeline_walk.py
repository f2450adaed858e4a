"""Walking along a room's timeline, through what was backfilled before its anchors too, a page at a time.

In a part of the timeline without anchors a page is one Query, and nothing else is read. A token `(live, -1)` stands
before a position that may be an anchor: so that position is read along with those before it.
"""

from dataclasses import dataclass

from homeserver.matrix.sync_token import RoomToken
from homeserver.storage.backfilled_timeline import read_backfilled
from homeserver.storage.timeline import Entry, read_entry, read_positions


@dataclass(slots=True)
class TimelineWalk:
    """A place in a room's timeline that moves from `at` to `stop`.

    `gap` is the anchor that a backward walk has come to whose history is still to be fetched, if there is one: it goes
    no further by itself.
    """

    room_id: str
    at: RoomToken
    stop: RoomToken
    backwards: bool
    gap: Entry | None = None
    _anchor: Entry | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left before the end of the walk."""
        return self.at <= self.stop if self.backwards else self.at >= self.stop

    def read(self, size: int) -> list[Entry]:
        """About as many entries from here on, in the direction of the walk; fewer where a stretch of history ends.

        The place does not move: `move_past` does that. None at the end of the walk, at an open gap (`gap`), and where
        something cannot be read yet.
        """
        self.gap = None
        if self.is_over:
            return []
        return self._read_back(size) if self.backwards else self._read_on(size)

    def move_past(self, entry: Entry) -> None:
        """Move to behind an entry of the page that was read last."""
        if not self.backwards:
            self.at = RoomToken(*entry.place)
        elif entry.has_history:
            self.at, self._anchor = RoomToken.before(entry.position), entry
        elif not entry.offset or self._is_first(entry):
            self.at = RoomToken(entry.position - 1)
        else:
            self.at = RoomToken.before(*entry.place)

    def read_anchor_again(self) -> None:
        """Go by the anchor as it is now: something may have been fetched for it."""
        self._anchor = None

    def skip_gap(self) -> None:
        """Go on at what lies before the position, although something may be missing in between."""
        self.at = RoomToken(self.at.live - 1)

    def _is_first(self, entry: Entry) -> bool:
        """Whether there is no history before an entry that was backfilled, and never will be."""
        anchor = self._anchor
        return anchor is not None and not anchor.gap and entry.offset <= -anchor.backfilled

    def _anchor_here(self) -> Entry | None:
        """The entry at the place's live position, if it is an anchor."""
        live = self.at.live
        if self._anchor is None or self._anchor.position != live:
            self._anchor = read_entry(self.room_id, live)
        return self._anchor if self._anchor is not None and self._anchor.has_history else None

    # ── Backwards ────────────────────────────────────────────────────────────

    def _read_back(self, size: int) -> list[Entry]:
        live, offset = self.at.live, self.at.offset
        if offset < -1 or (offset and self._anchor is not None and self._anchor.position == live):
            return self._history_back(size)
        lowest = self.stop.live + 1 if self.stop.offset == 0 else self.stop.live
        # The position that the place stands before is read only to see if it is an anchor.
        entries = read_positions(self.room_id, min(max(live - size + (not offset), lowest), live), live)
        if offset and entries and entries[-1].position == live:
            top = entries.pop()
            if top.has_history:
                self._anchor = top
                return self._history_back(size)
            self.skip_gap()  # it is none, so the place is the same as behind the position before
        page: list[Entry] = []
        for entry in reversed(entries):
            if RoomToken(*entry.place) <= self.stop:
                break
            page.append(entry)
            if entry.has_history:
                break
        return page

    def _history_back(self, size: int) -> list[Entry]:
        anchor = self._anchor_here()
        if anchor is None:
            self.skip_gap()  # the token names a place that never was
            return self.read(size)
        low = max(self.at.offset - size + 1, -anchor.backfilled)
        if self.stop.live == self.at.live:
            low = max(low, self.stop.offset + 1)
        found = read_backfilled(self.room_id, self.at.live, low, self.at.offset)
        page = []
        for offset in range(self.at.offset, low - 1, -1):
            if offset not in found:
                break
            page.append(found[offset])
        if not page and -self.at.offset > anchor.backfilled:
            if not anchor.gap:
                self.skip_gap()
                return self.read(size)
            self.gap = anchor
        return page

    # ── Forwards ─────────────────────────────────────────────────────────────

    def _read_on(self, size: int) -> list[Entry]:
        live, offset = self.at.live, self.at.offset
        if offset < -1:
            return self._history_on(size)
        first = live if offset else live + 1
        highest = self.stop.live if self.stop.offset == 0 else self.stop.live - 1
        page: list[Entry] = []
        for entry in read_positions(self.room_id, first, min(first + size - 1, highest)):
            if entry.backfilled and entry.has_history and not (offset and entry.position == live):
                if page:
                    break
                self._anchor, self.at = entry, RoomToken.before(entry.position, -entry.backfilled)
                return self._history_on(size)
            page.append(entry)
        if not page and first > highest and self.stop.offset < -1:
            self.at = RoomToken(self.stop.live, -(10**17))  # before all that there may be
            return self._history_on(size)
        return page

    def _history_on(self, size: int) -> list[Entry]:
        anchor = self._anchor_here()
        if anchor is not None and anchor.backfilled:
            low = max(self.at.offset + 1, -anchor.backfilled)
            high = min(low + size - 1, -1)
            if self.stop.live == self.at.live and self.stop.offset:
                high = min(high, self.stop.offset)
            found = read_backfilled(self.room_id, self.at.live, low, high)
            page = []
            for offset in range(low, high + 1):
                if offset not in found:
                    break
                page.append(found[offset])
            if page or low <= high:
                return page
        self.at = RoomToken.before(self.at.live)
        return self.read(size)
