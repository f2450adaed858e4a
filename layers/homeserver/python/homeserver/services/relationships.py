"""Events that relate to others: what the commit of the child, or of its redaction, writes of the relationship.

The parent's record is read in the round in which the room is read. Its aggregate lies at its position: it comes in the
same round if this process knows the parent, else in one more. The writes of the aggregate are conditional on its
version, as the batch that read it is no snapshot.

Source: client-server API v1.19, "Forming relationships between events", "Threading", "Event replacements",
"Reference relations", "Event annotations"; "Redactions".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from homeserver.matrix import timeline_place
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.relations import (
    RECURSION_DEPTH,
    REFERENCE,
    REPLACE,
    THREAD,
    Aggregate,
    Edit,
    Parent,
    Relation,
    is_valid_edit,
    relation_of,
)
from homeserver.matrix.timeline_place import place_number, place_of
from homeserver.services.room_changes import RoomChanges
from homeserver.storage import relations
from homeserver.storage.connection import Key, Transaction, batch_get
from homeserver.storage.relations import Child, ChildItem
from homeserver.storage.room_items import EventRecord, TimelineEntry, line_of

_AGGREGATED = frozenset({REPLACE, THREAD, REFERENCE})


@dataclass(frozen=True, slots=True)
class _Ancestor:
    """An event that a child hangs under, and by which rows: none for the parent itself."""

    event_id: str
    links: tuple[tuple[str, float], ...]


def keys_to_read(room_id: str, draft: EventDraft, sender: str) -> list[Key]:
    """What must be read with the room to send the draft: nothing for an event that relates to none."""
    relation = relation_of(draft.content)
    if relation is None:
        return []
    keys: list[Key] = [(EventRecord, relation.parent, None)]
    if (annotation := relations.annotation_key(room_id, relation, sender, draft.type)) is not None:
        keys.append(annotation)
    parent = relations.known_parent(relation.parent)
    if parent is not None and relation.rel_type in _AGGREGATED:
        keys.append(relations.aggregate_key(room_id, parent.position))
    return keys


def relate(room: RoomChanges, event: Event, found: Mapping[Key, Any], position: float | None = None) -> None:
    """Let the commit of an event, which was just added to the room, write what it relates to.

    One event of a commit may relate to a parent: the aggregate is what was read before. `found` has what there is of
    `keys_to_read`. `position` is the number of the event's place, where that is not the room's last. A relationship to
    an event that is not in the room forms nothing; where history is fetched later it may still come, and then finds the
    row of its child.
    Raises MatrixError: M_UNKNOWN for a thread that cannot be, M_DUPLICATE_ANNOTATION.
    """
    relation = relation_of(event.content)
    if relation is None:
        return
    room_id = event.room_id
    place = room.position if position is None else position
    there = found.get((EventRecord, relation.parent, None))
    record = _in_room(there, room_id)
    if record is None:
        if _may_come(room, there):
            row = Child(place, event.event_id, relation.rel_type, event.type, event.sender)
            room.extras.append(partial(relations.put_child, room_id=room_id, parent=relation.parent, child=row))
        return
    # "Servers SHOULD reject client requests which attempt to start a thread off an event with an m.relates_to property"
    if relation.rel_type == THREAD and record.relates:
        raise MatrixError("A thread cannot begin at an event that relates to another one.")
    annotation = relations.annotation_key(room_id, relation, event.sender, event.type)
    if annotation is not None:
        if annotation in found:
            raise MatrixError("You have annotated this event so already.", errcode="M_DUPLICATE_ANNOTATION")
        room.extras.append(partial(_put_annotation, annotation, event.event_id))
    timestamp = None
    if relation.rel_type in _AGGREGATED:
        timestamp = _aggregate(room, event, record, found, place)
    child = Child(place, event.event_id, relation.rel_type, event.type, event.sender, timestamp)
    for ancestor in _ancestors(room_id, relation.parent, record):
        row = Child(*_fields(child), links=ancestor.links)
        room.extras.append(partial(relations.put_child, room_id=room_id, parent=ancestor.event_id, child=row))


def _fields(child: Child) -> tuple[float, str, str, str, str, int | None]:
    return child.position, child.event_id, child.rel_type, child.type, child.sender, child.timestamp


def _in_room(record: EventRecord | None, room_id: str) -> EventRecord | None:
    if record is None or record.room != room_id or record.position is None or record.flags:
        return None
    return record


def _may_come(room: RoomChanges, record: EventRecord | None) -> bool:
    """Whether an event that is not in the timeline may be backfilled: one that is unknown, or known as an outlier."""
    is_federated = room.view is not None and room.view.head.federated_since is not None
    return is_federated and (record is None or (record.room == room.room_id and record.flags == "o"))


def number_of(record: EventRecord) -> float:
    """The number of the place that an event's record names."""
    return place_number(int(record.position or 0), int(record.offset or 0))


