"""What a user had set up for a room, in the room that replaces it.

Source: client-server API v1.19, "Room Upgrades": when a user joins the new room, the server should replicate the user's
settings of the old one, such as notifications and tags.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from homeserver.matrix.errors import MatrixError
from homeserver.matrix.room_upgrade import predecessor_of, replacement_of
from homeserver.observability import log
from homeserver.services.account_data import change_account_data
from homeserver.storage import user_data
from homeserver.storage.rooms import load_room, remembered

_TAGS, _DIRECT, _PUSH_RULES = "m.tag", "m.direct", "m.push_rules"
_ROOM_KINDS = ("override", "room")


def carry_settings_on_join(user_id: str, room_id: str) -> None:
    """After a user joined a room: if it replaces one, bring their settings along. Costs nothing in other rooms.

    Only if the old room's tombstone points here: a room could claim to replace any other. What goes wrong is logged:
    the user is in the room.
    """
    old = predecessor_of(remembered(room_id, ("m.room.create", "")))
    if old is None:
        return
    try:
        view, _ = load_room(old, [("m.room.tombstone", "")])
        if view is not None and replacement_of(view.event("m.room.tombstone")) == room_id:
            carry_settings(user_id, old, room_id)
    except MatrixError as error:
        log.warning("the settings of a room that was upgraded did not reach %s: %s", room_id, error)


def carry_settings(user_id: str, old: str, new: str) -> None:
    """Copy tags, `m.direct` and the room's push rules to the new room. What is set there already stays."""
    tags, _ = user_data.load_with_stream(user_id, old, _TAGS)
    if tags is not None:
        content = tags.content
        change_account_data(user_id, new, _TAGS, lambda there: None if there else content)
    for data_type, change in ((_DIRECT, _with_direct), (_PUSH_RULES, _with_push_rules)):
        # Most have no such rules or rooms: looking first is half a read, and no lock.
        found, _ = user_data.load_with_stream(user_id, None, data_type)
        if found is not None and change(found.content, old=old, new=new) is not None:
            change_account_data(user_id, None, data_type, partial(change, old=old, new=new))


def _with_direct(content: Mapping[str, Any], *, old: str, new: str) -> dict[str, Any] | None:
    """`m.direct` with the new room wherever the old one is; None if that changes nothing."""
    changed = {
        user_id: [*rooms, new]
        for user_id, rooms in content.items()
        if isinstance(rooms, list) and old in rooms and new not in rooms
    }
    return {**content, **changed} if changed else None


def _with_push_rules(content: Mapping[str, Any], *, old: str, new: str) -> dict[str, Any] | None:
    """Push rules with those of the old room for the new one as well; None if that changes nothing.

    A room's rules are named by the room: of the kind `room`, and of `override` with which clients silence a room.
    """
    rules = content.get("global")
    if not isinstance(rules, Mapping):
        return None
    changed: dict[str, Any] = {}
    for kind in _ROOM_KINDS:
        listed = rules.get(kind)
        if not isinstance(listed, list):
            continue
        named = {rule.get("rule_id"): rule for rule in listed if isinstance(rule, Mapping)}
        if old in named and new not in named:
            at = listed.index(named[old]) + 1
            changed[kind] = [*listed[:at], _for_room(named[old], old, new), *listed[at:]]
    return {**content, "global": {**rules, **changed}} if changed else None


def _for_room(rule: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    copy = {**rule, "rule_id": new}
    if isinstance(rule.get("conditions"), list):
        copy["conditions"] = [
            {**condition, "pattern": new}
            if isinstance(condition, Mapping) and (condition.get("key"), condition.get("pattern")) == ("room_id", old)
            else condition
            for condition in rule["conditions"]
        ]
    return copy
