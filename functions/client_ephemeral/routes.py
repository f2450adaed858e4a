"""Typing, receipts and read markers: what is told in a room without being an event.

Source: client-server API v1.19, "Typing Notifications", "Receipts", "Read Markers".
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import InvalidParam
from homeserver.services.read_markers import FULLY_READ, set_fully_read, set_read_markers
from homeserver.services.receipts import KINDS, send_receipt
from homeserver.services.typing import set_typing
from homeserver.web.authentication import authenticate
from homeserver.web.requests import field, json_object, json_response
from homeserver.web.routing import Router

router = Router()


@router.put("/_matrix/client/{version}/rooms/{room_id}/typing/{user_id...}")
def put_typing(request: Request, room_id: str, user_id: str) -> Response:
    """PUT /rooms/{roomId}/typing/{userId}"""
    requester = authenticate(request)
    body = json_object(request)
    typing = field(body, "typing", bool, required=True)
    timeout = field(body, "timeout", int) if typing else None
    set_typing(requester, room_id, user_id, typing=typing, timeout_ms=timeout)
    return json_response({})


@router.post("/_matrix/client/{version}/rooms/{room_id}/receipt/{receipt_type}/{event_id...}")
def post_receipt(request: Request, room_id: str, receipt_type: str, event_id: str) -> Response:
    """POST /rooms/{roomId}/receipt/{receiptType}/{eventId}"""
    requester = authenticate(request)
    thread = _thread(json_object(request))
    if receipt_type == FULLY_READ:
        set_fully_read(requester, room_id, event_id, thread)
    else:
        send_receipt(requester, room_id, receipt_type, event_id, thread)
    return json_response({})


def _thread(body: dict[str, Any]) -> str | None:
    thread = body.get("thread_id")
    if thread is None:
        return None  # null means the same: matrix-nio sends it with every receipt that is in no thread
    if not isinstance(thread, str) or not thread:
        raise InvalidParam("thread_id must be a string that is not empty.")
    return thread


@router.post("/_matrix/client/{version}/rooms/{room_id}/read_markers")
def post_read_markers(request: Request, room_id: str) -> Response:
    """POST /rooms/{roomId}/read_markers"""
    requester = authenticate(request)
    body = json_object(request)
    named = {kind: field(body, kind, str) for kind in (FULLY_READ, *KINDS)}
    set_read_markers(requester, room_id, {kind: event_id for kind, event_id in named.items() if event_id is not None})
    return json_response({})
