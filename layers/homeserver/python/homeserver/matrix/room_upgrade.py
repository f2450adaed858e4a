"""What a room and the one that replaces it say of each other, and what of the state moves along.

Source: client-server API v1.19, "Room Upgrades"; "Room creators" of room version 12.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from homeserver.matrix.canonical_json import MAX_INTEGER, NotCanonical, encode_for_room
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import is_user_id
from homeserver.matrix.power_levels import DEFAULT_LEVELS, PowerLevels
from homeserver.matrix.room_versions import RoomVersionRules

# State with an empty key that moves along as it is.
MOVED_TYPES: Final = (
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.server_acl",
    "m.room.history_visibility",
    "m.room.guest_access",
)
# What names other rooms by its state key: the children of a space, and the spaces that a room is in.
MOVED_RELATION_TYPES: Final = ("m.space.child", "m.space.parent")

# Keys of m.room.create that are the new room's own.
_OWN_CREATE_KEYS = frozenset({"creator", "room_version", "predecessor", "additional_creators"})
_TABLES = ("users", "events", "notifications")
_TOMBSTONE = "m.room.tombstone"
# What room version 12 suggests for upgrades, and what who ran the room without being named anywhere is given.
_TOMBSTONE_LEVEL = 150
_CREATOR_LEVEL = 100
_CLOSED_LEVEL = 50


def predecessor_of(create: Event | None) -> str | None:
    """The room that a room says it replaces, or None."""
    predecessor = create.content.get("predecessor") if create is not None else None
    room_id = predecessor.get("room_id") if isinstance(predecessor, Mapping) else None
    return room_id if isinstance(room_id, str) else None


def replacement_of(tombstone: Event | None) -> str | None:
    """The room that a tombstone points to, or None."""
    room_id = tombstone.content.get("replacement_room") if tombstone is not None else None
    return room_id if isinstance(room_id, str) else None


def create_content(
    old_create: Event,
    last_event_id: str,
    rules: RoomVersionRules,
    *,
    creator: str,
    additional_creators: Iterable[str],
) -> dict[str, Any]:
    """The content of the new room's create event: type and federation of the old one, and where it came from."""
    content = {key: value for key, value in old_create.content.items() if key not in _OWN_CREATE_KEYS}
    content["room_version"] = rules.version
    content["predecessor"] = {"room_id": old_create.room_id, "event_id": last_event_id}
    if not rules.creator_is_sender:
        content["creator"] = creator
    named = [user_id for user_id in dict.fromkeys(additional_creators) if user_id != creator]
    if rules.creators_have_infinite_power and named:
        content["additional_creators"] = named
    return content


def moved_join_rules(content: Mapping[str, Any], rules: RoomVersionRules) -> dict[str, Any]:
    """The join rules of the new room. One that its version does not know becomes the closest that lets in no more."""
    rule = content.get("join_rule")
    known = {"public", "invite", "private"} | rules.knockable_join_rules | rules.restricted_join_rules
    if rule in known:
        return dict(content)
    fallbacks = {"knock_restricted": ("restricted", "knock")}
    closest = next((other for other in fallbacks.get(str(rule), ()) if other in known), "invite")
    return {**content, "join_rule": closest}


def moved_power_levels(old: PowerLevels, rules: RoomVersionRules, creators: frozenset[str]) -> dict[str, Any]:
    """The power levels of the new room, whose creators these are.

    Levels are integers afterwards, whatever the old version took for one. Creators with infinite power are not named.
    Who had it in the old room and has it no more keeps as much as anything there takes.
    """
    content = {
        key: value
        for key, value in (old.content or {}).items()
        if key not in DEFAULT_LEVELS and key not in _TABLES and _can_be_said(key, value, rules)
    }
    for name in DEFAULT_LEVELS:
        level = old.written(name)
        if level is not None:
            content[name] = _within(level)
    for name in _TABLES:
        if old.content is not None and name in old.content:
            content[name] = {key: _within(level) for key, level in old.table(name).items()}
    users = {user_id: level for user_id, level in content.get("users", {}).items() if is_user_id(user_id)}
    if old.rules.creators_have_infinite_power or old.content is None:
        asked = [content[name] for name in DEFAULT_LEVELS if name in content] + list(content.get("events", {}).values())
        users |= dict.fromkeys(old.creators, max([_CREATOR_LEVEL, *users.values(), *asked]))
    if rules.creators_have_infinite_power:
        users = {user_id: level for user_id, level in users.items() if user_id not in creators}
        events = content.get("events", {})
        if _TOMBSTONE not in events:
            above = content.get("state_default", DEFAULT_LEVELS["state_default"]) + 1
            content["events"] = {**events, _TOMBSTONE: min(max(_TOMBSTONE_LEVEL, above), MAX_INTEGER)}
    content["users"] = users
    return content


def closed_power_levels(levels: PowerLevels) -> dict[str, Any]:
    """The power levels of a room that was replaced: its ordinary members can neither send nor invite any more."""
    closed = max(_CLOSED_LEVEL, levels.users_default + 1)
    content = dict(levels.content or {})
    if levels.content is None and not levels.rules.creators_have_infinite_power:
        # With the event the creator's level has to be written down.
        content["users"] = dict.fromkeys(levels.creators, _CREATOR_LEVEL)
    content["events_default"] = max(closed, levels.event_level("", is_state=False))
    content["invite"] = max(closed, levels.invite)
    if isinstance(content.get("events"), Mapping):
        low = {event_type for event_type, level in levels.table("events").items() if level < closed}
        content["events"] = {key: closed if key in low else level for key, level in content["events"].items()}
    return content


def _within(level: int) -> int:
    return max(-MAX_INTEGER, min(level, MAX_INTEGER))


def _can_be_said(key: str, value: Any, rules: RoomVersionRules) -> bool:
    try:
        encode_for_room({key: value}, rules)
    except NotCanonical:
        return False
    return True
