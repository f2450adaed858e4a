"""What is told in a room but is no event: receipts and who is typing. Nothing here touches a timeline.

    ephemeral          one small item a room: the number of the last change, the latest receipts, who is typing
    receipt/<user>     the user's receipts that gave way to later ones in the item above

Changes of a room are numbered from 1. A receipt is written into `ephemeral`, under the next number; where the item gets
too full the oldest receipt is copied into its user's row first. So the item, read first, and the rows, read after it,
are complete up to the item's number at any moment, and one change costs one or two write units.

`low` is the number up to which receipts may have left the item: whoever was told that much, or more, needs no rows.
Both kinds of item stay below 1 KB, so that each write is one unit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.settings import settings, table_name
from homeserver.storage.connection import Item, Key, batch_get, connection, query_raw
from homeserver.storage.inbox_shards import inbox_table, parse_inbox, shard_key

EPHEMERAL = "ephemeral"
PRIVATE = "m.read.private"
# A message has come to one of the user's clients: feedback of the 2014 draft, which only its clients are told.
DELIVERED = "org.eigenserver.delivered"
_KINDS = ("m.read", PRIVATE, DELIVERED)  # only appended to: items name them by number
MOST_RECEIPTS = 8  # in the item of the room
# From the first number on one receipt leaves the item for each that comes: the oldest, or, where the item would pass
# the second number without it, the largest. So it grows beyond that only with a receipt larger than any it ever had.
_RECEIPT_BYTES, _MOST_RECEIPT_BYTES = 560, 750
_TYPING_BYTES = 160  # beside the receipts
_ROW_BYTES = 850
_ROW_PREFIX = "receipt/"
_ROW_TRIES = 8


class EphemeralItem(Item):
    """The item `ephemeral` of a room."""

    class Meta:
        table_name = table_name("ROOMS")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    version = NumberAttribute(attr_name="v")  # of the item: each write is conditional on it
    number = NumberAttribute(attr_name="n")
    # The last number that concerns everybody; later ones are private receipts, and what was delivered
    announced = NumberAttribute(attr_name="a", default=0)
    low = NumberAttribute(attr_name="lo", default=0)
    # The number of the last change of who is typing, not counting that time ends it
    typing_number = NumberAttribute(attr_name="tn", default=0)
    receipts = BinaryAttribute(attr_name="j", legacy_encoding=False, null=True)
    typing = BinaryAttribute(attr_name="ty", legacy_encoding=False, null=True)
    # 1 where the room is too large (see large_rooms) for anybody to read the receipts of all its members
    large = NumberAttribute(attr_name="lg", null=True)


class ReceiptRow(Item):
    """The item `receipt/<user>` of a room."""

    class Meta:
        table_name = table_name("ROOMS")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    version = NumberAttribute(attr_name="v")
    receipts = BinaryAttribute(attr_name="j", legacy_encoding=False)


ReceiptKey = tuple[str, str, str]  # user, kind, thread


@dataclass(frozen=True, slots=True)
class Receipt:
    """A user has read up to an event.

    `kind` is m.read, m.read.private or org.eigenserver.delivered; `thread` is empty for an unthreaded receipt, "main",
    or the thread's root. `position` is the event's, `number` the change's; `ts` is the time in milliseconds, and
    `spent` how many milliseconds after it the user's rate of receipts is used up.
    """

    user_id: str
    kind: str
    thread: str
    event_id: str
    ts: int
    position: int
    number: int = 0
    spent: int = 0

    @property
    def key(self) -> ReceiptKey:
        """What a user has one receipt for."""
        return self.user_id, self.kind, self.thread


@dataclass(frozen=True, slots=True)
class Typer:
    """A user who is typing until a time in milliseconds."""

    user_id: str
    until: int


@dataclass(frozen=True, slots=True)
class RoomEphemeral:
    """The item `ephemeral` of a room as it was read; `version` 0 where there is none yet."""

    room_id: str
    version: int = 0
    number: int = 0
    announced: int = 0
    low: int = 0
    typing_number: int = 0
    receipts: tuple[Receipt, ...] = ()  # oldest change first
    typing: tuple[Typer, ...] = ()
    large: bool = False
    evicted: tuple[Receipt, ...] = field(default=(), compare=False)  # what has to go into rows before this is written

    def receipt(self, key: ReceiptKey) -> Receipt | None:
        """The receipt under this key, unless it has left the item."""
        return next((receipt for receipt in self.receipts if receipt.key == key), None)

    def of_size(self, *, large: bool) -> "RoomEphemeral":
        """The item of a room that is large now, or not."""
        return replace(self, large=large)

    def with_receipt(self, receipt: Receipt) -> "RoomEphemeral":
        """The item after one more receipt, which takes the place of the one before it."""
        number = self.number + 1
        kept = [other for other in self.receipts if other.key != receipt.key]
        kept.append(replace(receipt, number=number))
        evicted: tuple[Receipt, ...] = ()
        if len(kept) > 1 and not _fits(kept, _RECEIPT_BYTES):
            leaves = kept[0] if _fits(kept[1:], _MOST_RECEIPT_BYTES) else max(kept[:-1], key=_size)
            kept.remove(leaves)
            evicted = (leaves,)
        return replace(
            self,
            number=number,
            announced=self.announced if receipt.kind in {PRIVATE, DELIVERED} else number,
            low=max([self.low, *(receipt.number for receipt in evicted)]),
            receipts=tuple(kept),
            evicted=evicted,
        )

    def with_typing(self, typing: Iterable[Typer], *, announced: bool) -> "RoomEphemeral":
        """The item with these users typing; the list takes a number only if it is `announced`.

        Where they are too many for the item, those whose time ends first are left out.
        """
        kept = sorted(typing, key=lambda typer: typer.until)
        while len(kept) > 1 and len(_pack_typing(kept)) > _TYPING_BYTES:
            kept.pop(0)
        if not announced:
            return replace(self, typing=tuple(kept))
        number = self.number + 1
        return replace(self, number=number, announced=number, typing_number=number, typing=tuple(kept))


def ephemeral_key(room_id: str) -> Key:
    return (EphemeralItem, room_id, EPHEMERAL)


def row_key(room_id: str, user_id: str) -> Key:
    return (ReceiptRow, room_id, _ROW_PREFIX + user_id)


def parse(room_id: str, item: EphemeralItem | None) -> RoomEphemeral:
    """The item as it was read; a room without one has had no changes."""
    if item is None:
        return RoomEphemeral(room_id)
    return RoomEphemeral(
        room_id,
        int(item.version),
        int(item.number),
        int(item.announced or 0),
        int(item.low or 0),
        int(item.typing_number or 0),
        _unpack(item.receipts),
        tuple(Typer(_whole(user), until) for user, until in orjson.loads(item.typing or b"[]")),
        bool(item.large),
    )


def parse_row(row: ReceiptRow | None) -> dict[ReceiptKey, Receipt]:
    """The receipts in a user's row; some may be older than what the room's item has."""
    return {receipt.key: receipt for receipt in _unpack(row.receipts)} if row is not None else {}


def store(before: RoomEphemeral, after: RoomEphemeral) -> bool:
    """Write the item, and before it the rows of what leaves it; False if another writer was quicker.

    The rows are right then nevertheless: what stands in both is one and the same receipt.
    """
    for receipt in after.evicted:
        _store_in_row(before.room_id, receipt)
    actions: list[Action] = [
        EphemeralItem.version.set(before.version + 1),
        EphemeralItem.number.set(after.number),
        EphemeralItem.announced.set(after.announced),
        EphemeralItem.low.set(after.low),
        EphemeralItem.typing_number.set(after.typing_number),
        EphemeralItem.receipts.set(_pack(after.receipts)),
        EphemeralItem.typing.set(_pack_typing(after.typing)),
        EphemeralItem.large.set(1) if after.large else EphemeralItem.large.remove(),
    ]
    unchanged = EphemeralItem.version == before.version if before.version else EphemeralItem.version.does_not_exist()
    return _update(EphemeralItem(before.room_id, EPHEMERAL), actions, unchanged)


def _store_in_row(room_id: str, receipt: Receipt) -> None:
    """Copy a receipt into its user's row. The receipts of threads that were read longest ago give way to it."""
    for _ in range(_ROW_TRIES):
        row = ReceiptRow.fetch(room_id, _ROW_PREFIX + receipt.user_id)
        known = parse_row(row)
        if receipt.key in known and known[receipt.key].number >= receipt.number:
            return
        known[receipt.key] = receipt
        kept = sorted(known.values(), key=lambda other: (other.thread in {"", "main"}, other.position))
        while len(kept) > 1 and len(_pack(kept)) > _ROW_BYTES:
            kept.pop(0)
        version = int(row.version) if row is not None else 0
        unchanged = ReceiptRow.version == version if row is not None else ReceiptRow.version.does_not_exist()
        actions: list[Action] = [ReceiptRow.version.set(version + 1), ReceiptRow.receipts.set(_pack(kept))]
        if _update(ReceiptRow(room_id, _ROW_PREFIX + receipt.user_id), actions, unchanged):
            return
    raise TimeoutError(f"the receipts of {receipt.user_id} in {room_id} change too fast")


