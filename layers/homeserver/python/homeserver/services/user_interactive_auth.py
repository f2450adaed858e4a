"""User-Interactive Authentication: sessions, flows and stages in front of an operation.

Source: client-server API v1.19, "User-Interactive Authentication API".

A session is bound to one operation (method, path, user). Its record names the completed stages; later stages that
wait for something outside the request (a mailed code, a clicked link) complete themselves in the same record.
When a flow is complete, an operation of several steps claims the session: a repetition of that request may go on
after a crash, another one is asked again. The operation ends the session as its last act.
"""

import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from homeserver.matrix.access_token import token_hash
from homeserver.matrix.canonical_json import NotCanonical, encode_lenient
from homeserver.matrix.errors import BadJson, Forbidden, LimitExceeded, MatrixError, MissingParam
from homeserver.services.passwords import authenticate_password, user_of_identifier
from homeserver.settings import settings
from homeserver.storage import registration_tokens, sessions
from homeserver.storage.connection import Transaction
from homeserver.storage.sessions import Session

SESSION_SECONDS = 15 * 60
_RACES = 4


@dataclass(frozen=True, slots=True)
class Operation:
    """What a session permits: "POST /account/password" by this user (None: not logged in), with this body.

    `atomic`: the operation is one transaction, which consumes the session; it needs no claim.
    """

    name: str
    user_id: str | None
    body: Mapping[str, Any]
    atomic: bool = False

    @property
    def fingerprint(self) -> str:
        """Hash of the request without its secrets: a hash of a body with a password could be searched for it."""
        rest = {key: value for key, value in self.body.items() if key not in {"auth", "password", "new_password"}}
        try:
            return token_hash(encode_lenient([self.name, rest]).decode())
        except NotCanonical as error:
            raise BadJson(f"The request cannot be kept: {error}") from error


class Stage(Protocol):
    """One step of a flow."""

    stage_type: ClassVar[str]

    def params(self) -> Mapping[str, Any]:
        """What clients must know to attempt the stage; empty if nothing."""

    def submit(self, auth: Mapping[str, Any], user_id: str | None) -> dict[str, str]:
        """Check an attempt. Returns facts to keep in the session. Raises Forbidden if the attempt fails."""


class Dummy:
    """`m.login.dummy`: always succeeds."""

    stage_type: ClassVar[str] = "m.login.dummy"

    def params(self) -> Mapping[str, Any]:
        return {}

    def submit(self, auth: Mapping[str, Any], user_id: str | None) -> dict[str, str]:
        return {}


class Password:
    """`m.login.password`: the password of the user who asks."""

    stage_type: ClassVar[str] = "m.login.password"

    def params(self) -> Mapping[str, Any]:
        return {}

    def submit(self, auth: Mapping[str, Any], user_id: str | None) -> dict[str, str]:
        password = auth.get("password")
        if not isinstance(password, str):
            raise MissingParam("password is required.")
        claimed = user_of_identifier(auth)
        if user_id is None or claimed != user_id:
            raise Forbidden("This is not the user who asks.")
        if authenticate_password(user_id, password) is None:
            raise Forbidden("The password is wrong.")
        return {}


REGISTRATION_TOKEN_FACT = "registration_token"


class RegistrationTokenStage:
    """`m.login.registration_token`: a token from the server's operator."""

    stage_type: ClassVar[str] = "m.login.registration_token"

    def params(self) -> Mapping[str, Any]:
        return {}

    def submit(self, auth: Mapping[str, Any], user_id: str | None) -> dict[str, str]:
        token = auth.get("token")
        if not isinstance(token, str):
            raise MissingParam("token is required.")
        if is_configured_token(token):
            return {}
        if not is_stored_token(token):
            raise Forbidden("The registration token is not valid.")
        return {REGISTRATION_TOKEN_FACT: token_hash(token)}


def is_configured_token(token: str) -> bool:
    """Whether this is the registration token of the settings."""
    configured = settings().registration_token
    return bool(configured) and hmac.compare_digest(token.encode(), configured.encode())


def is_stored_token(token: str) -> bool:
    """Whether this is a registration token that an administrator made and that can still be used."""
    record = registration_tokens.load(token_hash(token))
    return record is not None and record.is_valid(int(time.time() * 1000))


Flows = Sequence[Sequence[Stage]]


