"""What a redaction finds, who may make it, and which copies of the event it has to prune.

Source: client-server API v1.19, "Redactions"; server-server API, "Handling redactions".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pynamodb.expressions.update import Action

from homeserver.matrix import state_tree
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, may_redact
from homeserver.matrix.event_codec import pack, unpack
from homeserver.matrix.redaction import redact_event
from homeserver.services.room_draft import RoomDraft
from homeserver.services.search_index import SEARCHED
from homeserver.storage.connection import Key, Transaction, batch_get
from homeserver.storage.room_items import EventRecord, StateRow, TimelineEntry, line_of, state_key
from homeserver.storage.rooms import RoomView, StateEntry, entry_of_row
from homeserver.storage.search_index import bucket_number, forget_bucket
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import read_entry

# Without these a room, or what protects it, would no longer work.
_NEVER_REDACTED = frozenset({"m.room.create", "m.room.server_acl"})

Pruning = Callable[[Transaction], None]


@dataclass(frozen=True, slots=True)
class Target:
    """An event that is to be redacted, as it is stored now."""

    event: Event
    position: int
    is_redacted: bool
    offset: int = 0


def read_target(view: RoomView, record: EventRecord) -> Target:
    """The event of a record of this room, in one round; its row of the current state, if any, goes into the view."""
    room_id, position, offset = view.room_id, int(record.position or 0), int(record.offset or 0)
    line_key: Key = (TimelineEntry, *line_of(room_id, position, offset))
    row_key: Key | None = None
    if record.packed is not None:  # only state events have their body there
        pdu = unpack(record.packed)
        row_key = (StateRow, room_id, state_key(pdu["type"], pdu["state_key"]))
    found = batch_get([line_key, *([row_key] if row_key else [])], consistent=True)
    line: TimelineEntry = found[line_key]
    event = Event(record.event_id, room_id, unpack(line.packed or b""), view.rules)
    # A row that is newer than the head does no harm: the commit depends on the head's version.
    if row_key is not None and row_key in found and event.key not in view.state:
        view.state[event.key] = entry_of_row(found[row_key], view.rules)
    return Target(event, position, line.redacted_because is not None, offset)


def check_redaction(redaction: Event, target: Event, state: AuthState) -> None:
    """Raises Forbidden unless the sender sent the event too, or has the redact level.

    The rules of the room versions let a *server* redact what it sent; which of its users may is for it to say.
    """
    if target.type in _NEVER_REDACTED:
        raise Forbidden(f"{target.type} cannot be redacted.")
    levels = state.power_levels
    has_level = levels.user_level(redaction.sender) >= levels.redact
    if not may_redact(redaction, target, state) or not (has_level or target.sender == redaction.sender):
        raise Forbidden("You may not redact this event.")


def pruned_event(target: Event, redaction: Event) -> Event:
    """What is left of an event. A state event, which is also read without its timeline entry, says why."""
    pruned = redact_event(target)
    if not target.is_state:
        return pruned
    because = {**redaction.pdu, "event_id": redaction.event_id}
    return replace(pruned, pdu={**pruned.pdu, "unsigned": {"redacted_because": because}})


def prunings_elsewhere(room: RoomDraft, view: RoomView, target: Target) -> list[Pruning]:
    """What the commit must prune of other events that quote the event, and of the search index. `view` as read."""
    event = target.event
    pruned: list[Pruning] = []
    # A bucket of the timeline is indexed when it is complete, and not before.
    is_indexed = not target.offset and bucket_number(target.position) < bucket_number(int(view.head.position) + 1)
    if event.type in SEARCHED and is_indexed:
        pruned.append(partial(forget_bucket, room_id=view.room_id, position=target.position))
    if event.is_state:
        current = view.state.get(event.key)
        if current is None or current.event != event:
            # The event that replaced it shows its content as `prev_content`.
            replaced_at = _replaced_at(view, target)
            if replaced_at is not None:
                pruned.append(_update(view, replaced_at, TimelineEntry.previous.remove()))
    elif event.type == "m.room.redaction":
        pruned += _because(room, view, event)
    return pruned


def _update(view: RoomView, position: int, *actions: Action, offset: int = 0) -> Pruning:
    line = TimelineEntry(*line_of(view.room_id, position, offset))
    return lambda transaction: transaction.update(f"timeline {position}", line, actions)


def _replaced_at(view: RoomView, target: Target) -> int | None:
    """The position at which a state event left the current state: a binary search over the roots of the room.

    None for a backfilled event that was not part of it any more where its anchor is.
    """
    low, high = target.position, int(view.head.position)
    if target.offset and not _held_at(view, low, target):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _held_at(view, middle, target) else (low, middle)
    return high


def _held_at(view: RoomView, position: int, target: Target) -> bool:
    """Whether the event was part of the room's state after a position."""
    entry = read_entry(view.room_id, position)
    if entry is None:
        raise LookupError(f"position {position} of {view.room_id} is missing")
    key = target.event.key
    return state_tree.get_many(StateNodes(view.room_id), entry.room_root, [key]).get(key) == target.event.event_id


def _read(key: Key) -> Any:
    return batch_get([key], consistent=True).get(key)


def _because(room: RoomDraft, view: RoomView, redaction: Event) -> list[Pruning]:
    """The event that a redaction redacted shows it as `redacted_because`."""
    room_id = view.room_id
    record: EventRecord | None = _read((EventRecord, redaction.redacts, None)) if redaction.redacts else None
    if record is None or record.room != room_id or record.position is None:
        return []
    position, offset = int(record.position), int(record.offset or 0)
    entry = read_entry(room_id, position, offset)
    shown = entry.redacted_because if entry is not None else None
    if shown is None or shown["event_id"] != redaction.event_id:
        return []
    pruned = {**redact_event(redaction).pdu, "event_id": redaction.event_id}
    quotation = TimelineEntry.redacted_because.set(pack(pruned))
    if record.packed is None:
        return [_update(view, position, quotation, offset=offset)]
    event = Event(record.event_id, room_id, unpack(record.packed), view.rules)
    event = replace(event, pdu={**event.pdu, "unsigned": {"redacted_because": pruned}})
    packed = pack(event.pdu)

    def prune_state(transaction: Transaction) -> None:
        transaction.update("record", EventRecord(event.event_id), [EventRecord.packed.set(packed)])
        if row is not None and row.event_id == event.event_id:
            transaction.update("state", row, [StateRow.packed.set(packed)], StateRow.event_id == event.event_id)

    row: StateRow | None = _read((StateRow, room_id, state_key(*event.key)))
    current = room.state.get(event.key)
    if current is not None and current.event == event:
        room.state[event.key] = StateEntry(event, current.position, current.cover)
    return [_update(view, position, quotation, TimelineEntry.packed.set(packed), offset=offset), prune_state]
