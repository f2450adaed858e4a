"""The children of a space: its `m.space.child` state."""

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.storage.connection import query_range
from homeserver.storage.room_items import Head, StateRow, state_key
from homeserver.storage.rooms import StateKey, entry_of_row, fetch_state_events
from homeserver.storage.state_nodes import StateNodes

TYPE = "m.space.child"
MOST_CHILDREN = 1000  # that are read of one space


def child_events(head: Head) -> list[Event]:
    """The first 1,000 `m.space.child` events of a room at this head, in the order of the children's IDs: one Query.

    Where the rows lag behind the head's root, what differs is taken from the tree.
    """
    rules = ROOM_VERSIONS[head.room_version]
    rows = query_range(StateRow, head.room, state_key(TYPE, ""), consistent=True, limit=MOST_CHILDREN)
    events: dict[StateKey, Event] = {event.key: event for event in (entry_of_row(row, rules).event for row in rows)}
    if head.rows_root != head.root:
        differences = state_tree.diff(StateNodes(head.room), bytes(head.rows_root), bytes(head.root))
        changed = {key: ids[1] for key, ids in differences.items() if key[0] == TYPE}
        found = fetch_state_events(head.room, [event_id for event_id in changed.values() if event_id], rules)
        for key, event_id in changed.items():
            events.pop(key, None)
            if event_id is not None:
                events[key] = found[event_id].event
    return list(events.values())
