"""Typing users and receipts of other servers' users, as they are shown to the members of a room here.

All that one transaction says of a room is one change: one read, one write of the room's small item, one announcement.
Users who are not joined to the room are passed over, and so is what moves no receipt forward.

Source: server-server API v1.19, "Typing Notifications", "Receipts".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from homeserver.observability import fault_point, log
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.fanout import announce_to_members, was_announced
from homeserver.services.typing import started, stopped
from homeserver.storage.connection import Key
from homeserver.storage.ephemeral import (
    Receipt,
    RoomEphemeral,
    ephemeral_key,
    parse,
    parse_row,
    row_key,
    row_of,
    store,
)
from homeserver.storage.room_items import INBOX_CURSOR, Cursor, EventRecord
from homeserver.storage.rooms import RoomView, load_room

# Other servers repeat that a user types about every 40 s, and name no time.
TYPING_MS = 60_000
_READ = "m.read"


@dataclass(frozen=True, slots=True)
class RemoteReceipt:
    """A user of another server has read a room up to an event: `thread` as in storage.ephemeral.Receipt."""

    room_id: str
    user_id: str
    thread: str
    event_id: str
    ts: int


def show_in_room(room_id: str, typing: Mapping[str, bool], receipts: Sequence[RemoteReceipt]) -> list[RemoteReceipt]:
    """Show who types (True) or stopped, and receipts, of users who are joined; returns receipts for unknown events.

    Raises LimitExceeded when others write to the same room until the time is over.
    """
    users = list(dict.fromkeys((*typing, *(receipt.user_id for receipt in receipts))))
    members = [("m.room.member", user_id) for user_id in users]
    cursor_key: Key = (Cursor, room_id, INBOX_CURSOR)
    events: list[Key] = [(EventRecord, receipt.event_id, None) for receipt in receipts]
    rows = [row_key(room_id, user_id) for user_id in dict.fromkeys(receipt.user_id for receipt in receipts)]
    for _ in attempts("The room"):
        view, found = load_room(room_id, members, extras=[ephemeral_key(room_id), cursor_key, *events, *rows])
        if view is None:
            return []
        joined = {user_id for user_id in users if view.membership(user_id) == "join"}
        if len(joined) < len(users):
            log.info("dropped typing or receipts in %s: not joined: %s", room_id, sorted(set(users) - joined))
        cursor = found.get(cursor_key)
        before = parse(room_id, found.get(ephemeral_key(room_id)))
        state = before.of_size(large=bool(cursor is not None and cursor.large))
        after, changed = _typed(state, typing, joined)
        late: list[RemoteReceipt] = []
        for receipt in receipts:
            if receipt.user_id not in joined:
                continue
            position = _position(room_id, found.get((EventRecord, receipt.event_id, None)))
            if position is None:
                late.append(receipt)
                continue
            moved = _with_receipt(view, after, found.get(row_key(room_id, receipt.user_id)), receipt, position)
            if moved is not None:
                after = replace(moved, evicted=(*after.evicted, *moved.evicted))
                changed = True
        if not changed or store(before, after):
            fault_point("remote_ephemeral.stored")
            _announce(before, after, is_repeated=not changed and len(late) < len(receipts) + len(typing))
            return late
    raise AssertionError("attempts() never ends by itself")


def _typed(state: RoomEphemeral, typing: Mapping[str, bool], joined: set[str]) -> tuple[RoomEphemeral, bool]:
    now, changed = now_ms(), False
    for user_id, is_typing in typing.items():
        if user_id not in joined:
            continue
        after = started(state, user_id, now, now + TYPING_MS) if is_typing else stopped(state, user_id, now)
        if after is not None:
            state, changed = after, True
    return state, changed


def _position(room_id: str, record: EventRecord | None) -> int | None:
    """Where an event is in a room, if it is shown there."""
    if record is None or record.room != room_id or record.position is None or record.flags:
        return None
    return int(record.position)


def _with_receipt(
    view: RoomView, state: RoomEphemeral, row: object, receipt: RemoteReceipt, position: int
) -> RoomEphemeral | None:
    """The room's item with one more receipt; None if it moves nothing forward."""
    key = (receipt.user_id, _READ, receipt.thread)
    current = state.receipt(key) or parse_row(row).get(key)  # type: ignore[arg-type]  # an extra has the type of its key
    if current is None and state.low and position < int(view.head.position):
        # It may have moved into the row between the two reads. (Nothing is later than the head's event.)
        current = row_of(state.room_id, receipt.user_id).get(key)
    if current is not None and current.position >= position:
        return None
    return state.with_receipt(Receipt(*key, receipt.event_id, receipt.ts, position))


def _announce(before: RoomEphemeral, after: RoomEphemeral, *, is_repeated: bool) -> None:
    """Tell the local members of a number that can be read by now; once more where the first time was cut off.

    Members of a large room find such things when they look at it; they are not told.
    """
    if after.large:
        return
    if after.number != before.number:
        announce_to_members(after.room_id, after.number, author="")
    elif is_repeated and after.announced and not was_announced(after.room_id, after.announced):
        announce_to_members(after.room_id, after.announced, author="")
