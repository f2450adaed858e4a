"""The pages behind links in mails. To open one does nothing, as programs that look into mails open links: a person
sees what it is about, and confirms.
"""

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from client_login_pages.shell import form_fields, shown
from homeserver.matrix.errors import MissingParam
from homeserver.services import email_validation, login_links
from homeserver.services.email_validation import ValidationView
from homeserver.services.login_links import LinkView
from homeserver.web.pages import Html, facts, form, hidden, joined, link_button, paragraph, success
from homeserver.web.requests import json_object, json_response, query, source_address

_INCOMPLETE = "This address is not complete: copy the whole link from the mail."


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%d %B %Y, %H:%M UTC")


def _asked(user: str | None, email: str, address: str, device: str, asked: int) -> Html:
    rows = [("Account", user), ("E-mail address", email), ("Asked for by", device), ("At the address", address)]
    return facts([*rows, ("On", _moment(asked))])


_WARNING = paragraph("Only go on if it was you who asked for this. If it was not, close this page: nothing happens.")


# ── m.login.email.url ───────────────────────────────────────────────────────────────────────────────

_TITLES = {"login": "Log in?", "register": "Confirm your e-mail address?", "confirm": "Confirm this?"}
_ABOUT = {
    "login": "Somebody wants to log in to your account:",
    "register": "Somebody wants to make an account with your e-mail address:",
    "confirm": "An app in which you are logged in wants to know that it is you:",
}
_BUTTONS = {"login": "Log in", "register": "Confirm", "confirm": "Confirm"}
_CONFIRMED = {
    "login": "The login is confirmed.",
    "register": "Your e-mail address is confirmed.",
    "confirm": "That is confirmed.",
}


def confirm_page(request: Request) -> Response:
    """GET /login/email/confirm: what a link is about. Raises UnknownLink, MissingParam."""
    token = query(request, "token")
    if not token:
        raise MissingParam(_INCOMPLETE)
    view: LinkView = login_links.look(token)
    about = paragraph(_ABOUT[view.purpose])
    asked = _asked(view.user_id, view.email, view.address, view.device, view.requested)
    button = form(hidden(token=token), _BUTTONS[view.purpose])
    return shown(_TITLES[view.purpose], joined([about, asked, _WARNING, button]))


def confirm(request: Request) -> Response:
    """POST /login/email/confirm: the button. Raises UnknownLink, MissingParam, LimitExceeded."""
    token = form_fields(request).get("token")
    if not token:
        raise MissingParam(_INCOMPLETE)
    view = login_links.confirm(token)
    back = paragraph("You can close this page. Where you asked for it, it goes on by itself.")
    return shown("Thank you", joined([success(_CONFIRMED[view.purpose]), back]))


# ── Validation of an address ────────────────────────────────────────────────────────────────────────

_VALIDATION_TITLES = {
    "register": "Confirm your e-mail address?",
    "add": "Add your e-mail address?",
    "password": "Set a new password?",
}
_VALIDATION_ABOUT = {
    "register": "Somebody wants to make an account with your e-mail address:",
    "add": "Somebody wants to add your e-mail address to an account:",
    "password": "Somebody wants to set a new password for the account that has your e-mail address:",
}


def validation_page(request: Request) -> Response:
    """GET submit_token: what a mailed link is about. Raises what email_validation.look does, MissingParam."""
    sid, token = query(request, "sid"), query(request, "token")
    if not sid or not token:
        raise MissingParam(_INCOMPLETE)
    view: ValidationView = email_validation.look(sid, token)
    if view.validated:
        return _validated(None)
    asked = _asked(None, view.address, view.asked_from, view.device, view.asked_at)
    button = form(hidden(sid=sid, token=token), "Confirm")
    body = joined([paragraph(_VALIDATION_ABOUT[view.purpose]), asked, _WARNING, button])
    return shown(_VALIDATION_TITLES[view.purpose], body)


def validate(request: Request) -> Response:
    """POST submit_token: the page's button, or, with JSON, a client that was told the token.

    Raises what email_validation.submit_token does, MissingParam.
    """
    fields = form_fields(request)
    sid, token = fields.get("sid"), fields.get("token")
    if not sid or not token:
        raise MissingParam(_INCOMPLETE)
    return _validated(email_validation.submit_token(sid, None, token))


def validate_from_client(request: Request) -> Response:
    """POST submit_token with JSON. Raises what email_validation.submit_from_client does."""
    email_validation.submit_from_client(json_object(request), source_address(request))
    return json_response({"success": True})


def _validated(next_link: str | None) -> Response:
    parts = [success("Your e-mail address is confirmed.")]
    if next_link is None:
        parts.append(paragraph("You can close this page and go back to your app."))
    else:
        parts.append(link_button(next_link, "Go back to your app"))
    return shown("Thank you", joined(parts))
