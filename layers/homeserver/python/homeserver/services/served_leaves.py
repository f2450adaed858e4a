"""Users of other servers leave a room, reject an invitation or take a knock back through this server.

Source: server-server API v1.19, "Leaving Rooms (Rejecting Invites)".
"""

from typing import Any

from homeserver.matrix.event_builder import EventDraft
from homeserver.services.send_event import keys_for
from homeserver.services.served_handshakes import (
    Handshake,
    check_event_id,
    check_is_of,
    known_record,
    open_room,
    record_of,
    returned_event,
    take_in,
    template,
)
from homeserver.storage.room_items import EventRecord


def make_leave(origin: str, room_id: str, user_id: str) -> dict[str, Any]:
    """The body of `GET /make_leave/{roomId}/{userId}`.

    Raises as `open_room` and `check_is_of` do, and AuthRuleViolation for who is neither in the room, invited nor
    knocking.
    """
    check_is_of(user_id, origin)
    draft = EventDraft("m.room.member", {"membership": "leave"}, user_id)
    return template(open_room(room_id, origin, keys_for(draft, user_id)), draft, user_id)


def send_leave(origin: str, room_id: str, event_id: str, pdu: Any) -> None:
    """Take in the leave that `PUT /send_leave/{roomId}/{eventId}` brings. Repeating it changes nothing.

    Raises as `open_room` and `returned_event` do, Forbidden where the room refuses the leave.
    """
    check_event_id(event_id)
    view = open_room(room_id, origin, extras=[(EventRecord, event_id, None)])
    event, _ = returned_event(Handshake("leave", origin, room_id, event_id), view.rules, pdu)
    if known_record(view, event_id) is None:
        take_in(event)
        record_of(event)
