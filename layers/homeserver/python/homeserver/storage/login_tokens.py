"""Login tokens that nobody has used yet, by the hash of their text, in the table of sessions.

DynamoDB removes expired items late: whoever reads one compares the time.
"""

import time

from pynamodb.attributes import NumberAttribute, UnicodeAttribute

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction

_PREFIX = "login/"


class LoginToken(Item):
    """Whom a token logs in; never changed."""

    class Meta:
        table_name = table_name("SESSIONS")

    session = UnicodeAttribute(hash_key=True)
    kind = UnicodeAttribute(default="login_token")
    expires = NumberAttribute()  # seconds since the epoch
    created = NumberAttribute()  # milliseconds since the epoch
    user = UnicodeAttribute()
    secret = UnicodeAttribute()  # a digest of the password's hash when the token was made: another one ends the token


def add_token(transaction: Transaction, token_hash: str, user_id: str, *, secret: str, seconds: int) -> None:
    """Add a new token to a transaction."""
    now = time.time()
    token = LoginToken(_PREFIX + token_hash, created=int(now * 1000), expires=int(now) + seconds)
    token.user, token.secret = user_id, secret
    transaction.put("login token", token)


def load_token(token_hash: str) -> LoginToken | None:
    """The token under this hash, unless it was used or has expired."""
    token = LoginToken.fetch(_PREFIX + token_hash)
    return token if token is not None and token.expires > time.time() else None


def use_token(transaction: Transaction, token: LoginToken) -> None:
    """Add the use of a token to a transaction; its label is `login token`, which fails if it was used already."""
    transaction.delete("login token", LoginToken(token.session), LoginToken.session.exists())
