"""The engine of login and registration: a session, its stages, and how far it is.

Source: the 2014 draft, "Registration and login"; client-server API v1.19, "User-Interactive Authentication API";
docs/login.md. It has two skins: the draft's `type`/`session`/`next` (draft_login.py, draft_registration.py) and
User-Interactive Authentication (user_interactive_auth.py).

The session's item is the truth. Every step is one conditional write of it, so that of two submissions one counts. A
session that waits for something outside its requests, or has several stages, also has an execution of the state machine
infra/login.asl.json, which is its clock and its order: it leaves a callback token in the item for the stage it waits
for; whoever completes the stage answers it. A login of one stage and one request stores nothing and starts nothing.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from homeserver.adapters import executions
from homeserver.matrix.access_token import token_hash
from homeserver.matrix.errors import Forbidden, LimitExceeded, MatrixError
from homeserver.observability import fault_point
from homeserver.services import login_flows
from homeserver.services.clock import now_ms
from homeserver.services.login_stages.stage import Attempt, Completed, Kind, Origin, UserChanged, Waiting
from homeserver.services.passwords import hash_password, verify_password
from homeserver.services.rate_limits import take_execution
from homeserver.storage import sessions
from homeserver.storage.sessions import Session

SESSION_SECONDS = 15 * 60  # for each stage; the state machine's TimeoutSeconds is the same
MOST_FAILURES = 5
LEASE_MS = 5_000  # after a crash of the request that makes the login, a repetition of it goes on after so long
_RACES = 8


class UnknownSession(MatrixError):
    """401: there is no such session, or nothing can be done with it any more. The client starts again."""

    status = 401

    def __init__(self) -> None:
        super().__init__("This session is unknown or has expired.")


class NotNext(MatrixError):
    """400: this stage is none that can come next."""

    def __init__(self) -> None:
        super().__init__("Bad login type")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a session is.

    waiting: the stage that was submitted waits; `answer` is what to tell the client. next: it is done, others are
    missing. complete: nothing is missing; if the session is stored, the caller has it to itself for LEASE_MS.
    """

    session: Session
    state: Literal["waiting", "next", "complete"]
    stage_type: str
    answer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def next_stages(self) -> list[str]:
        """The stages that can come next, those of preferred flows first."""
        return next_stages(self.session)


def begin(
    kind: Kind, flows: Sequence[Sequence[str]], *, operation: str | None = None, user_id: str | None = None
) -> Session:
    """A session that is not stored: it is as soon as it has to outlive a request (or by `sessions.create`)."""
    now = time.time()
    return Session(
        sessions.new_session_id(),
        kind=kind,
        created=int(now * 1000),
        expires=int(now) + SESSION_SECONDS,
        operation=operation,
        user=user_id,
        flows=[list(flow) for flow in flows],
        completed=[],
        facts={},
        pending={},
    )


def load(session_id: str, kind: Kind) -> Session:
    """A stored session of this kind. Raises UnknownSession."""
    session = sessions.load(session_id)
    if session is None or session.kind != kind:
        raise UnknownSession
    return session


def next_stages(session: Session) -> list[str]:
    """The stages that can be submitted now, without repetitions.

    The order within a flow is fixed, but in User-Interactive Authentication, where clients choose it.
    """
    completed = list(session.completed)
    if session.kind == "interactive":
        fitting = [flow for flow in session.flows if set(completed) <= set(flow)]
        return list(dict.fromkeys(kind for flow in fitting for kind in flow if kind not in completed))
    fitting = [flow for flow in session.flows if flow[: len(completed)] == completed]
    return list(dict.fromkeys(flow[len(completed)] for flow in fitting if len(flow) > len(completed)))


def is_complete(session: Session) -> bool:
    """Whether no stage is missing."""
    return _is_flow(session.flows, session.completed)


def _is_flow(flows: Sequence[Sequence[str]], completed: Sequence[str]) -> bool:
    return any(len(flow) == len(completed) and set(flow) == set(completed) for flow in flows)


def submit(
    session: Session, stage_type: str, submitted: Mapping[str, Any], origin: Origin, *, proof: str | None = None
) -> Progress:
    """Submit a stage of a session that was begun or loaded. `submitted`: the keys of the body, or of `auth`.

    `proof`: a text of the whole request, secrets included. With it the request that completed the last stage may be
    repeated, by who did not hear the answer; it is kept as a slow hash.
    Raises UnknownSession, NotNext, UserChanged, what the stage raises, LimitExceeded with the fifth wrong answer.
    """
    for _ in range(_RACES):
        stage_type = _meant(session, stage_type, submitted)
        if _is_repetition(session, stage_type, proof):
            progress = _repeated(session, stage_type)
        elif session.status != "active":
            raise UnknownSession
        elif stage_type not in next_stages(session):
            raise NotNext
        else:
            progress = _step(session, stage_type, submitted, origin, proof)
        if progress is not None:
            return progress
        session = _again(session)
    raise LimitExceeded("This session is used by several requests.", retry_after_ms=1000)


def _meant(session: Session, stage_type: str, submitted: Mapping[str, Any]) -> str:
    """The draft polls for a link that was mailed with the type of the mailed code: then the link is meant."""
    says_nothing = not {"code", "email"} & set(submitted)
    if stage_type == login_flows.EMAIL_CODE and says_nothing and login_flows.EMAIL_URL in session.pending:
        return login_flows.EMAIL_URL
    return stage_type


def _again(session: Session) -> Session:
    """The session as it is now, after somebody else has changed it."""
    current = sessions.load(session.session)
    if current is None:
        raise UnknownSession
    return current


# ── One step ────────────────────────────────────────────────────────────────────────────────────────


