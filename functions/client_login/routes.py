"""Endpoints of login and registration."""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.services import access_tokens, login, rate_limits, registration
from homeserver.services.login import Login
from homeserver.settings import settings
from homeserver.web.authentication import authenticate
from homeserver.web.requests import field, json_object, json_response, query, source_address
from homeserver.web.routing import V1, Router

router = Router()


@router.get("/_matrix/client/{version}/login")
def get_login_flows(request: Request) -> Response:
    """GET /login — "Get the supported login types to authenticate users"."""
    return json_response({"flows": login.login_flows()})


@router.post("/_matrix/client/{version}/login")
def log_in(request: Request) -> Response:
    """POST /login — "Authenticates the user"."""
    done = login.log_in(json_object(request), source_address(request))
    well_known = login.well_known()
    return json_response(done.body() | ({"well_known": well_known} if well_known else {}))


@router.post("/_matrix/client/{version}/logout")
def log_out(request: Request) -> Response:
    """POST /logout — "Invalidates a user access token", and deletes its device."""
    login.log_out(authenticate(request))
    return json_response({})


@router.post("/_matrix/client/{version}/logout/all")
def log_out_everywhere(request: Request) -> Response:
    """POST /logout/all — "Invalidates all access tokens for a user"."""
    login.log_out_everywhere(authenticate(request))
    return json_response({})


@router.post("/_matrix/client/{version}/refresh")
def refresh(request: Request) -> Response:
    """POST /refresh — "Refresh an access token"."""
    refresh_token: str = field(json_object(request), "refresh_token", str, required=True)
    rate_limits.take_refresh(source_address(request))
    return json_response(access_tokens.refresh_tokens(refresh_token).body())


@router.post("/_matrix/client/{version}/register")
def register(request: Request) -> Response:
    """POST /register — "Register for an account on this homeserver"."""
    kind = query(request, "kind") or "user"
    user_id, done = registration.register(kind, json_object(request), source_address(request))
    return json_response(_registered(user_id, done))


def _registered(user_id: str, done: Login | None) -> dict[str, object]:
    return done.body() if done is not None else {"user_id": user_id}


@router.get("/_matrix/client/{version}/register/available")
def is_username_available(request: Request) -> Response:
    """GET /register/available — "Checks to see if a username is available on the server"."""
    registration.check_username_available(query(request, "username"), source_address(request))
    return json_response({"available": True})


@router.get("/_matrix/client/{version}/register/m.login.registration_token/validity", V1)
def is_registration_token_valid(request: Request) -> Response:
    """GET /register/m.login.registration_token/validity — "Query if a given registration token is still valid"."""
    valid = registration.is_registration_token_valid(query(request, "token"), source_address(request))
    return json_response({"valid": valid})


@router.get("/_synapse/admin/v1/register", V1)
def get_registration_nonce(request: Request) -> Response:
    """GET /_synapse/admin/v1/register — a nonce for a registration by shared secret."""
    return json_response({"nonce": registration.new_nonce(source_address(request))})


@router.post("/_synapse/admin/v1/register", V1)
def register_by_shared_secret(request: Request) -> Response:
    """POST /_synapse/admin/v1/register — an account for whoever knows the shared secret."""
    user_id, done = registration.register_by_shared_secret(json_object(request), source_address(request))
    return json_response({"home_server": settings().server_name, **_registered(user_id, done)})
