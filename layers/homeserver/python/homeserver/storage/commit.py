"""The one door into a room: a single conditional transaction that appends events and moves the head.

Everything that is derived from a room (inboxes, memberships of others, federation) follows later from what is
committed here; see `docs/architecture.md`, "One commit, many followers".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from homeserver.matrix.event import Event
from homeserver.matrix.event_codec import pack
from homeserver.matrix.event_ids import pack_event_ids
from homeserver.observability import fault_point
from homeserver.storage.connection import Transaction
from homeserver.storage.inbox import Slot, take_slot
from homeserver.storage.inbox_shards import advance_request, slot_item_key
from homeserver.storage.room_items import (
    HEAD,
    ClientTransaction,
    EventRecord,
    Head,
    LocalMember,
    Membership,
    StateRow,
    TimelineEntry,
    bucket_of,
    state_key,
)

MAX_ITEMS = 90  # of the 100 that DynamoDB takes: room for what a service adds
MAX_BYTES = 3_000_000


@dataclass(frozen=True, slots=True)
class NewEntry:
    """One position of a commit: an event with its place in the graph, and what it replaced."""

    event: Event
    position: int
    room_root: bytes
    state_before: bytes
    state_after: bytes
    cover: bytes | None = None
    chain_item: str | None = None  # `chain/<chain>/<number>`, which must be free
    replaces: Event | None = None
    client_transaction: str | None = None


@dataclass(frozen=True, slots=True)
class NewState:
    """A row of the current state as it is to be; `replaced` is the event ID it must still have (None: no row)."""

    event: Event
    position: int
    cover: bytes | None
    replaced: str | None


@dataclass(frozen=True, slots=True)
class LocalChange:
    """What a local user becomes in the room. `acting`: the user did it, and must see it at once."""

    user_id: str
    membership: str
    event_id: str
    position: int
    slot: int | None
    new_slot: bool
    joined_since: int | None
    left_at: int | None
    acting: bool


@dataclass(frozen=True, slots=True)
class Redacted:
    """A committed event that loses its content: its pruned form, and every copy that there is of it."""

    event: Event
    position: int
    because: Event
    in_state: bool


@dataclass(slots=True)
class Commit:
    """Everything one transaction writes. `before` is the head it continues (None: a new room)."""

    before: Head | None
    after: Head
    entries: list[NewEntry] = field(default_factory=list)
    state: list[NewState] = field(default_factory=list)
    locals: list[LocalChange] = field(default_factory=list)
    redacted: list[Redacted] = field(default_factory=list)
    # State rows that authorised this commit, are not rewritten by it and are not named by the head
    relied_on: list[tuple[tuple[str, str], str]] = field(default_factory=list)
    client_transaction: ClientTransaction | None = None
    extras: Sequence[Callable[[Transaction], None]] = ()


def write_commit(commit: Commit) -> None:
    """Commit. Raises TransactionCancelled, and then nothing was written.

    The labels of its items: `head`, `event <id>`, `chain <id>`, `state`, `relied on`, `txn`, `slot <user>`.
    """
    transaction = Transaction()
    _write_head(transaction, commit)
    room_id = commit.after.room
    for entry in commit.entries:
        _write_entry(transaction, room_id, entry, int(commit.after.arrived))
    for state in commit.state:
        _write_state(transaction, room_id, state)
    for change in commit.locals:
        _write_local(transaction, room_id, change, commit.after)
    for redacted in commit.redacted:
        _prune(transaction, room_id, redacted)
    for key, event_id in commit.relied_on:
        transaction.check("relied on", StateRow, room_id, state_key(*key), StateRow.event_id == event_id)
    if commit.client_transaction is not None:
        absent = ClientTransaction.device.does_not_exist()
        transaction.put("txn", commit.client_transaction, absent)
    for extra in commit.extras:
        extra(transaction)
    fault_point("commit.before")
    transaction.commit()
    fault_point("commit.after")


def _write_head(transaction: Transaction, commit: Commit) -> None:
    after, before = commit.after, commit.before
    if before is None:
        transaction.put("head", after, Head.room.does_not_exist())
        return
    actions = [
        Head.version.set(after.version),
        Head.position.set(after.position),
        Head.extremities.set(after.extremities),
        Head.depth.set(after.depth),
        Head.arrived.set(after.arrived),
        Head.bumped.set(after.bumped),
    ]
    if after.root != before.root:
        actions += [
            Head.root.set(after.root),
            Head.rows_root.set(after.rows_root),
            Head.authorising.set(after.authorising),
            Head.state_position.set(after.state_position),
        ]
    if after.redaction_position != before.redaction_position:
        actions.append(Head.redaction_position.set(after.redaction_position))
    if after.local_members != before.local_members:
        actions.append(Head.local_members.set(after.local_members))
    transaction.update("head", Head(after.room, HEAD), actions, Head.version == before.version)


def _write_entry(transaction: Transaction, room_id: str, entry: NewEntry, arrived: int) -> None:
    event = entry.event
    packed = pack(event.pdu)
    line = TimelineEntry(
        bucket_of(room_id, entry.position),
        entry.position,
        event_id=event.event_id,
        packed=packed,
        room_root=entry.room_root,
        arrived=arrived,
        transaction=entry.client_transaction,
    )
    if entry.replaces is not None:
        line.replaces = entry.replaces.event_id
        line.previous = pack(entry.replaces.content)
    transaction.put(f"timeline {entry.position}", line)
    record = EventRecord(
        event.event_id,
        room=room_id,
        position=entry.position,
        prev=pack_event_ids(event.prev_event_ids),
        auth=pack_event_ids(event.auth_event_ids),
        depth=event.depth,
        state_before=entry.state_before,
    )
    if event.is_state:
        record.state_after = entry.state_after
        record.cover = entry.cover
        record.packed = packed
    transaction.put(f"event {event.event_id}", record, EventRecord.event_id.does_not_exist())
    if entry.chain_item is not None:
        item = EventRecord(entry.chain_item, at=event.event_id)
        transaction.put(f"chain {event.event_id}", item, EventRecord.event_id.does_not_exist())


def _write_state(transaction: Transaction, room_id: str, state: NewState) -> None:
    actions = [
        StateRow.event_id.set(state.event.event_id),
        StateRow.packed.set(pack(state.event.pdu)),
        StateRow.position.set(state.position),
        StateRow.cover.set(state.cover) if state.cover is not None else StateRow.cover.remove(),
    ]
    unchanged = StateRow.event_id.does_not_exist() if state.replaced is None else StateRow.event_id == state.replaced
    transaction.update("state", StateRow(room_id, state_key(*state.event.key)), actions, unchanged)


def _write_local(transaction: Transaction, room_id: str, change: LocalChange, head: Head) -> None:
    user_id = change.user_id
    actions = [
        LocalMember.membership.set(change.membership),
        LocalMember.event_id.set(change.event_id),
        LocalMember.position.set(change.position),
        LocalMember.forgotten.remove(),
    ]
    for attribute, value in (
        (LocalMember.slot, change.slot),
        (LocalMember.joined_since, change.joined_since),
        (LocalMember.left_at, change.left_at),
    ):
        actions.append(attribute.remove() if value is None else attribute.set(value))
    transaction.update(f"local {user_id}", LocalMember(room_id, f"local/{user_id}"), actions)
    if not change.acting:
        return
    transaction.update(
        f"membership {user_id}",
        Membership(user_id, room_id),
        [
            Membership.membership.set(change.membership),
            Membership.event_id.set(change.event_id),
            Membership.position.set(change.position),
        ],
    )
    if change.slot is None:
        return
    if change.new_slot:
        take_slot(transaction, user_id, change.slot)
        transaction.put(f"slot item {user_id}", Slot(f"{user_id}#slots", slot_item_key(change.slot), room=room_id))
    if change.membership == "join" or change.left_at == change.position:
        # Who joins sees everything that the same commit does, as when a room is made.
        position = int(head.position) if change.membership == "join" else change.position
        request = advance_request(user_id, change.slot, position, int(head.arrived))
        # Nobody else moves this slot past a position that is only being committed.
        transaction.update_raw(f"inbox {user_id}", request)


def _prune(transaction: Transaction, room_id: str, redacted: Redacted) -> None:
    packed = pack(redacted.event.pdu)
    event_id = redacted.event.event_id
    transaction.update(
        f"timeline {redacted.position}",
        TimelineEntry(bucket_of(room_id, redacted.position), redacted.position),
        [TimelineEntry.packed.set(packed), TimelineEntry.redacted_because.set(pack(_with_id(redacted.because)))],
        TimelineEntry.event_id == event_id,
    )
    if redacted.event.is_state:
        transaction.update(f"record {event_id}", EventRecord(event_id), [EventRecord.packed.set(packed)])
    if redacted.in_state:
        row = StateRow(room_id, state_key(*redacted.event.key))
        transaction.update("state", row, [StateRow.packed.set(packed)], StateRow.event_id == event_id)


def _with_id(event: Event) -> dict[str, object]:
    return {**event.pdu, "event_id": event.event_id}
