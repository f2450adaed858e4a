"""One room's part of a `/sync` answer: timeline, state, and where it stands then.

Source: client-server API v1.19, "Syncing": `timeline`, `limited`, `prev_batch`, and `state` as what changed between
the last sync and the start of the timeline.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.filters import Filter, RoomEventFilter
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.access_tokens import Requester
from homeserver.services.event_view import show, show_state
from homeserver.services.visibility import Reader
from homeserver.storage.connection import in_parallel
from homeserver.storage.room_items import LocalMember
from homeserver.storage.rooms import RoomView, StateKey
from homeserver.storage.state_cache import state_events
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import Entry
from homeserver.storage.timeline_cache import read_timeline

DEFAULT_LIMIT = 10
MAX_LIMIT = 100
_MORE_PAGES = 5  # that are read further back when a filter or the visibility hides what was read
_ROOMS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class RoomTask:
    """A room that moved: `since` is the position told before (0: never), `target` the one its slot announces.

    `again`: the client has a timeline of the room that means nothing any more, so that this one cannot continue it.
    """

    room_id: str
    slot: int
    since: int
    target: int
    arrived: int
    again: bool = False


@dataclass(slots=True)
class RoomAnswer:
    """What a room has to tell, in client format; `position` is what will have been told then."""

    task: RoomTask
    section: str
    position: int
    timeline: list[dict[str, Any]] = field(default_factory=list)
    state: list[dict[str, Any]] = field(default_factory=list)
    limited: bool = False
    prev_batch: str = ""

    @property
    def is_silent(self) -> bool:
        return not self.timeline and not self.state and not self.limited


@dataclass(slots=True)
class _Window:
    """The entries that were read, ascending, those shown, and the state before and after them."""

    entries: list[Entry]
    shown: list[Entry]
    low: int  # the first position of the window
    limited: bool


def answer_rooms(
    requester: Requester,
    tasks: Sequence[RoomTask],
    views: Mapping[str, tuple[RoomView, LocalMember | None]],
    wanted: Filter,
    *,
    full_state: bool,
) -> Iterator[RoomAnswer]:
    """The rooms in the order of the tasks; rooms are read a few at a time, so that a full answer reads no further."""
    for start in range(0, len(tasks), _ROOMS_AT_ONCE):
        part = [task for task in tasks[start : start + _ROOMS_AT_ONCE] if task.room_id in views]
        calls = [
            partial(_answer_room, requester, task, *views[task.room_id], wanted, full_state=full_state) for task in part
        ]
        yield from in_parallel(*calls)


def _answer_room(
    requester: Requester,
    task: RoomTask,
    view: RoomView,
    row: LocalMember | None,
    wanted: Filter,
    *,
    full_state: bool,
) -> RoomAnswer:
    reader = Reader(requester.user_id, view, row)
    answer = RoomAnswer(task, "join" if reader.is_joined else "leave", task.target)
    if row is None or row.forgotten is not None:
        return answer
    if not reader.is_joined:
        # Someone who left is told so once; an initial sync tells it only when asked to.
        new_to_device = task.since == 0 and not wanted.room.include_leave
        if new_to_device or row.left_at is None:
            return answer
    last = min(task.target, reader.last_position)
    answer.position = max(task.target, last)
    # Clients forget the state of a room that they leave: one that the user joined after the token gets it whole. Its
    # timeline goes on where it was told, for no event is told twice.
    fresh = task.since == 0 or (row.joined_since is not None and int(row.joined_since) > task.since)
    timeline_filter = wanted.room.timeline
    limit = timeline_filter.limit_within(default=DEFAULT_LIMIT, cap=MAX_LIMIT)
    window = _read_window(reader, task.since, last, limit, timeline_filter)
    answer.limited = window.limited or task.again
    first = window.shown[0].position if window.shown else last + 1
    answer.prev_batch = RoomToken.before(first).encode()
    answer.timeline = [show(entry, None, requester) for entry in window.shown]
    whole = full_state or fresh
    state = _state_before(reader, 0 if whole else task.since, window, last, wanted.room.state)
    answer.state = [show_state(event, None) for event in state if _passes(wanted.room.state, event, task.room_id)]
    return answer


def _passes(state_filter: RoomEventFilter, event: Event, room_id: str) -> bool:
    return state_filter.includes_room(room_id) and state_filter.matches(event.pdu, room_id)


def _read_window(reader: Reader, since: int, last: int, limit: int, timeline_filter: RoomEventFilter) -> _Window:
    """The newest entries after `since`, as many as pass the filter and may be seen, at most `limit`."""
    view = reader.view
    low = max(since + 1, last - limit + 1)
    entries = read_timeline(view.head, low, last)
    shown = _shown(reader, entries, timeline_filter)
    for _ in range(_MORE_PAGES):
        if len(shown) >= limit or low <= since + 1 or timeline_filter.excludes_everything:
            break
        lower = max(since + 1, low - limit)
        earlier = read_timeline(view.head, lower, low - 1)
        shown = [*_shown(reader, earlier, timeline_filter), *shown]
        entries, low = [*earlier, *entries], lower
    limited = low > since + 1 or len(shown) > limit
    shown = shown[-limit:] if limit else []
    return _Window(entries, shown, low, limited)


def _shown(reader: Reader, entries: Sequence[Entry], timeline_filter: RoomEventFilter) -> list[Entry]:
    room_id = reader.view.room_id
    if timeline_filter.excludes_everything or not timeline_filter.includes_room(room_id):
        return []
    return [
        entry
        for entry in reader.visible(entries)
        if entry.pdu is not None and timeline_filter.matches(entry.pdu, room_id)
    ]


def _state_before(reader: Reader, since: int, window: _Window, last: int, state_filter: RoomEventFilter) -> list[Event]:
    """The state that a client does not get from the timeline: what changed since the last sync and is not shown.

    Mostly what changed between `since` and the first shown event. Where entries of the window are hidden (by a filter,
    by visibility, or as markers), what changed at them is told here too.
    """
    if state_filter.excludes_everything:
        return []
    head = reader.view.head
    nodes = StateNodes(reader.view.room_id)
    shown_ids = {entry.event_id for entry in window.shown}
    start = window.shown[0].position - 1 if window.shown else last
    all_shown = len(window.shown) == len([entry for entry in window.entries if entry.position > start])
    needs_diff = start > since
    ids: dict[StateKey, str] = {}
    if needs_diff:
        before = _root_at(reader, since, window)
        ids.update(_changed(nodes, before, _root_at(reader, start, window)))
        if not all_shown:
            ids.update(_changed(nodes, before, _root_at(reader, last, window)))
    elif not all_shown:
        ids.update(_changed(nodes, _root_at(reader, since, window), _root_at(reader, last, window)))
    if state_filter.lazy_load_members:
        ids = _lazily(reader, nodes, ids, window, last, whole=since == 0)
    wanted = {key: event_id for key, event_id in ids.items() if event_id not in shown_ids}
    return list(state_events(head, reader.view.rules, wanted.values())) if wanted else []


def _changed(nodes: StateNodes, before: bytes, after: bytes) -> dict[StateKey, str]:
    if before == after:
        return {}
    if before == state_tree.EMPTY_ROOT:
        return dict(state_tree.items(nodes, after))
    changes = state_tree.diff(nodes, before, after)
    return {key: new for key, (_, new) in changes.items() if new is not None}


def _root_at(reader: Reader, position: int, window: _Window) -> bytes:
    """The root of the room's state after a position (0: before the room)."""
    head = reader.view.head
    if position <= 0:
        return state_tree.EMPTY_ROOT
    if position >= int(head.state_position) and position <= int(head.position):
        return bytes(head.root)
    for entry in window.entries:
        if entry.position == position:
            return entry.room_root
    return read_timeline(head, position, position)[0].room_root


def _lazily(
    reader: Reader,
    nodes: StateNodes,
    ids: dict[StateKey, str],
    window: _Window,
    last: int,
    *,
    whole: bool,
) -> dict[StateKey, str]:
    """Of the members only those who sent something that is shown, and in a whole state the user themselves."""
    senders = {entry.pdu["sender"] for entry in window.shown if entry.pdu is not None}
    if whole:
        senders.add(reader.user_id)
    kept = {key: i for key, i in ids.items() if key[0] != "m.room.member" or key[1] in senders}
    missing = [("m.room.member", sender) for sender in senders if ("m.room.member", sender) not in kept]
    if missing:
        kept.update(state_tree.get_many(nodes, _root_at(reader, last, window), missing))
    return kept
