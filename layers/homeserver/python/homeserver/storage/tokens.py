"""Access and refresh tokens, found by the hash of their text: partition = hash.

A token exists as long as it may be used: revoking is deleting. `unused` marks a token that a refresh made and that
nobody has shown yet; as long as both tokens of a refresh are unused, the refresh token before them works too.
"""

from pynamodb.attributes import BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction

ACCESS = "access"
REFRESH = "refresh"


class Token(Item):
    """What a token stands for."""

    class Meta:
        table_name = table_name("TOKENS")

    hash = UnicodeAttribute(hash_key=True)
    kind = UnicodeAttribute()
    user = UnicodeAttribute()
    device = UnicodeAttribute()
    guest = BooleanAttribute(null=True)
    # Milliseconds after which the token is refused; absent: it does not expire.
    valid_until = NumberAttribute(null=True)
    # Seconds after which DynamoDB may remove the item: later than `valid_until`, so that "expired" stays known.
    expires = NumberAttribute(null=True)
    unused = BooleanAttribute(null=True)
    # Of a refresh token: the access token that came with it, and the [access, refresh] tokens it was exchanged for.
    access = UnicodeAttribute(null=True)
    successors = JSONAttribute(null=True)

    def is_expired(self, now: int) -> bool:
        """Whether the token is over. `now`: milliseconds."""
        return self.valid_until is not None and self.valid_until <= now


def load(token_hash: str) -> Token | None:
    """The token under this hash, as it is now."""
    return Token.fetch(token_hash)


def mark_used(token: Token) -> bool:
    """Record that a token was shown: from here on the refresh token before it is refused. False if it is gone."""
    try:
        token.update([Token.unused.remove()], Token.hash.exists())
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True


def delete(transaction: Transaction, token_hash: str) -> None:
    """Add the end of a token to a transaction, whether or not it exists."""
    transaction.delete(f"token/{token_hash}", Token(token_hash))


def delete_unused(transaction: Transaction, token_hash: str, label: str) -> None:
    """Add the end of a token that must exist and not have been used yet."""
    transaction.delete(label, Token(token_hash), Token.unused.exists())
