"""The rooms of a space, depth first, a page at a time.

Source: client-server API v1.19, "Spaces", `GET /rooms/{roomId}/hierarchy`, "Ordering of children within a space".
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix.errors import Forbidden, InvalidParam
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import is_room_id
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.room_preview import Preview, previews_of
from homeserver.services.send_event import check_room_id
from homeserver.storage.connection import in_parallel
from homeserver.storage.space_children import child_events
from homeserver.storage.space_walks import load_walk, store_walk

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
MAX_DEPTH = 10  # also the default
MOST_ROOMS_OF_A_PAGE = 400  # that are looked at: a page of rooms that may not be shown ends early
MOST_ROOMS = 2000  # of one space
_AHEAD = 20  # rooms that are read at once although the page needs fewer: some may not be shown
_ORDER = re.compile(r"[\x20-\x7e]{1,50}\Z")
_STRIPPED = ("type", "state_key", "content", "sender", "origin_server_ts")


@dataclass(frozen=True, slots=True)
class HierarchyQuery:
    """What is asked of a space; a page that follows another one must ask for the same, but for `limit`."""

    room_id: str
    suggested_only: bool = False
    max_depth: int = MAX_DEPTH
    limit: int = DEFAULT_LIMIT
    start: str | None = None

    def binding(self, user_id: str) -> list[Any]:
        """What a token is good for."""
        return [user_id, self.room_id, self.suggested_only, min(self.max_depth, MAX_DEPTH)]


@dataclass(slots=True)
class _Walk:
    """How far a walk is: the rooms to come next, each with its depth, and those that came."""

    pending: list[tuple[str, int]]
    seen: set[str] = field(default_factory=set)


def hierarchy(requester: Requester, query: HierarchyQuery) -> dict[str, Any]:
    """A page of a space: the body of `GET .../hierarchy`.

    Rooms that the requester may not know of are left out, with all that is reached only through them. A room comes
    once, however many spaces have it. Reads take two or three rounds a level of the tree, not a room.
    Raises Forbidden if the requester may not know of the space, InvalidParam for a token that is not of this request,
    LimitExceeded.
    """
    check_room_id(query.room_id)
    rate_limits.take_finding(requester.user_id)
    walk = _resume(query, requester.user_id)
    pages = _Page(requester.user_id, query, walk)
    pages.fill()
    if query.start is None and query.room_id not in pages.visible:
        raise Forbidden("You may not see this room.")
    answer: dict[str, Any] = {"rooms": pages.rooms}
    if pages.has_more:
        state = {"of": query.binding(requester.user_id), "pending": walk.pending[:MOST_ROOMS], "seen": list(walk.seen)}
        answer["next_batch"] = store_walk(state)
    return answer


def _resume(query: HierarchyQuery, user_id: str) -> _Walk:
    if query.start is None:
        return _Walk([(query.room_id, 0)])
    stored = load_walk(query.start)
    if stored is None or stored["of"] != query.binding(user_id):
        raise InvalidParam("from is no token of this request, or it is too old. Only limit may change between pages.")
    return _Walk([(room_id, depth) for room_id, depth in stored["pending"]], set(stored["seen"]))


class _Page:
    """One page in the making."""

    def __init__(self, user_id: str, query: HierarchyQuery, walk: _Walk) -> None:
        self.user_id = user_id
        self.suggested_only = query.suggested_only
        self.max_depth = min(query.max_depth, MAX_DEPTH)
        self.limit = min(query.limit, MAX_LIMIT)
        self.walk = walk
        self.rooms: list[dict[str, Any]] = []
        self.visible: dict[str, Preview] = {}
        self._looked_at: set[str] = set()
        self._children: dict[str, list[Event]] = {}

    @property
    def has_more(self) -> bool:
        """Whether rooms are left that the next page has to look at."""
        return len(self.walk.seen) < MOST_ROOMS and any(room not in self.walk.seen for room, _ in self.walk.pending)

    def fill(self) -> None:
        """Read ahead and take rooms, in turns, until the page is full or the space is through."""
        while True:
            self._take_rooms()
            missing = list(self._missing())
            if not missing or len(self._looked_at) >= MOST_ROOMS_OF_A_PAGE:
                return
            unknown = [room_id for room_id in missing if room_id not in self._looked_at]
            self._looked_at.update(unknown)
            self.visible |= previews_of(unknown, self.user_id) if unknown else {}
            spaces = [room_id for room_id in missing if self._needs_children(room_id)]
            read = in_parallel(
                *[lambda room_id=room_id: child_events(self.visible[room_id].head) for room_id in spaces]
            )
            self._children |= {
                room_id: ordered_children(events, suggested_only=self.suggested_only)
                for room_id, events in zip(spaces, read, strict=True)
            }

    def _needs_children(self, room_id: str) -> bool:
        preview = self.visible.get(room_id)
        return preview is not None and preview.facts.is_space and room_id not in self._children

    def _is_known(self, room_id: str) -> bool:
        return room_id in self._looked_at and not self._needs_children(room_id)

    def _take_rooms(self) -> None:
        pending, seen = self.walk.pending, self.walk.seen
        while pending and len(self.rooms) < self.limit and len(seen) < MOST_ROOMS:
            room_id, depth = pending[0]
            if room_id not in seen:
                if not self._is_known(room_id):
                    return
                seen.add(room_id)
                preview = self.visible.get(room_id)
                if preview is not None:
                    children = self._children.get(room_id, [])
                    stripped = [{key: event.pdu[key] for key in _STRIPPED} for event in children]
                    self.rooms.append(preview.summary() | {"children_state": stripped})
                    if depth < self.max_depth:
                        pending[1:1] = [(event.key[1], depth + 1) for event in children]
            del pending[0]

    def _missing(self) -> Iterator[str]:
        """The rooms, in the order in which they come, about which something has to be read for this page."""
        if len(self.rooms) >= self.limit or len(self.walk.seen) >= MOST_ROOMS:
            return
        # One level after the other: what is known of the rooms to come says which come after them.
        room_for = max(self.limit - len(self.rooms), _AHEAD)
        coming = list(reversed(self.walk.pending))
        met = set(self.walk.seen)
        while coming and room_for > 0:
            room_id, depth = coming.pop()
            if room_id in met:
                continue
            met.add(room_id)
            if not self._is_known(room_id):
                room_for -= 1
                yield room_id
            elif room_id in self.visible:
                room_for -= 1
                if depth < self.max_depth:
                    children = self._children.get(room_id, [])
                    coming += [(event.key[1], depth + 1) for event in reversed(children)]


def ordered_children(events: Iterable[Event], *, suggested_only: bool) -> list[Event]:
    """The children of a space in their order, without what is none: no room ID, or no list of servers in `via`."""
    children = [
        event
        for event in events
        if is_room_id(event.key[1])
        and _is_via(event.content.get("via"))
        and (not suggested_only or event.content.get("suggested") is True)
    ]
    return sorted(children, key=_place)


def _is_via(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(server, str) for server in value)


def _place(event: Event) -> tuple[bool, str, int, str]:
    """Those with a valid `order` first, then by age, then by room ID."""
    order = event.content.get("order")
    valid = order if isinstance(order, str) and _ORDER.match(order) else None
    return (valid is None, valid or "", int(event.pdu["origin_server_ts"]), event.key[1])
