"""One room's part of a `/sync` answer: timeline, state, and where it stands then.

Reads are not snapshots: the head, the user's row and the log may be seen at different moments. So the log is read
without a gap, and what is missing from it counts as not told; the user's row may be later than what is to be told, and
then the room is told up to the row's event.

Source: client-server API v1.19, "Syncing": `timeline`, `limited`, `prev_batch`, and `state` as what changed between
the last sync and the start of the timeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix.filters import Filter, RoomEventFilter
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.access_tokens import Requester
from homeserver.services.event_view import show, show_state
from homeserver.services.room_summary import room_summary
from homeserver.services.sync_state import Window, room_state_update
from homeserver.services.visibility import Reader
from homeserver.storage.room_items import LocalMember
from homeserver.storage.rooms import RoomView
from homeserver.storage.timeline import Entry
from homeserver.storage.timeline_cache import Ahead, read_timeline

DEFAULT_LIMIT = 10
MAX_LIMIT = 100
_MORE_PAGES = 5  # that are read further back when a filter or the visibility hides what was read
_SMALLEST_PAGE = 20

View = tuple[RoomView, LocalMember | None]


@dataclass(frozen=True, slots=True)
class RoomTask:
    """A room that moved: `since` is the position told before (0: never), `target` the one its slot announces.

    `initial`: the client asks for everything. `again`: it has a timeline of the room that means nothing any more, so
    that this one cannot continue it.
    """

    room_id: str
    slot: int
    since: int
    target: int
    arrived: int
    initial: bool = False
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
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def is_silent(self) -> bool:
        return not self.timeline and not self.state and not self.limited


def first_window(task: RoomTask, timeline_filter: RoomEventFilter) -> tuple[int, int]:
    """The positions that the room's answer will most likely be made of, lowest and highest."""
    limit = timeline_filter.limit_within(default=DEFAULT_LIMIT, cap=MAX_LIMIT)
    # One entry more than can be shown: it says what the state was before.
    return max(task.since, task.target - limit), task.target


def is_over(task: RoomTask, row: LocalMember, wanted: Filter, *, full_state: bool) -> bool:
    """Whether nothing is to be told of the room, now or later: the user is out of it, and was told or need not be."""
    if row.membership == "join":
        return False
    if row.left_at is None or row.membership in {"invite", "knock"}:
        return True
    if task.initial:
        return not wanted.room.include_leave or row.forgotten is not None
    # A forgotten room is told of once more to devices that may believe that the user is in it.
    return task.since >= int(row.left_at) and (full_state or row.forgotten is not None)


def answer_room(
    requester: Requester,
    task: RoomTask,
    view: View,
    wanted: Filter,
    ahead: Ahead,
    *,
    full_state: bool,
    state_after: bool,
) -> RoomAnswer:
    """What the room has to tell to a user who is in it, or left it; silent, and not moved, if it cannot be read yet."""
    reader = Reader(requester.user_id, *view)
    row = view[1]
    if row is None:
        raise ValueError("the user has no row in the room")
    answer = RoomAnswer(task, "join" if reader.is_joined else "leave", task.since)
    end = int(row.position) if reader.is_joined else int(row.left_at or 0)
    last = max(min(task.target, reader.last_position), min(end, reader.last_position))
    try:
        window = _read_window(reader, task.since, last, wanted.room.timeline, ahead)
        if window is None or (not reader.is_joined and window.last < last):
            return answer
        # Clients forget the state of a room that they leave: one that the user joined after the token gets it whole.
        # Its timeline goes on where it was told, for no event is told twice.
        fresh = task.since == 0 or (row.joined_since is not None and int(row.joined_since) > task.since)
        since = 0 if full_state or fresh else task.since
        update = room_state_update(reader, since, window, wanted.room.state, at_end=state_after)
        answer.summary = room_summary(reader, window, whole=since == 0)
        if row.forgotten is not None:
            window, update = window.last_only(), []
    except KeyError:
        # Something that the log names cannot be read yet.
        return answer
    answer.limited = window.limited or task.again or (fresh and task.since > 0)
    answer.prev_batch = RoomToken.before(window.shown[0].position if window.shown else window.last + 1).encode()
    answer.timeline = [show(entry, None, requester) for entry in window.shown]
    state_filter = wanted.room.state
    if state_filter.includes_room(task.room_id):
        events = (event for event in update if state_filter.matches(event.pdu, task.room_id))
        answer.state = [show_state(event, None) for event in events]
    # Beyond their last position there is nothing for someone who left, whatever the slot says.
    answer.position = window.last if reader.is_joined else max(window.last, task.target)
    return answer


def _read_window(
    reader: Reader, since: int, last: int, timeline_filter: RoomEventFilter, ahead: Ahead
) -> Window | None:
    """The newest entries after `since`, as many as pass the filter and may be seen, at most as many as it wants.

    None if they cannot be read yet.
    """
    head = reader.view.head
    limit = timeline_filter.limit_within(default=DEFAULT_LIMIT, cap=MAX_LIMIT)
    low = max(since + 1, last - limit + 1)
    entries = read_timeline(head, max(low - 1, 1), last, ahead)
    roots = {entry.position: entry.room_root for entry in entries}
    if low > 1:
        entries = entries[1:]
    if last > since and not entries:
        return None
    last = entries[-1].position if entries else last
    visible = reader.visible(entries)
    shown = _passing(reader, visible, timeline_filter)
    wants = limit if not timeline_filter.excludes_everything else 0
    for _ in range(_MORE_PAGES):
        # Where nothing of a page could be seen, nothing before it can be either, as a rule.
        if len(shown) >= wants or low <= since + 1 or not visible:
            break
        lower = max(since + 1, low - max(limit, _SMALLEST_PAGE))
        earlier = read_timeline(head, max(lower - 1, 1), low - 1)
        roots.update({entry.position: entry.room_root for entry in earlier})
        if lower > 1:
            earlier = earlier[1:]
        if len(earlier) != low - lower:
            return None
        visible = reader.visible(earlier)
        shown = [*_passing(reader, visible, timeline_filter), *shown]
        entries, low = [*earlier, *entries], lower
    limited = bool(wants) and (low > since + 1 or len(shown) > limit)
    return Window(entries, shown[-limit:], roots, since, last, limited)


def _passing(reader: Reader, visible: Sequence[Entry], timeline_filter: RoomEventFilter) -> list[Entry]:
    room_id = reader.view.room_id
    if timeline_filter.excludes_everything or not timeline_filter.includes_room(room_id):
        return []
    return [entry for entry in visible if entry.pdu is not None and timeline_filter.matches(entry.pdu, room_id)]