def _update(item: Item, actions: Sequence[Action], condition: Any) -> bool:
    try:
        item.update(list(actions), condition)
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True


def rows_of(room_id: str) -> list[Receipt]:
    """The receipts in the rows of all users of a room, read consistently: one round for each MB."""
    found = query_raw(ReceiptRow, room_id, _ROW_PREFIX, _ROW_PREFIX + "\U0010ffff", consistent=True)
    return [receipt for raw in found for receipt in _unpack(raw["j"]["B"])]


def row_of(room_id: str, user_id: str) -> dict[ReceiptKey, Receipt]:
    """The receipts in one user's row, read consistently."""
    key: Key = (ReceiptRow, room_id, _ROW_PREFIX + user_id)
    return parse_row(batch_get([key], consistent=True).get(key))


def told_in_inbox(user_id: str, slot: int) -> int:
    """The ephemeral number that a user's inbox announces for a slot, read consistently."""
    key = {"user": {"S": user_id}, "k": {"S": shard_key(slot)}}
    request = {"TableName": inbox_table(), "Key": key, "ConsistentRead": True}
    item = connection().dispatch("GetItem", request).get("Item")
    state = parse_inbox([item]).slots.get(slot) if item else None
    return state.ephemeral if state is not None else 0


# ── How they are packed ──────────────────────────────────────────────────────────────────────────────────


