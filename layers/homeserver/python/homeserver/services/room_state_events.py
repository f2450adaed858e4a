"""State events by type: which use case commits them.

Source: client-server API v1.19, "Sending events to a room", `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`.
"""

from homeserver.matrix.event_builder import EventDraft
from homeserver.services.access_tokens import Requester
from homeserver.services.guests import close_to_guests, closes_to_guests
from homeserver.services.membership import set_membership
from homeserver.services.send_event import send_state_event


def set_room_state(requester: Requester, room_id: str, draft: EventDraft) -> str:
    """Commit a state event; returns its ID. Raises what the use case of its type raises."""
    if draft.type == "m.room.member":
        return set_membership(requester, room_id, draft.state_key or "", draft.content)
    if closes_to_guests(draft):
        return close_to_guests(requester, room_id, draft)
    return send_state_event(requester, room_id, draft)
