"""The summary of a room in `/sync`: how many members, and whom to name it after.

Source: client-server API v1.19, "Syncing", `RoomSummary`; "Calculating the display name for a room".
"""

from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.services.sync_state import Window, root_at
from homeserver.services.visibility import Reader
from homeserver.storage.state_cache import state_events
from homeserver.storage.state_nodes import StateNodes

MOST_MEMBERS = 1000  # beyond it counting them anew with each change would cost more than a summary is worth
_HEROES = 5
_NAMES = (("m.room.name", "name"), ("m.room.canonical_alias", "alias"))


def room_summary(reader: Reader, window: Window, *, whole: bool) -> dict[str, Any]:
    """The summary if the client needs one: with the whole state, or when a membership may have changed; else empty.

    Raises KeyError for state that cannot be read yet.
    """
    if not reader.is_joined or not (whole or _may_change(reader, window)):
        return {}
    ids = state_tree.items(StateNodes(reader.view.room_id), root_at(reader, window.last, window))
    members = {key: event_id for key, event_id in ids.items() if key[0] == "m.room.member"}
    if len(members) > MOST_MEMBERS:
        return {}
    naming = {ids[event_type, ""]: key for event_type, key in _NAMES if (event_type, "") in ids}
    wanted = [*members.values(), *naming]
    # In a young room most of them stand in the timeline that was just read.
    at_hand = {
        entry.event_id: Event(entry.event_id, reader.view.room_id, entry.pdu, reader.view.rules)
        for entry in window.entries
        if entry.event_id is not None and entry.pdu is not None and "state_key" in entry.pdu
    }
    missing = [event_id for event_id in wanted if event_id not in at_hand]
    events = [at_hand[event_id] for event_id in wanted if event_id in at_hand]
    if missing:
        events += state_events(reader.view.head, reader.view.rules, missing)
    by_membership: dict[str, list[Event]] = {}
    named = False
    for event in events:
        if event.event_id in naming:
            named = named or bool(event.content.get(naming[event.event_id]))
        else:
            by_membership.setdefault(str(event.content.get("membership")), []).append(event)
    summary: dict[str, Any] = {
        "m.joined_member_count": len(by_membership.get("join", [])),
        "m.invited_member_count": len(by_membership.get("invite", [])),
    }
    if not named:
        summary["m.heroes"] = _heroes(by_membership, reader.user_id)
    return summary


def _may_change(reader: Reader, window: Window) -> bool:
    if int(reader.view.head.state_position) <= window.since:
        return False
    if window.limited:
        return True
    return any(entry.pdu is None or entry.pdu["type"] == "m.room.member" for entry in window.entries)


def _heroes(by_membership: dict[str, list[Event]], user_id: str) -> list[str]:
    for memberships in (("join", "invite"), ("leave", "ban")):
        events = [event for name in memberships for event in by_membership.get(name, []) if event.state_key != user_id]
        if events:
            events.sort(key=lambda event: (event.depth, event.event_id))
            return [str(event.state_key) for event in events[:_HEROES]]
    return []
