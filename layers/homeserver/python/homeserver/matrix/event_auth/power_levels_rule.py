"""Rule R10: who may change which power level.

Source: the rule on `m.room.power_levels` in the room versions' authorisation rules.
"""

from collections.abc import Mapping

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth.state import AuthState
from homeserver.matrix.identifiers import is_user_id
from homeserver.matrix.power_levels import DEFAULT_LEVELS, PowerLevel, PowerLevels, read_level


def check_power_levels(event: Event, state: AuthState) -> None:
    """Whether an `m.room.power_levels` event may replace the one in force. Raises AuthRuleViolation."""
    _check_shape(event)
    # R10.3 (v12): the power of creators is not for this event to say.
    users = event.content.get("users", {})
    if event.rules.creators_have_infinite_power and any(creator in users for creator in state.creators):
        raise AuthRuleViolation("R10.3", "a creator of the room has no power level")
    # R10.4: the first one may say anything.
    if state.power_levels_event is None:
        return
    old, new = state.power_levels, PowerLevels(event.content, state.creators, event.rules)
    power = old.user_level(event.sender)
    # R10.5: nobody changes a level above their own power, or to one above it.
    _check_changes("R10.5", _written(old), _written(new), power)
    # R10.6: the same for the level of each event type (and from v6 of each kind of notification).
    _check_changes("R10.6", old.table("events"), new.table("events"), power)
    if event.rules.checks_notification_levels:
        _check_changes("R10.6", old.table("notifications"), new.table("notifications"), power)
    # R10.7: and for users, where equal power is already out of reach, unless it is one's own.
    _check_users(event.sender, old.table("users"), new.table("users"), power)


def _check_shape(event: Event) -> None:
    """Rules R10.1 and R10.2: every value is a level that this room version can read."""
    content, values = event.content, event.rules.power_level_values
    # R10.1: the levels that stand alone are readable, `events` (and from v6 `notifications`) are objects of such.
    for name in DEFAULT_LEVELS:
        if name in content and read_level(content[name], values) is None:
            raise AuthRuleViolation("R10.1", f"{name} is no power level")
    tables = ("events", "notifications") if event.rules.checks_notification_levels else ("events",)
    for name in tables:
        table = content.get(name, {})
        if not isinstance(table, Mapping) or any(read_level(value, values) is None for value in table.values()):
            raise AuthRuleViolation("R10.1", f"{name} is no object of power levels")
    # R10.2: `users` is an object of users and their readable levels.
    users = content.get("users", {})
    if not isinstance(users, Mapping):
        raise AuthRuleViolation("R10.2", "users is no object")
    for user_id, level in users.items():
        if not is_user_id(user_id) or read_level(level, values) is None:
            raise AuthRuleViolation("R10.2", "users has something else than user IDs with power levels")


def _written(levels: PowerLevels) -> dict[str, int]:
    written = {name: levels.written(name) for name in DEFAULT_LEVELS}
    return {name: level for name, level in written.items() if level is not None}


def _check_changes(rule: str, old: Mapping[str, int], new: Mapping[str, int], power: PowerLevel) -> None:
    """Refuse each level that differs, on either side, where that side is above `power`."""
    for name in old.keys() | new.keys():
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if before is not None and before > power:
            raise AuthRuleViolation(rule, f"the level of {name} is above the sender's power")
        if after is not None and after > power:
            raise AuthRuleViolation(rule, f"the new level of {name} would be above the sender's power")


def _check_users(sender: str, old: Mapping[str, int], new: Mapping[str, int], power: PowerLevel) -> None:
    for user_id in old.keys() | new.keys():
        before, after = old.get(user_id), new.get(user_id)
        if before == after:
            continue
        if before is not None and user_id != sender and before >= power:
            raise AuthRuleViolation("R10.7", f"{user_id} has as much power as the sender")
        if after is not None and after > power:
            raise AuthRuleViolation("R10.7", f"{user_id} would get more power than the sender has")