def _step(
    session: Session, stage_type: str, submitted: Mapping[str, Any], origin: Origin, proof: str | None
) -> Progress | None:
    """Let the stage look at what was submitted, and store what it says. None: a lost race, nothing was stored."""
    stage = login_flows.stage(stage_type)
    pending = session.pending.get(stage_type)
    attempt = Attempt(
        session.kind,  # type: ignore[arg-type]  # the attribute is text; its values are those of Kind
        session.session,
        submitted,
        session.user,
        origin,
        pending or {},
        session.facts,
        session.operation,
    )
    try:
        outcome = stage.start(attempt) if pending is None else stage.submit(attempt)
    except Forbidden:
        if not _count_failure(session):
            return None
        raise
    if session.kind == "login" and outcome.user_id is not None and session.user not in {None, outcome.user_id}:
        raise UserChanged
    if isinstance(outcome, Waiting):
        return _wait(session, stage_type, outcome, origin)
    return _complete_stage(session, stage_type, outcome, origin, proof)


def _count_failure(session: Session) -> bool:
    """Count a wrong answer; the session ends with the fifth. False if somebody else has changed the session."""
    if session.rev == 0:
        return True  # the limits on guesses of an account hold without a session
    failures = int(session.failures) + 1
    is_last = failures >= MOST_FAILURES
    if not sessions.change(session, {"failures": failures, "status": "failed" if is_last else "active"}):
        return False
    if is_last:
        if session.task_token is not None:
            executions.session_failed(session.task_token)
        raise LimitExceeded("There were too many wrong answers: start again.", retry_after_ms=1000)
    return True


def _wait(session: Session, stage_type: str, outcome: Waiting, origin: Origin) -> Progress | None:
    changes: dict[str, Any] = {"pending": {**session.pending, stage_type: dict(outcome.pending)}}
    if session.kind == "login" and session.user is None and outcome.user_id is not None:
        changes["user"] = outcome.user_id
    if not _store(session, changes, origin):
        return None
    if outcome.then is not None:
        outcome.then(session.session)
    return Progress(session, "waiting", stage_type, outcome.answer)


def _complete_stage(
    session: Session, stage_type: str, outcome: Completed, origin: Origin, proof: str | None
) -> Progress | None:
    completed = [*session.completed, stage_type]
    changes: dict[str, Any] = {
        "completed": completed,
        "done": len(completed),
        "facts": {**session.facts, **outcome.facts},
        "pending": {kind: left for kind, left in session.pending.items() if kind != stage_type},
        "expires": int(time.time()) + SESSION_SECONDS,
    }
    if session.kind == "login" and outcome.user_id is not None:
        changes["user"] = outcome.user_id
        if outcome.proves:
            changes["proved"] = outcome.user_id
    ended = _is_flow(session.flows, completed)
    if ended:
        changes |= {"status": "complete", "lease_until": now_ms() + LEASE_MS}
        if session.rev == 0:
            # One stage, one request: nothing has to outlive it.
            for name, value in changes.items():
                setattr(session, name, value)
            return Progress(session, "complete", stage_type)
    if proof is not None:
        changes["claim"] = hash_password(token_hash(proof))
    if not _store(session, changes, origin):
        return None
    fault_point("login_sessions.stage_completed")
    _tell_machine(session)
    fault_point("login_sessions.machine_told")
    return Progress(session, "complete" if ended else "next", stage_type)


def _store(session: Session, changes: dict[str, Any], origin: Origin) -> bool:
    """Store a step. A session that is not at its end gets an execution, if it has none."""
    needs_machine = session.execution is None and changes.get("status") != "complete"
    if needs_machine:
        take_execution(session.user if session.kind == "interactive" and session.user else origin.address)
        changes["execution"] = now_ms()
    if session.rev == 0:
        for name, value in changes.items():
            setattr(session, name, value)
        sessions.create(session)
    elif not sessions.change(session, changes):
        return False
    if needs_machine:
        fault_point("login_sessions.stored")
        executions.start(session.session, int(session.done))
    return True


def _tell_machine(session: Session) -> None:
    """Answer the machine's callback for the stage that was just completed, if it has left one.

    If it has not, it finds the stage completed when it comes to leave it, and goes on by itself. Raises UnknownSession
    if the execution was ended from outside.
    """
    if session.execution is None or session.task_token is None or session.task_stage != str(int(session.done) - 1):
        return
    status: Literal["active", "complete"] = "active" if session.status == "active" else "complete"
    if executions.stage_done(session.session, session.task_token, int(session.done), status):
        return
    # Told before, by the request of which this is a repetition, or there is nobody left to tell.
    if executions.is_dead(session.session):
        sessions.change(session, {"status": "failed"})
        raise UnknownSession


# ── Repetitions ─────────────────────────────────────────────────────────────────────────────────────


def _is_repetition(session: Session, stage_type: str, proof: str | None) -> bool:
    if proof is None or session.claim is None or not session.completed or session.completed[-1] != stage_type:
        return False
    return verify_password(token_hash(proof), session.claim)


def _repeated(session: Session, stage_type: str) -> Progress | None:
    """What the request that completed the last stage was told, or would have been."""
    if session.status == "active":
        _tell_machine(session)
        return Progress(session, "next", stage_type)
    if session.status not in {"complete", "issued"}:
        raise UnknownSession
    left = int(session.lease_until or 0) - now_ms()
    if left > 0:
        raise LimitExceeded("Another request is making this login.", retry_after_ms=left)
    if not sessions.change(session, {"lease_until": now_ms() + LEASE_MS}):
        return None
    _tell_machine(session)
    return Progress(session, "complete", stage_type)
