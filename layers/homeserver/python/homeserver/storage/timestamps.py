"""What the clocks of senders said at single positions of a timeline."""

from collections.abc import Iterable

from homeserver.matrix.event_codec import unpack
from homeserver.storage.connection import batch_get_raw
from homeserver.storage.room_items import TimelineEntry, bucket_of


def read_timestamps(room_id: str, positions: Iterable[int]) -> dict[int, int]:
    """The `origin_server_ts` (milliseconds) of the events at these positions, in one round per 100.

    Markers, and positions that cannot be read yet, are left out: the reads are eventual, as what they find is only
    where to look more closely.
    """
    keys = [(bucket_of(room_id, position), position) for position in positions]
    found = batch_get_raw(TimelineEntry, keys, consistent=False)
    return {
        int(position): unpack(row["j"]["B"])["origin_server_ts"] for (_, position), row in found.items() if "j" in row
    }
