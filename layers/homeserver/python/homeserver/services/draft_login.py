"""Login in the dialect of the 2014 draft: `type`, `stages`, `session`, `next`.

A body names its stage (`type`), and the session that an earlier answer told, if there was one. The answer is what the
stage waits for (`type`, `session`), the stage to come (`next`, `session`; all of them in `next_options`, if there are
several), or the login (`user_id`, `access_token`, `home_server`, `device_id`).

Source: the 2014 draft, "Registration and login"; docs/login.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.matrix.errors import BadJson, InvalidParam, MissingParam
from homeserver.services import login_flows, login_sessions
from homeserver.services.login import DeviceRequest, Login, log_in_with_password, offers_password
from homeserver.services.login_completion import (
    complete_login,
    complete_with_login_token,
    device_of,
    keep_device,
    proof_of,
)
from homeserver.services.login_sessions import Progress
from homeserver.services.login_stages.stage import Kind, Origin
from homeserver.services.login_tokens import LIFETIME_MS
from homeserver.services.rate_limits import take_login
from homeserver.settings import settings
from homeserver.storage.sessions import Session

RESULT = "org.eigenserver.result"  # of a body: what the login shall end in
LOGIN_TOKEN = "login_token"


def described(flows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Flows as `GET /login` and `GET /register` list them; the first also alone, as the oldest clients read it."""
    listed = [{"type": flow[0], **({"stages": list(flow)} if len(flow) > 1 else {})} for flow in flows]
    return {**listed[0], "flows": listed}


def login_info() -> dict[str, Any]:
    """The answer of `GET /login`."""
    return described(login_flows.login_flows())


def log_in(body: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """The answer of `POST /login`.

    A login with the password alone is one request, stores no session and starts no execution. A body with
    `"org.eigenserver.result": "login_token"` ends in a login token instead of a login: so the login page of this
    server logs in other clients.
    Raises MissingParam, BadJson, InvalidParam; UnknownSession (401), NotNext and UserChanged (400), Forbidden for a
    wrong secret, LimitExceeded, and what else the stage raises.
    """
    stage_type, session_id = stage_and_session(body)
    wants_token = _wants_token(body)
    if session_id is None and stage_type == login_flows.PASSWORD and offers_password() and not wants_token:
        return login_result(log_in_with_password(body, origin.address))
    if session_id is None:
        take_login(origin.address)
    session = session_for("login", login_flows.login_flows(), body, origin)
    progress = submit_stage(session, body, origin)
    if progress.state != "complete":
        return unfinished(progress)
    if wants_token:
        user_id, token = complete_with_login_token(progress.session)
        return {"user_id": user_id, "login_token": token, "expires_in_ms": LIFETIME_MS}
    device = device_of(progress.session, body, origin.address)
    return login_result(complete_login(progress.session, device))


def _wants_token(body: Mapping[str, Any]) -> bool:
    wanted = body.get(RESULT)
    if wanted is not None and wanted != LOGIN_TOKEN:
        raise InvalidParam(f"{RESULT} must be {LOGIN_TOKEN}.")
    return wanted is not None


def login_result(login: Login) -> dict[str, Any]:
    """The draft's LoginResult."""
    return {**login.body(), "home_server": settings().server_name}


# ── What login and registration share ───────────────────────────────────────────────────────────────


def stage_and_session(body: Mapping[str, Any]) -> tuple[str, str | None]:
    """`type` and `session` of a body. Raises MissingParam, BadJson."""
    stage_type, session_id = body.get("type"), body.get("session")
    if stage_type is None:
        raise MissingParam("type is required.")
    if not isinstance(stage_type, str) or not isinstance(session_id, str | None):
        raise BadJson("type and session must be strings.")
    return stage_type, session_id


def session_for(kind: Kind, flows: Sequence[Sequence[str]], body: Mapping[str, Any], origin: Origin) -> Session:
    """The session that a body names, or a new one, which is not stored. Raises UnknownSession, BadJson, InvalidParam.

    What the body says about the device is looked at here: a mistake in it is told at once, not with the last stage.
    """
    DeviceRequest.from_body(body, origin.address)
    _, session_id = stage_and_session(body)
    if session_id is not None:
        return login_sessions.load(session_id, kind)
    session = login_sessions.begin(kind, flows)
    keep_device(session, body)
    return session


def submit_stage(session: Session, body: Mapping[str, Any], origin: Origin) -> Progress:
    """Submit the stage that a body names. Raises what the engine raises."""
    stage_type, _ = stage_and_session(body)
    progress = login_sessions.submit(session, stage_type, body, origin, proof=proof_of(body))
    if progress.state != "complete":
        keep_device(progress.session, body)
    return progress


def unfinished(progress: Progress) -> dict[str, Any]:
    """The answer while stages are missing."""
    session_id = progress.session.session
    if progress.state == "waiting":
        return {"type": progress.stage_type, "session": session_id, **progress.answer}
    options = progress.next_stages
    more = {"next_options": options} if len(options) > 1 else {}
    return {"next": options[0], "session": session_id, **more}
