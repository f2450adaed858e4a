"""State of today as the draft of 2014 had it, and back: the room's config, and its levels in four events.

| The draft | Today |
|---|---|
| `m.room.power_levels`: `{"@u:hs.test": 100, "default": 0}` | `users` and `users_default` of `m.room.power_levels` |
| `m.room.add_state_level`: `{"level": 50}` | its `state_default` |
| `m.room.send_event_level`: `{"level": 0}` | its `events_default` |
| `m.room.ops_levels`: `{"ban_level": 50, "kick_level": 50, "redact_level": 50}` | its `ban`, `kick`, `redact` |
| `m.room.config`: `visibility` | whether the room is in the published directory |
| `room_alias_name`, `name`, `topic` of it | localpart of `m.room.canonical_alias`; `m.room.name`; `m.room.topic` |
| its other keys | `org.eigenserver.config`, a state event that holds just them |

A level that is written must be an integer. What a body does not name stays as it is; only the flat
`m.room.power_levels` is whole: a user it does not name has the default level. `required_power_level` in a body is
passed over.

Source: the client-server specification of autumn 2014, "Power levels", and the draft's own list of state messages.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from homeserver.matrix.errors import BadJson, Forbidden
from homeserver.matrix.identifiers import domain_of, is_user_id, localpart_of
from homeserver.matrix.power_levels import DEFAULT_LEVELS, read_level
from homeserver.matrix.room_versions import PowerLevelValues
from homeserver.matrix.seed_view import GREATEST_LEVEL

POWER_LEVELS: Final = "m.room.power_levels"
ADD_STATE_LEVEL: Final = "m.room.add_state_level"
SEND_EVENT_LEVEL: Final = "m.room.send_event_level"
OPS_LEVELS: Final = "m.room.ops_levels"
CONFIG: Final = "m.room.config"
LEVEL_TYPES: Final = frozenset({POWER_LEVELS, ADD_STATE_LEVEL, SEND_EVENT_LEVEL, OPS_LEVELS})
# Where the keys of `m.room.config` are kept that have no place today.
KEPT_CONFIG: Final = "org.eigenserver.config"

_IGNORED: Final = "required_power_level"
_DEFAULT: Final = "default"
_OPS: Final = {"ban_level": "ban", "kick_level": "kick", "redact_level": "redact"}
# The keys of `m.room.config` that have a place of their own.
CONFIG_KEYS: Final = ("visibility", "room_alias_name", "name", "topic")
_VISIBILITIES: Final = ("public", "private")


# ── Levels as they are shown ─────────────────────────────────────────────────


def flat_power_levels(modern: Mapping[str, Any] | None, creators: Collection[str] = ()) -> dict[str, int]:
    """The draft's `m.room.power_levels` of a room whose modern one has this content (None: it has none).

    `creators` are those whose power has no number (room version 12; empty in all others): they are shown with
    9007199254740991. Values that stand for no integer are left out, and what stands under no user ID.
    """
    users = (modern or {}).get("users")
    named = {user: _level(value) for user, value in users.items()} if isinstance(users, Mapping) else {}
    flat = {user: level for user, level in named.items() if level is not None and is_user_id(user)}
    return {**flat, **dict.fromkeys(creators, GREATEST_LEVEL), _DEFAULT: _named(modern, "users_default")}


def add_state_level(modern: Mapping[str, Any] | None) -> dict[str, int]:
    """The draft's `m.room.add_state_level`: what setting state takes where nothing else is said."""
    return {"level": _named(modern, "state_default")}


def send_event_level(modern: Mapping[str, Any] | None) -> dict[str, int]:
    """The draft's `m.room.send_event_level`: what sending takes where nothing else is said."""
    return {"level": _named(modern, "events_default")}


def ops_levels(modern: Mapping[str, Any] | None) -> dict[str, int]:
    """The draft's `m.room.ops_levels`: what banning, kicking and redacting take."""
    return {name: _named(modern, key) for name, key in _OPS.items()}


def level_projection(
    event_type: str, modern: Mapping[str, Any] | None, creators: Collection[str] = ()
) -> dict[str, int]:
    """The projection of one of `LEVEL_TYPES`; `creators` as for `flat_power_levels`."""
    if event_type == POWER_LEVELS:
        return flat_power_levels(modern, creators)
    return _SHOWN[event_type](modern)


_SHOWN: Final[Mapping[str, Callable[[Mapping[str, Any] | None], dict[str, int]]]] = {
    ADD_STATE_LEVEL: add_state_level,
    SEND_EVENT_LEVEL: send_event_level,
    OPS_LEVELS: ops_levels,
}


