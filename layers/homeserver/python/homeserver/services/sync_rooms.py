"""One room's part of a `/sync` answer: timeline, state, and where it stands then.

Reads are not snapshots: the head, the user's row and the log may be seen at different moments. So the log is read
without a gap, and what is missing from it counts as not told; the user's row may be later than what is to be told, and
then the room is told up to the row's event.

Source: client-server API v1.19, "Syncing": `timeline`, `limited`, `prev_batch`, and `state` as what changed between
the last sync and the start of the timeline.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.filters import Filter, RoomEventFilter
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.access_tokens import Requester
from homeserver.services.aggregations import bundles
from homeserver.services.lazy_members import remember_told, told_before
from homeserver.services.related_filter import related_to
from homeserver.services.room_summary import room_summary
from homeserver.services.sync_changes import read_changes
from homeserver.services.sync_format import state_event, timeline_event
from homeserver.services.sync_state import Members, Window, read_ahead, room_state_update, without_overruled
from homeserver.services.visibility import Reader
from homeserver.storage.room_items import LocalMember
from homeserver.storage.rooms import RoomView
from homeserver.storage.timeline import Entry
from homeserver.storage.timeline_cache import Ahead, read_timeline, with_aggregates

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
    positions: list[int] = field(default_factory=list)  # of the timeline's events
    state: list[dict[str, Any]] = field(default_factory=list)
    limited: bool = False
    prev_batch: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False  # the user joined after what was told before
    ends: bool = False  # the user left after what was told before

    @property
    def is_silent(self) -> bool:
        return not (self.timeline or self.state or self.limited or self.summary or self.ends)


@dataclass(frozen=True, slots=True)
class Question:
    """What of every room is to be told, to whom, and what not: messages of `ignored` users."""

    requester: Requester
    wanted: Filter
    ignored: AbstractSet[str] = frozenset()
    full_state: bool = False
    state_after: bool = False


def first_window(task: RoomTask, timeline_filter: RoomEventFilter) -> tuple[int, int]:
    """The positions that the room's answer will most likely be made of, lowest and highest."""
    limit = timeline_filter.limit_within(default=DEFAULT_LIMIT, cap=MAX_LIMIT)
    # One entry more than can be shown: it says what the state was before.
    return max(task.since, task.target - limit), task.target


def has_gap(task: RoomTask, timeline_filter: RoomEventFilter) -> bool:
    """Whether that will most likely begin after what was told before, so that what changed between is told."""
    return 0 < task.since < first_window(task, timeline_filter)[0]


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


def answer_room(question: Question, task: RoomTask, view: View, ahead: Ahead) -> RoomAnswer:
    """What the room has to tell to a user who is in it, or left it; silent, and not moved, if it cannot be read yet."""
    requester, wanted = question.requester, question.wanted
    reader = Reader(requester.user_id, *view)
    row = view[1]
    if row is None:
        raise ValueError("the user has no row in the room")
    answer = RoomAnswer(task, "join" if reader.is_joined else "leave", task.since)
    end = int(row.position) if reader.is_joined else int(row.left_at or 0)
    last = max(min(task.target, reader.last_position), min(end, reader.last_position))
    try:
        # Clients forget the state of a room that they leave: one that the user joined after the token gets it whole.
        # Its timeline goes on where it was told, for no event is told twice.
        fresh = task.since == 0 or (row.joined_since is not None and int(row.joined_since) > task.since)
        whole = question.full_state or fresh
        window = _read_window(reader, task.since, last, question, ahead, whole=whole)
        if window is None or (not reader.is_joined and window.last < last):
            return answer
        if not question.state_after:
            window = without_overruled(reader, window)
        if not whole:
            state_filter, at_end = wanted.room.state, question.state_after
            window = read_changes(reader, window, state_filter, _known_members(reader, window, question), at_end=at_end)
        answer.summary = room_summary(reader, window, whole=whole)
        update = _state_update(reader, 0 if whole else task.since, window, question, answer.summary)
        if row.forgotten is not None:
            window, update = window.last_only(), []
    except KeyError:
        # Something that the log names cannot be read yet.
        answer.summary = {}
        return answer
    answer.fresh, answer.ends = fresh and reader.is_joined, not reader.is_joined and task.since < end
    answer.limited = window.limited or task.again or (fresh and task.since > 0)
    answer.prev_batch = RoomToken.before(window.shown[0].position if window.shown else window.last + 1).encode()
    answer.timeline = _timeline(reader, window.shown, question, limited=answer.limited)
    answer.positions = [entry.position for entry in window.shown]
    answer.state = [state_event(event, wanted) for event in update]
    # Beyond their last position there is nothing for someone who left, whatever the slot says.
    answer.position = window.last if reader.is_joined else max(window.last, task.target)
    return answer


