"""Who asks: the access token of a request.

Source: client-server API v1.19, "Using access tokens": the Authorization header, or the query parameter, which
v1.19 still requires; `QUERY_TOKENS` says where it is taken.
"""

from starlette.requests import Request

from homeserver.matrix.errors import MissingToken
from homeserver.services.access_tokens import Requester, requester_of
from homeserver.settings import settings

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
    """The user and device that ask. Raises MissingToken or UnknownToken (401)."""
    token = token_of(request)
    if not token:
        raise MissingToken("An access token is needed.")
    return requester_of(token)


def authenticate_if_given(request: Request) -> Requester | None:
    """The requester where a token is optional. Raises UnknownToken if one is given and is wrong."""
    token = token_of(request)
    return requester_of(token) if token else None
