"""OpenID: a user proves to a third party who they are, without giving their access token away.

Source: client-server API v1.19, "OpenID"; server-server API, "OpenID".
"""

import secrets
from typing import Any

from homeserver.matrix.access_token import MAX_TOKEN_LENGTH, token_hash
from homeserver.matrix.errors import Forbidden, UnknownToken
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.settings import settings
from homeserver.storage import openid_tokens
from homeserver.storage.profiles import Profile

_RANDOM_BYTES = 32


def request_token(requester: Requester, user_id: str) -> dict[str, Any]:
    """The body of `POST /user/{userId}/openid/request_token`: a token that is good for `token_owner` alone.

    Raises Forbidden for another user, LimitExceeded.
    """
    if requester.user_id != user_id:
        raise Forbidden("A user can ask for their own token only.")
    rate_limits.take_openid_token(user_id)
    token = secrets.token_urlsafe(_RANDOM_BYTES)
    openid_tokens.store_token(token_hash(token), user_id)
    return {
        "access_token": token,
        "token_type": "Bearer",
        "matrix_server_name": settings().server_name,
        "expires_in": openid_tokens.SECONDS,
    }


def token_owner(token: str) -> str:
    """The user that a token speaks of. Raises UnknownToken, also once the account is not in use any more."""
    user_id = openid_tokens.user_of_token(token_hash(token)) if len(token) <= MAX_TOKEN_LENGTH else None
    # Who has no profile has no account any more.
    if user_id is None or Profile.fetch(user_id) is None:
        raise UnknownToken("This OpenID token is unknown or has expired.")
    return user_id
