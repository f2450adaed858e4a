"""Making rooms, being in them, and their aliases.

Source: client-server API v1.19, "Creation", "Room membership", "Room aliases".
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import BadJson
from homeserver.matrix.room_versions import DEFAULT_ROOM_VERSION
from homeserver.services import aliases, knocks, membership, remote_aliases, third_party_invites
from homeserver.services.access_tokens import Requester
from homeserver.services.create_room import PRESETS, RoomRequest, create_room
from homeserver.services.membership_requests import Elsewhere
from homeserver.services.send_event import check_room_id
from homeserver.services.third_party_invites import AddressInvite
from homeserver.services.upgrade_room import upgrade_room
from homeserver.web.authentication import authenticate
from homeserver.web.requests import field, json_object, json_response, source_address, string_list
from homeserver.web.routing import Router

router = Router()
_ROOM = "/_matrix/client/{version}/rooms/{room_id}"


@router.post("/_matrix/client/{version}/createRoom")
def post_create_room(request: Request) -> Response:
    """POST /createRoom"""
    requester = authenticate(request)
    body = json_object(request)
    version: str | None = field(body, "room_version", str)
    room_id = create_room(
        requester,
        RoomRequest(
            preset=_choice(body, "preset", tuple(PRESETS)),
            visibility=_choice(body, "visibility", ("public", "private")) or "private",
            room_version=DEFAULT_ROOM_VERSION if version is None else version,
            alias_localpart=field(body, "room_alias_name", str),
            name=field(body, "name", str),
            topic=field(body, "topic", str),
            invite=string_list(body, "invite"),
            invite_3pid=[_address_invite(entry) for entry in field(body, "invite_3pid", list) or []],
            is_direct=field(body, "is_direct", bool) or False,
            initial_state=[_state_event(event) for event in field(body, "initial_state", list) or []],
            creation_content=field(body, "creation_content", dict) or {},
            power_level_override=field(body, "power_level_content_override", dict) or {},
        ),
    )
    return json_response({"room_id": room_id})


def _choice(body: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str | None:
    value: str | None = field(body, name, str)
    if value is not None and value not in choices:
        raise BadJson(f"{name} must be one of {', '.join(choices)}.")
    return value


def _address_invite(entry: Any) -> AddressInvite:
    if not isinstance(entry, dict):
        raise BadJson("invite_3pid must be an array of objects.")
    names = ("medium", "address", "id_server", "id_access_token")
    return AddressInvite.of(*(field(entry, name, str, required=True) for name in names))


def _state_event(event: Any) -> dict[str, Any]:
    if not isinstance(event, dict):
        raise BadJson("initial_state must be an array of objects.")
    return {
        "type": field(event, "type", str, required=True),
        "state_key": field(event, "state_key", str) or "",
        "content": field(event, "content", dict, required=True),
    }


def _reason(body: Mapping[str, Any]) -> str | None:
    reason: str | None = field(body, "reason", str)
    return reason


@router.post("/_matrix/client/{version}/join/{room_id_or_alias...}")
def join_by_id_or_alias(request: Request, room_id_or_alias: str) -> Response:
    """POST /join/{roomIdOrAlias}"""
    requester, body = authenticate(request), json_object(request)
    room_id, elsewhere = _room_named(request, room_id_or_alias)
    return _join(requester, room_id, body, elsewhere)


def _room_named(request: Request, room_id_or_alias: str) -> tuple[str, Elsewhere]:
    """The room, and the other servers that may know it. `server_name` is how clients named them before v1.12."""
    until = Elsewhere().until
    names = [*request.query_params.getlist("via"), *request.query_params.getlist("server_name")]
    room = remote_aliases.room_named(room_id_or_alias, names)
    return room.room_id, Elsewhere(room.servers, until)


def _join(requester: Requester, room_id: str, body: Mapping[str, Any], elsewhere: Elsewhere) -> Response:
    reason, signed = _reason(body), field(body, "third_party_signed", dict)
    redemption = third_party_invites.redemption_of(requester, room_id, signed) if signed is not None else None
    membership.join_room(requester, room_id, reason=reason, redemption=redemption, elsewhere=elsewhere)
    return json_response({"room_id": room_id})


@router.post("/_matrix/client/{version}/knock/{room_id_or_alias...}")
def knock(request: Request, room_id_or_alias: str) -> Response:
    """POST /knock/{roomIdOrAlias}"""
    requester = authenticate(request)
    reason = _reason(json_object(request))
    room_id, elsewhere = _room_named(request, room_id_or_alias)
    knocks.knock(requester, room_id, reason=reason, elsewhere=elsewhere)
    return json_response({"room_id": room_id})


@router.post(_ROOM + "/join")
def join(request: Request, room_id: str) -> Response:
    """POST /rooms/{roomId}/join"""
    requester = authenticate(request)
    check_room_id(room_id)  # an alias is joined at another endpoint
    return _join(requester, room_id, json_object(request), Elsewhere())


@router.post(_ROOM + "/invite")
def invite(request: Request, room_id: str) -> Response:
    """POST /rooms/{roomId}/invite"""
    requester = authenticate(request)
    body = json_object(request)
    if "user_id" not in body and "medium" in body:
        third_party_invites.invite_address(requester, room_id, _address_invite(body), reason=_reason(body))
        return json_response({})
    user_id = field(body, "user_id", str, required=True)
    membership.invite(requester, room_id, user_id, reason=_reason(body))
    return json_response({})


@router.post(_ROOM + "/leave")
def leave(request: Request, room_id: str) -> Response:
    """POST /rooms/{roomId}/leave"""
    requester = authenticate(request)
    membership.leave_room(requester, room_id, reason=_reason(json_object(request)))
    return json_response({})


@router.post(_ROOM + "/kick")
def kick(request: Request, room_id: str) -> Response:
    """POST /rooms/{roomId}/kick"""
    requester = authenticate(request)
    body = json_object(request)
    membership.kick(requester, room_id, field(body, "user_id", str, required=True), reason=_reason(body))
    return json_response({})


@router.post(_ROOM + "/ban")
def ban(request: Request, room_id: str) -> Response:
    """POST /rooms/{roomId}/ban"""
    requester = authenticate(request)
    body = json_object(request)
    membership.ban(requester, room_id, field(body, "user_id", str, required=True), reason=_reason(body))
    return json_response({})


@router.post(_ROOM + "/unban")
def unban(request: Request, room_id: str) -> Response:
    """POST /rooms/{roomId}/unban"""
    requester = authenticate(request)
    body = json_object(request)
    membership.unban(requester, room_id, field(body, "user_id", str, required=True), reason=_reason(body))
    return json_response({})


@router.post(_ROOM + "/forget")
def forget(request: Request, room_id: str) -> Response:
    """POST /rooms/{roomId}/forget"""
    membership.forget_room(authenticate(request), room_id)
    return json_response({})


@router.post(_ROOM + "/upgrade")
def upgrade(request: Request, room_id: str) -> Response:
    """POST /rooms/{roomId}/upgrade"""
    requester = authenticate(request)
    body = json_object(request)
    version: str = field(body, "new_version", str, required=True)
    additional_creators = string_list(body, "additional_creators")
    return json_response({"replacement_room": upgrade_room(requester, room_id, version, additional_creators)})


@router.get("/_matrix/client/{version}/joined_rooms")
def joined_rooms(request: Request) -> Response:
    """GET /joined_rooms"""
    return json_response({"joined_rooms": membership.joined_rooms(authenticate(request).user_id)})


@router.get("/_matrix/client/{version}/directory/room/{alias...}")
def get_alias(request: Request, alias: str) -> Response:
    """GET /directory/room/{roomAlias}"""
    room = remote_aliases.room_of_any_alias(alias, asked_from=source_address(request))
    return json_response({"room_id": room.room_id, "servers": remote_aliases.servers_of(room)})


@router.put("/_matrix/client/{version}/directory/room/{alias...}")
def put_alias(request: Request, alias: str) -> Response:
    """PUT /directory/room/{roomAlias}"""
    requester = authenticate(request)
    aliases.create_alias(requester, alias, field(json_object(request), "room_id", str, required=True))
    return json_response({})


@router.delete("/_matrix/client/{version}/directory/room/{alias...}")
def delete_alias(request: Request, alias: str) -> Response:
    """DELETE /directory/room/{roomAlias}"""
    aliases.delete_alias(authenticate(request), alias)
    return json_response({})


@router.get(_ROOM + "/aliases")
def get_aliases(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/aliases"""
    return json_response({"aliases": aliases.aliases_of(authenticate(request), room_id)})
