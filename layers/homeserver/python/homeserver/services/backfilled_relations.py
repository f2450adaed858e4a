"""Relationships of events that are backfilled: their children, as a rule, came before them.

A child whose parent was unknown has left its row. When the parent is written, what is kept of all its children is made
of these rows, in the same transaction. Children of children are found under their own parent only.

Source: client-server API v1.19, "Aggregations of child events".
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from homeserver.matrix.event import Event
from homeserver.matrix.relations import (
    REFERENCE,
    REPLACE,
    THREAD,
    Aggregate,
    Edit,
    Parent,
    is_valid_edit,
    relation_of,
)
from homeserver.services.room_changes import RoomChanges
from homeserver.storage import relations
from homeserver.storage.connection import in_parallel
from homeserver.storage.relations import Child
from homeserver.storage.timeline import read_entries

_MOST_CHILDREN = 200  # that are counted


def children_of(room_id: str, event_ids: Sequence[str]) -> dict[str, list[Child]]:
    """The rows of what relates to events that are not here yet, newest first: one Query an event, at the same time."""
    found = in_parallel(
        *[
            partial(relations.find_children, room_id, event_id, float("1e15"), lambda _: True, _MOST_CHILDREN)
            for event_id in event_ids
        ]
    )
    return {event_id: children for event_id, children in zip(event_ids, found, strict=True) if children}


def adopt(room: RoomChanges, event: Event, position: float, children: Iterable[Child]) -> None:
    """Let the commit write what is kept of an event's children; `position` is the number of the event's place."""
    room_id = event.room_id
    own = relation_of(event.content)
    parent = Parent(position, event.sender, event.type, event.is_state)
    oldest_first = sorted(children, key=lambda child: child.position)
    edits = [child for child in oldest_first if child.rel_type == REPLACE]
    read = read_entries((room_id, child.position) for child in edits) if edits else {}
    pdus = {entry.event_id: entry.pdu for entry in read.values() if entry.pdu is not None}
    aggregate = Aggregate()
    unnamed: Counter[str] = Counter()
    for child in oldest_first:
        if child.rel_type == REFERENCE:
            aggregate = aggregate.with_references(1)
        elif child.rel_type == THREAD and own is None:
            aggregate = aggregate.with_reply(child.event_id, child.position, child.sender)
            if child.sender not in aggregate.senders:
                unnamed[child.sender] += 1
        elif child.event_id in pdus:
            pdu = pdus[child.event_id]
            if not is_valid_edit(parent, own.rel_type if own is not None else None, child.sender, pdu):
                continue
            timestamp = int(pdu["origin_server_ts"])
            aggregate = aggregate.with_edit(Edit(child.event_id, child.position, timestamp))
            row = replace(child, timestamp=timestamp)
            room.extras.append(partial(relations.put_child, room_id=room_id, parent=event.event_id, child=row))
    if aggregate == Aggregate():
        return
    nothing = Aggregate()
    write = partial(relations.write_aggregate, room_id=room_id, position=position, before=nothing, after=aggregate)
    move = partial(relations.move_thread, room_id=room_id, root=event.event_id, root_position=position)
    room.extras += [write, partial(move, before=nothing, after=aggregate)]
    _count(room, event.event_id, unnamed)


def _count(room: RoomChanges, root: str, users: Mapping[str, int]) -> None:
    for user_id, count in users.items():
        room.extras.append(
            partial(relations.count_participant, room_id=room.room_id or "", root=root, user_id=user_id, change=count)
        )
