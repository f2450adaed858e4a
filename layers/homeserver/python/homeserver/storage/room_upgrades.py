"""The upgrade of a room that is under way, or the last one: `upgrade` in the old room's partition of ROOMS.

It is written in the transaction that makes the new room. So there is never a room that nobody knows what for: whoever
repeats an upgrade that was cut off finds the room that was begun, and goes on with it.
"""

from collections.abc import Sequence
from typing import Any

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, Transaction, query_range, query_raw
from homeserver.storage.room_items import FORMAT, Alias, RoomAlias, StateRow

_KEY = "upgrade"
_ALIAS = "alias/"
_ROWS_A_PAGE = 500


class RoomUpgrade(Item):
    """Who upgrades the room to what. Times are milliseconds; `done` is when the last step was through."""

    class Meta:
        table_name = table_name("ROOMS")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True, default=_KEY)
    f = NumberAttribute(default=FORMAT)
    replacement = UnicodeAttribute(attr_name="n")
    sender = UnicodeAttribute(attr_name="u")
    version = UnicodeAttribute(attr_name="rv")
    additional_creators = JSONAttribute(attr_name="ac", null=True)
    started = NumberAttribute(attr_name="t")
    done = NumberAttribute(attr_name="te", null=True)

    def is_for(self, sender: str, version: str, additional_creators: Sequence[str]) -> bool:
        """Whether this is the upgrade that is asked for."""
        return (self.sender, self.version, self.additional_creators or []) == (
            sender,
            version,
            list(additional_creators),
        )


def upgrade_key(room_id: str) -> Key:
    return (RoomUpgrade, room_id, _KEY)


def begin(transaction: Transaction, upgrade: RoomUpgrade, before: RoomUpgrade | None) -> None:
    """Add to the transaction that makes the new room: it is the one, if nobody began another (label `upgrade`)."""
    unchanged: Condition = (
        RoomUpgrade.room.does_not_exist() if before is None else RoomUpgrade.replacement == before.replacement
    )
    transaction.put("upgrade", upgrade, unchanged)


def still(transaction: Transaction, upgrade: RoomUpgrade) -> None:
    """Add to a transaction: this is the upgrade in force (label `upgrade`)."""
    condition = RoomUpgrade.replacement == upgrade.replacement
    transaction.check("upgrade", RoomUpgrade, upgrade.room, _KEY, condition)


def finish(upgrade: RoomUpgrade, now: int) -> None:
    """Remember that every step is through."""
    upgrade.update([RoomUpgrade.done.set(now)])


def state_rows(room_id: str, prefix: str, *, most: int) -> list[StateRow]:
    """The first `most` rows of the current state whose keys have a prefix, page after page."""
    rows: list[StateRow] = []
    low: Any = prefix
    while len(rows) < most:
        wanted = min(_ROWS_A_PAGE, most - len(rows))
        page = query_raw(StateRow, room_id, low, prefix + "\U0010ffff", consistent=True, limit=wanted)
        rows += [StateRow.from_raw_data(raw) for raw in page]
        if len(page) < wanted:
            break
        low = rows[-1].k + "\0"
    return rows


def local_aliases(room_id: str) -> list[str]:
    """The aliases of this server that point to a room."""
    return [row.k.removeprefix(_ALIAS) for row in query_range(RoomAlias, room_id, _ALIAS, consistent=True)]


def move_alias(transaction: Transaction, alias: str, old: str, new: str) -> None:
    """Add to a transaction: the alias points to the new room, if it points to the old one (label `alias`)."""
    transaction.update("alias", Alias(alias), [Alias.room.set(new)], Alias.room == old)
    transaction.delete("room alias", RoomAlias(old, _ALIAS + alias))
    transaction.put("new room alias", RoomAlias(new, _ALIAS + alias))
