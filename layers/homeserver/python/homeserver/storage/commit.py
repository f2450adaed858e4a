"""The one door into a room: a single conditional transaction that appends events and moves the head.

Everything that is derived from a room (inboxes, memberships of others, federation) follows later from what is
committed here; see `docs/architecture.md`, "One commit, many followers".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pynamodb.expressions.update import Action

from homeserver.matrix.event import Event
from homeserver.matrix.event_codec import pack
from homeserver.observability import fault_point
from homeserver.storage.connection import Transaction
from homeserver.storage.event_records import NewRecord, write_record
from homeserver.storage.inbox import Slot, take_slot
from homeserver.storage.inbox_shards import advance_request, slot_item_key
from homeserver.storage.room_items import (
    HEAD,
    ClientTransaction,
    EventRecord,
    Head,
    LocalMember,
    Membership,
    RemoteServer,
    StateRow,
    TimelineEntry,
    bucket_of,
    line_of,
    state_key,
)

MAX_ITEMS = 90  # of the 100 that DynamoDB takes: room for what a service adds
MAX_BYTES = 3_000_000


@dataclass(frozen=True, slots=True)
class NewEntry:
    """One position of a commit: an event and what it replaced, or a marker (no record) where only the state moved."""

    position: int
    room_root: bytes
    record: NewRecord | None = None
    own_root: bytes | None = None  # the event's own state after it, where that is not the room's
    origin: str = "local"
    replaces: Event | None = None
    client_transaction: str | None = None
    redacted_because: Event | None = None
    is_hidden: bool = False  # clients are not shown the event (yet)
    gap: tuple[str, ...] = ()  # of an anchor: its parents that have no place here


@dataclass(frozen=True, slots=True)
class NewState:
    """A row of the current state as it is to be (no event: gone); `replaced` is the event ID it must still have."""

    key: tuple[str, str]
    event: Event | None
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
class NewMembership:
    """A user's row in MEMBERS, where the commit itself has to write it."""

    user_id: str
    membership: str
    event_id: str
    position: int


@dataclass(frozen=True, slots=True)
class ServerChange:
    """How many users of another server are joined; from which position the server is in the room, or when it left."""

    server: str
    members: int
    joined_since: int
    left_at: int | None


@dataclass(frozen=True, slots=True)
class Redacted:
    """An event that loses its content: its pruned form, and every copy of it. `position` None: it has no entry."""

    event: Event
    position: int | None
    because: Event
    in_state: bool
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Revealed:
    """A redaction that was hidden from clients until its target came: its entry shows it from now on."""

    event: Event
    position: int
    offset: int = 0


@dataclass(slots=True)
class Commit:
    """Everything one transaction writes. `before` is the head it continues (None: a new room)."""

    before: Head | None
    after: Head
    entries: list[NewEntry] = field(default_factory=list)
    records: list[NewRecord] = field(default_factory=list)  # of events without a position
    state: list[NewState] = field(default_factory=list)
    locals: list[LocalChange] = field(default_factory=list)
    servers: list[ServerChange] = field(default_factory=list)
    memberships: list[NewMembership] = field(default_factory=list)
    redacted: list[Redacted] = field(default_factory=list)
    revealed: list[Revealed] = field(default_factory=list)
    # `redacts/<event>` items with the redactions that wait there now
    waiting: list[tuple[str, list[str]]] = field(default_factory=list)
    # State rows that authorised this commit, are not rewritten by it and are not named by the head
    relied_on: list[tuple[tuple[str, str], str]] = field(default_factory=list)
    client_transaction: ClientTransaction | None = None
    extras: Sequence[Callable[[Transaction], None]] = ()


