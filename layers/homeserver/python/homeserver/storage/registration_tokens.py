"""Registration tokens that an administrator made: items `regtoken/<hash of the token>` of the server table.

Uses are counted in the transaction that creates the account: a registration that is given up costs no use, and two
that race for the last use cannot both have it.
"""

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction

_PREFIX = "regtoken/"


class RegistrationToken(Item):
    """A token with its uses. Absent `uses_allowed`: any number; absent `expiry_time` (milliseconds): for ever."""

    class Meta:
        table_name = table_name("SERVER")

    k = UnicodeAttribute(hash_key=True)
    uses_allowed = NumberAttribute(null=True)
    completed = NumberAttribute(default=0)
    expiry_time = NumberAttribute(null=True)

    def is_valid(self, now: int) -> bool:
        """Whether an account can be registered with it. `now`: milliseconds."""
        return (self.uses_allowed is None or self.completed < self.uses_allowed) and (
            self.expiry_time is None or self.expiry_time > now
        )


def load(token_hash: str) -> RegistrationToken | None:
    """The token under this hash, as it is now."""
    return RegistrationToken.fetch(_PREFIX + token_hash)


def create(token_hash: str, *, uses_allowed: int | None, expiry_time: int | None) -> None:
    """Store a new token, or replace one."""
    RegistrationToken(_PREFIX + token_hash, uses_allowed=uses_allowed, expiry_time=expiry_time).save()


def use(transaction: Transaction, token_hash: str, now: int) -> None:
    """Add one use to a transaction; its label is `registration_token`, which fails if there is none left."""
    token = RegistrationToken
    left: Condition = token.uses_allowed.does_not_exist() | (token.completed < token.uses_allowed)
    current: Condition = token.expiry_time.does_not_exist() | (token.expiry_time > now)
    transaction.update(
        "registration_token", token(_PREFIX + token_hash), [token.completed.add(1)], token.k.exists() & left & current
    )
