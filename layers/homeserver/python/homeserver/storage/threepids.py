"""Third-party identifiers of accounts: e-mail addresses that their users have proved to read.

Two items of the table of accounts for each, written and removed together: the user's, under
`threepid/<medium>/<address>`, and the address's, a partition of its own that names the user. The condition on the
second is what makes an address belong to one account at most.

Source: client-server API v1.19, "Adding Account Administrative Contact Information".
"""

from dataclasses import dataclass

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction, query_range

EMAIL = "email"
_PREFIX = "threepid/"
_OWNER = "threepid"


class _ThreepidItem(Item):
    """An identifier in its user's partition. Times are milliseconds since the epoch."""

    class Meta:
        table_name = table_name("ACCOUNTS")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    validated_at = NumberAttribute()
    added_at = NumberAttribute()


class _OwnerItem(Item):
    """Whose an identifier is: partition `<medium>/<address>`, which no user ID looks like."""

    class Meta:
        table_name = table_name("ACCOUNTS")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    owner = UnicodeAttribute()


@dataclass(frozen=True, slots=True)
class Threepid:
    """An identifier of an account. Times are milliseconds since the epoch."""

    medium: str
    address: str
    validated_at: int
    added_at: int


def user_of(medium: str, address: str) -> str | None:
    """The user to whom a normalised address belongs, as it is now."""
    owner = _OwnerItem.fetch(f"{medium}/{address}", _OWNER)
    return owner.owner if owner is not None else None


def list_of(user_id: str) -> list[Threepid]:
    """The identifiers of a user, as they are now, in the order of media and addresses."""
    items = query_range(_ThreepidItem, user_id, _PREFIX, consistent=True)
    found = []
    for item in items:
        medium, _, address = item.k.removeprefix(_PREFIX).partition("/")
        found.append(Threepid(medium, address, int(item.validated_at), int(item.added_at)))
    return found


def add(transaction: Transaction, user_id: str, medium: str, address: str, *, validated_at: int, added_at: int) -> None:
    """Add an identifier to a transaction; label `threepid`, which fails if it belongs to another user."""
    free: Condition = _OwnerItem.user.does_not_exist() | (_OwnerItem.owner == user_id)
    transaction.put("threepid", _OwnerItem(f"{medium}/{address}", _OWNER, owner=user_id), free)
    entry = _ThreepidItem(user_id, f"{_PREFIX}{medium}/{address}", validated_at=validated_at, added_at=added_at)
    transaction.put("threepid entry", entry)


def check_owner(transaction: Transaction, user_id: str, medium: str, address: str) -> None:
    """Add to a transaction that an identifier is the user's; label `threepid`."""
    mine: Condition = _OwnerItem.owner == user_id
    transaction.check("threepid", _OwnerItem, f"{medium}/{address}", _OWNER, mine)


def remove(transaction: Transaction, user_id: str, medium: str, address: str) -> None:
    """Add to a transaction that an identifier is removed; label `threepid`, which fails if it is not the user's."""
    mine: Condition = _OwnerItem.owner == user_id
    transaction.delete("threepid", _OwnerItem(f"{medium}/{address}", _OWNER), mine)
    transaction.delete("threepid entry", _ThreepidItem(user_id, f"{_PREFIX}{medium}/{address}"))
