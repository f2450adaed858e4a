"""Login tokens that nobody has used yet, by the hash of their text, in the table of sessions."""

import time

from pynamodb.attributes import NumberAttribute, UnicodeAttribute

from homeserver.storage.connection import Transaction
from homeserver.storage.passing_items import PassingItem

_PREFIX = "login/"


class LoginToken(PassingItem):
    """Whom a token logs in; never changed."""

    kind = UnicodeAttribute(default="login_token")
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
    return LoginToken.current(_PREFIX + token_hash)


def use_token(transaction: Transaction, token: LoginToken) -> None:
    """Add the use of a token to a transaction; its label is `login token`, which fails if it was used already."""
    transaction.delete("login token", LoginToken(token.session), LoginToken.session.exists())
