"""Which room a slot of a user's inbox is: never changes once it is given, so it is read once a process."""

from collections.abc import Iterable

from homeserver.storage.connection import Key, batch_get, query_range
from homeserver.storage.inbox import Slot
from homeserver.storage.inbox_shards import slot_item_key

_CACHED_SLOTS = 100_000
_rooms: dict[tuple[str, int], str] = {}


def rooms_of_slots(user_id: str, slots: Iterable[int]) -> dict[int, str]:
    """The rooms of these slots; one round for those that are not known yet."""
    wanted = list(slots)
    unknown = [slot for slot in wanted if (user_id, slot) not in _rooms]
    if len(unknown) > 100:
        # A whole inbox is cheaper in one Query than key by key.
        for item in query_range(Slot, f"{user_id}#slots", consistent=True):
            _remember(user_id, int(item.k), item.room)
    elif unknown:
        keys: dict[Key, int] = {(Slot, f"{user_id}#slots", slot_item_key(slot)): slot for slot in unknown}
        for key, item in batch_get(list(keys), consistent=True).items():
            _remember(user_id, keys[key], item.room)
    return {slot: _rooms[user_id, slot] for slot in wanted if (user_id, slot) in _rooms}


def _remember(user_id: str, slot: int, room_id: str) -> None:
    _rooms[user_id, slot] = room_id
    while len(_rooms) > _CACHED_SLOTS:
        _rooms.pop(next(iter(_rooms)), None)
