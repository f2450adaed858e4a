"""Receipts: how far users have read.

Source: client-server API v1.19, "Receipts", "Private read receipts", "Threaded read receipts".
"""

from functools import partial

from homeserver.matrix.errors import InvalidParam, LimitExceeded
from homeserver.matrix.identifiers import is_event_id
from homeserver.observability import fault_point
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.fanout import announce_in_slots, announce_to_members
from homeserver.services.read_events import MAIN, ReadEvents, check_thread, find_events
from homeserver.services.request_transactions import RequestClaim
from homeserver.settings import settings
from homeserver.storage.connection import Key, in_parallel
from homeserver.storage.ephemeral import (
    PRIVATE,
    Receipt,
    RoomEphemeral,
    ephemeral_key,
    parse,
    parse_row,
    row_key,
    row_of,
    store,
    told_in_inbox,
)
from homeserver.storage.room_items import INBOX_CURSOR, Cursor, LocalMember
from homeserver.storage.timeline import read_entry

PUBLIC = "m.read"
KINDS = (PUBLIC, PRIVATE)
# How fast one receipt may move on: a client sends one when it shows a message, and a few at once when it catches up.
# The rate is kept in the receipt itself, so that it costs no write.
_INTERVAL_MS = 500
_BURST = 30


def check_kind(kind: str) -> None:
    """Raises InvalidParam for a type of receipt that does not exist."""
    if kind not in KINDS:
        raise InvalidParam(f"The type of a receipt is one of {', '.join((*KINDS, 'm.fully_read'))}.")


def send_receipt(requester: Requester, room_id: str, kind: str, event_id: str, thread: object = None) -> None:
    """The requester has read a room, or a thread of it, up to an event. What moves no receipt forward is not written.

    `thread` is `main`, the ID of a thread's root, or None for an unthreaded receipt. Raises InvalidParam for a type
    of receipt, thread or ID that cannot be, and for an event that is not in the thread; Forbidden and NotFound as
    `find_events`; LimitExceeded for too many, and when others write to the same room until the time is over.
    """
    check_kind(kind)
    if thread is not None and not (thread == MAIN or is_event_id(thread)):
        raise InvalidParam("thread_id must be main, or the ID of a thread's root.")
    _move(requester, room_id, kind, event_id, thread)


def send_feedback(
    requester: Requester, room_id: str, kind: str, event_id: str, *, claim: RequestClaim | None = None
) -> None:
    """Feedback of the 2014 draft on a message: the requester has read it (m.read), or got it (DELIVERED).

    Feedback on one's own message changes nothing. `claim`: the request that this is done for (`request_transactions`);
    raises Replayed, and what `send_receipt` raises.
    """
    _move(requester, room_id, kind, event_id, None, of_others_only=True, claim=claim)


def _move(
    requester: Requester,
    room_id: str,
    kind: str,
    event_id: str,
    thread: object,
    *,
    of_others_only: bool = False,
    claim: RequestClaim | None = None,
) -> None:
    key = (requester.user_id, kind, str(thread or ""))
    for attempt in attempts("The room"):
        items: list[Key] = [
            ephemeral_key(room_id),
            row_key(room_id, requester.user_id),
            (Cursor, room_id, INBOX_CURSOR),
            *([claim.key] if claim is not None else []),
        ]
        read = find_events(requester, room_id, [event_id], items)
        if claim is not None:
            claim.check(read.extras)
        position = read.positions[event_id]
        if thread is not None and attempt == 0:
            check_thread(room_id, event_id, position, str(thread))
        before = _with_size(parse(room_id, read.extras.get(items[0])), read)
        current = before.receipt(key) or parse_row(read.extras.get(items[1])).get(key)
        if current is None and before.low and position < int(read.reader.view.head.position):
            # It may have moved into the row between the two reads. (Nothing is later than the head's event.)
            current = row_of(room_id, requester.user_id).get(key)
        if current is not None and current.position >= position:
            if current.event_id == event_id:
                _announce_again(read, before, current)
            return
        if of_others_only and attempt == 0 and _sender_of(room_id, event_id, position) == requester.user_id:
            return
        now = now_ms()
        spent = _spend(current, now)
        after = before.with_receipt(Receipt(*key, event_id, now, position, spent=spent))
        if store(before, after):
            fault_point("receipt.stored")
            tell = partial(_announce, read, after, after.number, private=kind != PUBLIC)
            in_parallel(tell, *([claim.keep] if claim is not None else []))
            return


def _sender_of(room_id: str, event_id: str, position: int) -> str | None:
    """Who sent an event; None where it was backfilled, so that it stands elsewhere."""
    entry = read_entry(room_id, position)
    pdu = entry.pdu if entry is not None and entry.event_id == event_id else None
    return str(pdu["sender"]) if pdu is not None else None


def _with_size(state: RoomEphemeral, read: ReadEvents) -> RoomEphemeral:
    cursor = read.extras.get((Cursor, state.room_id, INBOX_CURSOR))
    return state.of_size(large=bool(cursor is not None and cursor.large))


def _spend(current: Receipt | None, now: int) -> int:
    """How far the rate of the receipt is used up after one more, in milliseconds from now (GCRA, as storage.limits)."""
    if not settings().rate_limits:
        return 0
    left = max(0, current.ts + current.spent - now) if current is not None else 0
    if left > _INTERVAL_MS * (_BURST - 1):
        raise LimitExceeded("Too many requests.", retry_after_ms=left - _INTERVAL_MS * (_BURST - 1))
    return left + _INTERVAL_MS


def _announce(read: ReadEvents, state: RoomEphemeral, number: int, *, private: bool) -> None:
    row = _own_row(read)
    if not private and not state.large:
        announce_to_members(state.room_id, number, author=read.reader.user_id)
    elif row.slot is not None:
        announce_in_slots([(read.reader.user_id, int(row.slot))], number)


def _announce_again(read: ReadEvents, state: RoomEphemeral, current: Receipt) -> None:
    """A repeated receipt is announced once more if the first request was cut off before its end."""
    row = _own_row(read)
    if row.slot is not None and told_in_inbox(read.reader.user_id, int(row.slot)) < current.number:
        _announce(read, state, current.number, private=current.kind != PUBLIC)


def _own_row(read: ReadEvents) -> LocalMember:
    row = read.reader.row
    if row is None:
        raise ValueError("the reader is no member")
    return row