def _fits(receipts: Sequence[Receipt], most_bytes: int) -> bool:
    return len(receipts) <= MOST_RECEIPTS and len(_pack(receipts)) <= most_bytes


def _size(receipt: Receipt) -> int:
    return len(_pack([receipt]))


def _pack(receipts: Iterable[Receipt]) -> bytes:
    return orjson.dumps(
        [
            [r.number, _KINDS.index(r.kind), _short(r.user_id), r.thread, r.event_id, r.position, r.ts, r.spent]
            for r in receipts
        ]
    )


def _unpack(packed: bytes | None) -> tuple[Receipt, ...]:
    return tuple(
        Receipt(_whole(user), _KINDS[kind], thread, event_id, ts, position, number, spent)
        for number, kind, user, thread, event_id, position, ts, spent in orjson.loads(packed or b"[]")
    )


def _pack_typing(typing: Iterable[Typer]) -> bytes:
    return orjson.dumps([[_short(typer.user_id), typer.until] for typer in typing])


def _short(user_id: str) -> str:
    """A user ID without this server's name, which a user ID cannot be by itself."""
    localpart, _, server_name = user_id.partition(":")
    return localpart if server_name == settings().server_name else user_id


def _whole(short: str) -> str:
    return short if ":" in short else f"{short}:{settings().server_name}"
