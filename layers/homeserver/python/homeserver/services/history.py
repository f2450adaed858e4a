"""Reading a room's history: pages of messages, one event, an event with what is around it.

Source: client-server API v1.19, "Getting events for a room", "Event context".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.filters import RoomEventFilter
from homeserver.matrix.identifiers import is_event_id
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.access_tokens import Requester
from homeserver.services.aggregations import show_events
from homeserver.services.event_view import show_state
from homeserver.services.gap_filling import GapFiller
from homeserver.services.related_filter import related_to
from homeserver.services.replaced_content import with_previous
from homeserver.services.room_state import timeline_token
from homeserver.services.visibility import Reader, reader_of
from homeserver.storage.connection import Key
from homeserver.storage.room_items import EventRecord
from homeserver.storage.rooms import StateKey
from homeserver.storage.state_cache import read_whole, state_events, state_of_few, whole_state
from homeserver.storage.state_nodes import StateNodes, read_trees
from homeserver.storage.timeline import Entry, read_entry, read_positions
from homeserver.storage.timeline_walk import TimelineWalk

DEFAULT_LIMIT = 10
MAX_LIMIT = 500
_PAGE = 100
_MOST_PAGES = 10  # of entries that a filter or the visibility may hide, before an answer goes out nevertheless


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which page of a timeline is asked for; without `start` it begins where the direction does."""

    backwards: bool
    start: str | None = None
    stop: str | None = None
    limit: int = DEFAULT_LIMIT
    event_filter: RoomEventFilter = field(default_factory=RoomEventFilter)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a timeline: its entries in the order that was asked for, and the tokens around it.

    `end` is None at the end of the history; forwards there is one wherever there are entries, as more may happen.
    """

    reader: Reader
    entries: Sequence[Entry]
    start: str
    end: str | None

    def shown(self, requester: Requester) -> list[dict[str, Any]]:
        """The entries in client format, with what is bundled of them."""
        entries = with_previous(self.reader, self.entries)
        return show_events(self.reader, entries, requester, self.reader.view.room_id)


def read_page(requester: Requester, room_id: str, asked: PageQuery) -> Page:
    """A page of a room's timeline. Raises Forbidden, or InvalidParam for a token that is none."""
    reader = reader_of(requester.user_id, room_id)
    last = reader.last_position
    ends = RoomToken(0), RoomToken(last)
    begin = timeline_token(asked.start, reader, requester) if asked.start is not None else ends[asked.backwards]
    until = timeline_token(asked.stop, reader, requester) if asked.stop is not None else ends[not asked.backwards]
    walk = TimelineWalk(room_id, min(begin, RoomToken(last)), min(until, RoomToken(last)), asked.backwards)
    entries = _walked(reader, walk, asked.limit, asked.event_filter, fills=True)
    goes_on = not walk.is_over or (entries and not asked.backwards)
    start = asked.start if asked.start is not None else begin.encode()
    return Page(reader, entries, start, walk.at.encode() if goes_on else None)


def messages(requester: Requester, room_id: str, asked: PageQuery) -> dict[str, Any]:
    """A page as `/messages` tells it: `chunk`, `start`, `end` (absent at the end of the history), `state`.

    Raises as `read_page` does.
    """
    page = read_page(requester, room_id, asked)
    answer: dict[str, Any] = {"chunk": page.shown(requester), "start": page.start}
    if page.end is not None:
        answer["end"] = page.end
    if asked.event_filter.lazy_load_members and page.entries:
        latest = max(page.entries, key=lambda entry: entry.place)
        answer["state"] = members_of_senders(page.reader, page.entries, latest)
    return answer


def _walked(
    reader: Reader, walk: TimelineWalk, limit: int, event_filter: RoomEventFilter, *, fills: bool = False
) -> list[Entry]:
    """Up to `limit` entries on the way of a walk that the reader may see; with `fills` gaps of history are filled.

    The walk stands behind what was read then. Fewer where too much is hidden, and at a gap that cannot be filled now.
    """
    room_id, chunk = walk.room_id, list[Entry]()
    size = min(_PAGE, max(limit, 20))
    filler = GapFiller(reader.view) if fills else None
    for _ in range(_MOST_PAGES if limit else 0):
        page = walk.read(size)
        if event_filter.lazy_load_members and page:
            # Mostly the answer ends where the page does, or at the limit.
            told = page[: limit - len(chunk)]
            latest = max(told[0], told[-1], key=lambda entry: entry.place)
            _read_ahead(reader, page, latest.room_root, _senders(told))
        visible = {entry.place for entry in _filtered(reader, page, event_filter, room_id)}
        for entry in page:
            if entry.place in visible:
                chunk.append(entry)
            walk.move_past(entry)
            if len(chunk) == limit:
                return chunk
        if not page and not (filler is not None and filler.fill(walk, is_empty=not chunk)):
            break
        size = _PAGE  # much of what was read is hidden
    if filler is not None and filler.passed is not None and not chunk:
        walk.at = filler.passed  # there was nothing behind the gap: it is where to try again
    return chunk


