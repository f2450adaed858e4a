"""Who asks: the access token of a request, and whether it may ask this.

Source: client-server API v1.19, "Using access tokens": the Authorization header, or the query parameter, which
v1.19 still requires; `QUERY_TOKENS` says where it is taken. "Guest access": guests may ask what guest_endpoints lists.
"""

from starlette.requests import Request

from homeserver.matrix.errors import Forbidden, MissingToken
from homeserver.services.access_tokens import Requester, requester_of
from homeserver.settings import settings
from homeserver.web.guest_endpoints import is_open_to_guests

_LEGACY_PREFIXES = ("/_matrix/client/api/v1/", "/matrix/client/api/v1/")


def token_of(request: Request) -> str | None:
    """The access token, or None."""
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None
    allowed = settings().query_tokens
    if allowed == "all" or (allowed == "legacy" and request.scope["path"].startswith(_LEGACY_PREFIXES)):
        return request.query_params.get("access_token")
    return None


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
