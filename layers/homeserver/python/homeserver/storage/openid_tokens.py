"""OpenID tokens, by the hash of their text, in the table of sessions: items that live for an hour."""

import time

from pynamodb.attributes import UnicodeAttribute

from homeserver.storage.passing_items import PassingItem

SECONDS = 3600
_PREFIX = "openid/"


class OpenIdToken(PassingItem):
    """Who a token speaks of; never changed."""

    kind = UnicodeAttribute(default="openid")
    user = UnicodeAttribute()


def store_token(token_hash: str, user_id: str) -> None:
    """Keep a token for an hour."""
    OpenIdToken(_PREFIX + token_hash, expires=int(time.time()) + SECONDS, user=user_id).save()


def user_of_token(token_hash: str) -> str | None:
    """The user that a token speaks of, unless it is unknown or has expired."""
    stored = OpenIdToken.current(_PREFIX + token_hash)
    return stored.user if stored is not None else None
