"""Endpoints at which other servers read: events and states of rooms, spaces, the directory, users of this server.

Each asks for a signed request first, but for `openid/userinfo`, where a token says everything; then the room's server
ACL, and whether the asking server is in the room; then the rate limit of questions about rooms.
"""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import BadJson, InvalidParam, MissingParam, MissingToken, Unrecognized
from homeserver.matrix.identifiers import domain_of
from homeserver.services import (
    openid,
    profile,
    public_rooms,
    rate_limits,
    resident_servers,
    seed_views,
    served_devices,
)
from homeserver.services.history import parse_direction
from homeserver.services.public_rooms import DirectoryQuery
from homeserver.services.served_events import event_for_server
from homeserver.services.served_hierarchy import hierarchy_for_server
from homeserver.services.served_history import MISSING_DEFAULT, MOST_EVENTS, backfill, missing_events
from homeserver.services.served_state import event_auth, state_at, state_ids_at
from homeserver.services.timestamp_to_event import timestamp_to_event_for_server
from homeserver.settings import settings
from homeserver.web.directory_query import posted_query
from homeserver.web.federation_authentication import authenticate_server
from homeserver.web.requests import (
    field,
    json_object,
    json_response,
    query,
    query_boolean,
    query_integer,
    string_list,
)
from homeserver.web.routing import V1, Router

router = Router(federation=True)
_SERVED = "/_matrix/federation/{version}"
_ANY_TIME = 10**17  # milliseconds: three million years


def _asking(request: Request) -> str:
    """The server that asks a question about a room. Raises Unauthorized, LimitExceeded."""
    origin = authenticate_server(request)
    rate_limits.take_server_question(origin)
    return origin


def _required(request: Request, name: str) -> str:
    value = query(request, name)
    if not value:
        raise MissingParam(f"{name} is required.")
    return value


# ── Events and states ───────────────────────────────────────────────────────────────────────────────


@router.get(_SERVED + "/event/{event_id...}", V1)
def get_event(request: Request, event_id: str) -> Response:
    """GET /event/{eventId} — "Get a single event"."""
    return json_response(event_for_server(event_id, _asking(request)))


@router.get(_SERVED + "/state/{room_id}", V1)
def get_state(request: Request, room_id: str) -> Response:
    """GET /state/{roomId} — "Get all the state of a given room"."""
    return json_response(state_at(room_id, _asking(request), _required(request, "event_id")))


@router.get(_SERVED + "/state_ids/{room_id}", V1)
def get_state_ids(request: Request, room_id: str) -> Response:
    """GET /state_ids/{roomId} — "Get all the state event IDs of a given room"."""
    return json_response(state_ids_at(room_id, _asking(request), _required(request, "event_id")))


@router.get(_SERVED + "/event_auth/{room_id}/{event_id...}", V1)
def get_event_auth(request: Request, room_id: str, event_id: str) -> Response:
    """GET /event_auth/{roomId}/{eventId} — "Get the auth chain for a given event"."""
    return json_response(event_auth(room_id, _asking(request), event_id))


@router.get(_SERVED + "/backfill/{room_id}", V1)
def get_backfill(request: Request, room_id: str) -> Response:
    """GET /backfill/{roomId} — "Retrieves the events which precede the given event"."""
    origin = _asking(request)
    _required(request, "limit")
    _required(request, "v")
    limit = query_integer(request, "limit", 0, minimum=1, maximum=MOST_EVENTS)
    return json_response(backfill(room_id, origin, request.query_params.getlist("v"), limit))


@router.post(_SERVED + "/get_missing_events/{room_id}", V1)
def get_missing_events(request: Request, room_id: str) -> Response:
    """POST /get_missing_events/{roomId} — "Retrieves events that the sender is missing"."""
    origin = _asking(request)
    body = json_object(request)
    limit = field(body, "limit", int)
    if limit is not None and limit < 1:
        raise BadJson("limit must be at least 1.")
    for name in ("latest_events", "earliest_events"):
        field(body, name, list, required=True)
    answer = missing_events(
        room_id,
        origin,
        latest=string_list(body, "latest_events"),
        earliest=string_list(body, "earliest_events"),
        min_depth=field(body, "min_depth", int) or 0,
        limit=min(MISSING_DEFAULT if limit is None else limit, MOST_EVENTS),
    )
    return json_response(answer)


@router.get(_SERVED + "/timestamp_to_event/{room_id}", V1)
def get_event_by_timestamp(request: Request, room_id: str) -> Response:
    """GET /timestamp_to_event/{roomId} — "Get the closest event ID to the given timestamp"."""
    origin = _asking(request)
    _required(request, "ts")
    ts = query_integer(request, "ts", 0, minimum=-_ANY_TIME, maximum=_ANY_TIME)
    backwards = parse_direction(_required(request, "dir"))
    return json_response(timestamp_to_event_for_server(origin, room_id, ts, backwards=backwards))


# ── The draft's views ───────────────────────────────────────────────────────────────────────────────


