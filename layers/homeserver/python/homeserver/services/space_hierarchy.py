"""The rooms of a space, depth first, a page at a time.

Rooms that this server is not in are asked for at the servers that the space names, and where the space itself is
elsewhere, at the one that told of it. What other servers told of rooms to come is kept with the walk.

Source: client-server API v1.19, "Spaces", `GET /rooms/{roomId}/hierarchy`, "Ordering of children within a space".
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from homeserver.matrix.errors import Forbidden, InvalidParam
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import is_room_id
from homeserver.matrix.told_room import ToldRoom, servers_in_via
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.remote_hierarchy import MOST_SERVERS, Asking, RemotePreview, known_servers
from homeserver.services.residency import candidates, named
from homeserver.services.room_preview import LocalPreview, Preview, UserOutside, previews_of, visible_among
from homeserver.services.send_event import check_room_id
from homeserver.storage.connection import in_parallel
from homeserver.storage.space_children import child_events
from homeserver.storage.space_walks import load_walk, store_walk

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
MAX_DEPTH = 10  # also the default
MOST_ROOMS_OF_A_PAGE = 400  # that are looked at: a page of rooms that may not be shown ends early
MOST_ROOMS = 2000  # of one space
MOST_BYTES = 4_000_000  # of one page: Lambda hands on 6 MB
_MOST_STORED_BYTES = 380_000  # of a walk, before it is packed: an item has 400 KB
_AHEAD = 20  # rooms that are read at once although the page needs fewer: some may not be shown
_ORDER = re.compile(r"[\x20-\x7e]{1,50}\Z")
_STRIPPED = ("type", "state_key", "content", "sender", "origin_server_ts")


@dataclass(frozen=True, slots=True)
class HierarchyQuery:
    """What is asked of a space; a page that follows another one must ask for the same, but for `limit`.

    `via`: servers that may know the space. (The specification has no such parameter here, so the servers in the room's
    ID and in an invitation are asked anyway; a room ID of version 12 has none.)
    """

    room_id: str
    via: tuple[str, ...] = ()
    suggested_only: bool = False
    max_depth: int = MAX_DEPTH
    limit: int = DEFAULT_LIMIT
    start: str | None = None

    def binding(self, user_id: str) -> list[Any]:
        """What a token is good for."""
        return [user_id, self.room_id, self.suggested_only, min(self.max_depth, MAX_DEPTH)]


@dataclass(frozen=True, slots=True)
class _Coming:
    """A room that is to come: how deep it lies, and which servers may know it."""

    room_id: str
    depth: int
    servers: tuple[str, ...] = ()


@dataclass(slots=True)
class _Walk:
    """How far a walk is: the rooms to come next, those that came, and what other servers told of rooms to come."""

    pending: list[_Coming]
    seen: set[str] = field(default_factory=set)
    told: dict[str, ToldRoom] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The walk as JSON of bounded size: what was told can be asked for again, and the last rooms go at last."""
        pending = [[coming.room_id, coming.depth, *coming.servers] for coming in self.pending[:MOST_ROOMS]]
        ahead = {coming.room_id for coming in self.pending}
        told = [room.to_json() for room_id, room in self.told.items() if room_id in ahead - self.seen]
        size = len(orjson.dumps([pending, list(self.seen)]))
        kept: list[Any] = []
        for room in told:
            size += len(orjson.dumps(room)) + 1
            if size > _MOST_STORED_BYTES:
                break
            kept.append(room)
        while pending and not kept and size > _MOST_STORED_BYTES:
            size -= len(orjson.dumps(pending.pop())) + 1
        return {"pending": pending, "seen": list(self.seen), "told": kept}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "_Walk":
        pending = [_Coming(room_id, depth, tuple(servers)) for room_id, depth, *servers in stored["pending"]]
        told = [ToldRoom.from_json(room) for room in stored.get("told", ())]
        return cls(pending, set(stored["seen"]), {room.room_id: room for room in told})


