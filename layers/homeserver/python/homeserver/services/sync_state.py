"""The `state` of a room in a `/sync` answer: what a client cannot learn from the timeline.

Source: client-server API v1.19, "Syncing", `state` and `state_after`; "Lazy-loading room members".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.filters import RoomEventFilter
from homeserver.services.visibility import Reader
from homeserver.storage.rooms import StateKey
from homeserver.storage.state_cache import state_events
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import Entry
from homeserver.storage.timeline_cache import read_timeline


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a timeline that was read: positions above `since` up to `last`, without a gap at its end.

    `entries` ascending, and those of them that are `shown`; `roots` of the room's state after the positions read.
    """

    entries: Sequence[Entry]
    shown: Sequence[Entry]
    roots: Mapping[int, bytes]
    since: int
    last: int
    limited: bool

    def last_only(self) -> "Window":
        """All that is left of a room that was forgotten: the event that ended the user's stay."""
        limited = self.last > self.since + 1
        return Window(self.entries[-1:], self.shown[-1:], self.roots, self.since, self.last, limited)

    @property
    def hides(self) -> bool:
        """Whether entries are not shown that lie between those that are."""
        start = self.shown[0].position if self.shown else self.last + 1
        return len(self.shown) != sum(entry.position >= start for entry in self.entries)


def root_at(reader: Reader, position: int, window: Window) -> bytes:
    """The root of the room's state after a position (0: before the room). Raises KeyError if it cannot be read yet."""
    head = reader.view.head
    if position <= 0:
        return state_tree.EMPTY_ROOT
    if int(head.state_position) <= position <= int(head.position):
        return bytes(head.root)
    if position in window.roots:
        return window.roots[position]
    found = read_timeline(head, position, position)
    if not found:
        raise KeyError(f"position {position} of {reader.view.room_id}")
    return found[0].room_root


def room_state_update(
    reader: Reader, since: int, window: Window, state_filter: RoomEventFilter, *, at_end: bool
) -> list[Event]:
    """The state events that changed from `since` (0: all of them) to the start of the timeline.

    Where entries of the window are hidden (by a filter, by visibility, or as markers), what changed at them is told
    here too. With `at_end`: from `since` to the end of the timeline, whatever the timeline shows. Raises KeyError for
    what cannot be read yet.
    """
    if state_filter.excludes_everything:
        return []
    nodes = StateNodes(reader.view.room_id)
    start = window.shown[0].position - 1 if window.shown else window.last
    ids: dict[StateKey, str] = {}
    shown_ids: set[str | None] = set()
    if at_end:
        ids = _changed(reader, nodes, since, window.last, window)
    else:
        shown_ids = {entry.event_id for entry in window.shown}
        if start > since:
            ids = _changed(reader, nodes, since, start, window)
        if window.hides:
            ids.update(_changed(reader, nodes, since, window.last, window))
    if state_filter.lazy_load_members:
        ids = _lazily(reader, nodes, ids, window, whole=since == 0)
    wanted = [event_id for event_id in ids.values() if event_id not in shown_ids]
    return state_events(reader.view.head, reader.view.rules, wanted) if wanted else []


def _changed(reader: Reader, nodes: StateNodes, since: int, until: int, window: Window) -> dict[StateKey, str]:
    if since and int(reader.view.head.state_position) <= since:
        return {}
    before, after = root_at(reader, since, window), root_at(reader, until, window)
    if before == after:
        return {}
    if before == state_tree.EMPTY_ROOT:
        return dict(state_tree.items(nodes, after))
    changes = state_tree.diff(nodes, before, after)
    return {key: new for key, (_, new) in changes.items() if new is not None}


def _lazily(
    reader: Reader, nodes: StateNodes, ids: dict[StateKey, str], window: Window, *, whole: bool
) -> dict[StateKey, str]:
    """Of the members those who sent something that is shown; of a gap all that changed; of a whole state the user."""
    senders = {entry.pdu["sender"] for entry in window.shown if entry.pdu is not None}
    if whole:
        senders.add(reader.user_id)
    kept = {
        key: event_id
        for key, event_id in ids.items()
        if key[0] != "m.room.member" or key[1] in senders or (window.limited and not whole)
    }
    missing = [("m.room.member", sender) for sender in senders if ("m.room.member", sender) not in kept]
    if missing:
        kept.update(state_tree.get_many(nodes, root_at(reader, window.last, window), missing))
    return kept