def _record_of(event_id: str, room_id: str) -> EventRecord | None:
    key: Key = (EventRecord, event_id, None)
    return _in_room(batch_get([key], consistent=True).get(key), room_id)


def _put_annotation(key: Key, event_id: str, transaction: Transaction) -> None:
    model, bucket, number = key
    item = model(bucket, number, event_id=event_id)
    transaction.put("annotation", item, relations.AnnotationItem.bucket.does_not_exist())


def _ancestors(room_id: str, parent: str, record: EventRecord) -> list[_Ancestor]:
    """The parent, and what the parent relates to in turn, as deep as `recurse` goes.

    A thread's root relates to nothing: beyond it nothing is read.
    """
    ancestors = [_Ancestor(parent, ())]
    while len(ancestors) < RECURSION_DEPTH and record.relates:
        rel_type, upper = record.relates
        link = (upper, number_of(record))
        ancestors.append(_Ancestor(upper, (*ancestors[-1].links, link)))
        if rel_type == THREAD or len(ancestors) == RECURSION_DEPTH:
            break
        next_record = _record_of(upper, room_id)
        if next_record is None:
            break
        record = next_record
    return ancestors


def _aggregate(
    room: RoomChanges, event: Event, record: EventRecord, found: Mapping[Key, Any], place: float
) -> int | None:
    """Let the commit change the parent's aggregate. Returns the timestamp of a valid edit."""
    relation = relation_of(event.content) or Relation("", "")
    room_id, position = event.room_id, number_of(record)
    parent = relations.known_parent(relation.parent)
    key = relations.aggregate_key(room_id, position)
    line_key: Key = (TimelineEntry, *line_of(room_id, *place_of(position)))
    if parent is None:
        found = batch_get([line_key, key], consistent=True)
        line: TimelineEntry | None = found.get(line_key)
        if line is None or line.packed is None:
            return None
        pdu = unpack(line.packed)
        parent = Parent(position, pdu["sender"], pdu["type"], "state_key" in pdu)
        relations.remember_parent(relation.parent, parent)
    before = relations.aggregate_of(found.get(key))
    match relation.rel_type:
        case "m.replace":
            parent_rel_type = record.relates[0] if record.relates else None
            if not is_valid_edit(parent, parent_rel_type, event.sender, event.pdu):
                return None
            after = before.with_edit(Edit(event.event_id, place, event.origin_server_ts))
        case "m.thread":
            after = before.with_reply(event.event_id, place, event.sender)
            if event.sender not in after.senders:
                count = partial(relations.count_participant, room_id=room_id, root=relation.parent)
                room.extras.append(partial(count, user_id=event.sender, change=1))
        case _:
            after = before.with_references(1)
    _change(room, relation.parent, position, before, after)
    return event.origin_server_ts if relation.rel_type == REPLACE else None


