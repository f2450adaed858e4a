"""State events that a warm process has read before: an event never changes but for its redaction.

The head says where the room's last redaction was: events that were read under the same value are still right.
"""

from collections.abc import Iterable

from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.storage.room_items import Head
from homeserver.storage.rooms import current_state, fetch_state_events

_CACHED_EVENTS = 20_000
_WHOLE_STATE_FROM = 8  # events beyond which one Query of all rows is cheaper than a read a key

_events: dict[str, tuple[int, Event]] = {}


def state_events(head: Head, rules: RoomVersionRules, event_ids: Iterable[str]) -> list[Event]:
    """State events of a room by ID, in their order; one round for those that are not known yet."""
    wanted = list(event_ids)
    redaction = int(head.redaction_position)
    found: dict[str, Event] = {}
    for event_id in wanted:
        known = _events.get(event_id)
        if known is not None and known[0] == redaction:
            found[event_id] = known[1]
    missing = [event_id for event_id in wanted if event_id not in found]
    if len(missing) > _WHOLE_STATE_FROM:
        for entry in current_state(head, rules).values():
            found[entry.event.event_id] = entry.event
            _events[entry.event.event_id] = (redaction, entry.event)
        missing = [event_id for event_id in missing if event_id not in found]
    if missing:
        for event_id, entry in fetch_state_events(head.room, missing, rules).items():
            found[event_id] = entry.event
            _events[event_id] = (redaction, entry.event)
    while len(_events) > _CACHED_EVENTS:
        _events.pop(next(iter(_events)), None)
    return [found[event_id] for event_id in wanted]
