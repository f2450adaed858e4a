"""What the clocks of senders said at single positions of a timeline."""

from collections.abc import Iterable

from homeserver.matrix.event_codec import unpack
from homeserver.storage.connection import batch_get_raw
from homeserver.storage.room_items import TimelineEntry, line_of


def read_timestamps(room_id: str, positions: Iterable[int], *, anchor: int | None = None) -> dict[int, int]:
    """The `origin_server_ts` (milliseconds) of the events at these positions, in one round per 100.

    With `anchor` they are offsets before that position, and below 0. Markers, and positions that cannot be read yet,
    are left out: the reads are eventual, as what they find is only where to look more closely.
    """
    keys = [line_of(room_id, n) if anchor is None else line_of(room_id, anchor, n) for n in positions if n]
    found = batch_get_raw(TimelineEntry, keys, consistent=False)
    return {
        int(position): unpack(row["j"]["B"])["origin_server_ts"] for (_, position), row in found.items() if "j" in row
    }
