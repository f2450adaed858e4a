"""The fallback page of each stage of User-Interactive Authentication.

Source: client-server API v1.19, "User-Interactive Authentication API", "Fallback". An app that does not know a stage
opens its page; the page completes the stage in the app's session and tells the app, which then repeats its request with
the session alone. Whoever knows the ID of a session may answer its stages: the form brings it, so that no other site
can post one.
"""

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from client_login_pages.login_page import captcha_data, captcha_sources
from client_login_pages.shell import form_fields, script, shown
from homeserver.matrix.errors import InvalidParam, MatrixError, MissingParam, NotFound
from homeserver.services import email_validation, login_sessions
from homeserver.services.login_flows import (
    DUMMY,
    EMAIL_CODE,
    EMAIL_IDENTITY,
    EMAIL_URL,
    OAUTH2,
    PASSWORD,
    RECAPTCHA,
    REGISTRATION_TOKEN,
    TERMS,
)
from homeserver.services.login_sessions import NotNext, UnknownSession
from homeserver.services.login_stages import terms
from homeserver.services.login_stages.oauth2 import PICK_PATH
from homeserver.storage.sessions import Session
from homeserver.web.pages import (
    Html,
    field,
    form,
    hidden,
    joined,
    link_button,
    markup,
    paragraph,
    problem,
    success,
)
from homeserver.web.requests import origin_of, query

_PURPOSES = {
    "POST /register": "to create your account",
    "POST /account/password": "to set a new password",
    "POST /account/deactivate": "to close your account",
    "POST /account/3pid/add": "to add an address to your account",
    "POST /account/3pid": "to add an address to your account",
    "POST /login/get_token": "to log in another device",
    "POST /oauth2/link": "to link an account of another service",
    "POST /delete_devices": "to log devices out",
}


def stage_page(request: Request, stage_type: str) -> Response:
    """GET: the page of a stage in a session. Raises UnknownSession, NotFound for a stage that it does not have."""
    session = _session(query(request, "session"), stage_type)
    if stage_type in session.completed:
        return _done()
    return _form_page(session, stage_type, credentials=_credentials(request.query_params))


def submit_page(request: Request, stage_type: str) -> Response:
    """POST: the answer to a stage. Raises what stage_page does, MissingParam for a form without its session."""
    fields = form_fields(request)
    session = _session(fields.pop("session", None), stage_type)
    if stage_type in session.completed:
        return _done()
    try:
        if stage_type == EMAIL_IDENTITY and "email" in fields:
            credentials = _ask_for_validation(request, session, fields["email"])
            return _form_page(session, stage_type, credentials=credentials)
        submitted = _ANSWERS[stage_type](fields)
        if stage_type == PASSWORD and session.user is not None:
            submitted["user"] = session.user
        progress = login_sessions.submit(session, stage_type, submitted, origin_of(request))
    except (UnknownSession, NotNext):
        raise
    except MatrixError as error:
        return _form_page(session, stage_type, error=error, credentials=_credentials(fields))
    if progress.state == "waiting":
        return _form_page(progress.session, stage_type, told=progress.answer)
    return _done()


def _session(session_id: str | None, stage_type: str) -> Session:
    if not session_id:
        raise MissingParam("This address is not complete: it does not name a session. Go back to your app.")
    session = login_sessions.load(session_id, "interactive")
    if not any(stage_type in flow for flow in session.flows):
        raise NotFound("This step is none of those that your app needs. Go back to it.")
    return session


def _done() -> Response:
    body = joined([success("This step is done."), paragraph("You can close this window and go back to your app.")])
    return shown("Thank you", body, script=script("parts", "stage"), data="null")


# ── The page ────────────────────────────────────────────────────────────────────────────────────────


