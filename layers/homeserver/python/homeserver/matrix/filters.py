"""Filters: which rooms, events and fields a client wants to get.

Parsing is strict about types and values that the specification names, and ignores keys that it does not.
Source: client-server API v1.19, "Filtering"; "Dot-separated property paths" of the appendices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from homeserver.matrix.errors import BadJson, InvalidParam
from homeserver.matrix.relations import relation_of

T = TypeVar("T")

_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TypePatterns:
    """Event types in which `*` stands for any run of characters."""

    literals: frozenset[str]
    wildcards: tuple[tuple[str, ...], ...]
    """Patterns with a `*`, as the pieces between the `*`s."""

    @classmethod
    def of(cls, patterns: Sequence[str]) -> "TypePatterns":
        return cls(
            frozenset(pattern for pattern in patterns if "*" not in pattern),
            tuple(tuple(pattern.split("*")) for pattern in patterns if "*" in pattern),
        )

    @property
    def match_everything(self) -> bool:
        return any(not any(pieces) for pieces in self.wildcards)

    @property
    def match_nothing(self) -> bool:
        return not self.literals and not self.wildcards

    def match(self, event_type: str) -> bool:
        return event_type in self.literals or any(_matches_pieces(pieces, event_type) for pieces in self.wildcards)


def _matches_pieces(pieces: tuple[str, ...], text: str) -> bool:
    # No regular expression: a pattern of many `*` makes one backtrack for ever. Leftmost matches are enough here.
    first, *middle, last = pieces
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


@dataclass(frozen=True, slots=True)
class _EventConditions:
    """What filters of events in and outside rooms share. None for `types` and `senders` means all."""

    limit: int | None = None
    types: TypePatterns | None = None
    not_types: TypePatterns = field(default_factory=lambda: TypePatterns.of(()))
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = _NONE

    def limit_within(self, *, default: int, cap: int) -> int:
        """How many events to return: what the client asked for, or the default; never more than the cap."""
        return min(default if self.limit is None else self.limit, cap)

    def _excludes_every_event(self) -> bool:
        return (
            self.not_types.match_everything
            or (self.types is not None and self.types.match_nothing)
            or (self.senders is not None and self.senders <= self.not_senders)
        )

    def _passes(self, event_type: str, sender: str | None) -> bool:
        if self.not_types.match(event_type) or sender in self.not_senders:
            return False
        if self.types is not None and not self.types.match(event_type):
            return False
        return self.senders is None or sender in self.senders


@dataclass(frozen=True, slots=True)
class EventFilter(_EventConditions):
    """The filter of events outside rooms: presence and account data."""

    @property
    def excludes_everything(self) -> bool:
        """True when no event can pass, so that nothing needs to be read; False may still let none pass."""
        return self._excludes_every_event()

    def matches(self, event_type: str, sender: str | None) -> bool:
        """Whether an event passes by type and sender; None for events that have no sender."""
        return self._passes(event_type, sender)


@dataclass(frozen=True, slots=True)
class RoomEventFilter(_EventConditions):
    """The filter of a room's events: timeline, state, ephemeral events, account data; also of `/messages`.

    `related_by_senders` and `related_by_rel_types` want events that have a relation of such a type from such a sender
    pointing at them. They need the room's relations and are left to who reads those: `matches` does not look at them.
    `rel_types` and `not_rel_types` (MSC3874) are about the event's own relation; None among them is to have none.
    """

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = _NONE
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False
    related_by_senders: frozenset[str] | None = None
    related_by_rel_types: frozenset[str] | None = None
    rel_types: frozenset[str | None] | None = None
    not_rel_types: frozenset[str | None] = frozenset()

    @property
    def excludes_everything(self) -> bool:
        """True when no event of any room can pass, so that nothing needs to be read; False may still let none pass."""
        return self._excludes_every_event() or (self.rooms is not None and self.rooms <= self.not_rooms)

    @property
    def needs_relations(self) -> bool:
        """Whether events that `matches` lets pass must also be checked against the relations to them."""
        return self.related_by_senders is not None or self.related_by_rel_types is not None

    def includes_room(self, room_id: str) -> bool:
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)

    def matches(self, event: Mapping[str, Any], room_id: str) -> bool:
        """Whether an event passes, all but its relations. `event` has `type`, and `sender` and `content` if any."""
        if not self.includes_room(room_id) or not self._passes(event["type"], event.get("sender")):
            return False
        if (self.rel_types is not None or self.not_rel_types) and not self._passes_own_relation(event):
            return False
        if self.contains_url is None:
            return True
        content = event.get("content")
        return (isinstance(content, Mapping) and "url" in content) is self.contains_url

    def _passes_own_relation(self, event: Mapping[str, Any]) -> bool:
        content = event.get("content")
        relation = relation_of(content) if isinstance(content, Mapping) else None
        rel_type = relation.rel_type if relation is not None else None
        return rel_type not in self.not_rel_types and (self.rel_types is None or rel_type in self.rel_types)


@dataclass(frozen=True, slots=True)
class RoomFilter:
    """What of which rooms: `rooms` and `not_rooms` come before the filters of the parts."""

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = _NONE
    include_leave: bool = False
    state: RoomEventFilter = RoomEventFilter()
    timeline: RoomEventFilter = RoomEventFilter()
    ephemeral: RoomEventFilter = RoomEventFilter()
    account_data: RoomEventFilter = RoomEventFilter()

    @property
    def excludes_everything(self) -> bool:
        """True when no room can pass."""
        return self.rooms is not None and self.rooms <= self.not_rooms

    def includes_room(self, room_id: str) -> bool:
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)


@dataclass(frozen=True, slots=True)
class Filter:
    """A whole filter, as `/sync` takes it. `Filter()` lets everything pass."""

    room: RoomFilter = RoomFilter()
    presence: EventFilter = EventFilter()
    account_data: EventFilter = EventFilter()
    event_format: str = "client"
    event_fields: tuple[str, ...] | None = None
    """Property paths for `project_event_fields`; None for whole events."""


def parse_filter(obj: Any) -> Filter:
    """The filter that a client uploads, or gives inline to `/sync`.

    Raises BadJson for a value of the wrong type, InvalidParam for one that cannot be: another `event_format`, a
    `limit` below 1, user or room IDs that are none. The message names the key.
    """
    root = _object(obj, "filter")
    event_format = _value(root, "event_format", _string, "client", "filter")
    if event_format not in {"client", "federation"}:
        raise InvalidParam("filter.event_format is neither 'client' nor 'federation'")
    return Filter(
        room=_value(root, "room", _room_filter, RoomFilter(), "filter"),
        presence=_value(root, "presence", _event_filter, EventFilter(), "filter"),
        account_data=_value(root, "account_data", _event_filter, EventFilter(), "filter"),
        event_format=event_format,
        event_fields=_value(root, "event_fields", _strings, None, "filter"),
    )


def parse_room_event_filter(obj: Any) -> RoomEventFilter:
    """The filter that `/messages` and `/context` take. Raises as `parse_filter` does."""
    return _room_event_filter(obj, "filter")


def project_event_fields(event: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """The part of an event that property paths such as `content.body` name; what they do not find is left out.

    The event is not changed; parts of it are shared with the answer.
    """
    projected: dict[str, Any] = {}
    # Shorter paths first: what a shorter one took whole, a longer one finds there.
    for path in sorted((split_property_path(text) for text in fields), key=len):
        _copy_property(event, projected, path)
    return projected


def split_property_path(text: str) -> tuple[str, ...]:
    r"""The names of a dot-separated path: `\.` is a dot and `\\` a backslash in a name, others are literal."""
    names: list[str] = []
    name = ""
    at = 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in {".", "\\"}:
            name += text[at + 1]
            at += 2
            continue
        if text[at] == ".":
            names.append(name)
            name = ""
        else:
            name += text[at]
        at += 1
    return (*names, name)


def _copy_property(source: Mapping[str, Any], target: dict[str, Any], path: tuple[str, ...]) -> None:
    value: Any = source
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return
        value = value[name]
    at: Any = source
    for name in path[:-1]:
        at = at[name]
        below = target.setdefault(name, {})
        if below is at:
            return
        target = below
    target[path[-1]] = value


# ── Parsing ──────────────────────────────────────────────────────────────────


def _value(obj: Mapping[str, Any], key: str, parse: Callable[[Any, str], T], default: T, path: str) -> T:
    return parse(obj[key], f"{path}.{key}") if key in obj else default


def _object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadJson(f"{path} is not an object")
    return value


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise BadJson(f"{path} is not a string")
    return value


def _boolean(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise BadJson(f"{path} is neither true nor false")
    return value


def _limit(value: Any, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadJson(f"{path} is not an integer")
    if value < 1:
        raise InvalidParam(f"{path} is not greater than 0")
    return value


def _strings(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise BadJson(f"{path} is not an array of strings")
    return tuple(value)


def _names(value: Any, path: str) -> frozenset[str]:
    return frozenset(_strings(value, path))


def _rel_types(value: Any, path: str) -> frozenset[str | None]:
    if not isinstance(value, list) or not all(entry is None or isinstance(entry, str) for entry in value):
        raise BadJson(f"{path} is not an array of strings")
    return frozenset(value)


def _types(value: Any, path: str) -> TypePatterns:
    return TypePatterns.of(_strings(value, path))


def _user_ids(value: Any, path: str) -> frozenset[str]:
    names = _names(value, path)
    if not all(name.startswith("@") for name in names):
        raise InvalidParam(f"{path} contains what is not a user ID")
    return names


def _room_ids(value: Any, path: str) -> frozenset[str]:
    names = _names(value, path)
    if not all(name.startswith("!") for name in names):
        raise InvalidParam(f"{path} contains what is not a room ID")
    return names


def _event_filter(value: Any, path: str) -> EventFilter:
    return EventFilter(**_event_filter_fields(_object(value, path), path))


def _room_event_filter(value: Any, path: str) -> RoomEventFilter:
    obj = _object(value, path)
    return RoomEventFilter(
        **_event_filter_fields(obj, path),
        rooms=_value(obj, "rooms", _room_ids, None, path),
        not_rooms=_value(obj, "not_rooms", _room_ids, _NONE, path),
        contains_url=_value(obj, "contains_url", _boolean, None, path),
        lazy_load_members=_value(obj, "lazy_load_members", _boolean, False, path),
        include_redundant_members=_value(obj, "include_redundant_members", _boolean, False, path),
        unread_thread_notifications=_value(obj, "unread_thread_notifications", _boolean, False, path),
        related_by_senders=_value(obj, "related_by_senders", _user_ids, None, path),
        related_by_rel_types=_value(obj, "related_by_rel_types", _names, None, path),
        rel_types=_value(obj, "org.matrix.msc3874.rel_types", _rel_types, None, path),
        not_rel_types=_value(obj, "org.matrix.msc3874.not_rel_types", _rel_types, frozenset(), path),
    )


def _event_filter_fields(obj: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {
        "limit": _value(obj, "limit", _limit, None, path),
        "types": _value(obj, "types", _types, None, path),
        "not_types": _value(obj, "not_types", _types, TypePatterns.of(()), path),
        "senders": _value(obj, "senders", _user_ids, None, path),
        "not_senders": _value(obj, "not_senders", _user_ids, _NONE, path),
    }


def _room_filter(value: Any, path: str) -> RoomFilter:
    obj = _object(value, path)
    return RoomFilter(
        rooms=_value(obj, "rooms", _room_ids, None, path),
        not_rooms=_value(obj, "not_rooms", _room_ids, _NONE, path),
        include_leave=_value(obj, "include_leave", _boolean, False, path),
        state=_value(obj, "state", _room_event_filter, RoomEventFilter(), path),
        timeline=_value(obj, "timeline", _room_event_filter, RoomEventFilter(), path),
        ephemeral=_value(obj, "ephemeral", _room_event_filter, RoomEventFilter(), path),
        account_data=_value(obj, "account_data", _room_event_filter, RoomEventFilter(), path),
    )
