"""Links that were mailed for `m.login.email.url`: what the page behind one shows, and what its button does.

To open a link does nothing, as programs that look into mails open links. A link works once, as one that was used has
done what it can.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from homeserver.matrix.errors import LimitExceeded, NotFound
from homeserver.services.login_flows import EMAIL_URL
from homeserver.storage import mail_tokens, sessions
from homeserver.storage.mail_tokens import MailToken
from homeserver.storage.sessions import Session

_LONGEST_TOKEN = 64
_RACES = 8


@dataclass(frozen=True, slots=True)
class LinkView:
    """What to show to who opens a link. `requested`, `expires`: milliseconds since the epoch."""

    purpose: Literal["login", "register", "confirm"]  # confirm: something that a user does while logged in
    email: str
    user_id: str | None  # whose account it is; None for one that is about to be made
    address: str  # where the request came from
    device: str  # the device it came from, as people name it
    requested: int
    expires: int


class UnknownLink(NotFound):
    """404: a link that never was, was used, or is too old."""

    def __init__(self) -> None:
        super().__init__("This link was used already, is too old, or was not copied whole. Ask for a new one.")


def look(token: str) -> LinkView:
    """What a link is for; changes nothing. Raises UnknownLink."""
    return _view(*_found(token))


def _view(link: MailToken, session: Session, pending: Mapping[str, Any]) -> LinkView:
    purpose: Literal["login", "register", "confirm"] = "confirm"
    if pending["new"]:
        purpose = "register"
    elif session.kind == "login":
        purpose = "login"
    return LinkView(
        purpose,
        pending["email"],
        pending["user"],
        link.address,
        link.device,
        int(link.created),
        int(min(link.expires, session.expires)) * 1000,
    )


def confirm(token: str) -> LinkView:
    """Complete what a session waits for; its client hears of it when it asks. Raises UnknownLink."""
    for _ in range(_RACES):
        link, session, pending = _found(token)
        view = _view(link, session, pending)
        confirmed = {**pending, "confirmed": True}
        if sessions.change(session, {"pending": {**session.pending, EMAIL_URL: confirmed}}):
            link.remove()
            return view
    raise LimitExceeded("This session is used by several requests.", retry_after_ms=1000)


def _found(token: str) -> tuple[MailToken, Session, dict[str, Any]]:
    if not 0 < len(token) <= _LONGEST_TOKEN:
        raise UnknownLink
    link = mail_tokens.load(token)
    session = sessions.load(link.waiting) if link is not None else None
    if link is None or session is None or session.status != "active":
        raise UnknownLink
    pending = session.pending.get(EMAIL_URL)
    if pending is None or pending.get("confirmed"):
        raise UnknownLink
    return link, session, pending