def _form_page(
    session: Session,
    stage_type: str,
    *,
    told: Mapping[str, Any] | None = None,
    error: MatrixError | None = None,
    credentials: Mapping[str, str] | None = None,
) -> Response:
    """The page of a stage as its session stands. `told`: what a stage that waits answered; `error`: what was wrong."""
    title, content = _FORMS[stage_type](session, told or {}, credentials or {})
    body = joined([*([problem(error.message)] if error is not None else []), _purpose(session), content])
    more: dict[str, Any] = {}
    if stage_type == RECAPTCHA:
        more = {"script": script("parts", "captcha"), "data": json.dumps(captcha_data()), "foreign": captcha_sources()}
    if error is not None:
        more |= {"headers": error.headers}
    return shown(title, body, error.status if error is not None else 200, **more)


def _purpose(session: Session) -> Html:
    purpose = _PURPOSES.get(session.operation or "", "for your app")
    if (session.operation or "").startswith("DELETE /devices/"):
        purpose = "to log a device out"
    who = f" ({session.user})" if session.user else ""
    return markup('<p class="quiet">Your app needs this {purpose}{who}.</p>', purpose=purpose, who=who)


Form = tuple[str, Html]


def _password(session: Session, told: Mapping[str, Any], credentials: Mapping[str, str]) -> Form:
    fields = [hidden(session=session.session)]
    if session.user is None:
        fields.append(field("user", "User name", autocomplete="username"))
    else:
        # For programs that fill in passwords.
        fields.append(
            markup('<input type="text" value="{user}" autocomplete="username" readonly hidden>', user=session.user)
        )
    fields.append(field("password", "Password", kind="password", autocomplete="current-password"))
    return "Enter your password", form(joined(fields), "Continue")


def _terms(session: Session, told: Mapping[str, Any], credentials: Mapping[str, str]) -> Form:
    boxes = [
        markup(
            '<label class="check"><input type="checkbox" name="agree{number}" value="yes" required>'
            '<span>I agree to <a href="{url}" target="_blank" rel="noopener noreferrer">{name}</a></span></label>',
            number=number,
            url=document.url,
            name=document.name,
        )
        for number, document in enumerate(terms.documents())
    ]
    return "Terms", form(joined([hidden(session=session.session), *boxes]), "Continue")


def _captcha(session: Session, told: Mapping[str, Any], credentials: Mapping[str, str]) -> Form:
    content = markup(
        """<p>Solve the puzzle. This page then goes on by itself.</p>
<div id="captcha"><p>The captcha needs JavaScript, which is off in this browser.</p></div>
<form method="post">{fields}</form>
<div id="problem" class="notice bad below" role="alert"></div>""",
        fields=hidden(session=session.session, response=""),
    )
    return "Show that you are human", content


def _token(session: Session, told: Mapping[str, Any], credentials: Mapping[str, str]) -> Form:
    hint = "Who runs this server gives these out to people who may register."
    fields = [hidden(session=session.session), field("token", "Registration token", hint=hint)]
    return "Enter your registration token", form(joined(fields), "Continue")


def _dummy(session: Session, told: Mapping[str, Any], credentials: Mapping[str, str]) -> Form:
    return "Go on", form(joined([hidden(session=session.session), paragraph("Nothing is asked of you.")]), "Continue")


def _mailed(session: Session, stage_type: str) -> Html:
    address = session.pending[stage_type]["email"]
    return markup("<p>A mail was sent to <strong>{address}</strong>, if it can be used for this.</p>", address=address)


def _address_form(session: Session) -> Html:
    address = field("email", "E-mail address", kind="email", autocomplete="email")
    return form(joined([hidden(session=session.session), address]), "Send the mail")


def _again(session: Session, stage_type: str, what: str) -> Html:
    address = session.pending[stage_type]["email"]
    return form(hidden(session=session.session, email=address), f"Send another {what}", second=True)


def _email_code(session: Session, told: Mapping[str, Any], credentials: Mapping[str, str]) -> Form:
    if EMAIL_CODE not in session.pending:
        return "Get a code by e-mail", _address_form(session)
    code = field("code", "Code", autocomplete="one-time-code", numeric=True, maximum=20)
    answer = form(joined([hidden(session=session.session), code]), "Continue")
    return "Enter the code", joined([_mailed(session, EMAIL_CODE), answer, _again(session, EMAIL_CODE, "code")])


