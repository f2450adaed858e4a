"""The published directory: which rooms are in it, and who may put them there.

Source: client-server API v1.19, "Published room directory".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.event_auth import AuthState
from homeserver.matrix.folding import fold
from homeserver.matrix.room_facts import FACT_KEYS
from homeserver.matrix.unpadded_base64 import decode, encode_urlsafe
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.room_listing import store_listing
from homeserver.services.send_event import NOT_IN_ROOM, check_room_id
from homeserver.storage.connection import batch_get
from homeserver.storage.published_rooms import (
    PublishedRoom,
    all_rooms,
    beside,
    forget_searchable,
    is_place,
    read_page_and_count,
)
from homeserver.storage.room_items import HEAD, Head
from homeserver.storage.room_previews import preview_key
from homeserver.storage.rooms import RoomView, load_room

DEFAULT_LIMIT, MAX_LIMIT = 100, 500
_NO_ROOM = "This server knows no such room."
_NEXT, _PREVIOUS = "n", "p"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page lies: after a room of the order, or before it."""

    key: str
    backwards: bool

    @classmethod
    def parse(cls, token: str) -> "Place":
        """The place of a `next_batch` or `prev_batch`. Raises InvalidParam for anything else."""
        try:
            text = decode(token).decode()
        except ValueError:  # a UnicodeDecodeError too
            text = ""
        place = cls(text[1:], text[:1] == _PREVIOUS)
        if text[:1] not in {_NEXT, _PREVIOUS} or not is_place(place.key) or place.token() != token:
            raise InvalidParam("since is no token of the directory.")
        return place

    def token(self) -> str:
        return encode_urlsafe(((_PREVIOUS if self.backwards else _NEXT) + self.key).encode())


@dataclass(frozen=True, slots=True)
class DirectoryQuery:
    """What is asked of a directory; None where nothing is asked. `server`: whose it is (`remote_public_rooms`)."""

    server: str | None = None
    limit: int = DEFAULT_LIMIT
    since: str | None = None
    search_term: str | None = None
    # Types of rooms, None among them for rooms without a type
    room_types: Sequence[str | None] | None = None
    all_networks: bool = False
    network: str | None = None


def published_rooms(query: DirectoryQuery) -> dict[str, Any]:
    """A page of this server's directory, the most members first: the body of `/publicRooms`.

    Without a filter one round reads the page; with one the whole directory is searched in memory, where it is at most
    30 seconds old. Tokens are places in the order: a room whose number of members stays is shown once, whatever happens
    to the others.
    Raises InvalidParam.
    """
    check_query(query)
    limit = min(query.limit, MAX_LIMIT)
    place = Place.parse(query.since) if query.since is not None else None
    if query.network is not None:
        # Rooms come from this server alone: no third-party network has any here.
        return {"chunk": [], "total_room_count_estimate": 0}
    key, backwards = (place.key, place.backwards) if place else (None, False)
    if query.search_term or query.room_types is not None:
        rooms, total = _search(query, key, backwards=backwards, limit=limit + 1)
    else:
        rooms, total = read_page_and_count(key, backwards=backwards, limit=limit + 1)
    has_more = len(rooms) > limit
    shown = (rooms[-limit:] if backwards else rooms[:limit]) if has_more else rooms
    answer: dict[str, Any] = {"chunk": [room.chunk for room in shown], "total_room_count_estimate": total}
    if place is None:
        before, after = False, has_more
    else:
        # On the side that the reader came from there is at least where they came from.
        before, after = (has_more, True) if backwards else (True, has_more)
    # Nothing left on this side of a place: the way back begins with what stands at the place itself.
    last, first = (shown[-1].key, shown[0].key) if shown else (beside(key, +1), beside(key, -1)) if key else ("", "")
    if after:
        answer["next_batch"] = Place(last, backwards=False).token()
    if before:
        answer["prev_batch"] = Place(first, backwards=True).token()
    return answer


def check_query(query: DirectoryQuery) -> None:
    """Raises InvalidParam for what no directory can be asked."""
    if query.limit < 1:
        raise InvalidParam("limit must be at least 1.")
    if query.network is not None and query.all_networks:
        raise InvalidParam("third_party_instance_id cannot be used together with include_all_networks.")


def _search(query: DirectoryQuery, key: str | None, *, backwards: bool, limit: int) -> tuple[list[PublishedRoom], int]:
    """The rooms that match, on one side of a place, the nearest `limit` of them; and how many rooms there are."""
    everything = all_rooms()
    term = fold(query.search_term or "").strip()
    types = query.room_types
    found = [
        entry.room
        for entry in everything
        if (types is None or entry.room.chunk.get("room_type") in types) and entry.matches(term)
    ]
    if key is not None:
        found = [room for room in found if (room.key > key if backwards else room.key < key)]
    return found[-limit:] if backwards else found[:limit], len(everything)


def is_published(room_id: str) -> bool:
    """Whether a room is in the directory. Raises NotFound for a room that this server does not know."""
    check_room_id(room_id)
    found = batch_get([(Head, room_id, HEAD), preview_key(room_id)], consistent=True)
    head: Head | None = found.get((Head, room_id, HEAD))
    if head is None or head.kind != "full":
        raise NotFound(_NO_ROOM)
    preview = found.get(preview_key(room_id))
    return preview is not None and bool(preview.published)


def set_published(requester: Requester, room_id: str, *, published: bool) -> None:
    """Put a room into the directory, or take it out of there.

    Allowed to members whose power suffices to set the room's canonical alias, as that is what people find it by.
    Raises NotFound for an unknown room, Forbidden for everyone else.
    """
    check_room_id(room_id)
    user_id = requester.user_id
    member = ("m.room.member", user_id)
    for _ in attempts("The directory"):
        keys = [*FACT_KEYS, ("m.room.power_levels", ""), member]
        view, found = load_room(room_id, keys, extras=[preview_key(room_id)])
        if view is None or view.head.kind != "full":
            raise NotFound(_NO_ROOM)
        check_may_publish(view, user_id)
        if store_listing(view, found.get(preview_key(room_id)), publish=published):
            forget_searchable()
            return


def check_may_publish(view: RoomView, user_id: str) -> None:
    """Raises Forbidden for who may not put the room into the directory, or take it out.

    The view has create, power levels, and the user's membership.
    """
    state = AuthState({key: entry.event for key, entry in view.state.items()})
    if not state.is_joined(user_id):
        raise Forbidden(NOT_IN_ROOM)
    levels = state.power_levels
    if levels.user_level(user_id) < levels.event_level("m.room.canonical_alias", is_state=True):
        raise Forbidden("Only who may set the room's main alias can publish it, or take it out of the directory.")
