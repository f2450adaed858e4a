"""Walks through spaces that are to be continued: items that live for an hour, in the table of sessions."""

import secrets
import time
import zlib
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute

from homeserver.settings import table_name
from homeserver.storage.connection import Item

_PREFIX = "walk/"
SECONDS = 3600


class StoredWalk(Item):
    """How far a walk is, for whom and by which request; never changed, so that a page can be asked for again."""

    class Meta:
        table_name = table_name("SESSIONS")

    session = UnicodeAttribute(hash_key=True)
    kind = UnicodeAttribute(default="walk")
    expires = NumberAttribute()  # seconds since the epoch
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False)


def store_walk(value: Any) -> str:
    """Keep a JSON value for an hour; the token that finds it."""
    token = secrets.token_urlsafe(18)
    packed = zlib.compress(orjson.dumps(value))
    StoredWalk(_PREFIX + token, expires=int(time.time()) + SECONDS, packed=packed).save()
    return token


def load_walk(token: str) -> Any | None:
    """The value of a token that has not expired."""
    stored = StoredWalk.fetch(_PREFIX + token)
    if stored is None or stored.expires <= time.time():
        return None
    return orjson.loads(zlib.decompress(stored.packed))
