"""Validations of e-mail addresses: who asked for one, what was mailed, whether the link was followed.

Items of the table of sessions, under a key that follows from what was asked for. So the same request finds the same
item. They live for a day; DynamoDB removes them late: whoever reads one compares the time.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import PutError, UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from homeserver.storage.connection import Transaction
from homeserver.storage.passing_items import PassingItem

LIFE_SECONDS = 24 * 60 * 60
_PREFIX = "validation/"
_SID = re.compile(r"[0-9A-Za-z_-]{43}", re.ASCII)  # base64url of a SHA-256
_FAILED = "ConditionalCheckFailedException"


class Validation(PassingItem):
    """One address that somebody says is theirs. Times are milliseconds since the epoch unless said otherwise."""

    kind = UnicodeAttribute(default="validation")
    created = NumberAttribute()
    purpose = UnicodeAttribute()  # "register" | "add" | "password"
    address = UnicodeAttribute()  # normalised
    send_attempt = NumberAttribute()  # the greatest that was asked for
    asked = NumberAttribute()  # when its mail was asked for
    mailed = NumberAttribute(null=True)  # the greatest one whose mail was sent
    tokens = JSONAttribute()  # [hash, ...] of the tokens in the last mails, the newest first
    next_link = UnicodeAttribute(null=True)
    base_url = UnicodeAttribute()  # where the link in the mail leads
    asked_from = UnicodeAttribute()  # the network address of who asked
    device = UnicodeAttribute()  # what that seems to be, in words
    validated_at = NumberAttribute(null=True)
    claimed_by = UnicodeAttribute(null=True)  # the user for whom it was used up
    rev = NumberAttribute(default=1)

    @property
    def sid(self) -> str:
        """The ID that clients know."""
        return self.session.removeprefix(_PREFIX)


def key_of(sid: str) -> str:
    """The key of the item of a session ID."""
    return _PREFIX + sid


def load(sid: str) -> Validation | None:
    """A validation that has not expired, as it is now."""
    return Validation.current(key_of(sid)) if _SID.fullmatch(sid) else None


def create(validation: Validation) -> bool:
    """Store a new one. False if there is one under its key that has not expired."""
    free: Condition = Validation.session.does_not_exist() | (Validation.expires <= int(time.time()))
    try:
        validation.save(free)
    except PutError as error:
        if error.cause_response_code != _FAILED:
            raise
        return False
    return True


def change(validation: Validation, changes: Mapping[str, Any]) -> bool:
    """Set attributes, None to remove one. False if it was changed in between or is gone: load it again."""
    actions: list[Action] = [Validation.rev.set(validation.rev + 1)]
    for name, value in changes.items():
        attribute = getattr(Validation, name)
        actions.append(attribute.remove() if value is None else attribute.set(value))
    try:
        validation.update(actions, Validation.rev == validation.rev)
    except UpdateError as error:
        if error.cause_response_code != _FAILED:
            raise
        return False
    return True


def note_mailed(sid: str, send_attempt: int) -> None:
    """Note that the mail of an attempt was sent. Nothing else writes this while a mail is on its way."""
    same: Condition = Validation.send_attempt == send_attempt
    try:
        Validation(key_of(sid)).update([Validation.mailed.set(send_attempt)], same)
    except UpdateError as error:
        if error.cause_response_code != _FAILED:
            raise
        # It is gone, or somebody has asked again: then the mail of that counts.


def claim(transaction: Transaction, sid: str, user_id: str) -> None:
    """Add to a transaction that a validation is used up for a user.

    Its label is `validation`, which fails if the address was not validated in time, or was used up for another user.
    """
    open_: Condition = Validation.claimed_by.does_not_exist() | (Validation.claimed_by == user_id)
    usable: Condition = Validation.validated_at.exists() & (Validation.expires > int(time.time())) & open_
    transaction.update("validation", Validation(key_of(sid)), [Validation.claimed_by.set(user_id)], usable)


def remove(transaction: Transaction, sid: str) -> None:
    """Add to a transaction that a validation is removed: from then on it is unknown."""
    transaction.delete("validation", Validation(key_of(sid)))
