"""The room of two people who asked for one by each other's name: an item of both of them in `DIRECTORY`.

Its key begins with no number sign, as those of aliases do.
"""

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, Transaction
from homeserver.storage.room_items import FORMAT


class DirectRoom(Item):
    """Which room it is; another one takes its place when one of the two has left it."""

    class Meta:
        table_name = table_name("DIRECTORY")

    alias = UnicodeAttribute(hash_key=True)
    f = NumberAttribute(default=FORMAT)
    room = UnicodeAttribute()


def direct_key(one: str, other: str) -> Key:
    """The key of two users' room, whoever of them asks."""
    first, second = sorted((one, other))
    return (DirectRoom, f"direct/{first}\n{second}", None)


def set_direct_room(transaction: Transaction, key: Key, room_id: str, *, before: str | None) -> None:
    """Add to the transaction that makes the room: it is theirs, if there is no other one by now (label `direct`)."""
    unchanged: Condition = DirectRoom.alias.does_not_exist() if before is None else DirectRoom.room == before
    transaction.put("direct", DirectRoom(key[1], room=room_id), unchanged)
