"""Looking into a room without syncing it: a snapshot, and an event of which the room is not known.

Source: client-server API v1.19, "Room Previews", `GET /_matrix/client/v3/rooms/{roomId}/initialSync`; "Getting events
for a room" (deprecated), `GET /_matrix/client/v3/events/{eventId}`.
"""

from typing import Any

from homeserver.matrix.errors import NotFound
from homeserver.matrix.identifiers import is_event_id
from homeserver.services import history, room_state
from homeserver.services.access_tokens import Requester
from homeserver.services.visibility import reader_of
from homeserver.storage import user_data
from homeserver.storage.room_items import EventRecord
from homeserver.storage.room_previews import published_among

_MEMBERSHIPS = frozenset({"invite", "join", "leave", "ban"})


def room_initial_sync(requester: Requester, room_id: str, *, limit: int) -> dict[str, Any]:
    """One room as `/initialSync` tells it, also to who may only look into it.

    Raises InvalidParam for what is no room ID; Forbidden for a room that is not open to the world and that the user
    was never in, or has forgotten.
    """
    reader = reader_of(requester.user_id, room_id)
    page = history.messages(requester, room_id, history.PageQuery(backwards=True, limit=limit))
    messages = {"chunk": page["chunk"][::-1], "end": page["start"]}
    if "end" in page:
        messages["start"] = page["end"]
    room: dict[str, Any] = {
        "room_id": room_id,
        "messages": messages,
        "state": room_state.room_state(requester, room_id),
        "visibility": "public" if published_among([room_id]) else "private",
        "account_data": [
            {"type": data.type, "content": data.content} for data in user_data.of_room(requester.user_id, room_id)
        ],
    }
    if reader.row is not None and reader.row.membership in _MEMBERSHIPS:
        room["membership"] = reader.row.membership
    return room


def event_by_id(requester: Requester, event_id: str) -> dict[str, Any]:
    """An event of whatever room. Raises NotFound for one that does not exist or that the requester may not see."""
    record = EventRecord.fetch(event_id) if is_event_id(event_id) else None
    if record is None or record.room is None:
        raise NotFound("There is no such event.")
    return history.event(requester, record.room, event_id)
