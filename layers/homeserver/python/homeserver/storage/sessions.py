"""Sessions of login, registration and User-Interactive Authentication: items that live for minutes.

The item is the truth about a session. The state machine (infra/login.asl.json) reads `status` and `done` of it and
writes `task_token`, `task_stage` and, when a stage was not completed in time, `status`; it does not touch `rev`. So a
submission, which is conditional on `rev`, loses no race against the machine, and gets the token that the machine left,
if it has left one, with the item that its write returns.

DynamoDB removes expired items late: whoever reads one compares the time.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Any, Literal

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.storage.connection import Transaction
from homeserver.storage.passing_items import PassingItem

_FAILED = "ConditionalCheckFailedException"

# active: stages are missing. complete: none is, and what it permits is being done. issued: a login was made and perhaps
# not told. failed, expired: nothing can be done with it any more, it answers as an unknown one.
Status = Literal["active", "complete", "issued", "failed", "expired"]


class Session(PassingItem):
    """One session: what it is for and how far it is."""

    kind = UnicodeAttribute()  # "login" | "register" | "interactive"
    created = NumberAttribute()  # milliseconds since the epoch
    operation = UnicodeAttribute(null=True)  # of interactive ones: "POST /account/password"
    user = UnicodeAttribute(null=True)  # interactive: who asks, if logged in; login: whom it is for so far
    proved = UnicodeAttribute(null=True)  # login: the user that some stage has proved to be
    flows = JSONAttribute()  # [[stage type, ...], ...]: the flows as they were offered
    completed = JSONAttribute()  # [stage type, ...] in the order of completion
    done = NumberAttribute(default=0)  # how many those are: what the state machine compares
    facts = JSONAttribute()  # {name: text} that completed stages found out
    pending = JSONAttribute()  # {stage type: what a stage that waits left}
    failures = NumberAttribute(default=0)  # wrong answers
    status = UnicodeAttribute(default="active")
    rev = NumberAttribute(default=0)  # 0: not stored yet
    # What completed the last stage (login, register: a slow hash of the body) or carries the operation out
    # (interactive: a hash of the request without its secrets): only a repetition of it may go on after a crash.
    claim = UnicodeAttribute(null=True)
    lease_until = NumberAttribute(null=True)  # how long one request has it to itself, in milliseconds since the epoch
    issued_user = UnicodeAttribute(null=True)  # status issued: the login that was made
    issued_device = UnicodeAttribute(null=True)
    # Written by the state machine: the callback token of the stage it waits for, and that stage's number.
    task_token = UnicodeAttribute(null=True)
    task_stage = UnicodeAttribute(null=True)
    execution = NumberAttribute(null=True)  # when the execution was started, in milliseconds; absent: there is none

    def is_live(self, now: float) -> bool:
        """Whether anything can be done with it at a time, in seconds since the epoch."""
        return bool(self.expires > now) and self.status in {"active", "complete", "issued"}


def new_session_id() -> str:
    """The ID of a new session: 192 random bits, of characters that the name of an execution can have."""
    return secrets.token_urlsafe(24)


def create(session: Session) -> None:
    """Store a new session."""
    session.rev = 1
    session.save(Session.session.does_not_exist())


def load(session_id: str) -> Session | None:
    """A session that something can be done with, as it is now."""
    if not 0 < len(session_id) <= 64 or "/" in session_id:
        return None  # the other items of the table have a slash in their key
    session = Session.fetch(session_id)
    # One without flows was begun by the release before this one: it has minutes to live, and is begun again.
    return session if session is not None and session.flows and session.is_live(time.time()) else None


def change(session: Session, changes: Mapping[str, Any]) -> bool:
    """Set attributes of a session, None to remove one. The object then is the item as it is stored.

    False if somebody else has changed the session in between, or it is gone: load it again.
    """
    actions: list[Action] = [Session.rev.set(session.rev + 1)]
    for name, value in changes.items():
        attribute = getattr(Session, name)
        actions.append(attribute.remove() if value is None else attribute.set(value))
    try:
        # The machine leaves `rev` alone: what it expired since this session was read must not come back to life.
        session.update(actions, (Session.rev == session.rev) & (Session.status == session.status))
    except UpdateError as error:
        if error.cause_response_code != _FAILED:
            raise
        return False
    return True


def issue(transaction: Transaction, session: Session, user_id: str, device_id: str | None) -> None:
    """Add to a transaction that the session's login is made; label `session`, which fails if the lease was lost."""
    actions: list[Action] = [
        Session.status.set("issued"),
        Session.issued_user.set(user_id),
        Session.rev.set(session.rev + 1),
    ]
    if device_id is not None:
        actions.append(Session.issued_device.set(device_id))
    transaction.update("session", Session(session.session), actions, Session.rev == session.rev)


def consume(transaction: Transaction, session: Session) -> None:
    """Add the end of a session to a transaction; its label is `session`, which fails if it was used up."""
    transaction.delete("session", Session(session.session), Session.rev == session.rev)


def finish(session_id: str) -> None:
    """End a session: from now on it is unknown."""
    Session(session_id).delete()
