"""Filling the gaps that a reader of a room's history comes to, within one request.

Source: client-server API v1.19, `/messages`; server-server API v1.19, "Backfilling and retrieving missing events".
"""

import time

from homeserver.matrix.sync_token import RoomToken
from homeserver.services.backfill import PAGE, SECONDS, fill_gap
from homeserver.storage.rooms import RoomView
from homeserver.storage.timeline_walk import TimelineWalk

_MOST_FILLS = 5  # of a request: each brings as many events as a page has


class GapFiller:
    """What one request may do about gaps: some pages, and about ten seconds."""

    def __init__(self, view: RoomView) -> None:
        self._view = view
        self._fills = 0
        self._started: float | None = None
        self.passed: RoomToken | None = None  # the place of a gap that was passed unfilled

    def fill(self, walk: TimelineWalk, *, is_empty: bool) -> bool:
        """Fetch history where a walk stopped at an open gap; whether it is worth reading on.

        A gap that nobody can fill now is where the answer ends. One that the answer begins with (`is_empty`) is
        passed, if there is something behind it: else nobody would ever get there.
        """
        if walk.gap is None or not int(self._view.head.local_members):
            return self._pass(walk, is_empty=is_empty)
        self._started = self._started or time.monotonic()
        left = self._started + SECONDS - time.monotonic()
        if self._fills >= _MOST_FILLS or left <= 0:
            return False
        self._fills += 1
        filled = fill_gap(walk.room_id, walk.gap.position, PAGE, seconds=left)
        walk.read_anchor_again()
        if filled.placed or not filled.is_open:
            return True
        return self._pass(walk, is_empty=is_empty)

    def _pass(self, walk: TimelineWalk, *, is_empty: bool) -> bool:
        if walk.gap is None or not is_empty or walk.gap.position <= 1:
            return False
        self.passed = walk.at
        walk.skip_gap()
        return not walk.is_over
