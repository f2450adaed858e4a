"""State events that a warm process has read before: an event never changes but for its redaction.

The head names the position of the room's last redaction: events that were kept under the same number are still right.
When an event may be kept is the same question as for timelines, see timeline_cache.
"""

from collections.abc import Iterable

from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.storage.room_items import Head
from homeserver.storage.rooms import current_state, fetch_state_events
from homeserver.storage.timeline_cache import is_settled

_CACHED_EVENTS = 20_000
_WHOLE_STATE_FROM = 8  # events beyond which one Query of all rows is cheaper than a read a key

_events: dict[str, tuple[int, Event]] = {}


def state_events(head: Head, rules: RoomVersionRules, event_ids: Iterable[str]) -> list[Event]:
    """State events of a room by ID, in their order; one round for those that are not known yet.

    Raises KeyError for an event that cannot be read (yet).
    """
    wanted = list(event_ids)
    redaction = int(head.redaction_position)
    found: dict[str, Event] = {}
    for event_id in wanted:
        known = _events.get(event_id)
        if known is not None and known[0] == redaction:
            found[event_id] = known[1]
    missing = [event_id for event_id in wanted if event_id not in found]
    if not missing:
        return [found[event_id] for event_id in wanted]
    read: dict[str, Event] = {}
    if len(missing) > _WHOLE_STATE_FROM:
        read = {entry.event.event_id: entry.event for entry in current_state(head, rules).values()}
        missing = [event_id for event_id in missing if event_id not in read]
    if missing:
        # An eventual read may show an event as it was before its redaction; without redactions there is no before.
        entries = fetch_state_events(head.room, missing, rules, consistent=redaction > 0)
        read |= {event_id: entry.event for event_id, entry in entries.items()}
    if is_settled(head, int(head.position)):
        for event_id, event in read.items():
            _events[event_id] = (redaction, event)
        while len(_events) > _CACHED_EVENTS:
            _events.pop(next(iter(_events)), None)
    found |= read
    return [found[event_id] for event_id in wanted]