def hierarchy(requester: Requester, query: HierarchyQuery) -> dict[str, Any]:
    """A page of a space: the body of `GET .../hierarchy`.

    Rooms that the requester may not know of are left out, with all that is reached only through them. A room comes
    once, however many spaces have it. Reads take two or three rounds a level of the tree, not a room. Where too many
    rooms have to be asked for elsewhere, the page ends early.
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
        answer["next_batch"] = store_walk({"of": query.binding(requester.user_id), **walk.to_json()})
    return answer


def _resume(query: HierarchyQuery, user_id: str) -> _Walk:
    if query.start is None:
        return _Walk([_Coming(query.room_id, 0, tuple(named(query.via)))])
    stored = load_walk(query.start)
    if stored is None or stored["of"] != query.binding(user_id):
        raise InvalidParam("from is no token of this request, or it is too old. Only limit may change between pages.")
    return _Walk.from_json(stored)


class _Page:
    """One page in the making."""

    def __init__(self, user_id: str, query: HierarchyQuery, walk: _Walk) -> None:
        self._reader = UserOutside(user_id)
        self.suggested_only = query.suggested_only
        self.max_depth = min(query.max_depth, MAX_DEPTH)
        self.limit = min(query.limit, MAX_LIMIT)
        self.walk = walk
        self.rooms: list[dict[str, Any]] = []
        self.visible: dict[str, Preview] = {}
        self._room_id = query.room_id
        self._looked_at: set[str] = set()
        self._children: dict[str, list[dict[str, Any]]] = {}
        self._asking = Asking(suggested_only=query.suggested_only)
        self._bytes = 0

    @property
    def has_more(self) -> bool:
        """Whether rooms are left that the next page has to look at."""
        return len(self.walk.seen) < MOST_ROOMS and any(
            coming.room_id not in self.walk.seen for coming in self.walk.pending
        )

    def fill(self) -> None:
        """Read ahead and take rooms, in turns, until the page is full or the space is through."""
        while True:
            self._take_rooms()
            missing = list(self._missing())
            if not missing or self._is_over or not self._look_at(missing):
                return

    @property
    def _is_over(self) -> bool:
        return len(self._looked_at) >= MOST_ROOMS_OF_A_PAGE or self._bytes >= MOST_BYTES

    def _look_at(self, rooms: Sequence[_Coming]) -> bool:
        """Bring what is missing of rooms into memory; False where nothing was, as it may not be asked for any more."""
        unknown = {coming.room_id: coming.servers for coming in rooms if coming.room_id not in self._looked_at}
        if unknown:
            here = previews_of(unknown, self._reader)
            self._looked_at.update(here)
            self.visible |= visible_among(here, self._reader)
            self._look_elsewhere({room_id: unknown[room_id] for room_id in unknown if room_id not in here})
        spaces = [preview.head for coming in rooms if (preview := self._space_without_children(coming.room_id))]
        read = in_parallel(*[lambda head=head: child_events(head) for head in spaces])
        for head, events in zip(spaces, read, strict=True):
            self._children[head.room] = ordered_children(map(stripped, events), suggested_only=self.suggested_only)
        return bool(spaces) or not self._looked_at.isdisjoint(unknown)

    def _look_elsewhere(self, rooms: Mapping[str, Sequence[str]]) -> None:
        """The same of rooms that this server is not in."""
        told = {room_id: self.walk.told[room_id] for room_id in rooms if room_id in self.walk.told}
        whom = {room_id: self._servers(room_id, servers) for room_id, servers in rooms.items()}
        nobody_tells = [room_id for room_id in rooms if room_id not in told and not whom[room_id]]
        self._looked_at.update(nobody_tells)
        if len(nobody_tells) == len(rooms):
            return
        memberships = self._reader.memberships(rooms)

        def shown(previews: Iterable[RemotePreview]) -> dict[str, RemotePreview]:
            return visible_among({preview.room_id: preview for preview in previews}, self._reader)

        def membership(room_id: str) -> str:
            return memberships.get(room_id, "leave")

        known = shown(RemotePreview.of(room, membership(room_id)) for room_id, room in told.items())
        # Of rooms without children the summary that their space came with is all that there is.
        open_ones = {
            room_id
            for room_id in rooms
            if room_id not in told or (room_id in known and known[room_id].facts.is_space and whom[room_id])
        }
        answers = self._asking.ask({room_id: whom[room_id] for room_id in rooms if room_id in open_ones})
        self._looked_at.update(answers, told.keys() - open_ones)
        found = shown(RemotePreview.of(one.room, membership(room_id), one) for room_id, one in answers.items() if one)
        for room_id, preview in (known | found).items():
            if room_id in found or (room_id in self._looked_at and answers.get(room_id) is None):
                self.visible[room_id] = preview
                self._take_children(preview)

    def _servers(self, room_id: str, servers: Sequence[str]) -> list[str]:
        if room_id == self._room_id:
            return candidates(servers, known_servers(room_id, self._reader.user_id))
        return candidates(servers)

    def _take_children(self, preview: RemotePreview) -> None:
        told = preview.told
        children = ordered_children(told.children if told else (), suggested_only=self.suggested_only)
        self._children[preview.room_id] = children
        if told is not None:
            self.walk.told.update(told.summaries)

    def _space_without_children(self, room_id: str) -> LocalPreview | None:
        preview = self.visible.get(room_id)
        is_missing = isinstance(preview, LocalPreview) and preview.facts.is_space and room_id not in self._children
        return preview if isinstance(preview, LocalPreview) and is_missing else None

    def _is_known(self, room_id: str) -> bool:
        return room_id in self._looked_at and self._space_without_children(room_id) is None

    def _coming_after(self, coming: _Coming) -> list[_Coming]:
        """The children of a room that is shown, and whom to ask about them."""
        if coming.depth >= self.max_depth:
            return []
        preview = self.visible[coming.room_id]
        told = preview.told if isinstance(preview, RemotePreview) else None
        after = []
        for child in self._children.get(coming.room_id, ()):
            room_id = child["state_key"]
            # Who told of the space knows the room as well, or says that nobody tells this server of it.
            is_closed = told is not None and room_id in told.closed
            of_child = candidates(servers_in_via(child["content"]))[: MOST_SERVERS - bool(told)]
            servers = [] if is_closed else candidates(of_child, [told.server] if told else [])
            after.append(_Coming(room_id, coming.depth + 1, tuple(servers)))
        return after

    def _take_rooms(self) -> None:
        pending, seen = self.walk.pending, self.walk.seen
        while pending and len(self.rooms) < self.limit and len(seen) < MOST_ROOMS and self._bytes < MOST_BYTES:
            coming = pending[0]
            room_id = coming.room_id
            if room_id not in seen:
                if not self._is_known(room_id):
                    return
                seen.add(room_id)
                preview = self.visible.get(room_id)
                if preview is not None:
                    children = self._children.get(room_id, [])
                    self.rooms.append(preview.summary() | {"children_state": children})
                    self._bytes += len(str(self.rooms[-1]))
                    pending[1:1] = self._coming_after(coming)
            del pending[0]

    def _missing(self) -> Iterator[_Coming]:
        """The rooms, in the order in which they come, about which something has to be read for this page."""
        if len(self.rooms) >= self.limit or len(self.walk.seen) >= MOST_ROOMS:
            return
        # One level after the other: what is known of the rooms to come says which come after them.
        room_for = max(self.limit - len(self.rooms), _AHEAD)
        coming = list(reversed(self.walk.pending))
        met = set(self.walk.seen)
        while coming and room_for > 0:
            room = coming.pop()
            if room.room_id in met:
                continue
            met.add(room.room_id)
            if not self._is_known(room.room_id):
                room_for -= 1
                yield room
            elif room.room_id in self.visible:
                room_for -= 1
                coming += reversed(self._coming_after(room))


def ordered_children(children: Iterable[Mapping[str, Any]], *, suggested_only: bool) -> list[dict[str, Any]]:
    """The children of a space (`stripped`) in their order, without what is none: no room ID, no servers in `via`."""
    kept = [
        dict(child)
        for child in children
        if is_room_id(child["state_key"])
        and _is_via(child["content"].get("via"))
        and (not suggested_only or child["content"].get("suggested") is True)
    ]
    return sorted(kept, key=_place)


def stripped(event: Event) -> dict[str, Any]:
    """A child of a space as the space's summary has it in `children_state`."""
    return {key: event.pdu[key] for key in _STRIPPED}


def _is_via(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(server, str) for server in value)


def _place(child: Mapping[str, Any]) -> tuple[bool, str, int, str]:
    """Those with a valid `order` first, then by age, then by room ID."""
    order = child["content"].get("order")
    valid = order if isinstance(order, str) and _ORDER.match(order) else None
    return (valid is None, valid or "", int(child["origin_server_ts"]), child["state_key"])
