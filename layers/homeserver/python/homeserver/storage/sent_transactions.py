"""The ledger of transactions that were sent with `prev_ids`: items `sent/<slot>` of the table DESTINATIONS.

A thousand slots are used in turn, so that no server has more; TTL takes away what is a week old.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from time import time

import orjson
from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute

from homeserver.settings import table_name
from homeserver.storage.connection import Item, query_range

SLOTS = 1000
_KEPT_S = 7 * 24 * 3600
_SENT = "sent/"


class SentItem(Item):
    """One transaction; `places` is the JSON of [[room, [position, ...]], ...]."""

    class Meta:
        table_name = table_name("DESTINATIONS")

    server = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    number = NumberAttribute(attr_name="n")
    txn = UnicodeAttribute(attr_name="t")
    places = BinaryAttribute(attr_name="j", legacy_encoding=False)
    expires = NumberAttribute()


@dataclass(frozen=True, slots=True)
class SentTransaction:
    """A transaction in the ledger: its number among those to this server, its ID, room and position of its events."""

    number: int
    txn: str
    places: tuple[tuple[str, int], ...]


def put_sent(server: str, number: int, txn: str, places: Iterable[tuple[str, int]]) -> None:
    """Write a transaction into its slot."""
    rooms: dict[str, list[int]] = {}
    for room_id, position in places:
        rooms.setdefault(room_id, []).append(position)
    SentItem(
        server,
        f"{_SENT}{number % SLOTS:03d}",
        number=number,
        txn=txn,
        places=orjson.dumps(list(rooms.items())),
        expires=int(time()) + _KEPT_S,
    ).save()


def read_sent(server: str) -> list[SentTransaction]:
    """All that are kept and not older than a week, the oldest first; consistently."""
    now = time()
    found = [
        SentTransaction(
            int(item.number),
            item.txn,
            tuple((room_id, position) for room_id, positions in orjson.loads(item.places) for position in positions),
        )
        for item in query_range(SentItem, server, _SENT, consistent=True)
        if int(item.expires) > now
    ]
    return sorted(found, key=lambda transaction: transaction.number)
