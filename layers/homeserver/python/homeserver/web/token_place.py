"""Where a request may carry its access token, and what follows from it. Knows no web framework.

Source: client-server API v1.19, "Using access tokens": the Authorization header, or the query parameter, which v1.19
still requires; the 2014 draft, in which the query parameter is the only place. `QUERY_TOKENS` says where it is taken.
"""

from homeserver.matrix.errors import InvalidParam
from homeserver.settings import settings

PARAMETER = "access_token"
_DRAFT_PREFIXES = ("/_matrix/client/api/v1/", "/matrix/client/api/v1/")
# An address with a token in it must reach neither caches nor, as the page that was left, other servers.
ADDRESS_IS_SECRET = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


def chosen_token(authorization: str | None, in_query: str | None, path: str) -> str | None:
    """The access token of a request to this path, or None.

    `authorization`: the header; `in_query`: the query parameter. Raises InvalidParam if both are there and differ.
    """
    asked = in_query if _is_taken_from_query(path) else None
    if authorization is None:
        return asked or None
    scheme, _, text = authorization.partition(" ")
    token = text.strip() if scheme.lower() == "bearer" else ""
    if token and asked and token != asked:
        raise InvalidParam("The header and the query have different access tokens.")
    return token or None


def _is_taken_from_query(path: str) -> bool:
    allowed = settings().query_tokens
    return allowed == "all" or (allowed == "legacy" and path.startswith(_DRAFT_PREFIXES))