def write_commit(commit: Commit) -> None:
    """Commit. Raises TransactionCancelled, and then nothing was written.

    The labels of its items: `head`, `event <id>`, `chain <item>`, `state`, `relied on`, `txn`, `slot <user>`.
    """
    transaction = Transaction()
    # What has no place in the timeline and changes no copy of an event leaves the head as it is.
    if commit.entries or commit.redacted or any(not revealed.offset for revealed in commit.revealed):
        _write_head(transaction, commit)
    room_id = commit.after.room
    for entry in commit.entries:
        _write_entry(transaction, room_id, entry, int(commit.after.arrived))
    for record in commit.records:
        write_record(transaction, room_id, record)
    _write_rows(transaction, commit)
    for redacted in commit.redacted:
        _prune(transaction, room_id, redacted)
    for revealed in commit.revealed:
        _reveal(transaction, room_id, revealed)
    for item, redactions in commit.waiting:
        update = [EventRecord.waiting.set(redactions), EventRecord.room.set(room_id)]
        transaction.update("waiting", EventRecord(item), update)
        # What it waits for may come by a way that leaves the head alone (services.backfill).
        if target := item.partition("/")[2]:
            transaction.check("awaited", EventRecord, target, None, EventRecord.event_id.does_not_exist())
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


def write_rows(commit: Commit) -> None:
    """Bring rows along with a state that was committed before: no position, only rows, counts and `rows_root`.

    Raises TransactionCancelled, and then nothing was written.
    """
    if commit.before is None:
        raise ValueError("rows follow a room that exists")
    transaction = Transaction()
    after, before = commit.after, commit.before
    actions = [
        Head.version.set(after.version),
        Head.rows_root.set(after.rows_root),
        Head.local_members.set(after.local_members),
        Head.remote_servers.set(after.remote_servers),
    ]
    transaction.update("head", Head(after.room, HEAD), actions, Head.version == before.version)
    _write_rows(transaction, commit)
    fault_point("rows.before")
    transaction.commit()
    fault_point("rows.after")


def _write_rows(transaction: Transaction, commit: Commit) -> None:
    room_id = commit.after.room
    for state in commit.state:
        _write_state(transaction, room_id, state)
    for local in commit.locals:
        _write_local(transaction, room_id, local, commit.after)
    for server in commit.servers:
        _write_server(transaction, room_id, server)
    for membership in commit.memberships:
        _write_membership(transaction, room_id, membership)


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
    if after.root != before.root or after.rows_root != before.rows_root:
        actions += [
            Head.root.set(after.root),
            Head.rows_root.set(after.rows_root),
            Head.authorising.set(after.authorising),
            Head.state_position.set(after.state_position),
        ]
    if after.redaction_position != before.redaction_position:
        actions.append(Head.redaction_position.set(after.redaction_position))
    if int(after.aggregate_position) > int(before.aggregate_position):
        actions.append(Head.aggregate_position.set(after.aggregate_position))
    if after.local_members != before.local_members:
        actions.append(Head.local_members.set(after.local_members))
    if after.remote_servers != before.remote_servers:
        actions.append(Head.remote_servers.set(after.remote_servers))
    if after.federated_since != before.federated_since:
        actions.append(Head.federated_since.set(after.federated_since))
    if after.rows_late_since != before.rows_late_since:
        actions.append(Head.rows_late_since.set(after.rows_late_since))
    if (after.kind, after.room_version) != (before.kind, before.room_version):
        # This server enters a room that it knew from the outside.
        actions += [Head.kind.set(after.kind), Head.room_version.set(after.room_version)]
    if before.lease_holder is not None:
        actions += [Head.lease_holder.remove(), Head.lease_until.remove()]
    transaction.update("head", Head(after.room, HEAD), actions, Head.version == before.version)


def _write_entry(transaction: Transaction, room_id: str, entry: NewEntry, arrived: int) -> None:
    line = TimelineEntry(
        bucket_of(room_id, entry.position),
        entry.position,
        room_root=entry.room_root,
        own_root=entry.own_root,
        origin=entry.origin,
        arrived=arrived,
        transaction=entry.client_transaction,
    )
    record = entry.record
    if record is not None:
        line.event_id = record.event.event_id
        if not entry.is_hidden:
            line.packed = pack(record.event.pdu)
        if entry.redacted_because is not None:
            line.redacted_because = pack(_with_id(entry.redacted_because))
        write_record(transaction, room_id, record)
    if entry.gap:
        line.gap = list(entry.gap)
    if entry.replaces is not None:
        line.replaces = entry.replaces.event_id
        line.previous = pack(entry.replaces.content)
    transaction.put(f"timeline {entry.position}", line)


