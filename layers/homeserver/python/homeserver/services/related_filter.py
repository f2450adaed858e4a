"""Filters by relation: events to which somebody, or something of a type, relates.

Source: client-server API v1.19, "Filtering", `related_by_senders` and `related_by_rel_types` of RoomEventFilter.
"""

from collections.abc import Sequence
from functools import partial

from homeserver.matrix.filters import RoomEventFilter
from homeserver.matrix.relations import THREAD
from homeserver.services.visibility import Reader
from homeserver.storage import relations
from homeserver.storage.connection import in_parallel
from homeserver.storage.relations import Child
from homeserver.storage.timeline import Entry


def related_to(reader: Reader, entries: Sequence[Entry], event_filter: RoomEventFilter) -> list[Entry]:
    """Those of the entries that pass the filter's relations; all of them if it names none.

    The entries must have their aggregates as they are now: where it is about threads alone these decide, without a
    read. Else one Query for each event that has not been decided, all at the same time.
    """
    if not event_filter.needs_relations:
        return list(entries)
    decided = {entry.number: _by_aggregate(entry, event_filter) for entry in entries}
    unsure = [entry for entry in entries if decided[entry.number] is None]
    found = in_parallel(*[partial(_is_related, reader, entry, event_filter) for entry in unsure])
    decided |= {entry.number: is_related for entry, is_related in zip(unsure, found, strict=True)}
    return [entry for entry in entries if decided[entry.number]]


def _by_aggregate(entry: Entry, event_filter: RoomEventFilter) -> bool | None:
    types, senders = event_filter.related_by_rel_types, event_filter.related_by_senders
    if types is None or set(types) != {THREAD}:
        return None
    aggregate = entry.aggregate
    if aggregate is None or not aggregate.replies:
        return False
    if senders is None or senders & aggregate.senders.keys():
        return True
    return None if aggregate.is_partial else False


def _is_related(reader: Reader, entry: Entry, event_filter: RoomEventFilter) -> bool:
    types, senders = event_filter.related_by_rel_types, event_filter.related_by_senders

    def passes(child: Child) -> bool:
        return (types is None or child.rel_type in types) and (senders is None or child.sender in senders)

    room_id = reader.view.room_id
    return bool(relations.find_children(room_id, entry.event_id or "", reader.last_position, passes, most=1))
