"""The published directory: one entry a room, in the order of joined members.

The sort key begins with the number of members, so that a page is one Query of just these entries and its place in the
order is a token that survives every change. A room whose number changes moves: its entry is replaced.
"""

import re
import time
from dataclasses import dataclass
from typing import Any, Final

import orjson

from homeserver.matrix.folding import fold
from homeserver.matrix.identifiers import is_room_id
from homeserver.storage.connection import Transaction, in_parallel, query_raw
from homeserver.storage.listings import Listing, unpacked

_LIST: Final = "rooms"
_COUNT: Final = ("count", _LIST)
_FIRST, _LAST = "0", ":"  # all keys lie between
_MOST_MEMBERS = 9_999_999_999
_KEY = re.compile(r"[0-9]{10}/(!.+)\Z", re.DOTALL)
SEARCH_SECONDS = 30  # how old the list may be that is searched
_SEARCHED = ("name", "topic", "canonical_alias")


@dataclass(frozen=True, slots=True)
class PublishedRoom:
    """An entry: its place in the order, and what is shown (`PublishedRoomsChunk`)."""

    key: str
    chunk: dict[str, Any]


def place_of(room_id: str, joined_members: int) -> str:
    """The sort key of a room with so many members: more members sort later."""
    return f"{min(joined_members, _MOST_MEMBERS):010d}/{room_id}"


def is_place(text: str) -> bool:
    """Whether a text could be a sort key."""
    match = _KEY.match(text)
    return match is not None and is_room_id(match[1])


def beside(key: str, members: int) -> str:
    """The sort key of the same room with so many members more or less."""
    return place_of(key[11:], max(0, int(key[:10]) + members))


def list_room(transaction: Transaction, key: str, chunk: dict[str, Any], *, before: str | None) -> None:
    """Add to a transaction: the room's entry is at `key`, no longer at `before` (None: it was not in the list)."""
    if before is None:
        transaction.update("count", Listing(*_COUNT), [Listing.number.add(1)])
    elif before != key:
        transaction.delete("before", Listing(_LIST, before))
    transaction.put("listing", Listing(_LIST, key, packed=orjson.dumps(chunk)))


def unlist_room(transaction: Transaction, key: str) -> None:
    """Add to a transaction: the entry at this key is gone."""
    transaction.delete("before", Listing(_LIST, key))
    transaction.update("count", Listing(*_COUNT), [Listing.number.add(-1)])


def count_rooms() -> int:
    """How many rooms are published."""
    item = Listing.fetch(*_COUNT, consistent=False)
    return int(item.number or 0) if item else 0


def read_page(place: str | None, *, backwards: bool, limit: int) -> list[PublishedRoom]:
    """Up to `limit` rooms with fewer members than a place in the order, the most members first; with None from the top.

    `backwards`: the last `limit` rooms before the place instead, in the same order.
    """
    low, high = (place or _FIRST, _LAST) if backwards else (_FIRST, place or _LAST)
    # Bounds are inclusive: one more for the entry that may stand at the place itself.
    items = query_raw(Listing, _LIST, low, high, consistent=False, descending=not backwards, limit=limit + 1)
    found = [_parse(raw) for raw in items if raw["k"]["S"] != place][:limit]
    return found[::-1] if backwards else found


def read_page_and_count(place: str | None, *, backwards: bool, limit: int) -> tuple[list[PublishedRoom], int]:
    """A page, and how many rooms there are: one round."""
    rooms, count = in_parallel(lambda: read_page(place, backwards=backwards, limit=limit), count_rooms)
    return rooms, count


def _parse(raw: dict[str, Any]) -> PublishedRoom:
    return PublishedRoom(raw["k"]["S"], unpacked(raw))


@dataclass(frozen=True, slots=True)
class SearchableRoom:
    """An entry with its texts as searches compare them."""

    room: PublishedRoom
    texts: tuple[str, ...]

    @classmethod
    def of(cls, room: PublishedRoom) -> "SearchableRoom":
        return cls(room, tuple(fold(room.chunk[name]) for name in _SEARCHED if name in room.chunk))

    def matches(self, term: str) -> bool:
        """Whether a folded term is part of one of the texts."""
        return any(term in text for text in self.texts)


_searchable: tuple[float, list[SearchableRoom]] | None = None


def all_rooms() -> list[SearchableRoom]:
    """The whole directory, the most members first, at most `SEARCH_SECONDS` old: one Query a MB, then from memory."""
    global _searchable  # noqa: PLW0603 - one list a process
    known, now = _searchable, time.monotonic()
    if known is None or now - known[0] > SEARCH_SECONDS:
        items = query_raw(Listing, _LIST, _FIRST, _LAST, consistent=False, descending=True)
        known = _searchable = (now, [SearchableRoom.of(_parse(raw)) for raw in items])
    return known[1]


def forget_searchable() -> None:
    """Let the next search read the directory anew."""
    global _searchable  # noqa: PLW0603 - as above
    _searchable = None