def _email_url(session: Session, told: Mapping[str, Any], credentials: Mapping[str, str]) -> Form:
    if EMAIL_URL not in session.pending:
        return "Get a link by e-mail", _address_form(session)
    answer = form(
        joined(
            [hidden(session=session.session), paragraph("Open the link in it, confirm there, and then go on here.")]
        ),
        "I have confirmed",
    )
    return "Open the link", joined([_mailed(session, EMAIL_URL), answer, _again(session, EMAIL_URL, "link")])


def _email_identity(session: Session, told: Mapping[str, Any], credentials: Mapping[str, str]) -> Form:
    if not credentials:
        hint = "If your app has sent you such a mail already, open the link in that one and go back to the app."
        address = field("email", "E-mail address", kind="email", autocomplete="email", hint=hint)
        return "Confirm your e-mail address", form(joined([hidden(session=session.session), address]), "Send the mail")
    text = paragraph("A mail is on its way to you. Open the link in it, confirm there, and then go on here.")
    return "Open the link", joined(
        [text, form(hidden(session=session.session, **credentials), "I have confirmed")],
    )


def _oauth(session: Session, told: Mapping[str, Any], credentials: Mapping[str, str]) -> Form:
    if OAUTH2 not in session.pending:
        text = paragraph("You are asked to log in at another service, to show that it is you.")
        return "Log in elsewhere", joined([text, form(hidden(session=session.session), "Continue")])
    # What the stage told at first is one use of one service; the choice can be made again.
    there = told.get("uri") or f"{PICK_PATH}?{urlencode({'session': session.session})}"
    parts = [
        paragraph("Log in there, and then go on here."),
        link_button(there, "Log in there"),
        form(hidden(session=session.session), "I have logged in", second=True),
    ]
    return "Log in elsewhere", joined(parts)


_FORMS: dict[str, Callable[[Session, Mapping[str, Any], Mapping[str, str]], Form]] = {
    PASSWORD: _password,
    TERMS: _terms,
    RECAPTCHA: _captcha,
    REGISTRATION_TOKEN: _token,
    DUMMY: _dummy,
    EMAIL_CODE: _email_code,
    EMAIL_URL: _email_url,
    EMAIL_IDENTITY: _email_identity,
    OAUTH2: _oauth,
}


# ── What the forms bring ────────────────────────────────────────────────────────────────────────────


def _ask_for_validation(request: Request, session: Session, email: str) -> dict[str, str]:
    """Ask for the mail that proves an address, as an app would; what shows the proof later."""
    purposes = {"POST /register": "register", "POST /account/password": "password"}
    secret = secrets.token_urlsafe(24)
    body = {"client_secret": secret, "email": email, "send_attempt": 1}
    purpose = purposes.get(session.operation or "", "add")
    asked = email_validation.request_token(purpose, body, origin_of(request))  # type: ignore[arg-type]  # of Purpose
    return {"sid": asked["sid"], "client_secret": secret}


def _credentials(fields: Mapping[str, str]) -> dict[str, str]:
    names = ("sid", "client_secret")
    return {name: fields[name] for name in names} if all(fields.get(name) for name in names) else {}


def _agreed(fields: Mapping[str, str]) -> dict[str, Any]:
    if any(fields.get(f"agree{number}") != "yes" for number in range(len(terms.documents()))):
        raise InvalidParam("You have to agree to each of them to go on.")
    return {}


def _named(fields: Mapping[str, str]) -> dict[str, Any]:
    return {name: fields[name] for name in ("user", "password") if name in fields}


def _only(*names: str) -> Callable[[Mapping[str, str]], dict[str, Any]]:
    return lambda fields: {name: fields[name] for name in names if fields.get(name)}


_ANSWERS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    PASSWORD: _named,
    TERMS: _agreed,
    RECAPTCHA: _only("response"),
    REGISTRATION_TOKEN: _only("token"),
    DUMMY: _only(),
    EMAIL_CODE: _only("email", "code"),
    EMAIL_URL: _only("email"),
    EMAIL_IDENTITY: lambda fields: {"threepid_creds": _credentials(fields)},
    OAUTH2: _only(),
}