def _filtered(reader: Reader, entries: Sequence[Entry], event_filter: RoomEventFilter, room_id: str) -> list[Entry]:
    if event_filter.excludes_everything or not event_filter.includes_room(room_id):
        return []
    passing = [
        entry for entry in reader.visible(entries) if entry.pdu is not None and event_filter.matches(entry.pdu, room_id)
    ]
    return related_to(reader, passing, event_filter)


def members_of_senders(reader: Reader, entries: Iterable[Entry], at: Entry) -> list[dict[str, Any]]:
    """The membership events of those who sent the entries, as they were at one of them (lazy loading)."""
    keys = _senders(entries)
    if not keys:
        return []
    ids = state_tree.get_many(StateNodes(reader.view.room_id), at.room_root, keys)
    found = state_events(reader.view.head, reader.view.rules, ids.items())
    return [show_state(event, reader.view.room_id) for event in found]


def _senders(entries: Iterable[Entry]) -> list[StateKey]:
    """The keys of the memberships of those who sent the entries."""
    return [("m.room.member", user) for user in sorted({e.pdu["sender"] for e in entries if e.pdu is not None})]


def _read_ahead(
    reader: Reader, entries: Iterable[Entry], root: bytes, members: Iterable[StateKey], *, state: str | None = None
) -> None:
    """Bring into memory what an answer asks of the state's trees: a round a level, instead of one a question.

    That is who may see the entries, and of the state with a root some members; with `state` "whole" all of it, with
    "lazy" how it differs from the current one.
    """
    nodes, now = StateNodes(reader.view.room_id), bytes(reader.view.head.root)
    paths = {entry.own_root for entry in reader.unsure(entries)} | {root}
    keys = [*reader.keys, *members]
    if state == "whole":
        read_whole(nodes, now, root, paths=paths, keys=keys)
    else:
        compared = state == "lazy"
        read_trees(nodes, paths=paths, keys=keys, tops=[now][:compared], pairs=[(now, root)][:compared])


def _record_keys(event_id: str) -> list[Key]:
    """Where the record of an event is, to be read with the room; nowhere for what is no event ID."""
    return [(EventRecord, event_id, None)] if is_event_id(event_id) else []


def _place_of(reader: Reader, record: EventRecord | None) -> tuple[int, int]:
    """Position and offset that an event's record names. Raises NotFound for one that is not in the room's timeline."""
    if record is None or record.room != reader.view.room_id or record.position is None or record.flags:
        raise NotFound("There is no such event in this room.")
    return int(record.position), int(record.offset or 0)


def _checked(reader: Reader, event_id: str, entry: Entry | None) -> Entry:
    """The entry of an event. Raises NotFound unless it is that, and one that the reader may see."""
    if entry is None or entry.event_id != event_id or not reader.visible([entry]):
        raise NotFound("There is no such event in this room.")
    return entry


def entry_of(reader: Reader, event_id: str) -> Entry:
    """The entry of an event that the reader may see, with its aggregate. Raises NotFound for any other."""
    return _recorded(reader, event_id, EventRecord.fetch(event_id) if is_event_id(event_id) else None)


def _recorded(reader: Reader, event_id: str, record: EventRecord | None) -> Entry:
    position, offset = _place_of(reader, record)
    # Only what lies before the last change of an aggregate can have one.
    has_aggregate = bool(offset) or position < int(reader.view.head.aggregate_position)
    return _checked(reader, event_id, read_entry(reader.view.room_id, position, offset, aggregate=has_aggregate))


