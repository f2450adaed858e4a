"""What a commit changes in a room: positions, the state with its rows, and the head.

Events come with their own state and with the state that the room has with them. Where the room's state changes by more
than the event itself says, as forks resolve to it, that has a position of its own before the event's: a marker.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from homeserver.matrix import state_tree
from homeserver.matrix.canonical_json import encode_for_room
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState
from homeserver.matrix.event_format import MAX_EVENT_BYTES
from homeserver.matrix.policy_server import POLICY
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.services.clock import now_ms
from homeserver.services.room_placement import BUMPING_TYPES, LETTERS, Changes, Placement, Raced, edges_of
from homeserver.services.room_rows import RoomRows, is_local, is_remote
from homeserver.storage.auth_events import KnownEvent, remember_taken
from homeserver.storage.commit import (
    MAX_BYTES,
    MAX_ITEMS,
    Commit,
    NewEntry,
    Redacted,
    Revealed,
    write_commit,
)
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.event_records import NewRecord
from homeserver.storage.inbox import Counters
from homeserver.storage.room_items import HEAD, ClientTransaction, Head, LocalMember
from homeserver.storage.room_lease import wait_for_lease
from homeserver.storage.rooms import RoomView, StateEntry, fetch_state_events, remember
from homeserver.storage.state_nodes import StateNodes

StateKey = tuple[str, str]
MOST_ROWS = 20  # keys of the state that one event may change with their rows; beyond it the rows follow later
# Timeline entry, record, state row, chain item; for a member also the five rows of a LocalChange.
_MOST_ITEMS_OF_AN_EVENT = 9


class RoomChanges:
    """Events to be committed to one room, and the state of the room after them.

    `view` is the room as read; `counters` are the inbox counters of users who join. `lease_holder` is who may commit
    although the room is leased to them.
    """

    def __init__(
        self,
        view: RoomView | None,
        rules: RoomVersionRules,
        *,
        room_id: str | None = None,
        counters: Mapping[str, Counters | None] | None = None,
        lease_holder: str | None = None,
    ) -> None:
        self.view = view
        self.rules = rules
        self.room_id = view.room_id if view else room_id
        self.state: dict[StateKey, StateEntry] = dict(view.state) if view else {}
        self.locals: dict[str, LocalMember] = dict(view.locals) if view else {}
        self.client_transaction: ClientTransaction | None = None
        self.extras: list[Callable[[Transaction], None]] = []
        self.changes_aggregates = False  # the extras change what is kept of the events that relate to another
        self.nodes = StateNodes(self.room_id or "")
        self.rows = RoomRows(self.room_id, view.head if view else None, self.locals, counters)
        self.root = bytes(view.head.root) if view else state_tree.EMPTY_ROOT
        self.extremities = edges_of(view.head) if view else []
        self.pending: dict[str, KnownEvent] = {}  # state events that are only being committed
        self._counters = counters
        self._lease_holder = lease_holder
        self._now = now_ms()
        self._entries: list[NewEntry] = []
        self._records: list[NewRecord] = []
        self._relied_on: dict[StateKey, str] = {}
        self._redacted: list[Redacted] = []
        self._revealed: list[Revealed] = []
        self.waiting: dict[str, list[str]] = {}  # by item, the redactions that wait for an event
        self._authorising: dict[str, str] = dict(view.head.authorising) if view else {}
        self._position = self._start
        self._state_position = int(view.head.state_position) if view else 0
        self._bytes = 0
        self._depth = int(view.head.depth) if view else 0
        self._rows_root = bytes(view.head.rows_root) if view else self.root
        self._own_roots: dict[str, bytes] = {}  # the states after extremities, as far as they were needed
        self._bumped = int(view.head.bumped) if view else self._now
        self._known: dict[str, StateEntry] = {entry.event.event_id: entry for entry in self.state.values()}
        self._rows_lag = False  # they did not follow something that this draft did

    @property
    def events(self) -> list[Event]:
        """The events added so far."""
        return [entry.record.event for entry in self._entries if entry.record is not None]

    @property
    def position(self) -> int:
        """The last position of the room, with what was added."""
        return self._position

    @property
    def is_full(self) -> bool:
        """Whether another event might not fit into the same transaction."""
        others = len(self._relied_on) + 3 * len(self._redacted) + 2 * (len(self._revealed) + len(self.waiting))
        items = 1 + 3 * len(self._entries) + 2 * len(self._records) + len(self.rows) + others
        too_many = items + _MOST_ITEMS_OF_AN_EVENT > MAX_ITEMS
        return too_many or self._rows_lag or self._bytes > MAX_BYTES - MAX_EVENT_BYTES

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self._entries or self._records)

    @property
    def has_policy(self) -> bool:
        """Whether the room names a policy server."""
        return LETTERS[POLICY] in self._authorising

    @property
    def changes_policy(self) -> bool:
        """Whether what was added lets the room name another policy server, or none: then that must be committed."""
        before = self.view.head.authorising if self.view else {}
        return self._authorising.get(LETTERS[POLICY]) != before.get(LETTERS[POLICY])

    @property
    def _start(self) -> int:
        return int(self.view.head.position) if self.view else 0

    def auth_state(self) -> AuthState:
        """The state after the events added so far, as far as it was loaded."""
        return AuthState({key: entry.event for key, entry in self.state.items()})

    def place(self, event: Event, placement: Placement) -> None:
        """Add an event of another server, which was authorised, where it belongs."""
        record = NewRecord(
            event,
            "h" if placement.is_hidden else "",
            state_before=placement.before,
            state_after=placement.after,
            cover=placement.cover,
            chain_item=placement.chain_item,
            keeps_body=placement.is_hidden,
            was_outlier=placement.was_outlier,
        )
        self.know(event, placement.cover)
        changes = state_tree.diff(self.nodes, self.root, placement.room_root)
        self._enter(record, placement.room_root, changes, placement, origin=placement.origin)
        self.extremities = list(placement.extremities)
        self._own_roots[event.event_id] = placement.after

    def know(self, event: Event, cover: bytes | None) -> None:
        """Take up a state event that is being committed, so that the state can name it."""
        if event.is_state:
            self._known[event.event_id] = StateEntry(event, self._position + 1, cover)
            self.pending[event.event_id] = KnownEvent(event.room_id, "", event, cover)

    def keep(self, record: NewRecord) -> None:
        """Keep an event that was rejected or soft-failed: it has its place in the graph, and none in the timeline."""
        self._records.append(record)
        self._bytes += len(encode_for_room(record.event.pdu, self.rules))

    def redact(self, target: Event, position: int | None, because: Event, pruned: Event, *, offset: int = 0) -> None:
        """Let the commit prune every copy of a committed event, its state row too if the state was loaded.

        `position` and `offset` are its place; None where it has none.
        """
        entry = self.state.get(target.key) if target.is_state else None
        in_state = entry is not None and entry.event == target and self._has_row(target)
        self._redacted.append(Redacted(pruned, position, because, in_state, offset))
        if in_state and entry is not None:
            # The row keeps its event, without what was redacted.
            self.state[target.key] = StateEntry(pruned, entry.position, entry.cover)

    @property
    def changes_copies(self) -> bool:
        """Whether something changes that readers may keep: copies of events, or what relates to them."""
        is_revealed = any(not revealed.offset for revealed in self._revealed)
        return bool(self._redacted) or is_revealed or self.changes_aggregates

    def mark(self) -> None:
        """Take a position without an event: where only copies of events change, what caches go by has to move too."""
        self._position += 1
        self._entries.append(NewEntry(self._position, self.root, origin="remote"))

    def reveal(self, redaction: Event, position: int, offset: int = 0) -> None:
        """Let clients see a redaction that was hidden until what it redacts came."""
        self._revealed.append(Revealed(redaction, position, offset))

    def entries(self, event_ids: Iterable[str]) -> dict[str, StateEntry]:
        """State events by ID, read as they are stored now where the draft does not have them: at most one round."""
        wanted = list(event_ids)
        missing = [event_id for event_id in wanted if event_id not in self._known]
        if missing:
            self._known |= fetch_state_events(self.room_id or "", missing, self.rules, consistent=True)
        return {event_id: self._known[event_id] for event_id in wanted}

    def commit(self) -> None:
        """Write everything in one transaction. Raises Raced if another commit came first."""
        if self.room_id is None:
            raise ValueError("a draft without events cannot be committed")
        if self.view is not None and wait_for_lease(self.view.head, self._lease_holder):
            raise Raced
        self.nodes.write()
        after = self._head(self.room_id)
        try:
            write_commit(
                Commit(
                    before=self.view.head if self.view else None,
                    after=after,
                    entries=self._entries,
                    records=self._records,
                    state=list(self.rows.state.values()),
                    locals=list(self.rows.locals.values()),
                    servers=list(self.rows.servers.values()),
                    memberships=list(self.rows.memberships.values()),
                    redacted=self._redacted,
                    revealed=self._revealed,
                    waiting=list(self.waiting.items()),
                    relied_on=[(k, i) for k, i in self._relied_on.items() if k not in self.rows.state],
                    client_transaction=self.client_transaction,
                    extras=self.extras,
                )
            )
        except TransactionCancelled as error:
            # Coordinates that another event has will not become free: the next try begins a chain of its own.
            remember_taken(error)
            raise Raced from error
        # After a redaction nothing that was remembered before counts any more.
        kept = self.state if self._redacted else {k: self.state[k] for k in self.rows.state if k in self.state}
        remember(self.room_id, kept, int(after.redaction_position))

    def _has_row(self, event: Event) -> bool:
        """Whether the row of an event's key shows it, and goes on to show it."""
        if event.key in self.rows.state:
            return False
        if self._rows_root == self.root:
            return True
        return state_tree.get_many(self.nodes, self._rows_root, [event.key]).get(event.key) == event.event_id

    def _enter(
        self,
        record: NewRecord,
        root: bytes,
        changes: Changes,
        placement: Placement,
        *,
        origin: str,
        client_transaction: str | None = None,
    ) -> None:
        """Give the event its position, and before it one to what changes beside it."""
        event = record.event
        own = event.is_state and changes.get(event.key, (None, None))[1] == event.event_id
        beside = {key: change for key, change in changes.items() if not (own and key == event.key)}
        replaced: StateEntry | None = None
        if own and (old_id := changes[event.key][0]) is not None:
            replaced = self.entries([old_id])[old_id]
        if beside:
            between = root
            if own:
                update = state_tree.update(self.nodes, root, {event.key: changes[event.key][0]})
                self.nodes.add(update.new_nodes)
                between = update.root
            self._position += 1
            self._entries.append(NewEntry(self._position, between, origin=origin))
        self._position += 1
        acting = origin == "local"
        self._change_rows(root, changes, event if own else None, acting=acting)
        self._entries.append(
            NewEntry(
                self._position,
                root,
                record=_at(record, self._position),
                own_root=placement.after if placement.after != root else None,
                origin=origin,
                replaces=replaced.event if replaced else None,
                client_transaction=client_transaction,
                redacted_because=placement.redacted_because,
                is_hidden=placement.is_hidden,
                gap=tuple(placement.gap),
            )
        )
        self.root = root
        if changes:
            self._state_position = self._position
        self._depth = max(self._depth, event.depth)
        # A state event is stored three times: in the timeline, with its record, and as current state.
        self._bytes += (3 if event.is_state else 1) * len(encode_for_room(event.pdu, self.rules))
        if event.type in BUMPING_TYPES and not placement.is_hidden:
            self._bumped = self._now

    def _change_rows(
        self,
        root: bytes,
        changes: Changes,
        own: Event | None,
        *,
        acting: bool,
    ) -> None:
        """Let the rows follow a change of the state, unless there are too many; `own`: the event says so itself.

        Where a local event merges forks (`acting`), only its own row: the functions of clients need no rights to more.
        What local users did themselves they see at once, also where another server let them do it.
        """
        acts = own is not None and own.state_key == own.sender and (acting or is_local(own.sender))
        for key, (_, new_id) in changes.items():
            if key in LETTERS:
                self._authorising.pop(LETTERS[key], None)
                if new_id is not None:
                    self._authorising[LETTERS[key]] = new_id
        if not changes:
            return
        in_step = self._rows_root == self.root
        if len(changes) > (1 if acting else MOST_ROWS):
            self._rows_lag, in_step = True, False
            for key in changes:
                self.state.pop(key, None)
            changes = {own.key: changes[own.key]} if own is not None and (acting or acts) else {}
        shown_ids = {key: old for key, (old, _) in changes.items() if old is not None}
        if not in_step:
            shown_ids = state_tree.get_many(self.nodes, self._rows_root, changes)
        new_ids = {key: new for key, (_, new) in changes.items()}
        entries = self.entries([*shown_ids.values(), *(i for i in new_ids.values() if i is not None)])
        if not acting:
            self.rows.read([key[1] for key in changes if key[0] == "m.room.member"])
        for key, new_id in new_ids.items():
            entry = entries[new_id] if new_id is not None else None
            is_own = own is not None and own.key == key
            position = self._position if is_own else self._position - 1
            if entry is not None:
                entry = self.state[key] = StateEntry(entry.event, position, entry.cover)
            else:
                self.state.pop(key, None)
            self.rows.change(
                key,
                entries[shown_ids[key]].event if key in shown_ids else None,
                entry,
                position,
                acting=acts and is_own,
                unannounced=not is_own,
            )
        if in_step:
            self._rows_root = root
        else:
            update = state_tree.update(self.nodes, self._rows_root, new_ids)
            self.nodes.add(update.new_nodes)
            self._rows_root = update.root

    def _head(self, room_id: str) -> Head:
        before = self.view.head if self.view else None
        return Head(
            room_id,
            HEAD,
            version=int(before.version) + 1 if before else 1,
            position=self._position,
            room_version=self.rules.version,
            extremities=[[e.event_id, e.sha256] if e.sha256 else e.event_id for e in self.extremities],
            depth=self._depth,
            root=self.root,
            rows_root=self._rows_root,
            authorising=self._authorising,
            state_position=self._state_position,
            redaction_position=self._position
            if self._redacted or self._revealed
            else int(before.redaction_position if before else 0),
            aggregate_position=self._position
            if self.changes_aggregates
            else int(before.aggregate_position if before else 0),
            arrived=self._now,
            bumped=self._bumped,
            local_members=self.rows.local_members,
            remote_servers=self.rows.remote_servers,
            federated_since=self._federated_since(before),
            rows_late_since=self._rows_late_since(before),
        )

    def _rows_late_since(self, before: Head | None) -> int | None:
        """With which commit the rows fell behind."""
        in_step = before is None or before.rows_root == before.root
        if self._rows_root != self.root and in_step:
            return self._start + 1
        return int(before.rows_late_since) if before is not None and before.rows_late_since is not None else None

    def _federated_since(self, before: Head | None) -> int | None:
        """From where on the room concerns other servers; rows that lag behind may be those of their users."""
        if before is not None and before.federated_since is not None:
            return int(before.federated_since)
        lag = self._rows_root != self.root
        of_others = any(key[0] == "m.room.member" and is_remote(key[1]) for key in self.rows.state)
        return self._start + 1 if lag or of_others or self.rows.remote_servers else None


def _at(record: NewRecord, position: int) -> NewRecord:
    return replace(record, position=position)
