"""`m.login.email.code`: a code that was mailed.

Source: the 2014 draft, "Email-based (code)" login.
"""

import time
from typing import ClassVar

from homeserver.matrix.errors import BadJson, Forbidden
from homeserver.services import mails, rate_limits
from homeserver.services.login_stages.mailed import MailedStage, completed
from homeserver.services.login_stages.stage import Attempt, Completed
from homeserver.services.passwords import verify_password


class EmailCode(MailedStage):
    """Who logs in or registers reads the mail of an address, and types the code that came."""

    stage_type: ClassVar[str] = "m.login.email.code"
    mail: ClassVar[mails.Kind] = "login_code"

    def is_proof(self, attempt: Attempt) -> bool:
        return attempt.submitted.get("code") is not None

    def prove(self, attempt: Attempt) -> Completed:
        code = attempt.submitted["code"]
        if not isinstance(code, str):
            raise BadJson("code must be a string.")
        rate_limits.take_code_guess(attempt.pending["email"])
        typed = "".join(code.replace("-", " ").split())  # people set groups apart
        now = time.time()
        valid = [kept["hash"] for kept in attempt.pending["codes"] if kept["until"] > now]
        # All of them, whether or not one fits; and one where there is none.
        fits = [verify_password(typed, stored) for stored in valid or [None]]
        if True not in fits:
            raise Forbidden("Wrong or expired code")
        return completed(attempt)


STAGE = EmailCode()
