"""What a backfilled state event replaced: it is looked up when it is shown, so that no copy of it has to be pruned.

Source: client-server API v1.19, "Room event format", `unsigned.prev_content`.
"""

from collections.abc import Sequence
from dataclasses import replace

from homeserver.services.visibility import Reader
from homeserver.storage.rooms import fetch_state_events
from homeserver.storage.timeline import Entry


def with_previous(reader: Reader, entries: Sequence[Entry]) -> list[Entry]:
    """The entries, the backfilled ones among them with what they replaced: one round, if there are such."""
    wanted = {entry.replaces for entry in entries if entry.offset and entry.replaces is not None}
    if not wanted:
        return list(entries)
    view = reader.view
    found = fetch_state_events(view.room_id, wanted, view.rules, consistent=True)
    return [
        replace(entry, previous=found[entry.replaces].event.content)
        if entry.offset and entry.replaces in found
        else entry
        for entry in entries
    ]
