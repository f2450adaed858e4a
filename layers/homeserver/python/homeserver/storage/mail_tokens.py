"""Tokens of links that were mailed: items of the table of sessions, keyed by the token's hash.

An item leads from the link to the session that waits for it, and remembers who asked.
"""

import time

from pynamodb.attributes import NumberAttribute, UnicodeAttribute

from homeserver.matrix.access_token import token_hash
from homeserver.storage.passing_items import PassingItem

_PREFIX = "mail/"


class MailToken(PassingItem):
    """A link that was mailed and not used."""

    kind = UnicodeAttribute(default="mail")
    created = NumberAttribute()  # milliseconds since the epoch
    waiting = UnicodeAttribute()  # the ID of the session that waits
    address = UnicodeAttribute()  # where the request for the link came from
    device = UnicodeAttribute()  # the name of the device it came from

    def remove(self) -> None:
        """From now on the link is unknown."""
        self.delete()


def create(token: str, *, waiting: str, seconds: int, address: str, device: str) -> None:
    """Store the hash of a new token."""
    now = time.time()
    MailToken(
        _PREFIX + token_hash(token),
        created=int(now * 1000),
        expires=int(now) + seconds,
        waiting=waiting,
        address=address,
        device=device,
    ).save()


def load(token: str) -> MailToken | None:
    """What a token leads to, as long as it does."""
    return MailToken.current(_PREFIX + token_hash(token))
