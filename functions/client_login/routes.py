"""Endpoints of login and registration: today's, and those of the 2014 draft (LEGACY)."""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.services import (
    access_tokens,
    draft_login,
    draft_registration,
    email_validation,
    login,
    login_tokens,
    rate_limits,
    registration,
)
from homeserver.services.login import Login
from homeserver.settings import settings
from homeserver.web.authentication import authenticate
from homeserver.web.requests import field, json_object, json_response, origin_of, query, source_address
from homeserver.web.routing import LEGACY, V1, Router

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


@router.post("/_matrix/client/{version}/login/get_token", V1)
def get_login_token(request: Request) -> Response:
    """POST /login/get_token — "Optional endpoint to generate a single-use, time-limited, `m.login.token` token"."""
    requester = authenticate(request)
    token = login_tokens.get_token(requester, json_object(request), origin_of(request))
    return json_response({"login_token": token, "expires_in_ms": login_tokens.LIFETIME_MS})


@router.get("/{version}/login", LEGACY)
def get_draft_login_flows(request: Request) -> Response:
    """GET /login — the 2014 draft, "Registration and login": the login types, with their stages."""
    return json_response(draft_login.login_info())


@router.post("/{version}/login", LEGACY)
def log_in_by_stages(request: Request) -> Response:
    """POST /login — the 2014 draft: a stage of a login."""
    return json_response(draft_login.log_in(json_object(request), origin_of(request)))


@router.get("/{version}/register", LEGACY)
def get_draft_registration_flows(request: Request) -> Response:
    """GET /register — of the same time: the ways to register, with their stages."""
    return json_response(draft_registration.registration_info())


@router.post("/{version}/register", LEGACY)
def register_by_stages(request: Request) -> Response:
    """POST /register — of the same time: a stage of a registration, or a whole one."""
    return json_response(draft_registration.register_account(json_object(request), origin_of(request)))


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
    user_id, done = registration.register(kind, json_object(request), origin_of(request))
    return json_response(_registered(user_id, done))


def _registered(user_id: str, done: Login | None) -> dict[str, object]:
    return done.body() if done is not None else {"user_id": user_id}


@router.get("/_matrix/client/{version}/register/available")
def is_username_available(request: Request) -> Response:
    """GET /register/available — "Checks to see if a username is available on the server"."""
    registration.check_username_available(query(request, "username"), source_address(request))
    return json_response({"available": True})


@router.post("/_matrix/client/{version}/register/email/requestToken")
def request_token_to_register(request: Request) -> Response:
    """POST /register/email/requestToken — "Begins the validation process for an email"."""
    return json_response(email_validation.request_token("register", json_object(request), origin_of(request)))


@router.post("/_matrix/client/{version}/register/msisdn/requestToken")
def request_text_message_to_register(request: Request) -> Response:
    """POST /register/msisdn/requestToken — this server sends no text messages, and says so."""
    email_validation.refuse_phone_number(json_object(request))


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
