"""The rooms that anybody may join or read, in memory: a part of the table of listings that every search needs."""

import time

from homeserver.storage.connection import query_raw
from homeserver.storage.listings import OPEN, Listing

SECONDS = 60  # how old the list may be

_known: tuple[float, frozenset[str]] | None = None


def open_rooms() -> frozenset[str]:
    """The IDs of all rooms that anybody may join or read, at most `SECONDS` old: one Query a MB, then from memory."""
    global _known  # noqa: PLW0603 - one list a process
    known, now = _known, time.monotonic()
    if known is None or now - known[0] > SECONDS:
        items = query_raw(Listing, OPEN, None, None, consistent=False)
        known = _known = (now, frozenset(raw["k"]["S"] for raw in items))
    return known[1]


def forget_open_rooms() -> None:
    """Let the next search read the list anew."""
    global _known  # noqa: PLW0603 - as above
    _known = None