def _timeline(reader: Reader, entries: Sequence[Entry], question: Question, *, limited: bool) -> list[dict[str, Any]]:
    """The entries as they are told. What relates to them only if some were left out: else the client has it all."""
    requester, bundled = question.requester, {}
    if limited:
        entries = with_aggregates(reader.view.head, entries)
        bundled = bundles(reader, entries, requester, None, ignored=question.ignored)
    return [
        timeline_event(
            entry,
            requester,
            question.wanted,
            membership=reader.membership_at(entry),
            relations=bundled.get(entry.number),
        )
        for entry in entries
    ]


def _state_update(
    reader: Reader, since: int, window: Window, question: Question, summary: dict[str, Any]
) -> list[Event]:
    """The state that passes the filter; of the members what a lazy client needs, and was not told before."""
    room_id, state_filter = reader.view.room_id, question.wanted.room.state
    known = _known_members(reader, window, question) if since else {}
    members = Members(summary.get("m.heroes", ()), known)
    found = room_state_update(reader, since, window, state_filter, members, at_end=question.state_after)
    update = [event for event in found if state_filter.matches(event.pdu, room_id)][: state_filter.limit]
    if _remembers(question):
        told = {event.state_key or "": event.event_id for event in update if event.type == "m.room.member"}
        if not question.state_after:
            told |= {
                entry.pdu.get("state_key", ""): entry.event_id
                for entry in window.shown
                if entry.pdu is not None and entry.event_id is not None and entry.pdu["type"] == "m.room.member"
            }
        remember_told(question.requester, room_id, hash(question.wanted), window.last, {**known, **told})
    return update


def _remembers(question: Question) -> bool:
    """Whether the client is not to be told again which members it was told."""
    state_filter = question.wanted.room.state
    return state_filter.lazy_load_members and not state_filter.include_redundant_members


def _known_members(reader: Reader, window: Window, question: Question) -> Mapping[str, str]:
    """The membership events, by user, that a lazy client was told with what it was told before."""
    if not _remembers(question):
        return {}
    return told_before(question.requester, reader.view.room_id, hash(question.wanted), window.since)


def _read_window(
    reader: Reader, since: int, last: int, question: Question, ahead: Ahead, *, whole: bool
) -> Window | None:
    """The newest entries after `since`, as many as pass the filter and may be seen, at most as many as it wants.

    None if they cannot be read yet. `whole`: the room's state is going to be told whole.
    """
    head, timeline_filter = reader.view.head, question.wanted.room.timeline
    limit = timeline_filter.limit_within(default=DEFAULT_LIMIT, cap=MAX_LIMIT)
    low = max(since + 1, last - limit + 1)
    entries = read_timeline(head, max(low - 1, 1), last, ahead)
    roots = {entry.position: entry.room_root for entry in entries}
    if low > 1:
        entries = entries[1:]
    if last > since and not entries:
        return None
    last = entries[-1].position if entries else last
    settings = None
    if whole:
        begins = _wants_any(reader, timeline_filter) and not question.state_after
        start = max(low - 1, since) if begins else last
        settings = read_ahead(reader, entries, roots.get(start, state_tree.EMPTY_ROOT), question.wanted.room.state)
    visible = reader.visible(entries)
    shown = _passing(reader, visible, question)
    wants = limit if _wants_any(reader, timeline_filter) else 0
    for _ in range(_MORE_PAGES):
        # Where nothing of a page could be seen, nothing before it can be either, as a rule.
        if len(shown) >= wants or low <= since + 1 or not visible or any(entry.has_history for entry in entries):
            break
        lower = max(since + 1, low - max(limit, _SMALLEST_PAGE))
        earlier = read_timeline(head, max(lower - 1, 1), low - 1)
        roots.update({entry.position: entry.room_root for entry in earlier})
        if lower > 1:
            earlier = earlier[1:]
        if len(earlier) != low - lower:
            return None
        visible = reader.visible(earlier)
        shown = [*_passing(reader, visible, question), *shown]
        entries, low = [*earlier, *entries], lower
    # What was, or is to be, fetched later lies before an anchor: a client finds it when it pages back.
    anchor = max((entry.position for entry in entries if entry.has_history), default=0)
    shown = [entry for entry in shown if entry.position >= anchor]
    limited = bool(wants) and (low > since + 1 or len(shown) > limit or anchor > 0)
    return Window(entries, shown[-limit:], roots, since, last, limited, settings, counted=ahead.counted or since == 0)


def _wants_any(reader: Reader, timeline_filter: RoomEventFilter) -> bool:
    return not timeline_filter.excludes_everything and timeline_filter.includes_room(reader.view.room_id)


def _passing(reader: Reader, visible: Sequence[Entry], question: Question) -> list[Entry]:
    timeline_filter, room_id = question.wanted.room.timeline, reader.view.room_id
    if not _wants_any(reader, timeline_filter):
        return []
    passing = [
        entry
        for entry in visible
        if entry.pdu is not None
        # Of users whom the reader ignores only the state is told.
        and (entry.pdu["sender"] not in question.ignored or "state_key" in entry.pdu)
        and timeline_filter.matches(entry.pdu, room_id)
    ]
    if timeline_filter.needs_relations:
        passing = related_to(reader, with_aggregates(reader.view.head, passing), timeline_filter)
    return passing
