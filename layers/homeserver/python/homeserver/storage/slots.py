"""Which room a slot of a user's inbox is: never changes once it is given, so it is read once a process."""

from collections.abc import Iterable

from homeserver.storage.connection import Key, batch_get, query_range
from homeserver.storage.inbox import Slot
from homeserver.storage.inbox_shards import slot_item_key

_CACHED_SLOTS = 100_000
_rooms: dict[tuple[str, int], str] = {}


def read_ahead(user_id: str) -> None:
    """Learn all slots of a user whom this process has not met: one round, to be spent beside another one.

    An eventual read: what it misses, `rooms_of_slots` reads.
    """
    if (user_id, 0) not in _rooms:
        _learn_all(user_id, consistent=False)


def rooms_of_slots(user_id: str, slots: Iterable[int]) -> dict[int, str]:
    """The rooms of these slots; one round for those that are not known yet. A slot that does not exist is left out."""
    wanted = list(slots)
    unknown = [slot for slot in wanted if (user_id, slot) not in _rooms]
    if len(unknown) > 100:
        # A whole inbox is cheaper in one Query than key by key.
        _learn_all(user_id, consistent=True)
    elif unknown:
        keys: dict[Key, int] = {(Slot, f"{user_id}#slots", slot_item_key(slot)): slot for slot in unknown}
        for key, item in batch_get(list(keys), consistent=True).items():
            _remember(user_id, keys[key], item.room)
    return {slot: _rooms[user_id, slot] for slot in wanted if (user_id, slot) in _rooms}


def _learn_all(user_id: str, *, consistent: bool) -> None:
    for item in query_range(Slot, f"{user_id}#slots", consistent=consistent):
        _remember(user_id, int(item.k), item.room)


def _remember(user_id: str, slot: int, room_id: str) -> None:
    _rooms[user_id, slot] = room_id
    while len(_rooms) > _CACHED_SLOTS:
        _rooms.pop(next(iter(_rooms)), None)
