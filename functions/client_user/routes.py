"""Endpoints of profiles, account data, tags and filters."""

import orjson
from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.identifiers import domain_of
from homeserver.services import account_data, filters, openid, profile, tags
from homeserver.settings import settings
from homeserver.web.authentication import authenticate, authenticate_if_given
from homeserver.web.requests import json_object, json_response
from homeserver.web.routing import Router

router = Router()


@router.get("/_matrix/client/{version}/profile/{user_id}/{key_name}")
def get_profile_field(request: Request, user_id: str, key_name: str) -> Response:
    """GET /profile/{userId}/{keyName} — "Get a profile field for a user"."""
    if ":" not in user_id:
        # The user ID of a whole profile, with a slash in it: it arrives as two segments.
        return get_profile(request, f"{user_id}/{key_name}")
    ask_others = _may_ask_others(request, user_id)
    return json_response({key_name: profile.get_profile_field(user_id, key_name, ask_others=ask_others)})


@router.get("/_matrix/client/{version}/profile/{user_id...}")
def get_profile(request: Request, user_id: str) -> Response:
    """GET /profile/{userId} — "Get all profile information for a user"."""
    return json_response(profile.get_profile(user_id, ask_others=_may_ask_others(request, user_id)))


def _may_ask_others(request: Request, user_id: str) -> bool:
    """A stranger shall not make this server ask others; profiles of its own users it tells everybody."""
    return domain_of(user_id) != settings().server_name and authenticate_if_given(request) is not None


@router.put("/_matrix/client/{version}/profile/{user_id}/{key_name}")
def set_profile_field(request: Request, user_id: str, key_name: str) -> Response:
    """PUT /profile/{userId}/{keyName} — "Set a profile field for a user"."""
    requester = authenticate(request)
    profile.set_profile_field(requester, user_id, key_name, json_object(request))
    return json_response({})


@router.delete("/_matrix/client/{version}/profile/{user_id}/{key_name}")
def delete_profile_field(request: Request, user_id: str, key_name: str) -> Response:
    """DELETE /profile/{userId}/{keyName} — "Remove a profile field from a user"."""
    profile.delete_profile_field(authenticate(request), user_id, key_name)
    return json_response({})


@router.get("/_matrix/client/{version}/user/{user_id}/account_data/{data_type...}")
def get_account_data(request: Request, user_id: str, data_type: str) -> Response:
    """GET /user/{userId}/account_data/{type} — "Get some account data for the user"."""
    stored = account_data.get_account_data(authenticate(request), user_id, data_type)
    return json_response(orjson.Fragment(stored.content_json))


@router.put("/_matrix/client/{version}/user/{user_id}/account_data/{data_type...}")
def set_account_data(request: Request, user_id: str, data_type: str) -> Response:
    """PUT /user/{userId}/account_data/{type} — "Set some account data for the user"."""
    requester = authenticate(request)
    account_data.set_account_data(requester, user_id, data_type, json_object(request))
    return json_response({})


@router.get("/_matrix/client/{version}/user/{user_id}/rooms/{room_id}/account_data/{data_type...}")
def get_room_account_data(request: Request, user_id: str, room_id: str, data_type: str) -> Response:
    """GET /user/{userId}/rooms/{roomId}/account_data/{type} — "Get some account data ... specific to a room"."""
    stored = account_data.get_account_data(authenticate(request), user_id, data_type, room_id=room_id)
    return json_response(orjson.Fragment(stored.content_json))


@router.put("/_matrix/client/{version}/user/{user_id}/rooms/{room_id}/account_data/{data_type...}")
def set_room_account_data(request: Request, user_id: str, room_id: str, data_type: str) -> Response:
    """PUT /user/{userId}/rooms/{roomId}/account_data/{type} — "Set some account data ... specific to a room"."""
    requester = authenticate(request)
    account_data.set_account_data(requester, user_id, data_type, json_object(request), room_id=room_id)
    return json_response({})


@router.get("/_matrix/client/{version}/user/{user_id}/rooms/{room_id}/tags")
def get_tags(request: Request, user_id: str, room_id: str) -> Response:
    """GET /user/{userId}/rooms/{roomId}/tags — "List the tags for a room"."""
    return json_response({"tags": tags.tags_of(authenticate(request), user_id, room_id)})


@router.put("/_matrix/client/{version}/user/{user_id}/rooms/{room_id}/tags/{tag...}")
def set_tag(request: Request, user_id: str, room_id: str, tag: str) -> Response:
    """PUT /user/{userId}/rooms/{roomId}/tags/{tag} — "Add a tag to a room"."""
    requester = authenticate(request)
    tags.set_tag(requester, user_id, room_id, tag, json_object(request))
    return json_response({})


@router.delete("/_matrix/client/{version}/user/{user_id}/rooms/{room_id}/tags/{tag...}")
def remove_tag(request: Request, user_id: str, room_id: str, tag: str) -> Response:
    """DELETE /user/{userId}/rooms/{roomId}/tags/{tag} — "Remove a tag from the room"."""
    tags.remove_tag(authenticate(request), user_id, room_id, tag)
    return json_response({})


@router.post("/_matrix/client/{version}/user/{user_id}/filter")
def create_filter(request: Request, user_id: str) -> Response:
    """POST /user/{userId}/filter — "Upload a new filter"."""
    requester = authenticate(request)
    return json_response({"filter_id": filters.create_filter(requester, user_id, json_object(request))})


@router.get("/_matrix/client/{version}/user/{user_id}/filter/{filter_id}")
def get_filter(request: Request, user_id: str, filter_id: str) -> Response:
    """GET /user/{userId}/filter/{filterId} — "Download a filter"."""
    return json_response(orjson.Fragment(filters.get_filter(authenticate(request), user_id, filter_id)))


@router.post("/_matrix/client/{version}/user/{user_id}/openid/request_token")
def request_openid_token(request: Request, user_id: str) -> Response:
    """POST /user/{userId}/openid/request_token — "Get an OpenID token object to verify the requester's identity"."""
    requester = authenticate(request)
    json_object(request)  # reserved by the specification
    return json_response(openid.request_token(requester, user_id))
