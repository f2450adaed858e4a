"""The events that receipts and read markers point at.

Source: client-server API v1.19, "Receipts", "Threading".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.identifiers import is_event_id
from homeserver.services.access_tokens import Requester
from homeserver.services.send_event import NOT_IN_ROOM, check_room_id
from homeserver.services.visibility import Reader
from homeserver.storage.connection import Key, batch_get
from homeserver.storage.room_items import EventRecord
from homeserver.storage.rooms import load_room
from homeserver.storage.timeline import Entry, read_entry

MAIN = "main"
_VISIBILITY = ("m.room.history_visibility", "")
_MOST_RELATIONS = 5  # from an event to the event that it is about, and so on: an edit of a reaction, ...


@dataclass(frozen=True, slots=True)
class ReadEvents:
    """A member of a room, and the positions of events that they read; `extras` are other items that came along."""

    reader: Reader
    positions: Mapping[str, int]
    extras: Mapping[Key, Any]


def find_events(requester: Requester, room_id: str, event_ids: Iterable[str], extras: Sequence[Key] = ()) -> ReadEvents:
    """Look events up, in one round where the requester was in the room when they were sent.

    Raises InvalidParam for what is no room or event ID, Forbidden for who is not joined, NotFound for an event that
    is not in the room or that the requester may not see.
    """
    check_room_id(room_id)
    wanted = list(dict.fromkeys(event_ids))
    if not all(is_event_id(event_id) for event_id in wanted):
        raise InvalidParam("This is not an event ID.")
    records: list[Key] = [(EventRecord, event_id, None) for event_id in wanted]
    user_id = requester.user_id
    view, found = load_room(room_id, [_VISIBILITY], local_users=[user_id], extras=[*records, *extras])
    row = view.locals.get(user_id) if view is not None else None
    if view is None or row is None or row.membership != "join":
        raise Forbidden(NOT_IN_ROOM)
    reader = Reader(user_id, view, row)
    positions = {event_id: _position(reader, event_id, found.get((EventRecord, event_id, None))) for event_id in wanted}
    return ReadEvents(reader, positions, found)


def _position(reader: Reader, event_id: str, record: EventRecord | None) -> int:
    if record is not None and record.room == reader.view.room_id and record.position is not None and not record.flags:
        position, offset = int(record.position), int(record.offset or 0)
        if reader.was_there(position) and not offset:
            return position
        entry = read_entry(reader.view.room_id, position, offset)
        if entry is not None and entry.event_id == event_id and reader.visible([entry]):
            # Who read up to an event before an anchor has read what lies before the anchor's position.
            return position - 1 if offset else position
    raise NotFound("There is no such event in this room.")


def check_thread(room_id: str, event_id: str, position: int, thread: str) -> None:
    """Raises InvalidParam unless an event of a room belongs to a thread: `main`, or the ID of a thread's root.

    In a thread are its root, what has an `m.thread` relation to it, and whatever relates to these: a reaction, an
    edit. All but what is in a thread by such a relation is in the main timeline too, roots included.
    """
    at: str | None = event_id
    entry: Entry | None = read_entry(room_id, position)
    if entry is None or entry.event_id != event_id:  # it was backfilled
        entry = _entry(room_id, event_id)
    for _ in range(_MOST_RELATIONS):
        if at == thread:
            return
        relation = _relation(entry)
        if relation.get("rel_type") == "m.thread":
            if relation.get("event_id") == thread:
                return
            break
        at = relation.get("event_id")
        entry = _entry(room_id, at) if is_event_id(at) else None
        if entry is None:
            if thread in {MAIN, at}:
                return
            break
    else:
        if thread == MAIN:
            return
    raise InvalidParam("The event is not in this thread.")


def _relation(entry: Entry | None) -> Mapping[str, Any]:
    content = entry.pdu.get("content") if entry is not None and entry.pdu is not None else None
    relation = content.get("m.relates_to") if isinstance(content, Mapping) else None
    return relation if isinstance(relation, Mapping) else {}


def _entry(room_id: str, event_id: str | None) -> Entry | None:
    record = batch_get([(EventRecord, event_id, None)], consistent=True).get((EventRecord, event_id, None))
    if record is None or record.room != room_id or record.position is None:
        return None
    entry = read_entry(room_id, int(record.position), int(record.offset or 0))
    return entry if entry is not None and entry.event_id == event_id else None
