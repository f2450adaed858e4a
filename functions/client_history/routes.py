"""`GET /rooms/...`: messages, single events, context, state, members.

Source: client-server API v1.19, "Getting events for a room", "Event context".
"""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.canonical_json import parse_json
from homeserver.matrix.errors import InvalidParam, NotJson
from homeserver.matrix.filters import RoomEventFilter, parse_room_event_filter
from homeserver.services import history, room_state
from homeserver.web.authentication import authenticate
from homeserver.web.requests import json_response, query, query_choice, query_integer
from homeserver.web.routing import Router

router = Router()
_ROOM = "/_matrix/client/{version}/rooms/{room_id}"
_MEMBERSHIPS = ("join", "invite", "leave", "ban", "knock")


def _filter(request: Request) -> RoomEventFilter:
    text = query(request, "filter")
    if text is None:
        return parse_room_event_filter({})
    try:
        return parse_room_event_filter(parse_json(text.encode()))
    except (NotJson, UnicodeEncodeError) as error:
        raise InvalidParam("filter is not JSON.") from error


@router.get(_ROOM + "/messages")
def messages(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/messages"""
    requester = authenticate(request)
    event_filter = _filter(request)
    return json_response(
        history.messages(
            requester,
            room_id,
            backwards=history.parse_direction(query(request, "dir")),
            start=query(request, "from"),
            stop=query(request, "to"),
            limit=query_integer(request, "limit", history.DEFAULT_LIMIT, minimum=1, maximum=history.MAX_LIMIT),
            event_filter=event_filter,
        )
    )


@router.get(_ROOM + "/event/{event_id...}")
def event(request: Request, room_id: str, event_id: str) -> Response:
    """GET /rooms/{roomId}/event/{eventId}"""
    return json_response(history.event(authenticate(request), room_id, event_id))


@router.get(_ROOM + "/context/{event_id...}")
def context(request: Request, room_id: str, event_id: str) -> Response:
    """GET /rooms/{roomId}/context/{eventId}"""
    requester = authenticate(request)
    limit = query_integer(request, "limit", history.DEFAULT_LIMIT, maximum=history.MAX_LIMIT)
    return json_response(history.context(requester, room_id, event_id, limit=limit, event_filter=_filter(request)))


@router.get(_ROOM + "/state")
def state(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/state"""
    return json_response(room_state.room_state(authenticate(request), room_id))


@router.get(_ROOM + "/state/{event_type}")
@router.get(_ROOM + "/state/{event_type}/")
@router.get(_ROOM + "/state/{event_type}/{state_key...}")
def state_event(request: Request, room_id: str, event_type: str, state_key: str = "") -> Response:
    """GET /rooms/{roomId}/state/{eventType}/{stateKey}"""
    requester = authenticate(request)
    found = room_state.state_event(requester, room_id, event_type, state_key)
    whole = query_choice(request, "format", ("content", "event")) == "event"
    return json_response(found if whole else found["content"])


@router.get(_ROOM + "/members")
def members(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/members"""
    requester = authenticate(request)
    chunk = room_state.members(
        requester,
        room_id,
        at=query(request, "at"),
        membership=query_choice(request, "membership", _MEMBERSHIPS),
        not_membership=query_choice(request, "not_membership", _MEMBERSHIPS),
    )
    return json_response({"chunk": chunk})


@router.get(_ROOM + "/joined_members")
def joined_members(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/joined_members"""
    return json_response({"joined": room_state.joined_members(authenticate(request), room_id)})
