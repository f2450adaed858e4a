"""Endpoints with which other servers bring their users into this server's rooms, and invite its users to theirs."""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import MissingParam
from homeserver.services import exchanged_invites, served_joins, served_knocks, served_leaves
from homeserver.services.rate_limits import network_of
from homeserver.services.received_invites import InviteRequest, receive_invite
from homeserver.web.federation_authentication import authenticate_server
from homeserver.web.requests import field, json_object, json_response, query_boolean, source_address
from homeserver.web.routing import V1, V2, Router

router = Router(federation=True)
_FEDERATION = "/_matrix/federation/{version}"


def _versions(request: Request) -> list[str]:
    return request.query_params.getlist("ver")


def _pair(body: object) -> Response:
    """What version 1 of an endpoint answers: a pair of the status and the body."""
    return json_response([200, body])


# ── Joining ──────────────────────────────────────────────────────────────────


@router.get(f"{_FEDERATION}/make_join/{{room_id}}/{{user_id...}}", V1)
def make_join(request: Request, room_id: str, user_id: str) -> Response:
    """GET /make_join — "information that the sending server will need to prepare a join event"."""
    origin = authenticate_server(request)
    return json_response(served_joins.make_join(origin, room_id, user_id, _versions(request) or ["1"]))


@router.put(f"{_FEDERATION}/send_join/{{room_id}}/{{event_id...}}", V1)
def send_join_v1(request: Request, room_id: str, event_id: str) -> Response:
    """PUT /v1/send_join, from before version 2: the same in a pair."""
    origin = authenticate_server(request)
    return _pair(served_joins.send_join(origin, room_id, event_id, json_object(request)))


@router.put(f"{_FEDERATION}/send_join/{{room_id}}/{{event_id...}}", V2)
def send_join(request: Request, room_id: str, event_id: str) -> Response:
    """PUT /v2/send_join — "Submits a signed join event to the resident server"."""
    origin = authenticate_server(request)
    omit_members = query_boolean(request, "omit_members")
    answer = served_joins.send_join(origin, room_id, event_id, json_object(request), omit_members=omit_members)
    return json_response(answer)


# ── Leaving ──────────────────────────────────────────────────────────────────


@router.get(f"{_FEDERATION}/make_leave/{{room_id}}/{{user_id...}}", V1)
def make_leave(request: Request, room_id: str, user_id: str) -> Response:
    """GET /make_leave — "information that the sending server will need to prepare a leave event"."""
    return json_response(served_leaves.make_leave(authenticate_server(request), room_id, user_id))


@router.put(f"{_FEDERATION}/send_leave/{{room_id}}/{{event_id...}}", V1)
def send_leave_v1(request: Request, room_id: str, event_id: str) -> Response:
    """PUT /v1/send_leave, from before version 2: the same in a pair."""
    served_leaves.send_leave(authenticate_server(request), room_id, event_id, json_object(request))
    return _pair({})


@router.put(f"{_FEDERATION}/send_leave/{{room_id}}/{{event_id...}}", V2)
def send_leave(request: Request, room_id: str, event_id: str) -> Response:
    """PUT /v2/send_leave — "Submits a signed leave event to the resident server"."""
    served_leaves.send_leave(authenticate_server(request), room_id, event_id, json_object(request))
    return json_response({})


# ── Knocking ─────────────────────────────────────────────────────────────────


@router.get(f"{_FEDERATION}/make_knock/{{room_id}}/{{user_id...}}", V1)
def make_knock(request: Request, room_id: str, user_id: str) -> Response:
    """GET /make_knock — "information that the sending server will need to prepare a knock event"."""
    origin = authenticate_server(request)
    versions = _versions(request)
    if not versions:
        raise MissingParam("ver is required.")
    return json_response(served_knocks.make_knock(origin, room_id, user_id, versions))


@router.put(f"{_FEDERATION}/send_knock/{{room_id}}/{{event_id...}}", V1)
def send_knock(request: Request, room_id: str, event_id: str) -> Response:
    """PUT /send_knock — "Submits a signed knock event to the resident server"."""
    origin = authenticate_server(request)
    return json_response(served_knocks.send_knock(origin, room_id, event_id, json_object(request)))


# ── Inviting ─────────────────────────────────────────────────────────────────


@router.put(f"{_FEDERATION}/invite/{{room_id}}/{{event_id...}}", V1)
def invite_v1(request: Request, room_id: str, event_id: str) -> Response:
    """PUT /v1/invite — "Invites a remote user to a room", of version 1 or 2."""
    origin = authenticate_server(request)
    pdu = json_object(request)
    unsigned = pdu.get("unsigned")
    state = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
    return _pair({"event": receive_invite(InviteRequest(origin, room_id, event_id, pdu, None, state))})


@router.put(f"{_FEDERATION}/invite/{{room_id}}/{{event_id...}}", V2)
def invite(request: Request, room_id: str, event_id: str) -> Response:
    """PUT /v2/invite — "Invites a remote user to a room"."""
    origin = authenticate_server(request)
    body = json_object(request)
    version = field(body, "room_version", str, required=True)
    pdu = field(body, "event", dict, required=True)
    state = field(body, "invite_room_state", list)
    return json_response({"event": receive_invite(InviteRequest(origin, room_id, event_id, pdu, version, state))})


# ── Invitations by address ───────────────────────────────────────────────────


@router.put(f"{_FEDERATION}/exchange_third_party_invite/{{room_id...}}", V1)
def exchange_third_party_invite(request: Request, room_id: str) -> Response:
    """PUT /exchange_third_party_invite — "Request a server to auth a third-party invite event"."""
    exchanged_invites.exchange_invite(authenticate_server(request), room_id, json_object(request))
    return json_response({})


@router.put(f"{_FEDERATION}/3pid/onbind", V1)
def third_party_identifier_bound(request: Request) -> Response:
    """PUT /3pid/onbind — "Notifies the server that a third-party identifier has been bound to one of its users".

    Identity servers sign no requests: nothing is believed but what they have signed in it.
    """
    body = json_object(request)
    for name in ("medium", "address"):
        field(body, name, str, required=True)
    user_id = field(body, "mxid", str, required=True)
    invites = field(body, "invites", list, required=True)
    exchanged_invites.note_binding(user_id, invites, network_of(source_address(request)))
    return json_response({})
