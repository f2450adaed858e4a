"""Mails with the link that validates an e-mail address. Written in `mail_worker`, whose invocation holds no secret.

The token is made here and only its hash is stored. An event may come again after a crash: then there is another token,
and those of the mails before it stay good, as one of them may have been sent.
"""

import secrets
from urllib.parse import urlencode

from homeserver.matrix.access_token import token_hash
from homeserver.services.attempts import attempts
from homeserver.services.email_validation import SUBMIT_PATH
from homeserver.services.mails import Mail
from homeserver.storage import threepids, validations
from homeserver.storage.validations import LIFE_SECONDS, Validation

_TOKENS_KEPT = 5
_TOKEN_BYTES = 24


def prepare(sid: str) -> Mail | None:
    """The mail of a validation, with a token of its own; None if there is none to send (any more).

    Templates `validation_register`, `validation_add`, `validation_password`; values `address`, `user` (whose password),
    `link`, `token`, `hours`.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    for _ in attempts("This address"):
        found = validations.load(sid)
        if found is None or found.validated_at is not None or found.mailed == found.send_attempt:
            return None
        user_id = threepids.user_of(threepids.EMAIL, found.address)
        if (user_id is not None) != (found.purpose == "password"):
            return None  # the address was added or removed since
        if validations.change(found, {"tokens": [token_hash(token), *found.tokens][:_TOKENS_KEPT]}):
            return _mail(found, token, user_id)
    raise AssertionError("unreachable: attempts() raises")


def _mail(validation: Validation, token: str, user_id: str | None) -> Mail:
    sid, send_attempt = validation.sid, int(validation.send_attempt)
    return Mail(
        to=validation.address,
        template=f"validation_{validation.purpose}",
        values={
            "address": validation.address,
            "user": user_id or "",
            "link": f"{validation.base_url}{SUBMIT_PATH}?{urlencode({'sid': sid, 'token': token})}",
            "token": token,
            "hours": str(LIFE_SECONDS // 3600),
        },
        sent=lambda: validations.note_mailed(sid, send_attempt),
    )
