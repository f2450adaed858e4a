"""Events as other servers get them: one by its ID, and what every answer with events has to observe.

Source: server-server API v1.19, "Retrieving events"; client-server API, "Room History Visibility".
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from homeserver.matrix.errors import InvalidParam, NotFound
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.event_ids import unpack_event_ids
from homeserver.matrix.identifiers import is_event_id
from homeserver.matrix.redaction import redact
from homeserver.services.clock import now_ms
from homeserver.services.server_access import check_access, is_member, row_key
from homeserver.services.server_visibility import ServerReader
from homeserver.settings import settings
from homeserver.storage.connection import batch_get_raw
from homeserver.storage.room_items import EventRecord, TimelineEntry, line_of
from homeserver.storage.rooms import RoomView
from homeserver.storage.timeline import Entry, parse_entry

# Lambda hands on 6 MB of an answer. What is longer ends earlier where the specification lets it, else it is refused.
MOST_BYTES = 5_000_000
_NO_EVENT = "There is no such event here, or your server may not see it."


@dataclass(frozen=True, slots=True)
class ServedEvent:
    """An event that may be served, where it stands in its room. `own_root`: its own state after it.

    Refused events have no position, and their `room_root` says nothing.
    """

    event_id: str
    pdu: Mapping[str, Any]
    prev: tuple[str, ...]
    position: int | None
    offset: int
    own_root: bytes
    room_root: bytes

    @classmethod
    def of_entry(cls, entry: Entry) -> "ServedEvent | None":
        """From a timeline; None for a marker, and for a redaction that waits for what it redacts: its record has it."""
        if entry.event_id is None or entry.pdu is None:
            return None
        edges = entry.pdu["prev_events"]
        prev = tuple(edge if isinstance(edge, str) else edge[0] for edge in edges)
        return cls(
            entry.event_id, entry.pdu, prev, entry.position, entry.offset, bytes(entry.own_root), bytes(entry.room_root)
        )

    @classmethod
    def of_record(cls, record: EventRecord) -> "ServedEvent | None":
        """From a record that has the body and the states: a refused event's, or a state event's."""
        if record.packed is None or record.state_before is None:
            return None
        after = bytes(record.state_after if record.state_after is not None else record.state_before)
        prev = tuple(unpack_event_ids(bytes(record.prev))) if record.prev is not None else ()
        position = int(record.position) if record.position is not None else None
        return cls(record.event_id, unpack(record.packed), prev, position, int(record.offset or 0), after, b"")


def pdu_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored event as other servers get it: what this server added to it is its own business."""
    return {key: value for key, value in stored.items() if key != "unsigned"}


def size_of(pdu: Mapping[str, Any]) -> int:
    """How many bytes a PDU takes in an answer."""
    try:
        return len(orjson.dumps(pdu)) + 1
    except orjson.JSONEncodeError:  # integers beyond 64 bits, which the first room versions may hold
        return len(json.dumps(pdu)) + 1


def transaction_of(pdus: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The body that some answers with PDUs have."""
    return {"origin": settings().server_name, "origin_server_ts": now_ms(), "pdus": list(pdus)}


def shown_to(reader: ServerReader, events: Sequence[ServedEvent]) -> list[dict[str, Any]]:
    """The events as PDUs; of those that the server may not see, what redaction leaves: the graph keeps its edges."""
    seen = reader.visible_ids(events)
    pdus = [(event.event_id, pdu_of(event.pdu)) for event in events]
    return [pdu if event_id in seen else redact(pdu, reader.view.rules) for event_id, pdu in pdus]


def read_lines(room_id: str, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Entry]:
    """Single entries of a room by (position, offset), those of backfilled history too, consistently: one round."""
    lines = {line_of(room_id, *place): place for place in places}
    found = batch_get_raw(TimelineEntry, list(lines), consistent=True)
    keys = {(bucket, str(number)): place for (bucket, number), place in lines.items()}
    return {keys[key]: parse_entry(raw, keys[key][0] if keys[key][1] else None) for key, raw in found.items()}


def event_for_server(event_id: str, origin: str) -> dict[str, Any]:
    """The body of `GET /event/{eventId}`.

    Servers in the room get what they may not see as redaction leaves it, others do not get it. State that is known
    without its place in the room is for servers in the room. Raises InvalidParam, NotFound (also for rejected events),
    Forbidden for a server that the room's ACL shuts out.
    """
    if not is_event_id(event_id):
        raise InvalidParam("This is not an event ID.")
    record = EventRecord.fetch(event_id)
    if record is None or record.room is None or "r" in (record.flags or ""):
        raise NotFound(_NO_EVENT)
    row = row_key(record.room, origin)
    view = check_access(record.room, origin, needs_member=False, extras=[row])
    reader = ServerReader(view, origin, view.extras.get(row), is_member(view, origin, view.extras.get(row)))
    event = placed(view, record)
    if event is None:
        if not reader.is_member or record.packed is None:
            raise NotFound(_NO_EVENT)
        return transaction_of([pdu_of(unpack(record.packed))])
    if not reader.is_member and not reader.visible_ids([event]):
        raise NotFound(_NO_EVENT)
    return transaction_of(shown_to(reader, [event]))


def placed(view: RoomView, record: EventRecord) -> ServedEvent | None:
    """The event of a record, where it stands; None for an outlier, which stands nowhere."""
    if record.position is not None:
        place = int(record.position), int(record.offset or 0)
        entry = read_lines(view.room_id, [place]).get(place)
        if entry is not None and entry.event_id == record.event_id and entry.pdu is not None:
            return ServedEvent.of_entry(entry)
    return ServedEvent.of_record(record)
