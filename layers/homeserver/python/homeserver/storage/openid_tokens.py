"""OpenID tokens, by the hash of their text, in the table of sessions: items that live for an hour."""

import time

from pynamodb.attributes import NumberAttribute, UnicodeAttribute

from homeserver.settings import table_name
from homeserver.storage.connection import Item

SECONDS = 3600
_PREFIX = "openid/"


class OpenIdToken(Item):
    """Who a token speaks of; never changed."""

    class Meta:
        table_name = table_name("SESSIONS")

    session = UnicodeAttribute(hash_key=True)
    kind = UnicodeAttribute(default="openid")
    expires = NumberAttribute()  # seconds since the epoch
    user = UnicodeAttribute()


def store_token(token_hash: str, user_id: str) -> None:
    """Keep a token for an hour."""
    OpenIdToken(_PREFIX + token_hash, expires=int(time.time()) + SECONDS, user=user_id).save()


def user_of_token(token_hash: str) -> str | None:
    """The user that a token speaks of, unless it is unknown or has expired."""
    stored = OpenIdToken.fetch(_PREFIX + token_hash)
    return stored.user if stored is not None and stored.expires > time.time() else None
