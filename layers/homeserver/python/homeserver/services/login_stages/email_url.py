"""`m.login.email.url`: a link that was mailed, which is confirmed while the client asks whether it was.

Source: the 2014 draft, "Email-based (url)" login. What is behind the link: `login_links.py`.
"""

from typing import ClassVar

from homeserver.services import mails, rate_limits
from homeserver.services.login_stages.mailed import MailedStage, completed
from homeserver.services.login_stages.stage import Attempt, Completed, NotYet

POLL_MS = 2000  # what clients are told to wait between two questions; faster than one a second is refused


class EmailUrl(MailedStage):
    """Who logs in or registers reads the mail of an address, and confirms it on the page that the mail leads to."""

    stage_type: ClassVar[str] = "m.login.email.url"
    mail: ClassVar[mails.Kind] = "login_link"

    def is_proof(self, attempt: Attempt) -> bool:
        return attempt.submitted.get("email") is None

    def prove(self, attempt: Attempt) -> Completed:
        if attempt.pending.get("confirmed"):
            return completed(attempt)
        rate_limits.take_poll(attempt.session)
        raise NotYet(
            "Link not visited yet",
            errcode="M_LOGIN_EMAIL_URL_NOT_YET",
            extra={"retry_after_ms": POLL_MS},
            headers={"Retry-After": str(POLL_MS // 1000)},
        )


STAGE = EmailUrl()
