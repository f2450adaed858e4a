"""Finding rooms and people: the published directory, room summaries, spaces, mutual rooms, the user directory.

Source: client-server API v1.19, "Published room directory", "Room summary", "Spaces", "Mutual rooms", "User Directory".
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import BadJson
from homeserver.services import mutual_rooms, public_rooms, rate_limits, space_hierarchy, user_directory
from homeserver.services.find_room import room_summary
from homeserver.services.public_rooms import DirectoryQuery
from homeserver.services.remote_public_rooms import any_published_rooms, is_elsewhere
from homeserver.services.space_hierarchy import HierarchyQuery
from homeserver.web.authentication import authenticate, authenticate_if_given
from homeserver.web.directory_query import posted_query
from homeserver.web.requests import (
    field,
    json_object,
    json_response,
    query,
    query_boolean,
    query_integer,
    source_address,
)
from homeserver.web.routing import V1, Router

router = Router()
ANY = ("",)  # these paths have no version
_LISTED = "/_matrix/client/{version}/directory/list/room/{room_id...}"
# Names that clients use which do not know the stable ones. Source: MSC3266, MSC2666.
_UNSTABLE_SUMMARY = "/_matrix/client/unstable/im.nheko.summary"
_UNSTABLE_MUTUAL_ROOMS = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"
_VISIBILITIES = ("public", "private")


@router.get("/_matrix/client/{version}/publicRooms")
def get_public_rooms(request: Request) -> Response:
    """GET /publicRooms"""
    limit = query_integer(request, "limit", public_rooms.DEFAULT_LIMIT, minimum=1, maximum=public_rooms.MAX_LIMIT)
    asked = DirectoryQuery(server=query(request, "server"), limit=limit, since=query(request, "since"))
    if is_elsewhere(asked):
        rate_limits.take_question(source_address(request))
    return json_response(any_published_rooms(asked))


@router.post("/_matrix/client/{version}/publicRooms")
def query_public_rooms(request: Request) -> Response:
    """POST /publicRooms"""
    requester = authenticate(request)
    asked = posted_query(json_object(request), query(request, "server"))
    if is_elsewhere(asked):
        rate_limits.take_finding(requester.user_id)
    return json_response(any_published_rooms(asked))


@router.get(_LISTED)
def get_listed(request: Request, room_id: str) -> Response:
    """GET /directory/list/room/{roomId}"""
    return json_response({"visibility": "public" if public_rooms.is_published(room_id) else "private"})


@router.put(_LISTED)
def put_listed(request: Request, room_id: str) -> Response:
    """PUT /directory/list/room/{roomId}"""
    requester = authenticate(request)
    visibility = field(json_object(request), "visibility", str) or "public"
    if visibility not in _VISIBILITIES:
        raise BadJson(f"visibility must be one of {', '.join(_VISIBILITIES)}.")
    public_rooms.set_published(requester, room_id, published=visibility == "public")
    return json_response({})


def _summary(request: Request, room_id_or_alias: str) -> dict[str, Any]:
    requester = authenticate_if_given(request)
    return room_summary(
        requester.user_id if requester else None,
        room_id_or_alias,
        request.query_params.getlist("via"),
        address=source_address(request),
    )


@router.get("/_matrix/client/{version}/room_summary/{room_id_or_alias...}", V1)
def get_room_summary(request: Request, room_id_or_alias: str) -> Response:
    """GET /room_summary/{roomIdOrAlias}"""
    return json_response(_summary(request, room_id_or_alias))


@router.get(_UNSTABLE_SUMMARY + "/summary/{room_id_or_alias...}", ANY)
@router.get(_UNSTABLE_SUMMARY + "/rooms/{room_id_or_alias}/summary", ANY)
def get_unstable_room_summary(request: Request, room_id_or_alias: str) -> Response:
    """The same under the names that it had before it was in the specification; two of its keys had others as well."""
    summary = _summary(request, room_id_or_alias)
    old = {f"im.nheko.summary.{key}": summary[key] for key in ("room_version", "encryption") if key in summary}
    return json_response(summary | old)


@router.get("/_matrix/client/{version}/rooms/{room_id}/hierarchy", V1)
def get_hierarchy(request: Request, room_id: str) -> Response:
    """GET /rooms/{roomId}/hierarchy"""
    requester = authenticate(request)
    asked = HierarchyQuery(
        room_id,
        via=tuple(request.query_params.getlist("via")),
        suggested_only=query_boolean(request, "suggested_only"),
        max_depth=query_integer(request, "max_depth", space_hierarchy.MAX_DEPTH, maximum=space_hierarchy.MAX_DEPTH),
        limit=query_integer(
            request, "limit", space_hierarchy.DEFAULT_LIMIT, minimum=1, maximum=space_hierarchy.MAX_LIMIT
        ),
        start=query(request, "from"),
    )
    return json_response(space_hierarchy.hierarchy(requester, asked))


@router.get("/_matrix/client/{version}/mutual_rooms", V1)
def get_mutual_rooms(request: Request) -> Response:
    """GET /mutual_rooms"""
    requester = authenticate(request)
    return json_response(mutual_rooms.mutual_rooms(requester, query(request, "user_id"), query(request, "from")))


@router.get(_UNSTABLE_MUTUAL_ROOMS, ANY)
def get_unstable_mutual_rooms(request: Request) -> Response:
    """The same under the names that it had before it was in the specification."""
    requester = authenticate(request)
    shared = mutual_rooms.mutual_rooms(requester, query(request, "user_id"), query(request, "batch_token"))
    return json_response({"next_batch_token" if key == "next_batch" else key: shared[key] for key in shared})


@router.post("/_matrix/client/{version}/user_directory/search")
def search_users(request: Request) -> Response:
    """POST /user_directory/search"""
    requester = authenticate(request)
    body = json_object(request)
    term: str = field(body, "search_term", str, required=True)
    return json_response(user_directory.search_users(requester, term, field(body, "limit", int)))