def _change(room: RoomChanges, parent: str, position: float, before: Aggregate, after: Aggregate) -> None:
    room_id = room.room_id or ""
    room.changes_aggregates = True
    room.extras.append(
        partial(relations.write_aggregate, room_id=room_id, position=position, before=before, after=after)
    )
    move = partial(relations.move_thread, room_id=room_id, root=parent, root_position=position)
    room.extras.append(partial(move, before=before, after=after))


def remember(room: RoomChanges) -> None:
    """Keep what those who relate to the events of a committed draft need to know of them."""
    first = room.position - len(room.events) + 1
    for position, event in enumerate(room.events, first):
        relations.remember_parent(event.event_id, Parent(position, event.sender, event.type, event.is_state))


def unrelate(room: RoomChanges, target: Event, position: float) -> None:
    """Let the commit of a redaction take back what the redacted event, whose place has this number, related to.

    Two rounds for an event that related to one; more where the most recent edit or reply has to be looked for. What
    relates to the redacted event stays. Source: "Redactions", and "Redactions" of each relationship type.
    """
    relation = relation_of(target.content)
    if relation is None:
        return
    room_id = target.room_id
    if not target.is_state:  # of a state event the redaction itself changes the record
        room.extras.append(partial(_forget_relation, event_id=target.event_id))
    record = _record_of(relation.parent, room_id)
    if record is None:
        return
    parent_position = number_of(record)
    row_key = relations.child_key(room_id, relation.parent, position)
    key = relations.aggregate_key(room_id, parent_position)
    annotation = relations.annotation_key(room_id, relation, target.sender, target.type)
    found = batch_get([row_key, key, *([annotation] if annotation else [])], consistent=True)
    row: ChildItem | None = found.get(row_key)
    if row is None:
        return
    for ancestor in _ancestors(room_id, relation.parent, record):
        delete = partial(relations.delete_child, room_id=room_id, parent=ancestor.event_id, position=position)
        room.extras.append(partial(delete, nested=bool(ancestor.links)))
    if annotation in found and found[annotation].event_id == target.event_id:
        room.extras.append(partial(_delete_item, item=found[annotation]))
    before = relations.aggregate_of(found.get(key))
    after = _without(room, row, relation, before)
    if after != before:
        _change(room, relation.parent, parent_position, before, after)


def _forget_relation(transaction: Transaction, event_id: str) -> None:
    transaction.update("relates", EventRecord(event_id), [EventRecord.relates.remove()])


def _delete_item(transaction: Transaction, item: relations.AnnotationItem) -> None:
    transaction.delete("annotation", item)


def _without(room: RoomChanges, row: ChildItem, relation: Relation, before: Aggregate) -> Aggregate:
    """The parent's aggregate without one child."""
    room_id, position = room.room_id or "", row.position
    match row.rel_type:
        case "m.replace" if row.timestamp is not None:
            newest = before.edit
            if newest is not None and newest.position == position:
                found = relations.find_children(
                    room_id,
                    relation.parent,
                    room.position,
                    lambda child: child.timestamp is not None and child.position != position,
                    most=before.edits - 1,
                )
                edits = [Edit(child.event_id, child.position, child.timestamp or 0) for child in found]
                newest = max(edits, key=lambda edit: edit.age, default=None)
            return before.without_edit(newest)
        case "m.thread":
            latest = before.latest_reply
            if latest is not None and latest[1] == position:
                found = relations.find_children(
                    room_id,
                    relation.parent,
                    timeline_place.before(position),
                    lambda child: child.rel_type == THREAD,
                    most=1,
                )
                latest = (found[0].event_id, found[0].position) if found else None
            if row.sender not in before.senders:
                count = partial(relations.count_participant, room_id=room_id, root=relation.parent)
                room.extras.append(partial(count, user_id=row.sender, change=-1))
            return before.without_reply(row.sender, latest)
        case "m.reference":
            return before.with_references(-1)
    return before
