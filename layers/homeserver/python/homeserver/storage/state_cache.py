"""State events that a warm process has read before: an event never changes but for its redaction.

The head names the position of the room's last redaction: events that were kept under the same number are still right.
When an event may be kept is the same question as for timelines, see timeline_cache.
"""

from collections.abc import Iterable
from functools import partial

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.storage.connection import in_parallel, query_range
from homeserver.storage.room_items import Head, StateRow, parse_state_key, state_key
from homeserver.storage.rooms import StateKey, current_state, entry_of_row, fetch_state_events
from homeserver.storage.state_nodes import StateNodes
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
    keep_state_events(head, read.values())
    found |= read
    return [found[event_id] for event_id in wanted]


def keep_state_events(head: Head, events: Iterable[Event]) -> None:
    """Keep state events that were read after the head, if they are certainly as the last redaction left them."""
    if not is_settled(head, int(head.position)):
        return
    for event in events:
        _events[event.event_id] = (int(head.redaction_position), event)
    while len(_events) > _CACHED_EVENTS:
        _events.pop(next(iter(_events)), None)


def state_without_members(head: Head, rules: RoomVersionRules) -> dict[StateKey, Event]:
    """The current state at this head, but for the memberships: as many rows as it has, however many members.

    Two Queries at the same time. Where rows lag behind the head, the tree has the truth, as in `current_state`.
    """
    members = state_key("m.room.member", "")
    ranges = (("state/", members), (members[:-1] + "0", "state/\U0010ffff"))  # "0" follows "/"
    pages = in_parallel(
        *[partial(query_range, StateRow, head.room, low=low, high=high, consistent=True) for low, high in ranges]
    )
    rows = {parse_state_key(row.k): row for page in pages for row in page if row.k != members}
    state = {key: entry_of_row(row, rules).event for key, row in rows.items()}
    later = [key for key, row in rows.items() if row.position > head.position]
    nodes = StateNodes(head.room)
    if head.rows_root != head.root:
        later += [key for key in state_tree.diff(nodes, head.rows_root, head.root) if key[0] != "m.room.member"]
    if later:
        ids = state_tree.get_many(nodes, head.root, later)
        events = fetch_state_events(head.room, ids.values(), rules)
        for key in later:
            state.pop(key, None)
        state.update({key: events[event_id].event for key, event_id in ids.items()})
    return state