def _level(value: object) -> int | None:
    return read_level(value, PowerLevelValues.LENIENT)


def _named(modern: Mapping[str, Any] | None, key: str) -> int:
    level = _level((modern or {}).get(key))
    return DEFAULT_LEVELS[key] if level is None else level


# ── Levels as they are written ───────────────────────────────────────────────


def with_levels(
    event_type: str, body: Mapping[str, Any], modern: Mapping[str, Any] | None, creators: Collection[str] = ()
) -> dict[str, Any]:
    """The modern content after a projection of one of `LEVEL_TYPES` was written to it; all else in it stays.

    Raises BadJson for a level that is no integer or stands under no user ID, Forbidden for another level of a creator
    whose power has no number. Such a creator is never written.
    """
    before = dict(modern or {})
    if event_type == POWER_LEVELS:
        return {**before, **_users_of(body, creators)}
    if event_type == OPS_LEVELS:
        named = {key: _integer(name, body[name]) for name, key in _OPS.items() if body.get(name) is not None}
        return {**before, **named}
    key = "state_default" if event_type == ADD_STATE_LEVEL else "events_default"
    return {**before, key: _integer("level", body.get("level"))}


def _users_of(body: Mapping[str, Any], creators: Collection[str]) -> dict[str, Any]:
    users: dict[str, int] = {}
    for name, value in body.items():
        if name in {_DEFAULT, _IGNORED}:
            continue
        if not is_user_id(name):
            raise BadJson(
                f"{name} is no user ID: the levels of users stand under their IDs, and all others' under default."
            )
        level = _integer(name, value)
        if name not in creators:
            users[name] = level
        elif level != GREATEST_LEVEL:
            raise Forbidden(f"{name} made this room: that power cannot be changed.")
    return {"users": users, "users_default": _integer(_DEFAULT, body.get(_DEFAULT, 0))}


def _integer(name: str, value: object) -> int:
    """`value`, if JSON has it as an integer; also as `50.0`, if that is how it was parsed, it is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadJson(f"{name} must be an integer.")
    return value


# ── The room's config ────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RoomConfig:
    """What `m.room.config` is made of; None for what is not set. `others`: content of `org.eigenserver.config`."""

    is_public: bool
    canonical_alias: str | None = None
    name: str | None = None
    topic: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def content(self, server_name: str) -> dict[str, Any]:
        """The content of `m.room.config`. An alias of another server than `server_name` has no name in it."""
        content: dict[str, Any] = {key: value for key, value in self.others.items() if key not in CONFIG_KEYS}
        content["visibility"] = _VISIBILITIES[0 if self.is_public else 1]
        if (alias := self.alias_name(server_name)) is not None:
            content["room_alias_name"] = alias
        return content | {key: text for key, text in (("name", self.name), ("topic", self.topic)) if text}

    def alias_name(self, server_name: str) -> str | None:
        """The localpart of the room's main alias, if it is one of this server."""
        alias = self.canonical_alias
        return localpart_of(alias) if alias and domain_of(alias) == server_name else None


@dataclass(frozen=True, slots=True)
class ConfigChanges:
    """What a body of `m.room.config` changes; None where it changes nothing. `others`: all of them, as they are to be.

    An empty `name` or `topic` takes it away.
    """

    is_public: bool | None = None
    alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    others: Mapping[str, Any] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be changed."""
        return self == ConfigChanges()


def config_changes(body: Mapping[str, Any], before: RoomConfig, server_name: str) -> ConfigChanges:
    """What a body changes of a config. A key that is absent or null stays as it is. Raises BadJson for wrong types."""
    texts = {key: _text(body, key) for key in CONFIG_KEYS}
    visibility = texts["visibility"]
    if visibility is not None and visibility not in _VISIBILITIES:
        raise BadJson("visibility must be public or private.")
    is_public = None if visibility is None else visibility == "public"
    unknown = {key: value for key, value in body.items() if key not in {*CONFIG_KEYS, _IGNORED} and value is not None}
    others = {**before.others, **unknown}
    return ConfigChanges(
        is_public=is_public if is_public is not before.is_public else None,
        alias_name=_changed(texts["room_alias_name"], before.alias_name(server_name) or ""),
        name=_changed(texts["name"], before.name or ""),
        topic=_changed(texts["topic"], before.topic or ""),
        others=others if unknown and others != dict(before.others) else None,
    )


def _changed(wanted: str | None, before: str) -> str | None:
    return wanted if wanted != before else None


def _text(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise BadJson(f"{key} must be a string.")
    return value
