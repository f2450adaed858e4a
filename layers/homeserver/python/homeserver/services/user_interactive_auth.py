"""User-Interactive Authentication: flows of stages in front of an operation.

Source: client-server API v1.19, "User-Interactive Authentication API". The sessions and their stages are those of
login_sessions.py; here is what the protocol makes of them: `auth` in a request, and the 401 that names the flows.

A session is bound to one operation (method, path, user). When a flow is complete, an operation of several steps claims
the session: a repetition of that request may go on after a crash, another one is asked again. The operation ends the
session as its last act.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.access_token import token_hash
from homeserver.matrix.canonical_json import NotCanonical, encode_lenient
from homeserver.matrix.errors import BadJson, LimitExceeded, MatrixError
from homeserver.services import login_flows, login_sessions
from homeserver.services.login_sessions import NotNext, UnknownSession
from homeserver.services.login_stages.stage import Origin
from homeserver.storage import sessions
from homeserver.storage.connection import Transaction
from homeserver.storage.sessions import Session

Flows = Sequence[Sequence[str]]
_RACES = 4
_NOBODY = Origin("")


@dataclass(frozen=True, slots=True)
class Operation:
    """What a session permits: "POST /account/password" by this user (None: not logged in), with this body.

    `atomic`: the operation is one transaction, which consumes the session; it needs no claim.
    """

    name: str
    user_id: str | None
    body: Mapping[str, Any]
    atomic: bool = False
    origin: Origin = _NOBODY

    @property
    def fingerprint(self) -> str:
        """Hash of the request without its secrets: a hash of a body with a password could be searched for it."""
        rest = {key: value for key, value in self.body.items() if key not in {"auth", "password", "new_password"}}
        try:
            return token_hash(encode_lenient([self.name, rest]).decode())
        except NotCanonical as error:
            raise BadJson(f"The request cannot be kept: {error}") from error

    def new_session(self, flows: Flows) -> Session:
        """A session for it, not stored."""
        return login_sessions.begin("interactive", flows, operation=self.name, user_id=self.user_id)


class InteractionRequired(MatrixError):
    """401: the stages that are still to be completed; after a failed attempt with `errcode` and `error`.

    `waiting`: what a stage that waits tells the client beside that.
    """

    status = 401

    def __init__(
        self, session: Session, failure: MatrixError | None = None, waiting: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__("Additional authentication is required.")
        self._failure = failure
        types = dict.fromkeys(kind for flow in session.flows for kind in flow)
        params = {kind: dict(login_flows.stage(kind).describe()) for kind in types}
        self._answer = {
            **(waiting or {}),
            "flows": [{"stages": list(flow)} for flow in session.flows],
            "params": {kind: described for kind, described in params.items() if described},
            "session": session.session,
            "completed": list(session.completed),
        }

    @classmethod
    def anew(cls, operation: Operation, flows: Flows, failure: MatrixError | None = None) -> "InteractionRequired":
        """The same with a fresh session."""
        session = operation.new_session(flows)
        sessions.create(session)
        return cls(session, failure)

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
    session = operation.new_session(flows) if session_id is None else _stored(operation, session_id)
    if session is None:
        raise InteractionRequired.anew(operation, flows, UnknownSession())
    # A stage that was completed before is a repetition: the client did not hear of it.
    if stage_type is not None and stage_type not in session.completed:
        session = _attempt(operation, flows, session, stage_type, auth)
    if not login_sessions.is_complete(session):
        raise _missing(session)
    if session.rev == 0:
        return Authorisation(None, dict(session.facts))
    return _claim(operation, flows, session)


def _attempt(operation: Operation, flows: Flows, session: Session, stage_type: str, auth: Mapping[str, Any]) -> Session:
    """Submit a stage; the session after it."""
    try:
        progress = login_sessions.submit(session, stage_type, auth, operation.origin)
    except LimitExceeded:
        raise
    except UnknownSession as gone:
        raise InteractionRequired.anew(operation, flows, gone) from gone
    except NotNext:
        raise _missing(session, _not_offered(session, stage_type)) from None
    except MatrixError as refused:
        raise _missing(session, refused) from refused
    if progress.state == "waiting":
        raise InteractionRequired(progress.session, waiting=progress.answer)
    return progress.session


def _not_offered(session: Session, stage_type: str) -> MatrixError | None:
    if any(stage_type in flow for flow in session.flows):
        return None  # part of another flow than the one that was begun, or completed in between
    return MatrixError("This authentication type is not offered here.", errcode="M_UNRECOGNIZED")


def _missing(session: Session, failure: MatrixError | None = None) -> InteractionRequired:
    if session.rev == 0:
        sessions.create(session)
    return InteractionRequired(session, failure)


def _claim(operation: Operation, flows: Flows, session: Session) -> Authorisation:
    """Reserve a completed session for this request, unless the operation is one transaction."""
    if operation.atomic:
        return Authorisation(session, dict(session.facts))
    for _ in range(_RACES):
        if session.claim == operation.fingerprint:
            return Authorisation(session, dict(session.facts))
        if session.claim is None and sessions.change(session, {"claim": operation.fingerprint}):
            return Authorisation(session, dict(session.facts))
        current = _stored(operation, session.session)
        if current is None or current.claim not in {None, operation.fingerprint}:
            break
        session = current
    used = MatrixError("This session was used for another request.")
    raise InteractionRequired.anew(operation, flows, used)


def _stored(operation: Operation, session_id: str) -> Session | None:
    """The session, if it is one of this operation and this user."""
    session = sessions.load(session_id)
    if session is None or session.kind != "interactive" or session.status not in {"active", "complete"}:
        return None
    return session if (session.operation, session.user) == (operation.name, operation.user_id) else None
