"""`PUT /rooms/...`: send, state, redact.

Source: client-server API v1.19, "Sending events to a room", "Redactions".
"""

import re

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.event_builder import EventDraft
from homeserver.services.room_state_events import set_room_state
from homeserver.services.send_event import redact, send_message_event
from homeserver.web.authentication import authenticate
from homeserver.web.requests import field, json_object, json_response
from homeserver.web.routing import Router

router = Router()
_EVENT_ID_OF_HASH = re.compile(r"(\$[A-Za-z0-9+/_-]{43})/(.*)\Z", re.DOTALL)


@router.put("/_matrix/client/{version}/rooms/{room_id}/send/{event_type}/{txn_id...}")
def send_message(request: Request, room_id: str, event_type: str, txn_id: str) -> Response:
    """PUT /rooms/{roomId}/send/{eventType}/{txnId}"""
    requester = authenticate(request)
    event_id = send_message_event(requester, room_id, EventDraft(event_type, json_object(request)), txn_id)
    return json_response({"event_id": event_id})


@router.put("/_matrix/client/{version}/rooms/{room_id}/state/{event_type}")
@router.put("/_matrix/client/{version}/rooms/{room_id}/state/{event_type}/")
@router.put("/_matrix/client/{version}/rooms/{room_id}/state/{event_type}/{state_key...}")
def set_state(request: Request, room_id: str, event_type: str, state_key: str = "") -> Response:
    """PUT /rooms/{roomId}/state/{eventType}/{stateKey}"""
    requester = authenticate(request)
    draft = EventDraft(event_type, json_object(request), state_key)
    return json_response({"event_id": set_room_state(requester, room_id, draft)})


@router.put("/_matrix/client/{version}/rooms/{room_id}/redact/{event_id}/{txn_id...}")
def redact_event(request: Request, room_id: str, event_id: str, txn_id: str) -> Response:
    """PUT /rooms/{roomId}/redact/{eventId}/{txnId}"""
    requester = authenticate(request)
    content = json_object(request)
    field(content, "reason", str)
    # Event IDs of room version 3 may have slashes, which arrive decoded; they are 43 characters long.
    if whole := _EVENT_ID_OF_HASH.match(f"{event_id}/{txn_id}"):
        event_id, txn_id = whole[1], whole[2]
    return json_response({"event_id": redact(requester, room_id, event_id, content, txn_id)})