def _write_state(transaction: Transaction, room_id: str, state: NewState) -> None:
    row = StateRow(room_id, state_key(*state.key))
    unchanged = StateRow.event_id.does_not_exist() if state.replaced is None else StateRow.event_id == state.replaced
    if state.event is None:
        transaction.delete("state", row, unchanged)
        return
    actions = [
        StateRow.event_id.set(state.event.event_id),
        StateRow.packed.set(pack(state.event.pdu)),
        StateRow.position.set(state.position),
        StateRow.cover.set(state.cover) if state.cover is not None else StateRow.cover.remove(),
    ]
    transaction.update("state", row, actions, unchanged)


def _write_server(transaction: Transaction, room_id: str, change: ServerChange) -> None:
    actions: list[Action] = [
        RemoteServer.members.set(change.members),
        RemoteServer.joined_since.set(change.joined_since),
        RemoteServer.left_at.remove() if change.left_at is None else RemoteServer.left_at.set(change.left_at),
    ]
    transaction.update(f"server {change.server}", RemoteServer(room_id, f"server/{change.server}"), actions)


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
    if change.acting:
        _write_membership(
            transaction, room_id, NewMembership(user_id, change.membership, change.event_id, change.position)
        )
    if change.slot is None:
        return
    if change.new_slot:
        take_slot(transaction, user_id, change.slot)
        transaction.put(f"slot item {user_id}", Slot(f"{user_id}#slots", slot_item_key(change.slot), room=room_id))
    if change.acting and (change.membership == "join" or change.left_at == change.position):
        # Who joins sees everything that the same commit does, as when a room is made.
        position = int(head.position) if change.membership == "join" else change.position
        request = advance_request(user_id, change.slot, position, int(head.arrived))
        # Nobody else moves this slot past a position that is only being committed.
        transaction.update_raw(f"inbox {user_id}", request)


def _write_membership(transaction: Transaction, room_id: str, row: NewMembership) -> None:
    actions = [
        Membership.membership.set(row.membership),
        Membership.event_id.set(row.event_id),
        Membership.position.set(row.position),
    ]
    transaction.update(f"membership {row.user_id}", Membership(row.user_id, room_id), actions)


def _prune(transaction: Transaction, room_id: str, redacted: Redacted) -> None:
    packed = pack(redacted.event.pdu)
    event_id = redacted.event.event_id
    if redacted.position is not None:
        transaction.update(
            f"timeline {redacted.position}",
            TimelineEntry(*line_of(room_id, redacted.position, redacted.offset)),
            [TimelineEntry.packed.set(packed), TimelineEntry.redacted_because.set(pack(_with_id(redacted.because)))],
            TimelineEntry.event_id == event_id,
        )
    if redacted.event.is_state or redacted.position is None:
        pruning = [EventRecord.packed.set(packed), EventRecord.relates.remove()]
        transaction.update(f"record {event_id}", EventRecord(event_id), pruning)
    if redacted.in_state:
        row = StateRow(room_id, state_key(*redacted.event.key))
        transaction.update("state", row, [StateRow.packed.set(packed)], StateRow.event_id == event_id)


def _reveal(transaction: Transaction, room_id: str, revealed: Revealed) -> None:
    event, position = revealed.event, revealed.position
    line = TimelineEntry(*line_of(room_id, position, revealed.offset))
    transaction.update(f"timeline {position}", line, [TimelineEntry.packed.set(pack(event.pdu))])
    transaction.update(f"record {event.event_id}", EventRecord(event.event_id), [EventRecord.flags.remove()])


def _with_id(event: Event) -> dict[str, object]:
    return {**event.pdu, "event_id": event.event_id}
