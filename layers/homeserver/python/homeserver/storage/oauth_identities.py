"""Whose accounts at providers are whose here: two items a link, in the table of accounts, written together.

Under `oauth/<hash>`, key `identity`: the user. Under the user, key `oauth/<hash>`: what they are shown of it. The hash
is of the issuer and of what it calls the account (`sub`): neither is stored.
"""

import hashlib
import json

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition

from homeserver.matrix import unpadded_base64
from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction

_IDENTITY = "identity"
_PREFIX = "oauth/"
MOST_LINKS = 20  # of one user


class _AccountsItem(Item):
    class Meta:
        table_name = table_name("ACCOUNTS")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)


class Identity(_AccountsItem):
    """An account at a provider, and the local user that logs in with it."""

    owner = UnicodeAttribute()


class Link(_AccountsItem):
    """The same from the user's side."""

    provider = UnicodeAttribute()  # the provider's ID at the time of linking
    issuer = UnicodeAttribute()
    linked = NumberAttribute()  # milliseconds since the epoch

    @property
    def identity_hash(self) -> str:
        """The ID of the link, and the key of its other side."""
        return self.k.removeprefix(_PREFIX)


def identity_hash(issuer: str, subject: str) -> str:
    """The hash of an account at a provider, in URL-safe base64."""
    digest = hashlib.sha256(json.dumps([issuer, subject]).encode()).digest()
    return unpadded_base64.encode_urlsafe(digest)


def owner_of(hashed: str) -> str | None:
    """The local user who logs in with an account at a provider, as it is now."""
    found = Identity.fetch(_PREFIX + hashed, _IDENTITY)
    return found.owner if found is not None else None


def links_of(user_id: str) -> list[Link]:
    """The links of a user, as they are now."""
    return list(Link.query(user_id, Link.k.startswith(_PREFIX), consistent_read=True))


def add(transaction: Transaction, user_id: str, hashed: str, *, provider: str, issuer: str, now: int) -> None:
    """Add a link to a transaction; its label `identity` fails if the account at the provider is linked to anybody."""
    free: Condition = Identity.user.does_not_exist()
    transaction.put("identity", Identity(_PREFIX + hashed, _IDENTITY, owner=user_id), free)
    transaction.put("link", Link(user_id, _PREFIX + hashed, provider=provider, issuer=issuer, linked=now))


def remove(user_id: str, hashed: str) -> None:
    """End a link of a user; nothing happens if it is not theirs (any more). Raises TransactionCancelled for a race."""
    if owner_of(hashed) != user_id:
        return
    transaction = Transaction()
    transaction.delete("identity", Identity(_PREFIX + hashed, _IDENTITY), Identity.owner == user_id)
    transaction.delete("link", Link(user_id, _PREFIX + hashed))
    transaction.commit()
