"""The table of listings: what is to be found by strangers, in partitions that are ready to be read in order.

Partition `rooms`: the published directory, see published_rooms. `open`: rooms that anybody may join or read.
`user/<character>`: users by the words of their names, see user_index. `user`: the words of each. `count`: how many.
"""

from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction

OPEN = "open"


class Listing(Item):
    """One entry of a list; `packed` is a JSON value."""

    class Meta:
        table_name = table_name("LISTINGS")

    list = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False, null=True)
    # Of a record of a user's words: counts its changes. Of `count`: how many.
    number = NumberAttribute(attr_name="n", null=True)


def unpacked(raw: dict[str, Any]) -> Any:
    """The JSON value of an entry in DynamoDB's notation."""
    return orjson.loads(raw["j"]["B"])


def set_open(transaction: Transaction, room_id: str, *, is_open: bool) -> None:
    """Add to a transaction: anybody may join or read the room, or not any more."""
    if is_open:
        transaction.put("open", Listing(OPEN, room_id))
    else:
        transaction.delete("open", Listing(OPEN, room_id))