def event(requester: Requester, room_id: str, event_id: str) -> dict[str, Any]:
    """One event. Raises NotFound for an event that does not exist or that the requester may not see."""
    try:
        reader = reader_of(requester.user_id, room_id, extras=_record_keys(event_id))
    except Forbidden as error:
        raise NotFound("There is no such event in this room.") from error
    entry = _recorded(reader, event_id, reader.view.extras.get((EventRecord, event_id, None)))
    return show_events(reader, with_previous(reader, [entry]), requester, room_id)[0]


def context(
    requester: Requester, room_id: str, event_id: str, *, limit: int, event_filter: RoomEventFilter
) -> dict[str, Any]:
    """An event with up to `limit` events around it, half before and half after, and the state at the last of them."""
    reader = reader_of(requester.user_id, room_id, extras=_record_keys(event_id))
    position, offset = _place_of(reader, reader.view.extras.get((EventRecord, event_id, None)))
    before_size = limit // 2
    after_size = limit - before_size
    if offset:
        alone = _checked(reader, event_id, read_entry(room_id, position, offset, aggregate=True))
        return _context(reader, requester, *_around(reader, alone, limit, event_filter), event_filter)
    low = max(1, position - max(before_size, 1) * 2)
    high = min(reader.last_position, position + max(after_size, 1) * 2)
    entries = read_positions(room_id, low, high)
    entry = next((e for e in entries if e.position == position), None)
    if position > high:
        # It lies behind the reader's last stay, and is seen, if at all, without what is between.
        entry = read_entry(room_id, position, aggregate=True)
    if entry is not None:
        # Mostly nothing of the window is hidden, so that the answer ends here.
        later = [e for e in entries if e.position > position and e.pdu is not None][:after_size]
        root, lazy = (later[-1] if later else entry).room_root, event_filter.lazy_load_members
        _read_ahead(reader, [*entries, entry], root, _senders(entries), state="lazy" if lazy else "whole")
    entry = _checked(reader, event_id, entry)
    if any(other.has_history for other in entries):
        return _context(reader, requester, *_around(reader, entry, limit, event_filter), event_filter)
    kept = _filtered(reader, [e for e in entries if e.position != position], event_filter, room_id)
    before = [e for e in kept if e.position < position][-before_size:] if before_size else []
    after = [e for e in kept if e.position > position][:after_size]
    return _context(reader, requester, [*before, entry, *after], len(before), event_filter)


def _around(reader: Reader, entry: Entry, limit: int, event_filter: RoomEventFilter) -> tuple[list[Entry], int]:
    """An entry with what is around it where history was fetched later, oldest first; and its index."""
    room_id, last = reader.view.room_id, RoomToken(reader.last_position)
    back = TimelineWalk(room_id, RoomToken.before(*entry.place), RoomToken(0), backwards=True)
    on = TimelineWalk(room_id, RoomToken(*entry.place), last, backwards=False)
    before = _walked(reader, back, limit // 2, event_filter)[::-1]
    return [*before, entry, *_walked(reader, on, limit - limit // 2, event_filter)], len(before)


def _context(
    reader: Reader, requester: Requester, run: Sequence[Entry], at: int, event_filter: RoomEventFilter
) -> dict[str, Any]:
    """The answer of `context`, for the event at an index among those around it."""
    shown = show_events(reader, with_previous(reader, run), requester, reader.view.room_id)
    return {
        "event": shown[at],
        "events_before": shown[:at][::-1],
        "events_after": shown[at + 1 :],
        "start": RoomToken.before(*run[0].place).encode(),
        "end": RoomToken(*run[-1].place).encode(),
        "state": _state_at(reader, run[-1], run, event_filter),
    }


def _state_at(
    reader: Reader, last: Entry, shown: Sequence[Entry], event_filter: RoomEventFilter
) -> list[dict[str, Any]]:
    head, rules, room_id = reader.view.head, reader.view.rules, reader.view.room_id
    if event_filter.lazy_load_members:
        state = state_of_few(head, rules, last.room_root, [user for _, user in _senders(shown)])
    else:
        state = whole_state(head, rules, last.room_root)
    return [show_state(event, room_id) for event in state.values() if event_filter.matches(event.pdu, room_id)]


def parse_direction(text: str | None) -> bool:
    """`dir` as "backwards?". Raises InvalidParam unless it is b or f."""
    if text not in {"b", "f"}:
        raise InvalidParam("dir must be b or f.")
    return text == "b"
