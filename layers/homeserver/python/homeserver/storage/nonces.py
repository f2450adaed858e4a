"""Nonces: items of the table of sessions that can be taken once, within a minute or so.

DynamoDB removes expired items late: whoever takes one compares the time.
"""

import time

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import DeleteError

from homeserver.storage.passing_items import PassingItem

_PREFIX = "nonce/"


class Nonce(PassingItem):
    """A nonce that nobody has used yet."""

    kind = UnicodeAttribute(default="nonce")
    created = NumberAttribute()  # milliseconds since the epoch


def create_nonce(nonce: str, *, seconds: int) -> None:
    """Store a nonce that can be taken once within so many seconds."""
    now = time.time()
    Nonce(_PREFIX + nonce, created=int(now * 1000), expires=int(now) + seconds).save()


def take_nonce(nonce: str) -> bool:
    """Use a nonce up. False if it is unknown, used or expired."""
    try:
        Nonce(_PREFIX + nonce).delete(Nonce.expires > int(time.time()))
    except DeleteError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True
