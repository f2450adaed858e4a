"""Which guest accounts joined a room: one item each, and one that counts them.

All change in the commits that let guests in or out, on the condition that the count is what was read. So a commit that
closes the room to guests, and names the count as well, has seen every guest that is in the room.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.storage.connection import Key, Transaction, query_range
from homeserver.storage.room_items import RoomGuest

_COUNT = "room_guest"
_PREFIX = "room_guest/"
_TORN_READS = 10


@dataclass(frozen=True, slots=True)
class RoomGuests:
    """The guests who joined a room, also those who left it since; `counted` is False where none ever did."""

    room_id: str
    users: list[str]
    counted: bool

    def remove(self, transaction: Transaction, users: Iterable[str]) -> None:
        """Add to a transaction: these are not listed any more, and nobody has been listed since (label `guests`)."""
        gone = list(users)
        if not self.counted:
            transaction.check("guests", RoomGuest, self.room_id, _COUNT, RoomGuest.room.does_not_exist())
            return
        for user_id in gone:
            transaction.delete(f"guest {user_id}", RoomGuest(self.room_id, _PREFIX + user_id))
        before = len(self.users)
        action = RoomGuest.listed.set(before - len(gone))
        transaction.update("guests", RoomGuest(self.room_id, _COUNT), [action], RoomGuest.listed == before)


def guests_of(room_id: str) -> RoomGuests:
    """The guests of a room, in one round: as many as are counted, whatever a torn read shows.

    Raises TimeoutError when they change faster than they can be read.
    """
    for _ in range(_TORN_READS):
        items = query_range(RoomGuest, room_id, _COUNT, consistent=True)
        users = [item.k.removeprefix(_PREFIX) for item in items if item.k != _COUNT]
        counts = [int(item.listed or 0) for item in items if item.k == _COUNT]
        if (counts[0] if counts else 0) == len(users):
            return RoomGuests(room_id, users, bool(counts))
    raise TimeoutError(f"the guests of {room_id} change faster than they can be read")


def guest_keys(room_id: str, user_id: str) -> list[Key]:
    """What `add_guest` must have read."""
    return [(RoomGuest, room_id, _COUNT), (RoomGuest, room_id, _PREFIX + user_id)]


def add_guest(transaction: Transaction, room_id: str, user_id: str, found: Mapping[Key, Any]) -> None:
    """Add to a transaction: this guest is listed (label `guests`). `found` has what exists of `guest_keys`."""
    count_key, own_key = guest_keys(room_id, user_id)
    if own_key in found:
        # Listed already: whoever takes the item away must come before or after this, not between.
        transaction.check("guests", RoomGuest, room_id, _PREFIX + user_id, RoomGuest.room.exists())
        return
    transaction.put(f"guest {user_id}", RoomGuest(room_id, _PREFIX + user_id), RoomGuest.room.does_not_exist())
    counted = found.get(count_key)
    before = int(counted.listed or 0) if counted is not None else 0
    unchanged = RoomGuest.listed == before if counted is not None else RoomGuest.room.does_not_exist()
    transaction.update("guests", RoomGuest(room_id, _COUNT), [RoomGuest.listed.set(before + 1)], unchanged)
