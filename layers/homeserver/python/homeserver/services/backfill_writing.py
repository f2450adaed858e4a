"""Writing a page of history: newest first, in transactions each of which takes offsets and moves the anchor's gap on.

A transaction goes by the anchor as it was read, so that of two writers one comes too late; and by the room's version,
so that a redaction that comes at the same time either finds the event that it redacts or is found by it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.relations import relation_of
from homeserver.matrix.timeline_place import place_number
from homeserver.observability import fault_point
from homeserver.services.attempts import attempts
from homeserver.services.backfill_judging import Judged
from homeserver.services.backfilled_relations import adopt, children_of
from homeserver.services.clock import now_ms
from homeserver.services.received_batch import CREATE
from homeserver.services.received_redactions import (
    WAITING,
    Effect,
    effect_of_redaction,
    redaction_of_late_event,
    waiting_item,
)
from homeserver.services.relationships import keys_to_read, relate
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.storage.backfilled_timeline import move_gap, write_backfilled
from homeserver.storage.commit import MAX_ITEMS
from homeserver.storage.connection import Key, Transaction, in_parallel
from homeserver.storage.event_records import NewRecord, write_record
from homeserver.storage.relations import Child
from homeserver.storage.room_items import HEAD, EventRecord, Head
from homeserver.storage.rooms import RoomView, load_room
from homeserver.storage.timeline import Entry, read_entry

_ITEMS_OF_AN_EVENT = 3  # with what it relates to
_RESERVED = 15  # items: of a redaction or of an event with children, the anchor and the head
_MOST_EVENTS = (MAX_ITEMS - _RESERVED) // _ITEMS_OF_AN_EVENT
_MAX_BYTES = 2_500_000

GapAfter = Callable[[Sequence[Event]], list[str]]


def write_page(view: RoomView, anchor: Entry, judged: Sequence[Judged], gap_after: GapAfter) -> int:
    """Write events before an anchor, newest first; returns how many were written.

    `gap_after` says what is to be fetched next once the first so many of them are there. With no events only the gap
    moves. Fewer are written than there are where somebody else wrote before the same anchor, or one of the events came
    by another way.
    """
    written = 0
    while True:
        chunk = _Chunk(view, anchor, judged[written:])
        for _ in attempts("The room"):
            if not chunk.read():
                return written
            count = chunk.fill()
            gap = gap_after([one.event for one in judged[: written + count]])
            if not count and tuple(gap) == anchor.gap:
                return written
            try:
                chunk.commit(gap)
            except Raced:
                continue
            break
        written += count
        anchor = chunk.anchor_after(gap)
        if written >= len(judged):
            return written


class _Chunk:
    """The events of one transaction: as many of those left as fit."""

    def __init__(self, view: RoomView, anchor: Entry, judged: Sequence[Judged]) -> None:
        self._view, self._anchor, self._judged = view, anchor, judged[:_MOST_EVENTS]
        self._found: Mapping[Key, Any] = {}
        self._children: Mapping[str, Sequence[Child]] = {}
        self._is_first_try = True
        self._offset = -anchor.backfilled

    def read(self) -> bool:
        """Read what the transaction goes by; false if another one came before, after which nothing fits any more."""
        room_id = self._view.room_id
        if not self._is_first_try:
            entry = read_entry(room_id, self._anchor.position)
            if entry is None or entry.gap != self._anchor.gap or entry.backfilled != self._anchor.backfilled:
                return False
        self._is_first_try = False
        ids = [one.event.event_id for one in self._judged]
        redacted = [one.event.redacts for one in self._judged if _redacts(one.event)]
        keys: list[Key] = [(EventRecord, i, None) for i in (*ids, *redacted) if i]
        keys += [(EventRecord, waiting_item(i), None) for i in (*ids, *redacted) if i]
        for one in self._judged:
            keys += keys_to_read(room_id, EventDraft(one.event.type, one.event.content), one.event.sender)
        (view, self._found), self._children = in_parallel(
            partial(load_room, room_id, [CREATE], extras=list(dict.fromkeys(keys))), partial(children_of, room_id, ids)
        )
        if view is None:
            return False
        self._view = view
        return not any(self._is_there(event_id) for event_id in ids)

    def _is_there(self, event_id: str) -> bool:
        record = self._found.get((EventRecord, event_id, None))
        return record is not None and record.room is not None and record.state_before is not None

    def fill(self) -> int:
        """Put events into the transaction; how many there are."""
        self._draft = RoomDraft(self._view, self._view.rules)
        self._writes: list[Callable[[Transaction], None]] = []
        self._ids: set[str] = set()
        self._parents: set[str] = set()  # what the events of the transaction relate to
        self._offset = -self._anchor.backfilled
        size = count = 0
        for one in self._judged:
            if count and (size > _MAX_BYTES or self._must_wait(one.event)):
                break
            if not one.is_skipped:
                self._place(one)
                self._ids.add(one.event.event_id)
            size += 2 * len(repr(one.event.pdu))
            count += 1
            if self._draft.changes_copies or one.event.event_id in self._children:
                break
        return count

    def _must_wait(self, event: Event) -> bool:
        """Whether an event needs what the transaction has so far to be written first."""
        if waiting_item(event.event_id) in self._draft.waiting:
            return True
        if event.event_id in self._parents or event.event_id in self._children:
            return True
        relation = relation_of(event.content)
        if relation is not None and (relation.parent in self._parents or self._is_there(relation.parent)):
            return True
        if not _redacts(event):
            # One that is redacted already reveals the redaction.
            return (EventRecord, waiting_item(event.event_id), None) in self._found
        target = self._found.get((EventRecord, event.redacts, None))
        return (
            target is not None or event.redacts in self._ids or waiting_item(event.redacts or "") in self._draft.waiting
        )

    def _place(self, one: Judged) -> None:
        event, room_id = one.event, self._view.room_id
        record = self._found.get((EventRecord, event.event_id, None))
        is_known = record is not None and record.room is not None
        if one.is_refused:
            refused = NewRecord(
                event, "r", state_before=one.before, state_after=one.before, keeps_body=True, was_outlier=is_known
            )
            self._writes.append(partial(write_record, room_id=room_id, record=refused))
            return
        because: Mapping[str, Any] | None = None
        is_hidden = False
        if _redacts(event):
            state = AuthState(self._state_at(one.before, _power_keys(event)))
            is_hidden = effect_of_redaction(self._draft, self._view, event, state, self._found) is Effect.HIDDEN
        if record is not None and is_known and record.packed is not None:
            # It may have been redacted while it was an outlier.
            stored = Event(event.event_id, room_id, unpack(record.packed), event.rules)
            because = stored.pdu.get("unsigned", {}).get("redacted_because")
            event = stored if because is not None else event
        waiting = self._found.get((EventRecord, waiting_item(event.event_id), None))
        if because is None and waiting is not None and waiting.waiting:
            ids = list(waiting.waiting)[:WAITING]
            redaction, event = redaction_of_late_event(self._draft, event, ids, self._state_at)
            because = {**redaction.pdu, "event_id": redaction.event_id} if redaction is not None else None
        self._offset -= 1
        replaces = None
        if event.is_state:
            replaces = state_tree.get_many(self._draft.nodes, one.before, [event.key]).get(event.key)
        new = NewRecord(
            event,
            "h" if is_hidden else "",
            position=self._anchor.position,
            offset=self._offset,
            state_before=one.before,
            state_after=one.after,
            keeps_body=is_hidden,
            was_outlier=is_known,
        )
        write = partial(write_backfilled, room_id=room_id, record=new, arrived=now_ms(), replaces=replaces)
        self._writes.append(partial(write, redacted_because=because))
        number = place_number(self._anchor.position, self._offset)
        if (relation := relation_of(event.content)) is not None and not is_hidden:
            self._parents.add(relation.parent)
            # A relationship that cannot be forms nothing; the event stands.
            with suppress(MatrixError):
                relate(self._draft, event, self._found, number)
        if event.event_id in self._children:
            adopt(self._draft, event, number, self._children[event.event_id])

    def _state_at(self, root: bytes, keys: Any) -> dict[tuple[str, str], Event]:
        ids = state_tree.get_many(self._draft.nodes, root, keys)
        entries = self._draft.entries(ids.values())
        return {key: entries[event_id].event for key, event_id in ids.items()}

    def commit(self, gap: list[str]) -> None:
        """Write. Raises Raced."""
        room_id, head = self._view.room_id, self._view.head
        if self._draft.changes_copies:
            self._draft.mark()
        else:
            self._draft.extras.append(
                lambda transaction: transaction.check("head", Head, room_id, HEAD, Head.version == head.version)
            )
        backfilled = -self._offset
        self._draft.extras += self._writes
        self._draft.extras.append(
            lambda transaction: move_gap(transaction, room_id, self._anchor, gap=gap, backfilled=backfilled)
        )
        fault_point("backfill.before_commit")
        self._draft.commit()
        fault_point("backfill.committed")

    def anchor_after(self, gap: list[str]) -> Entry:
        """The anchor as this transaction left it."""
        return replace(self._anchor, gap=tuple(gap), backfilled=-self._offset)


def _redacts(event: Event) -> bool:
    return event.type == "m.room.redaction" and bool(event.redacts)


def _power_keys(event: Event) -> list[tuple[str, str]]:
    return [CREATE, ("m.room.power_levels", ""), ("m.room.member", event.sender)]
