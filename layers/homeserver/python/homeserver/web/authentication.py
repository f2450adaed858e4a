"""Who asks: the access token of a request, and whether it may ask this.

Source: client-server API v1.19, "Using access tokens" (see token_place), "Guest access": guests may ask what
guest_endpoints lists.
"""

from starlette.requests import Request

from homeserver.matrix.errors import Forbidden, MissingToken
from homeserver.services.access_tokens import Requester, requester_of
from homeserver.web.guest_endpoints import is_open_to_guests
from homeserver.web.token_place import PARAMETER, chosen_token


def token_of(request: Request) -> str | None:
    """The access token, or None. Raises InvalidParam if header and query have different ones."""
    in_query = request.query_params.get(PARAMETER)
    return chosen_token(request.headers.get("authorization"), in_query, request.scope["path"])


def authenticate(request: Request) -> Requester:
    """The user and device that ask. Raises MissingToken, UnknownToken (401), Forbidden for what guests may not ask."""
    token = token_of(request)
    if not token:
        raise MissingToken("An access token is needed.")
    requester = requester_of(token)
    if requester.is_guest and not is_open_to_guests(request.method, request.scope["path"]):
        raise Forbidden("Guests cannot do this.", errcode="M_GUEST_ACCESS_FORBIDDEN")
    return requester


def authenticate_if_given(request: Request) -> Requester | None:
    """The requester where a token is optional. Raises UnknownToken if one is given and is wrong."""
    token = token_of(request)
    return requester_of(token) if token else None
