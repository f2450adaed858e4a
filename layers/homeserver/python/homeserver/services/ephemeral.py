"""What `/sync` tells of a room's receipts and typing users.

Source: client-server API v1.19, "Receipts", "Typing Notifications", and `ephemeral` of "Syncing".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from homeserver.services.clock import now_ms
from homeserver.services.ignored_users import ignored_by
from homeserver.storage.connection import batch_get, in_parallel
from homeserver.storage.ephemeral import (
    DELIVERED,
    PRIVATE,
    Receipt,
    ReceiptKey,
    RoomEphemeral,
    Typer,
    ephemeral_key,
    parse,
    row_of,
    rows_of,
)


@dataclass(frozen=True, slots=True)
class EphemeralNews:
    """What a room has to tell to one user.

    `events` go into the room's `ephemeral`; `number` is what will have been told then. `typing_until` is the time in
    milliseconds at which the list of typing users, as the device knows it then, gets shorter by itself: it has to be
    asked for again at that time. 0 if nobody is in the list.
    """

    events: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0
    typing_until: int = 0


def read_ephemeral(
    user_id: str,
    rooms: Mapping[str, tuple[int, int]],
    *,
    typing_until: Mapping[str, int] | None = None,
    account_data_number: int | None = None,
) -> dict[str, EphemeralNews]:
    """The news of rooms that the user is joined to, by (number told before, number that the inbox announces).

    Told 0: everything that is current. `typing_until`: what the last news of a room had there, where it was not 0; a
    room whose time has come has news even if nothing was announced. `account_data_number` as for `ignored_by`.

    One round for all rooms; one more for those that had many changes since.
    """
    if not rooms:
        return {}
    found, ignored = in_parallel(
        partial(batch_get, [ephemeral_key(room_id) for room_id in rooms], consistent=True),
        partial(ignored_by, user_id, number=account_data_number),
    )
    states = {room_id: parse(room_id, found.get(ephemeral_key(room_id))) for room_id in rooms}
    # A number that was never reached was not told by this store: start anew.
    told = {room_id: told if told <= states[room_id].number else 0 for room_id, (told, _) in rooms.items()}
    until, now = typing_until or {}, now_ms()
    behind = [room_id for room_id, state in states.items() if told[room_id] < state.low]
    rows = dict(
        zip(behind, in_parallel(*[partial(_rows, user_id, states[room_id]) for room_id in behind]), strict=True)
    )
    return {
        room_id: EphemeralNews(
            [
                *receipt_events(_new_receipts(user_id, state, rows.get(room_id, []), told[room_id], ignored)),
                *_typing_events(state, told[room_id], until.get(room_id, 0), ignored, now=now),
            ],
            state.number,
            min((typer.until for typer in _typers(state, ignored) if typer.until > now), default=0),
        )
        for room_id, state in states.items()
    }


def _rows(user_id: str, state: RoomEphemeral) -> list[Receipt]:
    """Receipts that have left the item. Those of a large room are too many: there one gets one's own."""
    return list(row_of(state.room_id, user_id).values()) if state.large else rows_of(state.room_id)


def _new_receipts(
    user_id: str, state: RoomEphemeral, rows: Iterable[Receipt], told: int, ignored: frozenset[str]
) -> list[Receipt]:
    """The receipts that changed after a number, as far as they concern a user. What the item has is never older.

    What was delivered is no receipt that the specification of today knows.
    """
    latest: dict[ReceiptKey, Receipt] = {receipt.key: receipt for receipt in (*rows, *state.receipts)}
    return [
        receipt
        for receipt in latest.values()
        if receipt.number > told
        and receipt.user_id not in ignored
        and (receipt.kind != PRIVATE or receipt.user_id == user_id)
        and receipt.kind != DELIVERED
    ]


def _typers(state: RoomEphemeral, ignored: frozenset[str]) -> list[Typer]:
    return [typer for typer in state.typing if typer.user_id not in ignored]


def _typing_events(
    state: RoomEphemeral, told: int, typing_until: int, ignored: frozenset[str], *, now: int
) -> list[dict[str, Any]]:
    """The list of who is typing, if the device does not know it; `typing_until` is when what it knows gets shorter."""
    typers = _typers(state, ignored)
    live = [typer for typer in typers if typer.until > now]
    # Where all whose time would have been over typed on, nothing has changed.
    has_shrunk = 0 < typing_until <= now and len(live) < len(typers)
    if not (live if told == 0 else state.typing_number > told or has_shrunk):
        return []
    return [{"type": "m.typing", "content": {"user_ids": sorted(typer.user_id for typer in live)}}]


def receipt_events(receipts: Iterable[Receipt]) -> list[dict[str, Any]]:
    """Receipts as `m.receipt` events: one, unless somebody has several receipts of one kind at one event.

    An event has room for one receipt a user and kind; with threads there can be more, which go into further events,
    the unthreaded ones first.
    """
    events: list[dict[str, Any]] = []
    for receipt in sorted(receipts, key=lambda receipt: (receipt.thread != "", receipt.number)):
        told: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread:
            told["thread_id"] = receipt.thread
        for event in events:
            users = event["content"].setdefault(receipt.event_id, {}).setdefault(receipt.kind, {})
            if receipt.user_id not in users:
                users[receipt.user_id] = told
                break
        else:
            content = {receipt.event_id: {receipt.kind: {receipt.user_id: told}}}
            events.append({"type": "m.receipt", "content": content})
    return events
