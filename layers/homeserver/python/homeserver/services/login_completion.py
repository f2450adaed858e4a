"""The last act of a login of several stages: the login is made, once, and the session ends.

The engine (login_sessions.py) has given the session to this request for a few seconds. Token, device and the note that
the login was made are one transaction; then the session is deleted. After a crash in between, a repetition of the
request makes the login again on the same device, which revokes the token that nobody has heard of.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from homeserver.matrix.access_token import token_hash
from homeserver.matrix.canonical_json import NotCanonical, encode_lenient
from homeserver.matrix.errors import BadJson, Forbidden, LimitExceeded, MatrixError
from homeserver.observability import fault_point
from homeserver.services.attempts import attempts
from homeserver.services.login import DEVICE_KEYS, DeviceRequest, Login, add_login
from homeserver.services.login_sessions import LEASE_MS, UnknownSession
from homeserver.services.login_stages.password import PASSWORD_CHECKED
from homeserver.services.login_tokens import add_login_token
from homeserver.storage import sessions
from homeserver.storage.accounts import ACCOUNT, Account, load_account, usable_with
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.sessions import Session

_DEVICE = "device"  # fact: what the client has said about its device so far, as JSON
_RACES = 4
_Made = TypeVar("_Made")


def proof_of(body: Mapping[str, Any]) -> str:
    """The text of a whole body, by which the engine knows a repetition of it. Raises BadJson."""
    try:
        return encode_lenient(dict(body)).decode()
    except NotCanonical as error:
        raise BadJson(f"The request cannot be kept: {error}") from error


def device_of(session: Session, body: Mapping[str, Any], address: str) -> DeviceRequest:
    """What a client says about its device in this body, or said with an earlier stage. Raises BadJson, InvalidParam."""
    return DeviceRequest.from_body(_device_keys(session, body), address)


def keep_device(session: Session, body: Mapping[str, Any]) -> None:
    """Keep in the session what a body says about the device."""
    for _ in range(_RACES):
        text = json.dumps(_device_keys(session, body), sort_keys=True)
        if text == session.facts.get(_DEVICE, "{}"):
            return
        facts = {**session.facts, _DEVICE: text}
        if session.rev == 0:
            session.facts = facts  # stored with the session, if it ever is
            return
        if sessions.change(session, {"facts": facts}):
            return
        current = sessions.load(session.session)
        if current is None or current.status != "active":
            return
        session = current


def _device_keys(session: Session, body: Mapping[str, Any]) -> dict[str, Any]:
    said = {key: body[key] for key in DEVICE_KEYS if body.get(key) is not None}
    return {**json.loads(session.facts.get(_DEVICE, "{}")), **said}


def complete_login(session: Session, device: DeviceRequest) -> Login:
    """Log in the user whom a complete session proved, or who registered with it. The session is over after it.

    Raises Forbidden if the account has ended or got another password since it was asked for, LimitExceeded or
    UnknownSession if another request has the session.
    """
    if session.issued_device is not None:
        device = replace(device, device_id=session.issued_device)

    def made(transaction: Transaction, account: Account) -> tuple[Login, str | None]:
        login = add_login(transaction, account.user, device)
        return login, login.device_id

    return _completed(session, made)


def complete_with_login_token(session: Session) -> tuple[str, str]:
    """The user whom a complete session proved, and a login token for them instead of a login; raises the same.

    After a crash there is a second token: the first one, of which nobody has heard, lives for its two minutes.
    """

    def made(transaction: Transaction, account: Account) -> tuple[tuple[str, str], str | None]:
        return (account.user, add_login_token(transaction, account)), None

    return _completed(session, made)


def _completed(session: Session, make: Callable[[Transaction, Account], tuple[_Made, str | None]]) -> _Made:
    """What `make` adds to the transaction that notes that it was made; `make` also tells the device it is for."""
    user_id = session.issued_user or session.proved
    if user_id is None or (session.kind == "login" and user_id != session.user):
        raise Forbidden("No stage has proved who this is.")
    for _ in attempts("This account"):
        account = load_account(user_id)
        if account is None or not account.active:
            raise Forbidden("This account was deactivated.", errcode="M_USER_DEACTIVATED")
        checked = session.facts.get(PASSWORD_CHECKED)
        if checked is not None and checked != token_hash(account.password or ""):
            raise Forbidden("The password was changed meanwhile.")
        transaction = Transaction()
        transaction.check("account", Account, user_id, ACCOUNT, usable_with(account.password))
        made, device_id = make(transaction, account)
        if session.rev:
            sessions.issue(transaction, session, user_id, device_id)
        try:
            transaction.commit()
        except TransactionCancelled as lost:
            if lost.failed("session"):
                raise taken_over(session) from lost
        else:
            end(session)
            return made
    raise AssertionError("unreachable: attempts() raises")


def end(session: Session) -> None:
    """End a session, stored or not, whose login was made."""
    fault_point("login_completion.issued")
    if session.rev:
        sessions.finish(session.session)


def taken_over(session: Session) -> MatrixError:
    """What to answer a request that has lost its session to a repetition of itself."""
    if sessions.load(session.session) is None:
        return UnknownSession()
    return LimitExceeded("Another request is making this login.", retry_after_ms=LEASE_MS)
