"""Guests in rooms: who lets them in, and how they leave a room that is closed to them.

Source: client-server API v1.19, "Guest access", `m.room.guest_access`.

No committed state of a room has a guest in it and is closed to guests: the commit that closes the room holds the
leaves of the last guests, and those of the others were committed before it. A crash in between leaves an open room.
What closes a room in another way (a redaction of the event, a resolution of forks) makes nobody leave: guests stay
until the room is closed by an event, but none comes in.
"""

from functools import partial

from homeserver.matrix.errors import Forbidden
from homeserver.matrix.event_builder import EventDraft
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.services.send_event import NOT_IN_ROOM, check_room_id, keys_for, unchanged_state
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.room_guests import RoomGuests, guests_of
from homeserver.storage.room_items import StateRow, state_key
from homeserver.storage.rooms import RoomView, StateKey, load_room

GUEST_ACCESS: StateKey = ("m.room.guest_access", "")
_LEAVES_AT_ONCE = 6  # with the items of each, what one transaction holds


def guests_forbidden(message: str) -> Forbidden:
    """What guests are told who ask for more than they may."""
    return Forbidden(message, errcode="M_GUEST_ACCESS_FORBIDDEN")


def check_admits_guests(view: RoomView) -> None:
    """Raises Forbidden unless the room lets guests join; `view` has `GUEST_ACCESS`. Without the event it does not."""
    event = view.event(*GUEST_ACCESS)
    if event is None or event.content.get("guest_access") != "can_join":
        raise guests_forbidden("Guests cannot join this room.")


def hold_open(transaction: Transaction, view: RoomView) -> None:
    """Add to a transaction: the room's guest access is still what `check_admits_guests` saw."""
    event = view.event(*GUEST_ACCESS)
    if event is None:
        raise ValueError("a room without guest access admits no guests")
    same = StateRow.event_id == event.event_id
    transaction.check("guest access", StateRow, view.room_id, state_key(*GUEST_ACCESS), same)


def closes_to_guests(draft: EventDraft) -> bool:
    """Whether such an event would close a room to guests."""
    return (draft.type, draft.state_key) == GUEST_ACCESS and draft.content.get("guest_access") != "can_join"


def close_to_guests(requester: Requester, room_id: str, draft: EventDraft) -> str:
    """Commit a state event that closes a room to guests, and let its guests leave before; returns the event's ID.

    Raises Forbidden when the requester may not set it: then nobody leaves.
    """
    check_room_id(room_id)
    rate_limits.take_send(requester.user_id)
    while True:
        event_id = _close(requester.user_id, room_id, draft)
        if event_id is not None:
            return event_id


def _close(sender: str, room_id: str, draft: EventDraft) -> str | None:
    """One commit: some guests leave, and if there are no more of them the room is closed (its event's ID)."""
    for _ in attempts("The room"):
        guests = guests_of(room_id)
        leaving = guests.users[:_LEAVES_AT_ONCE]
        members = [("m.room.member", user_id) for user_id in leaving]
        view, _found = load_room(room_id, [*keys_for(draft, sender), *members], local_users=leaving)
        if view is None:
            raise Forbidden(NOT_IN_ROOM)
        if not guests.users and (same := unchanged_state(view, draft, sender)) is not None:
            return same.event_id
        room = RoomDraft(view, view.rules)
        room.trial().add(draft, sender)
        for user_id in leaving:
            if view.membership(user_id) == "join":
                room.add(EventDraft("m.room.member", {"membership": "leave"}, user_id), user_id)
        is_last = len(leaving) == len(guests.users)
        closing = room.add(draft, sender) if is_last else None
        try:
            if room.events:
                room.extras.append(partial(guests.remove, users=leaving))
                room.commit()
            else:
                _forget(guests, leaving)
        except (Raced, TransactionCancelled):
            continue
        return closing.event_id if closing is not None else None
    raise AssertionError("attempts() never ends by itself")


def _forget(guests: RoomGuests, users: list[str]) -> None:
    """Guests who had left long before are merely listed no more."""
    transaction = Transaction()
    guests.remove(transaction, users)
    transaction.commit()
