"""Sessions of User-Interactive Authentication, and nonces: items that live for minutes.

DynamoDB removes expired items late: whoever reads one compares the time.
"""

import time

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import DeleteError, UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction

_NONCE = "nonce/"
_FAILED = "ConditionalCheckFailedException"


class Session(Item):
    """One User-Interactive Authentication: what it is for and how far it is."""

    class Meta:
        table_name = table_name("SESSIONS")

    session = UnicodeAttribute(hash_key=True)
    kind = UnicodeAttribute()  # "interactive" | "nonce"
    expires = NumberAttribute()  # seconds since the epoch
    created = NumberAttribute()  # milliseconds since the epoch
    operation = UnicodeAttribute(null=True)  # "POST /account/password"
    user = UnicodeAttribute(null=True)  # who asks; absent for a registration
    completed = JSONAttribute(null=True)  # [stage type, ...] in the order of completion
    facts = JSONAttribute(null=True)  # {name: text} that stages found out
    rev = NumberAttribute(default=1)
    # Hash of the request that carries the operation out: only a repetition of it may go on after a crash.
    claim = UnicodeAttribute(null=True)


def load(session_id: str) -> Session | None:
    """A session of User-Interactive Authentication that has not expired."""
    session = Session.fetch(session_id)
    if session is None or session.kind != "interactive" or session.expires <= time.time():
        return None
    return session


def store_progress(session: Session, *, completed: list[str], facts: dict[str, str]) -> bool:
    """Save what was completed. False if somebody else has changed the session in between, or it is gone."""
    actions: list[Action] = [
        Session.completed.set(completed),
        Session.facts.set(facts),
        Session.rev.set(session.rev + 1),
    ]
    return _update(session, actions, Session.rev == session.rev)


def claim(session: Session, fingerprint: str) -> bool:
    """Reserve a completed session for one request. False if another one has it, or it was used up."""
    free = Session.claim.does_not_exist() | (Session.claim == fingerprint)
    return _update(session, [Session.claim.set(fingerprint)], Session.session.exists() & free)


def _update(session: Session, actions: list[Action], condition: Condition) -> bool:
    try:
        session.update(actions, condition)
    except UpdateError as error:
        if error.cause_response_code != _FAILED:
            raise
        return False
    return True


def consume(transaction: Transaction, session: Session) -> None:
    """Add the end of a session to a transaction; its label is `session`, which fails if it was used up."""
    transaction.delete("session", Session(session.session), Session.rev == session.rev)


def finish(session_id: str) -> None:
    """End a session."""
    Session(session_id).delete()


def create_nonce(nonce: str, *, seconds: int) -> None:
    """Store a nonce that can be taken once within so many seconds."""
    now = time.time()
    Session(_NONCE + nonce, kind="nonce", created=int(now * 1000), expires=int(now) + seconds).save()


def take_nonce(nonce: str) -> bool:
    """Use a nonce up. False if it is unknown, used or expired."""
    try:
        Session(_NONCE + nonce).delete(Session.expires > int(time.time()))
    except DeleteError as error:
        if error.cause_response_code != _FAILED:
            raise
        return False
    return True
