"""Records of events: what is known of an event's place in the graph, and its coordinates in the auth graph."""

from dataclasses import dataclass

from pynamodb.expressions.update import Action

from homeserver.matrix.event import Event
from homeserver.matrix.event_codec import pack
from homeserver.matrix.event_ids import pack_event_ids
from homeserver.matrix.relations import relation_of
from homeserver.storage.connection import Transaction
from homeserver.storage.room_items import EventRecord


@dataclass(frozen=True, slots=True)
class NewRecord:
    """An event's place in the graph. `flags` as EventRecord has them; outliers have neither position nor states."""

    event: Event
    flags: str = ""
    position: int | None = None
    state_before: bytes | None = None
    state_after: bytes | None = None
    cover: bytes | None = None
    chain_item: str | None = None  # `chain/<chain>/<number>`, which must be free
    keeps_body: bool = False  # although it is no state event
    was_outlier: bool = False  # its record is there, with cover and coordinates
    offset: int = 0  # below 0 for an event that was backfilled for the anchor at the position


def write_record(transaction: Transaction, room_id: str, record: NewRecord) -> None:
    """Add an event's record to a transaction, and its chain item; the event must not be there, but as an outlier."""
    event = record.event
    if record.was_outlier:
        _write_place(transaction, record)
        return
    item = EventRecord(
        event.event_id,
        room=room_id,
        position=record.position,
        prev=pack_event_ids(event.prev_event_ids),
        auth=pack_event_ids(event.auth_event_ids),
        depth=event.depth,
        state_before=record.state_before,
    )
    if record.offset:
        item.offset = record.offset
    if record.flags:
        item.flags = record.flags
    if (relation := relation_of(event.content)) is not None:
        item.relates = [relation.rel_type, relation.parent]
    if event.is_state:
        item.state_after = record.state_after
        item.cover = record.cover
    if event.is_state or record.keeps_body:
        item.packed = pack(event.pdu)
    transaction.put(f"event {event.event_id}", item, EventRecord.event_id.does_not_exist())
    if record.chain_item is not None:
        chain = EventRecord(record.chain_item, at=event.event_id)
        transaction.put(f"chain {record.chain_item}", chain, EventRecord.event_id.does_not_exist())


def _write_place(transaction: Transaction, record: NewRecord) -> None:
    """An outlier finds its place in the graph."""
    event_id = record.event.event_id
    actions: list[Action] = [EventRecord.flags.set(record.flags) if record.flags else EventRecord.flags.remove()]
    if record.position is not None:
        actions.append(EventRecord.position.set(record.position))
    if record.offset:
        actions.append(EventRecord.offset.set(record.offset))
    if record.state_before is not None:
        actions.append(EventRecord.state_before.set(record.state_before))
    if record.state_after is not None and record.event.is_state:
        actions.append(EventRecord.state_after.set(record.state_after))
    actions.append(EventRecord.packed.set(pack(record.event.pdu)))
    transaction.update(f"event {event_id}", EventRecord(event_id), actions, EventRecord.flags.startswith("o"))
