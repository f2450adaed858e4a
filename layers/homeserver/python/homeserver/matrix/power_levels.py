"""Power levels: who may do what in a room, read from `m.room.power_levels` and `m.room.create`.

Source: client-server API v1.19, "m.room.power_levels"; "m.room.power_levels events accept values as strings" and
"Floats as power levels" of the early room versions; "Room creators" of room version 12.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import PowerLevelValues, RoomVersionRules

# A power level is an integer of any size; infinite is only the power of a creator in room version 12. Integers and
# infinity compare exactly, so that `<` and `>=` need no special case.
PowerLevel = int | float
INFINITE_POWER: Final[PowerLevel] = math.inf

# The levels that stand directly in the content, and what each is when it is not there (or there is no event).
DEFAULT_LEVELS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}
_DEFAULT_NOTIFICATION_LEVEL = 50
# Of a creator (room versions 1 to 11) as long as the room has no m.room.power_levels.
_CREATOR_LEVEL_WITHOUT_EVENT = 100

_INTEGER_STRING = re.compile(r"[ \t\n\r\f\v]*([+-]?)0*([0-9]+)[ \t\n\r\f\v]*", re.ASCII)
# A float cannot be longer than this before its point; no string needs to be.
_LONGEST_INTEGER = 309


def read_level(value: object, values: PowerLevelValues) -> int | None:
    """The integer that a value of `m.room.power_levels` stands for, or None when it stands for none.

    Booleans are no integers in JSON. `INTEGER_OR_STRING` also reads a decimal integer in a string, with optional
    sign, leading zeros and surrounding ASCII whitespace (up to 309 digits); `LENIENT` also reads floats, cut off at
    the point, but neither infinities nor NaN.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if values is PowerLevelValues.INTEGER:
        return None
    if isinstance(value, str):
        match = _INTEGER_STRING.fullmatch(value)
        if match is None or len(match[2]) > _LONGEST_INTEGER:
            return None
        return int(match[1] + match[2])
    if values is PowerLevelValues.LENIENT and isinstance(value, float) and math.isfinite(value):
        return int(value)
    return None


def creators(create: Event | None, rules: RoomVersionRules) -> frozenset[str]:
    """The user IDs of those who created the room: one in room versions 1 to 11, one or more in version 12.

    `content.creator` until version 10, the sender from version 11, with `content.additional_creators` in version 12.
    Empty without a create event. Values that are no strings are passed over.
    """
    if create is None:
        return frozenset()
    if not rules.creator_is_sender:
        named = create.content.get("creator")
        return frozenset({named}) if isinstance(named, str) else frozenset()
    additional = create.content.get("additional_creators") if rules.creators_have_infinite_power else None
    if not isinstance(additional, list):
        additional = []
    return frozenset({create.sender, *(user_id for user_id in additional if isinstance(user_id, str))})


@dataclass(frozen=True, slots=True)
class PowerLevels:
    """The levels of one room at one state; reads a value when it is asked for, so that making one costs nothing.

    `content` is that of the `m.room.power_levels` event, None where the room has none; `creators` are the room's
    creators. A value that stands for no integer counts as absent.
    """

    content: Mapping[str, Any] | None
    creators: frozenset[str]
    rules: RoomVersionRules

    @classmethod
    def from_events(cls, power_levels: Event | None, create: Event | None, rules: RoomVersionRules) -> "PowerLevels":
        """The levels of a room with these two events in its state."""
        return cls(power_levels.content if power_levels else None, creators(create, rules), rules)

    def user_level(self, user_id: str) -> PowerLevel:
        """How much power a user has; `INFINITE_POWER` for a creator in room version 12."""
        if user_id in self.creators:
            if self.rules.creators_have_infinite_power:
                return INFINITE_POWER
            if self.content is None:
                return _CREATOR_LEVEL_WITHOUT_EVENT
        level = self._entry("users", user_id)
        return self._named("users_default") if level is None else level

    def event_level(self, event_type: str, *, is_state: bool) -> int:
        """The power needed to send an event of this type, as a state event or as a message event."""
        level = self._entry("events", event_type)
        if level is not None:
            return level
        return self._named("state_default" if is_state else "events_default")

    def notification_level(self, key: str) -> int:
        """The power needed to notify all of `notifications.<key>`, for instance `room`."""
        level = self._entry("notifications", key)
        return _DEFAULT_NOTIFICATION_LEVEL if level is None else level

    @property
    def notifications(self) -> Mapping[str, int]:
        """Every notification level that the event names."""
        return self.table("notifications")

    @property
    def users_default(self) -> int:
        return self._named("users_default")

    @property
    def ban(self) -> int:
        """The power needed to ban, and to lift a ban."""
        return self._named("ban")

    @property
    def kick(self) -> int:
        return self._named("kick")

    @property
    def redact(self) -> int:
        """The power needed to redact what others sent."""
        return self._named("redact")

    @property
    def invite(self) -> int:
        return self._named("invite")

    def written(self, name: str) -> int | None:
        """The level that the event itself gives for a key of `DEFAULT_LEVELS`; None where it gives none."""
        return None if self.content is None else read_level(self.content.get(name), self.rules.power_level_values)

    def table(self, name: str) -> dict[str, int]:
        """All levels of `users`, `events` or `notifications`; empty where the event has none."""
        values = self.rules.power_level_values
        levels = {key: read_level(value, values) for key, value in self._object(name).items()}
        return {key: level for key, level in levels.items() if level is not None}

    def _named(self, name: str) -> int:
        level = self.written(name)
        return DEFAULT_LEVELS[name] if level is None else level

    def _entry(self, table: str, key: str) -> int | None:
        return read_level(self._object(table).get(key), self.rules.power_level_values)

    def _object(self, name: str) -> Mapping[str, Any]:
        value = None if self.content is None else self.content.get(name)
        return value if isinstance(value, Mapping) else {}
