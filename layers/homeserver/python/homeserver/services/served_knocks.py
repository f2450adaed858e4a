"""Users of other servers knock at a room through this server.

Source: server-server API v1.19, "Knocking upon a room".
"""

from collections.abc import Collection
from typing import Any

from homeserver.matrix.client_event import STRIPPED_STATE_TYPES
from homeserver.matrix.event_builder import EventDraft
from homeserver.services.send_event import keys_for
from homeserver.services.served_events import pdu_of
from homeserver.services.served_handshakes import (
    Handshake,
    check_event_id,
    check_is_of,
    check_version,
    known_record,
    open_room,
    record_of,
    returned_event,
    take_in,
    template,
)
from homeserver.storage.room_items import EventRecord

_SHOWN = [(event_type, "") for event_type in STRIPPED_STATE_TYPES]


def make_knock(origin: str, room_id: str, user_id: str, versions: Collection[str]) -> dict[str, Any]:
    """The body of `GET /make_knock/{roomId}/{userId}`; `versions`: the room versions that the other server knows.

    Raises as `open_room`, `check_is_of` and `check_version` do, and AuthRuleViolation where the room is not to be
    knocked at, and for members, invited and banned users.
    """
    check_is_of(user_id, origin)
    draft = EventDraft("m.room.member", {"membership": "knock"}, user_id)
    view = open_room(room_id, origin, keys_for(draft, user_id))
    check_version(view, versions)
    return template(view, draft, user_id)


def send_knock(origin: str, room_id: str, event_id: str, pdu: Any) -> dict[str, Any]:
    """Take in the knock that `PUT /send_knock/{roomId}/{eventId}` brings; the body of the answer.

    What it tells of the room are whole events, as the room has them now. Repeating it changes nothing. Raises as
    `open_room` and `returned_event` do, Forbidden where the room refuses the knock.
    """
    check_event_id(event_id)
    view = open_room(room_id, origin, _SHOWN, [(EventRecord, event_id, None)])
    event, _ = returned_event(Handshake("knock", origin, room_id, event_id), view.rules, pdu)
    if known_record(view, event_id) is None:
        take_in(event)
        record_of(event)
    shown = [view.event(*key) for key in _SHOWN]
    return {"knock_room_state": [pdu_of(event.pdu) for event in shown if event is not None]}
