"""Registration in the dialects of 2014, and today's at the addresses of 2014.

What a body has decides how it is read:
    `auth`      as today's clients register (User-Interactive Authentication)
    `type`      as one logs in: stages, `session`, `next`; the last stage, m.login.password, has user and password
    neither     as on the draft's own date: `user_id` (or `user`), the local part, and `password`; this makes the
                account at once, so it is for servers where anybody may register without any other stage

Source: the 2014 draft, "Registration and login"; docs/login.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.matrix.errors import BadJson, Forbidden, MatrixError
from homeserver.services import login_flows, login_sessions, rate_limits
from homeserver.services.attempts import attempts
from homeserver.services.draft_login import (
    described,
    login_result,
    session_for,
    stage_and_session,
    submit_stage,
    unfinished,
)
from homeserver.services.email_validation import in_use
from homeserver.services.login import DeviceRequest, add_login
from homeserver.services.login_completion import complete_login, device_of, end, taken_over
from homeserver.services.login_flows import PASSWORD
from homeserver.services.login_stages.password import NEW_NAME, NEW_PASSWORD
from homeserver.services.login_stages.stage import Origin
from homeserver.services.passwords import check_new_password, hash_password
from homeserver.services.registration import (
    add_account,
    add_facts,
    check_open,
    check_username,
    name_in_use,
    random_user_id,
    register,
)
from homeserver.services.user_interactive_auth import InteractionRequired, Operation
from homeserver.settings import settings
from homeserver.storage import sessions
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.sessions import Session

_NAMES = ("user", "user_id", "username")  # of the key for the local part; `username` is today's


def registration_info() -> dict[str, Any]:
    """The answer of `GET /register`. Raises Forbidden if nobody can register."""
    check_open()
    return described(login_flows.draft_registration_flows())


def register_account(body: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """The answer of `POST /register`: what the draft's login answers.

    Raises Forbidden (registration is closed, or a wrong secret), M_USER_IN_USE, M_THREEPID_IN_USE, M_WEAK_PASSWORD,
    M_FAILED_HUMAN_ID_CHECK, InteractionRequired, UnknownSession (401), NotNext (400), BadJson, MissingParam,
    LimitExceeded.
    """
    check_open()
    if body.get("auth") is not None:
        return _with_auth(body, origin)
    if body.get("type") is not None or body.get("session") is not None:
        return _with_stages(body, origin)
    return _at_once(body, origin)


# ── The local part ──────────────────────────────────────────────────────────────────────────────────


def _name(body: Mapping[str, Any], keys: Sequence[str] = _NAMES) -> tuple[str, str | None]:
    """The key that names the local part, and the local part if one is named. Raises BadJson."""
    key = next((key for key in keys if body.get(key) is not None), keys[0])
    name = body.get(key)
    if not isinstance(name, str | None):
        raise BadJson(f"{key} must be a string.")
    return key, _localpart(name) if name is not None else None


def _localpart(name: str) -> str:
    ending = f":{settings().server_name}"
    return name[1 : -len(ending)] if name.startswith("@") and name.endswith(ending) else name


def _user_id(key: str, localpart: str | None) -> str:
    """The ID of a new user. Raises M_USER_IN_USE, M_FAILED_HUMAN_ID_CHECK for what is no name.

    The names of today's grammar are lower-case ASCII letters, digits and six signs: nothing in it looks like a letter
    of another script, so the grammar is the check for names that could be mistaken for one another.
    """
    if not localpart:
        return random_user_id()
    try:
        return check_username(localpart)
    except MatrixError as refused:
        if refused.errcode != "M_INVALID_USERNAME":
            raise
        failed = {"failed_keys": [key]}
        raise MatrixError(refused.message, errcode="M_FAILED_HUMAN_ID_CHECK", extra=failed) from refused


# ── Today's way ─────────────────────────────────────────────────────────────────────────────────────


def _with_auth(body: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    key, localpart = _name(body)
    if localpart is not None:
        body = {**body, "username": _user_id(key, localpart)[1:].partition(":")[0]}
    user_id, login = register("user", body, origin)
    if login is not None:
        return login_result(login)
    return {"user_id": user_id, "home_server": settings().server_name}


# ── The way of the draft's own date ─────────────────────────────────────────────────────────────────


def _at_once(body: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    key, localpart = _name(body)
    password = body.get("password")
    if not isinstance(password, str | None):
        raise BadJson("password must be a string.")
    device = DeviceRequest.from_body(body, origin.address)
    rate_limits.take_registration(origin.address)
    user_id = _user_id(key, localpart)
    if password is not None:
        check_new_password(password)
    flows = login_flows.draft_registration_flows()
    if (PASSWORD,) not in flows:
        raise _more_is_needed(body, origin)
    return _make(user_id, hash_password(password) if password is not None else None, None, device)


class _MoreIsNeeded(InteractionRequired):
    """The 401 of today, whose `flows` also name those of the draft: each dialect finds its own."""

    def body(self) -> dict[str, Any]:
        answer = super().body()
        return {**answer, "flows": [*answer["flows"], *described(login_flows.draft_registration_flows())["flows"]]}


def _more_is_needed(body: Mapping[str, Any], origin: Origin) -> MatrixError:
    operation = Operation("POST /register", None, body, atomic=True, origin=origin)
    return _MoreIsNeeded.anew(operation, login_flows.registration_flows())


# ── The way of the stages ───────────────────────────────────────────────────────────────────────────


def _with_stages(body: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    stage_type, session_id = stage_and_session(body)
    key, localpart = _name(body, ("user",))
    if session_id is None or stage_type == PASSWORD:  # polls have limits of their own
        rate_limits.take_registration(origin.address)
    session = session_for("register", login_flows.draft_registration_flows(), body, origin)
    if stage_type == PASSWORD and session.status == "active" and PASSWORD in login_sessions.next_stages(session):
        # Before the stage is done: somebody who took a taken name can take another one.
        _user_id(key, localpart)
    progress = submit_stage(session, body, origin)
    if progress.state != "complete":
        return unfinished(progress)
    session, device = progress.session, device_of(progress.session, body, origin.address)
    if session.issued_user is not None:
        return login_result(complete_login(session, device))
    user_id = _user_id(key, _localpart(session.facts[NEW_NAME]))
    return _make(user_id, session.facts[NEW_PASSWORD], session, device)


def _make(user_id: str, password_hash: str | None, session: Session | None, device: DeviceRequest) -> dict[str, Any]:
    """Make the account, its first login and the note of it in one transaction, then end the session."""
    for _ in attempts("This account"):
        transaction = Transaction()
        add_account(transaction, user_id, password_hash, device=None)
        login = add_login(transaction, user_id, device, new_user=True)
        if session is not None:
            add_facts(transaction, user_id, session.facts)
            if session.rev:
                sessions.issue(transaction, session, user_id, login.device_id)
        try:
            transaction.commit()
        except TransactionCancelled as lost:
            if session is not None and lost.failed("session"):
                raise taken_over(session) from lost
            if lost.failed("account"):
                raise name_in_use() from lost
            if lost.failed("threepid"):
                raise in_use() from lost
            if lost.failed("registration_token") or lost.failed("validation"):
                raise Forbidden("The registration token or the proof of the address was used up.") from lost
            if not lost.conflict:
                raise
        else:
            if session is not None:
                end(session)
            return login_result(login)
    raise AssertionError("unreachable: attempts() raises")
