"""The client API of the 2014 draft, its reading half. Each endpoint is the one of today in the draft's words.

Not here: the stream, which `client_sync` serves; what fetches history from other servers, which `client_history` does.

Source: `docs/legacy.md`.
"""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.identifiers import domain_of
from homeserver.services import draft_reading, profile, remote_aliases
from homeserver.services.draft_directory import MOST_ROOMS, draft_public_rooms
from homeserver.settings import settings
from homeserver.web.authentication import authenticate, authenticate_if_given
from homeserver.web.requests import (
    json_response,
    query,
    query_integer,
    source_address,
)
from homeserver.web.routing import LEGACY, Router

router = Router()
_ROOM = "/{version}/rooms/{room_id}"


@router.get("/{version}/events/{event_id...}", LEGACY)
def event(request: Request, event_id: str) -> Response:
    """GET /events/{eventId}"""
    return json_response(draft_reading.draft_event(authenticate(request), event_id))


@router.get(_ROOM + "/members", LEGACY)
def members(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/members"""
    return json_response(draft_reading.draft_members(authenticate(request), room_id))


@router.get(_ROOM + "/state", LEGACY)
def state(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/state"""
    return json_response(draft_reading.draft_state(authenticate(request), room_id))


@router.get(_ROOM + "/state/{event_type}", LEGACY)
@router.get(_ROOM + "/state/{event_type}/", LEGACY)
@router.get(_ROOM + "/state/{event_type}/{state_key...}", LEGACY)
def state_event(request: Request, room_id: str, event_type: str, state_key: str = "") -> Response:
    """GET /rooms/{roomId}/state/{eventType}/{stateKey}"""
    requester = authenticate(request)
    return json_response(draft_reading.draft_state_content(requester, room_id, event_type, state_key))


@router.get("/{version}/publicRooms", LEGACY)
def public_rooms(request: Request) -> Response:
    """GET /publicRooms"""
    limit = query_integer(request, "limit", MOST_ROOMS, minimum=1, maximum=MOST_ROOMS)
    return json_response(draft_public_rooms(limit=limit, start=query(request, "from")))


@router.get("/{version}/directory/room/{alias...}", LEGACY)
def alias(request: Request, alias: str) -> Response:
    """GET /directory/room/{roomAlias}"""
    room = remote_aliases.room_of_any_alias(alias, asked_from=source_address(request))
    return json_response({"room_id": room.room_id, "servers": remote_aliases.servers_of(room)})


@router.get("/{version}/profile/{user_id}/displayname", LEGACY)
def displayname(request: Request, user_id: str) -> Response:
    """GET /profile/{userId}/displayname"""
    return _profile_field(request, user_id, "displayname")


@router.get("/{version}/profile/{user_id}/avatar_url", LEGACY)
def avatar_url(request: Request, user_id: str) -> Response:
    """GET /profile/{userId}/avatar_url"""
    return _profile_field(request, user_id, "avatar_url")


@router.get("/{version}/profile/{user_id...}", LEGACY)
def whole_profile(request: Request, user_id: str) -> Response:
    """GET /profile/{userId}"""
    return json_response(profile.get_draft_profile(user_id, ask_others=_may_ask_others(request, user_id)))


def _profile_field(request: Request, user_id: str, name: str) -> Response:
    found = profile.get_draft_profile_field(user_id, name, ask_others=_may_ask_others(request, user_id))
    return json_response({name: found})


def _may_ask_others(request: Request, user_id: str) -> bool:
    """A stranger shall not make this server ask others; profiles of its own users it tells everybody."""
    return domain_of(user_id) != settings().server_name and authenticate_if_given(request) is not None
