"""Who is typing.

A user types until the time that their client named, unless it says before that they stopped. The end of that time is
written by nobody: readers know it, and ask again then (see services.ephemeral, `typing_until`).

Source: client-server API v1.19, "Typing Notifications".
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from homeserver.matrix.errors import Forbidden
from homeserver.observability import fault_point
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.fanout import announce_in_slots, announce_to_members, slots_of
from homeserver.services.send_event import NOT_IN_ROOM, check_room_id
from homeserver.storage.connection import Key, batch_get
from homeserver.storage.ephemeral import RoomEphemeral, Typer, ephemeral_key, parse, store, told_in_inbox
from homeserver.storage.room_items import INBOX_CURSOR, Cursor, LocalMember
from homeserver.storage.rooms import load_room

DEFAULT_MS = 30_000  # where the client names no time
_SHORTEST_MS, _LONGEST_MS = 1_000, 120_000
# A client says again and again that its user is typing: what makes the time longer by so little is not written, as
# long as enough of it is left for the client to say it once more.
_SMALL_STEP_MS, _ENOUGH_MS = 10_000, 15_000


def set_typing(requester: Requester, room_id: str, user_id: str, *, typing: bool, timeout_ms: int | None) -> None:
    """The requester types, for so many milliseconds (cut to 1 to 120 s), or stopped.

    Raises InvalidParam for what is no room ID, Forbidden for another user or one who is not joined, LimitExceeded for
    too many changes, and when others write to the same room until the time is over.
    """
    if user_id != requester.user_id:
        raise Forbidden("A user can say only of themselves that they are typing.")
    check_room_id(room_id)
    span = min(max(DEFAULT_MS if timeout_ms is None else timeout_ms, _SHORTEST_MS), _LONGEST_MS)
    for attempt in attempts("The room"):
        keys: list[Key] = [ephemeral_key(room_id), (Cursor, room_id, INBOX_CURSOR)]
        view, extras = load_room(room_id, local_users=[user_id], extras=keys)
        row = view.locals.get(user_id) if view is not None else None
        if row is None or row.membership != "join":
            raise Forbidden(NOT_IN_ROOM)
        cursor = extras.get(keys[1])
        before = parse(room_id, extras.get(keys[0])).of_size(large=bool(cursor is not None and cursor.large))
        now = now_ms()
        after = started(before, user_id, now, now + span) if typing else stopped(before, user_id, now)
        if after is None:
            _announce_again(before, row, user_id)
            return
        if attempt == 0:
            rate_limits.take(f"typing-user/{user_id}", per_second=1, burst=30)
        if store(before, after):
            fault_point("typing.stored")
            if after.number != before.number:
                _announce(after, row, user_id, after.number)
            return


def stop_typing_of_who_leaves(room_id: str, user_id: str) -> Callable[[], None] | None:
    """Take a user out of the list who leaves the room. Returns what then tells the others, if there is any need.

    Nobody repeats this: if it is cut off, time ends the typing. Raises LimitExceeded when others write to the same room
    until the time is over.
    """
    keys: list[Key] = [ephemeral_key(room_id), (Cursor, room_id, INBOX_CURSOR)]
    for _ in attempts("The room"):
        found = batch_get(keys, consistent=True)
        cursor = found.get(keys[1])
        before = parse(room_id, found.get(keys[0])).of_size(large=bool(cursor is not None and cursor.large))
        after = stopped(before, user_id, now_ms())
        if after is None:
            return None
        if store(before, after):
            fault_point("typing.stored")
            if after.large:
                return None
            slots = slots_of(room_id)
            return partial(announce_to_members, room_id, after.number, author=None, slots=slots)
    raise AssertionError("unreachable: attempts() raises")


def started(state: RoomEphemeral, user_id: str, now: int, until: int) -> RoomEphemeral | None:
    """The room with the user typing until a time; None if nothing need be written."""
    typer = next((typer for typer in state.typing if typer.user_id == user_id and typer.until > now), None)
    if typer is None or until < typer.until - _SMALL_STEP_MS:
        live = [other for other in state.typing if other.until > now and other.user_id != user_id]
        return state.with_typing([*live, Typer(user_id, until)], announced=True)
    if until <= typer.until or (until - typer.until <= _SMALL_STEP_MS and typer.until - now >= _ENOUGH_MS):
        return None
    # The list stays the same, so nobody need be told. Whose time is over stays in it, for readers to miss them.
    others = [other for other in state.typing if other.user_id != user_id]
    return state.with_typing([*others, replace(typer, until=until)], announced=False)


def stopped(state: RoomEphemeral, user_id: str, now: int) -> RoomEphemeral | None:
    """The room with the user not typing; None if they did not."""
    live = [typer for typer in state.typing if typer.until > now]
    if all(typer.user_id != user_id for typer in live):
        return None
    return state.with_typing([typer for typer in live if typer.user_id != user_id], announced=True)


def _announce(state: RoomEphemeral, row: LocalMember, user_id: str, number: int) -> None:
    if not state.large:
        announce_to_members(state.room_id, number, author=user_id)
    elif row.slot is not None:
        announce_in_slots([(user_id, int(row.slot))], number)


def _announce_again(state: RoomEphemeral, row: LocalMember, user_id: str) -> None:
    """A repeated request announces the list once more if the first one was cut off before its end."""
    number = state.typing_number
    if number and row.slot is not None and told_in_inbox(user_id, int(row.slot)) < number and not state.large:
        _announce(state, row, user_id, number)