class InteractionRequired(MatrixError):
    """401: the stages that are still to be completed; after a failed attempt with `errcode` and `error`."""

    status = 401

    def __init__(self, flows: Flows, session: Session, failure: MatrixError | None = None) -> None:
        super().__init__("Additional authentication is required.")
        self._failure = failure
        self._answer = {
            "flows": [{"stages": [stage.stage_type for stage in flow]} for flow in flows],
            "params": {stage.stage_type: dict(stage.params()) for flow in flows for stage in flow if stage.params()},
            "session": session.session,
            "completed": list(session.completed or ()),
        }

    @classmethod
    def anew(cls, operation: Operation, flows: Flows, failure: MatrixError | None = None) -> "InteractionRequired":
        """The same with a fresh session."""
        session = _new_session(operation)
        session.save()
        return cls(flows, session, failure)

    def body(self) -> dict[str, Any]:
        """The flows, and why the last attempt failed."""
        return self._answer | (self._failure.body() if self._failure else {})


@dataclass(frozen=True, slots=True)
class Authorisation:
    """A completed authentication. `session` is None if it was completed in one request, without a stored session."""

    session: Session | None
    facts: Mapping[str, str]

    def consume(self, transaction: Transaction) -> None:
        """End the session in the transaction that carries the operation out (label `session`)."""
        if self.session is not None:
            sessions.consume(transaction, self.session)

    def finish(self) -> None:
        """End the session after an operation of several steps, as its last act."""
        if self.session is not None:
            sessions.finish(self.session.session)


def authorise(operation: Operation, flows: Flows) -> Authorisation:
    """Let an operation pass when a flow is complete. `operation.body["auth"]` is what the client submits.

    Raises InteractionRequired (401) as long as stages are missing or after a failed attempt, BadJson for an `auth`
    that has the wrong shape, LimitExceeded for too many attempts.
    """
    auth = operation.body.get("auth")
    if auth is None:
        raise InteractionRequired.anew(operation, flows)
    if not isinstance(auth, dict):
        raise BadJson("auth must be an object.")
    session_id, stage_type = auth.get("session"), auth.get("type")
    if not isinstance(session_id, str | None) or not isinstance(stage_type, str | None):
        raise BadJson("auth.session and auth.type must be strings.")
    for _ in range(_RACES):
        session = _new_session(operation) if session_id is None else _stored(operation, session_id)
        if session is None:
            unknown = MatrixError("This session is unknown or has expired.")
            raise InteractionRequired.anew(operation, flows, unknown)
        facts = _attempt(flows, session, auth, stage_type, stored=session_id is not None)
        completed = list(session.completed or ())
        if stage_type is not None and stage_type not in completed:
            completed.append(stage_type)
        if session_id is None:
            if _is_complete(flows, completed):
                return Authorisation(None, facts)
            session.completed, session.facts = completed, facts
            session.save()
            raise InteractionRequired(flows, session)
        if completed == (session.completed or []) or sessions.store_progress(session, completed=completed, facts=facts):
            return _claim(operation, flows, session, completed)
    raise InteractionRequired.anew(operation, flows, MatrixError("This session is used by several requests."))


def _attempt(
    flows: Flows, session: Session, auth: Mapping[str, Any], stage_type: str | None, *, stored: bool
) -> dict[str, str]:
    """Submit a stage; the facts of the session after it."""
    facts = dict(session.facts or {})
    if stage_type is None or stage_type in (session.completed or ()):
        return facts  # a repetition: the client did not hear that the stage was completed
    stage = next((stage for flow in flows for stage in flow if stage.stage_type == stage_type), None)
    failure: MatrixError
    if stage is None:
        failure = MatrixError("This authentication type is not offered here.", errcode="M_UNRECOGNIZED")
    else:
        try:
            return facts | stage.submit(auth, session.user)
        except LimitExceeded:
            raise
        except MatrixError as refused:
            failure = refused
    if not stored:
        session.save()
    raise InteractionRequired(flows, session, failure)


def _claim(operation: Operation, flows: Flows, session: Session, completed: list[str]) -> Authorisation:
    if not _is_complete(flows, completed):
        raise InteractionRequired(flows, session)
    if not operation.atomic and not sessions.claim(session, operation.fingerprint):
        used = MatrixError("This session was used for another request.")
        raise InteractionRequired.anew(operation, flows, used)
    return Authorisation(session, dict(session.facts or {}))


def _is_complete(flows: Flows, completed: Sequence[str]) -> bool:
    return any(all(stage.stage_type in completed for stage in flow) for flow in flows)


def _new_session(operation: Operation) -> Session:
    now = time.time()
    return Session(
        secrets.token_urlsafe(24),
        kind="interactive",
        created=int(now * 1000),
        expires=int(now) + SESSION_SECONDS,
        operation=operation.name,
        user=operation.user_id,
    )


def _stored(operation: Operation, session_id: str) -> Session | None:
    """The session, if it is one of this operation and this user."""
    session = sessions.load(session_id) if 0 < len(session_id) <= 255 else None
    if session is None or (session.operation, session.user) != (operation.name, operation.user_id):
        return None
    return session
