"""What the stages have in common that wait for a mail to be read: asking for it, and asking again.

In a login, and in User-Interactive Authentication of a user, the address must be linked to that user; whether it is
looks nobody up before the request is answered. In a registration it must be nobody's; who gets through has verified it.
What such a stage leaves in the session:

    {"email": address, "user": whom it is for or null, "new": whether it is a registration's, "asked": mails asked for,
     "asked_at": ms, "sent": mails sent, "codes": [{"hash", "until": s}], "confirmed": whether the link was used}

`login_mails.py` says what `mail_worker` makes of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from homeserver.matrix.email_address import normalised
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, LimitExceeded, MatrixError, MissingParam
from homeserver.services import mails, rate_limits
from homeserver.services.clock import now_ms
from homeserver.services.login_stages.stage import Attempt, Completed, Waiting
from homeserver.services.passwords import user_of_identifier
from homeserver.storage import threepids

EMAIL = "email"  # fact of a registration: the address that was verified
MOST_MAILS = 3
PAUSE_MS = 60_000  # between two mails of a session


class MailedStage(ABC):
    """A stage that mails something and waits."""

    stage_type: ClassVar[str]
    mail: ClassVar[mails.Kind]

    def describe(self) -> Mapping[str, Any]:
        return {}

    def start(self, attempt: Attempt) -> Waiting:
        """The body names the user (of a login) and the address."""
        address, is_new = _address(attempt), _is_registration(attempt)
        user_id = None if is_new else _user(attempt)
        left: dict[str, Any] = {"email": address, "user": user_id, "new": is_new, "asked": 0, "sent": 0, "codes": []}
        return self._ask(attempt, left)

    def submit(self, attempt: Attempt) -> Completed | Waiting:
        """The proof, or, with the body of the start, the wish for another mail."""
        if self.is_proof(attempt):
            return self.prove(attempt)
        if _address(attempt) != attempt.pending["email"]:
            raise InvalidParam("This session is for another address: start again.")
        if not attempt.pending["new"] and _user(attempt) != attempt.pending["user"]:
            raise InvalidParam("This session is for another user: start again.")
        wait = attempt.pending["asked_at"] + PAUSE_MS - now_ms()
        if wait > 0:
            raise LimitExceeded("A mail was asked for a moment ago.", retry_after_ms=wait)
        if attempt.pending["asked"] >= MOST_MAILS:
            raise LimitExceeded("Enough mails were sent: start again.", retry_after_ms=PAUSE_MS)
        return self._ask(attempt, attempt.pending)

    def _ask(self, attempt: Attempt, pending: Mapping[str, Any]) -> Waiting:
        rate_limits.take_mail(attempt.origin.address, pending["email"])
        return Waiting(
            {**pending, "asked": pending["asked"] + 1, "asked_at": now_ms()},
            user_id=pending["user"],
            then=partial(mails.request_mail, self.mail, origin=attempt.origin),
        )

    @abstractmethod
    def is_proof(self, attempt: Attempt) -> bool:
        """Whether a body is more than the wish for another mail."""

    @abstractmethod
    def prove(self, attempt: Attempt) -> Completed | Waiting:
        """Look at the proof."""


def completed(attempt: Attempt) -> Completed:
    """That the mail was read by who got it. Raises Forbidden if the address was taken from the user since."""
    address, user_id = attempt.pending["email"], attempt.pending["user"]
    if attempt.pending["new"]:
        return Completed({EMAIL: address})
    if user_id is None or threepids.user_of(threepids.EMAIL, address) != user_id:
        raise Forbidden("This address no longer belongs to the user.")
    return Completed(user_id=user_id, proves=True)


def _is_registration(attempt: Attempt) -> bool:
    return attempt.kind == "register" or attempt.operation == "POST /register"


def _address(attempt: Attempt) -> str:
    address = attempt.submitted.get("email")
    if address is None:
        raise MissingParam("email is required.")
    if not isinstance(address, str):
        raise BadJson("email must be a string.")
    try:
        return normalised(address)
    except ValueError as error:
        raise InvalidParam(str(error)) from None


def _user(attempt: Attempt) -> str | None:
    """Whom the session is for; None if the body names somebody that nobody here can be."""
    names_nobody = attempt.submitted.get("user") is None and attempt.submitted.get("identifier") is None
    if attempt.kind == "login" and not (names_nobody and attempt.user_id is not None):
        return user_of_identifier(attempt.submitted)
    if attempt.user_id is None:
        raise MatrixError("There is no user yet whom a mail could be sent to.")
    return attempt.user_id
