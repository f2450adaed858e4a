"""`m.login.registration_token`: a token from the server's operator.

Source: client-server API v1.19, "Token-authenticated registration".
"""

import hmac
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from homeserver.matrix.access_token import token_hash
from homeserver.matrix.errors import Forbidden, MissingParam
from homeserver.services.login_stages.stage import Attempt, Completed
from homeserver.settings import settings
from homeserver.storage import registration_tokens

FACT = "registration_token"  # the hash of a stored token, which the registration then uses up


class RegistrationToken:
    """The token of the settings, or one that an administrator made."""

    stage_type: ClassVar[str] = "m.login.registration_token"

    def describe(self) -> Mapping[str, Any]:
        return {}

    def start(self, attempt: Attempt) -> Completed:
        token = attempt.submitted.get("token")
        if not isinstance(token, str):
            raise MissingParam("token is required.")
        if is_configured_token(token):
            return Completed()
        if not is_stored_token(token):
            raise Forbidden("The registration token is not valid.")
        return Completed({FACT: token_hash(token)})

    submit = start


def is_configured_token(token: str) -> bool:
    """Whether this is the registration token of the settings."""
    configured = settings().registration_token
    return bool(configured) and hmac.compare_digest(token.encode(), configured.encode())


def is_stored_token(token: str) -> bool:
    """Whether this is a registration token that an administrator made and that can still be used."""
    record = registration_tokens.load(token_hash(token))
    return record is not None and record.is_valid(int(time.time() * 1000))


STAGE = RegistrationToken()
