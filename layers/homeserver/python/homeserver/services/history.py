"""Reading a room's history: pages of messages, one event, an event with what is around it.

Source: client-server API v1.19, "Getting events for a room", "Event context".
"""

from collections.abc import Iterable, Sequence
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.filters import RoomEventFilter
from homeserver.matrix.identifiers import is_event_id
from homeserver.matrix.sync_token import RoomToken
from homeserver.services.access_tokens import Requester
from homeserver.services.aggregations import show_events
from homeserver.services.event_view import show_state
from homeserver.services.related_filter import related_to
from homeserver.services.room_state import last_before, timeline_token
from homeserver.services.visibility import Reader, reader_of
from homeserver.storage.room_items import EventRecord
from homeserver.storage.rooms import fetch_state_events
from homeserver.storage.state_cache import state_events
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import Entry, read_entry, read_positions

DEFAULT_LIMIT = 10
MAX_LIMIT = 500
_PAGE = 100
_MOST_PAGES = 10  # of entries that a filter or the visibility may hide, before an answer goes out nevertheless


def messages(
    requester: Requester,
    room_id: str,
    *,
    backwards: bool,
    start: str | None,
    stop: str | None,
    limit: int,
    event_filter: RoomEventFilter,
) -> dict[str, Any]:
    """One page of the timeline: `chunk`, `start`, `end` (absent at the end of the history), `state`.

    Raises Forbidden, or InvalidParam for a token that is none.
    """
    reader = reader_of(requester.user_id, room_id)
    last = reader.last_position
    ends = RoomToken(0), RoomToken(last)
    begin = timeline_token(start, reader, requester) if start is not None else ends[backwards]
    until = timeline_token(stop, reader, requester) if stop is not None else ends[not backwards]
    position, final = min(last_before(begin), last), min(last_before(until), last)
    chunk: list[Entry] = []
    size = min(_PAGE, max(limit, 20))
    for _ in range(_MOST_PAGES):
        if backwards:
            page = read_positions(room_id, max(position - size, final) + 1, position)[::-1]
        else:
            page = read_positions(room_id, position + 1, min(position + size, final))
        visible = {entry.position for entry in _filtered(reader, page, event_filter, room_id)}
        for entry in page:
            if entry.position in visible:
                chunk.append(entry)
            position = entry.position - 1 if backwards else entry.position
            if len(chunk) == limit:
                break
        if not page or len(chunk) == limit:
            break
        size = _PAGE  # much of what was read is hidden
    answer: dict[str, Any] = {
        "chunk": show_events(reader, chunk, requester, room_id),
        "start": start if start is not None else begin.encode(),
    }
    # Forwards the last page has a token too: more may happen.
    if position > final if backwards else chunk or position < final:
        answer["end"] = RoomToken(position).encode()
    if event_filter.lazy_load_members and chunk:
        answer["state"] = members_of_senders(reader, chunk, max(entry.position for entry in chunk))
    return answer


def _filtered(reader: Reader, entries: Sequence[Entry], event_filter: RoomEventFilter, room_id: str) -> list[Entry]:
    if event_filter.excludes_everything or not event_filter.includes_room(room_id):
        return []
    passing = [
        entry for entry in reader.visible(entries) if entry.pdu is not None and event_filter.matches(entry.pdu, room_id)
    ]
    return related_to(reader, passing, event_filter)


def members_of_senders(reader: Reader, entries: Iterable[Entry], position: int) -> list[dict[str, Any]]:
    """The membership events of those who sent the entries, as they were at a position (lazy loading)."""
    at = next((entry for entry in entries if entry.position == position), None) or read_entry(
        reader.view.room_id, position
    )
    senders = {entry.pdu["sender"] for entry in entries if entry.pdu is not None}
    if at is None or not senders:
        return []
    keys = [("m.room.member", sender) for sender in sorted(senders)]
    ids = state_tree.get_many(StateNodes(reader.view.room_id), at.room_root, keys)
    found = fetch_state_events(reader.view.room_id, ids.values(), reader.view.rules)
    return [show_state(entry.event, reader.view.room_id) for entry in found.values()]


def entry_of(reader: Reader, event_id: str) -> Entry:
    """The entry of an event that the reader may see, with its aggregate. Raises NotFound for any other."""
    record = EventRecord.fetch(event_id) if is_event_id(event_id) else None
    if record is None or record.room != reader.view.room_id or record.position is None or record.flags:
        raise NotFound("There is no such event in this room.")
    position = int(record.position)
    # Only what lies before the last change of an aggregate can have one.
    entry = read_entry(reader.view.room_id, position, aggregate=position < int(reader.view.head.aggregate_position))
    if entry is None or entry.event_id != event_id or not reader.visible([entry]):
        raise NotFound("There is no such event in this room.")
    return entry


def event(requester: Requester, room_id: str, event_id: str) -> dict[str, Any]:
    """One event. Raises NotFound for an event that does not exist or that the requester may not see."""
    try:
        reader = reader_of(requester.user_id, room_id)
    except Forbidden as error:
        raise NotFound("There is no such event in this room.") from error
    return show_events(reader, [entry_of(reader, event_id)], requester, room_id)[0]


def context(
    requester: Requester, room_id: str, event_id: str, *, limit: int, event_filter: RoomEventFilter
) -> dict[str, Any]:
    """An event with up to `limit` events around it, half before and half after, and the state at the last of them."""
    reader = reader_of(requester.user_id, room_id)
    entry = entry_of(reader, event_id)
    around = limit // 2
    before_size, after_size = around, limit - around
    low = max(1, entry.position - max(before_size, 1) * 2)
    high = min(reader.last_position, entry.position + max(after_size, 1) * 2)
    entries = read_positions(room_id, low, high)
    kept = _filtered(reader, [e for e in entries if e.position != entry.position], event_filter, room_id)
    before = [e for e in kept if e.position < entry.position][-before_size:] if before_size else []
    after = [e for e in kept if e.position > entry.position][:after_size]
    last = after[-1] if after else entry
    first = before[0] if before else entry
    shown = show_events(reader, [*before, entry, *after], requester, room_id)
    return {
        "event": shown[len(before)],
        "events_before": shown[: len(before)][::-1],
        "events_after": shown[len(before) + 1 :],
        "start": RoomToken.before(first.position).encode(),
        "end": RoomToken(last.position).encode(),
        "state": _state_at(reader, last, [*before, entry, *after], event_filter),
    }


def _state_at(
    reader: Reader, last: Entry, shown: Sequence[Entry], event_filter: RoomEventFilter
) -> list[dict[str, Any]]:
    room_id = reader.view.room_id
    nodes = StateNodes(room_id)
    ids = state_tree.items(nodes, last.room_root)
    if event_filter.lazy_load_members:
        senders = {entry.pdu["sender"] for entry in shown if entry.pdu is not None}
        ids = {key: i for key, i in ids.items() if key[0] != "m.room.member" or key[1] in senders}
    events = state_events(reader.view.head, reader.view.rules, ids.values())
    return [show_state(event, room_id) for event in events if event_filter.matches(event.pdu, room_id)]


def parse_direction(text: str | None) -> bool:
    """`dir` as "backwards?". Raises InvalidParam unless it is b or f."""
    if text not in {"b", "f"}:
        raise InvalidParam("dir must be b or f.")
    return text == "b"