def _looking(request: Request) -> str:
    """The server that looks at a view. Raises Unrecognized where the operator does not want it, and as `_asking`."""
    if not settings().legacy_seed_views:
        raise Unrecognized("This server does not show events in the format of the draft.")
    return _asking(request)


@router.get(_SERVED + "/pdu/{origin}/{pdu_id...}", V1)
def get_seed_pdu(request: Request, origin: str, pdu_id: str) -> Response:
    """GET /pdu/{origin}/{pduId}/ — of the draft: one event."""
    return json_response(seed_views.seed_pdu(pdu_id.removesuffix("/"), origin, _looking(request)))


@router.get(_SERVED + "/context/{room_id}/", V1)
def get_seed_context(request: Request, room_id: str) -> Response:
    """GET /context/{roomId}/ — of the draft: the events of a room."""
    return json_response(seed_views.seed_context(room_id, _looking(request)))


@router.get(_SERVED + "/state/{room_id}/", V1)
def get_seed_state(request: Request, room_id: str) -> Response:
    """GET /state/{roomId}/ — of the draft: the current state of a room, or as it was before an event, as today."""
    if query(request, "event_id") is not None:
        return get_state(request, room_id)
    return json_response(seed_views.seed_state(room_id, _looking(request)))


# ── Finding rooms ───────────────────────────────────────────────────────────────────────────────────


@router.get(_SERVED + "/hierarchy/{room_id}", V1)
def get_hierarchy(request: Request, room_id: str) -> Response:
    """GET /hierarchy/{roomId} — "Retrieve a portion of a space tree"."""
    origin = _asking(request)
    suggested_only = query_boolean(request, "suggested_only")
    return json_response(hierarchy_for_server(room_id, origin, suggested_only=suggested_only))


@router.get(_SERVED + "/publicRooms", V1)
def get_public_rooms(request: Request) -> Response:
    """GET /publicRooms — "Lists the server's published room directory"; 0 is no limit of the asking server's."""
    _asking(request)
    limit = query_integer(request, "limit", public_rooms.DEFAULT_LIMIT, maximum=public_rooms.MAX_LIMIT)
    asked = DirectoryQuery(
        limit=limit or public_rooms.MAX_LIMIT,
        since=query(request, "since"),
        all_networks=query_boolean(request, "include_all_networks"),
        network=query(request, "third_party_instance_id"),
    )
    return json_response(public_rooms.published_rooms(asked))


@router.post(_SERVED + "/publicRooms", V1)
def query_public_rooms(request: Request) -> Response:
    """POST /publicRooms — "Lists the server's published room directory with an optional filter"."""
    _asking(request)
    return json_response(public_rooms.published_rooms(posted_query(json_object(request))))


@router.get(_SERVED + "/query/directory", V1)
def query_directory(request: Request) -> Response:
    """GET /query/directory — "Query for the room ID and resident homeservers for a room alias"."""
    _asking(request)
    return json_response(resident_servers.alias_for_server(_required(request, "room_alias")))


# ── Users ───────────────────────────────────────────────────────────────────────────────────────────


@router.get(_SERVED + "/query/profile", V1)
def query_profile(request: Request) -> Response:
    """GET /query/profile — "Performs a query to get profile information ... for a given user"."""
    authenticate_server(request)
    user_id = query(request, "user_id")
    if not user_id:
        raise MissingParam("user_id is required.")
    if domain_of(user_id) != settings().server_name:
        raise InvalidParam("This server answers for its own users only.")
    fields = profile.get_profile(user_id)
    wanted = query(request, "field")
    if wanted is not None:
        fields = {wanted: fields[wanted]} if wanted in fields else {}
    return json_response(fields)


@router.get(_SERVED + "/query/{query_type}", V1)
def query_anything(request: Request, query_type: str) -> Response:
    """GET /query/{queryType} — "Query for information": of no other type than those above."""
    authenticate_server(request)
    raise Unrecognized(f"This server knows no queries of the type {query_type}.")


@router.get(_SERVED + "/user/devices/{user_id...}", V1)
def get_devices(request: Request, user_id: str) -> Response:
    """GET /user/devices/{userId} — "Gets all of the user's devices"."""
    authenticate_server(request)
    return json_response(served_devices.devices_of(user_id))


@router.post(_SERVED + "/user/keys/query", V1)
def query_keys(request: Request) -> Response:
    """POST /user/keys/query — "Download device identity keys"."""
    authenticate_server(request)
    return json_response(served_devices.query_keys(field(json_object(request), "device_keys", dict, required=True)))


@router.post(_SERVED + "/user/keys/claim", V1)
def claim_keys(request: Request) -> Response:
    """POST /user/keys/claim — "Claims one-time encryption keys for a user"."""
    authenticate_server(request)
    return json_response(served_devices.claim_keys(field(json_object(request), "one_time_keys", dict, required=True)))


@router.get(_SERVED + "/openid/userinfo", V1)
def get_openid_userinfo(request: Request) -> Response:
    """GET /openid/userinfo — "Exchange an OpenID token for user information"; anybody who has the token may ask."""
    token = query(request, "access_token")
    if not token:
        raise MissingToken("access_token is required.")
    return json_response({"sub": openid.token_owner(token)})
