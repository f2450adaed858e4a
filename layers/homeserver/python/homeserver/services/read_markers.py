"""The marker up to which a user has read everything, and the receipts that come with it.

Source: client-server API v1.19, "Read Markers": `m.fully_read` in the room's account data.
"""

from typing import Any

from homeserver.matrix.errors import InvalidParam
from homeserver.services.access_tokens import Requester
from homeserver.services.account_data import change_account_data
from homeserver.services.read_events import find_events
from homeserver.services.receipts import KINDS, send_receipt
from homeserver.storage.connection import batch_get
from homeserver.storage.room_items import EventRecord

FULLY_READ = "m.fully_read"


def set_read_markers(requester: Requester, room_id: str, markers: dict[str, str]) -> None:
    """Move the marker `m.fully_read` and unthreaded receipts forward to events, by their type; unknown types are left.

    Nothing is moved unless all events are there. Raises as `send_receipt` does.
    """
    events = {kind: markers[kind] for kind in (FULLY_READ, *KINDS) if kind in markers}
    positions = find_events(requester, room_id, events.values()).positions
    if FULLY_READ in events:
        _move_marker(requester, room_id, events[FULLY_READ], positions[events[FULLY_READ]])
    for kind in KINDS:
        if kind in events:
            send_receipt(requester, room_id, kind, events[kind])


def set_fully_read(requester: Requester, room_id: str, event_id: str, thread: object = None) -> None:
    """Move the marker `m.fully_read` forward to an event. Raises as `send_receipt`; InvalidParam for any thread."""
    if thread is not None:
        raise InvalidParam("A thread has no m.fully_read marker of its own.")
    set_read_markers(requester, room_id, {FULLY_READ: event_id})


def _move_marker(requester: Requester, room_id: str, event_id: str, position: int) -> None:
    def forward(old: dict[str, Any]) -> dict[str, Any] | None:
        current = old.get("event_id")
        if current is not None:
            key = (EventRecord, current, None)
            record = batch_get([key], consistent=True).get(key)
            if record is not None and record.room == room_id and record.position is not None:
                read = int(record.position) - 1 if record.offset else int(record.position)
                if read >= position:
                    return None
        return {"event_id": event_id}

    change_account_data(requester.user_id, room_id, FULLY_READ, forward)
