"""The table of sessions: items that live for minutes, an hour, or a day.

A key that begins with a word and a slash says what the item is (`nonce/`, `login/`, `mail/`, ...); a session's own item
has its bare ID. DynamoDB removes expired items late: whoever reads one compares the time.
"""

import time
from typing import Self

from pynamodb.attributes import NumberAttribute, UnicodeAttribute

from homeserver.settings import table_name
from homeserver.storage.connection import Item


class PassingItem(Item):
    """What all items of the table have."""

    class Meta:
        table_name = table_name("SESSIONS")

    session = UnicodeAttribute(hash_key=True)
    expires = NumberAttribute()  # seconds since the epoch

    @classmethod
    def current(cls, key: str) -> Self | None:
        """The item under a key, unless it has expired."""
        found = cls.fetch(key)
        return found if found is not None and found.expires > time.time() else None
