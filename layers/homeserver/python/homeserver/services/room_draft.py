"""A commit in the making: events are added one by one, each authorised by the state that those before it made."""

import secrets
from collections.abc import Callable, Iterable, Mapping

from homeserver.adapters.signing_key import signing_key
from homeserver.matrix import state_tree
from homeserver.matrix.canonical_json import encode_for_room
from homeserver.matrix.chain_cover import AUTHORISING_TYPES, ChainCover, cover_of
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, auth_event_keys, check_event_auth
from homeserver.matrix.event_builder import Edge, EventDraft, build_event
from homeserver.matrix.event_format import MAX_EVENT_BYTES
from homeserver.matrix.hashes import reference_hash
from homeserver.matrix.identifiers import domain_of
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.matrix.unpadded_base64 import encode
from homeserver.services.clock import now_ms
from homeserver.settings import settings
from homeserver.storage.commit import (
    MAX_BYTES,
    MAX_ITEMS,
    Commit,
    LocalChange,
    NewEntry,
    NewState,
    Redacted,
    write_commit,
)
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.inbox import Counters
from homeserver.storage.room_items import AUTHORISING, HEAD, ClientTransaction, Head, LocalMember
from homeserver.storage.rooms import RoomView, StateEntry, remember
from homeserver.storage.state_nodes import StateNodes

StateKey = tuple[str, str]
# Timeline entry, record, state row, chain item; for a member also the five rows of a LocalChange.
_MOST_ITEMS_OF_AN_EVENT = 9
_LETTERS = {key: letter for letter, key in AUTHORISING.items()}
# Events that move a room up in a list, as sliding sync's `bump_stamp` counts them.
BUMPING_TYPES = frozenset(
    {
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "org.matrix.msc3381.poll.start",
        "m.beacon_info",
    }
)


class Raced(Exception):
    """Somebody else changed the room first; nothing was written. Wait, read the room again, and try again."""


class RoomDraft:
    """Events to be committed to one room, and the state of the room after them.

    `view` is the room as read, with every state key loaded that the events need: those that authorise them
    (`auth_event_keys`) and the ones they replace. `counters` are the inbox counters of users who join.
    """

    def __init__(
        self,
        view: RoomView | None,
        rules: RoomVersionRules,
        *,
        room_id: str | None = None,
        counters: Mapping[str, Counters | None] | None = None,
    ) -> None:
        self.view = view
        self.rules = rules
        self.room_id = view.room_id if view else room_id
        self.state: dict[StateKey, StateEntry] = dict(view.state) if view else {}
        self.locals: dict[str, LocalMember] = dict(view.locals) if view else {}
        self.client_transaction: ClientTransaction | None = None
        self.extras: list[Callable[[Transaction], None]] = []
        self._counters = dict(counters or {})
        self._now = now_ms()
        self._entries: list[NewEntry] = []
        self._changed: dict[StateKey, NewState] = {}
        self._local_changes: dict[str, LocalChange] = {}
        self._relied_on: dict[StateKey, str] = {}
        self._redacted: list[Redacted] = []
        self._position = int(view.head.position) if view else 0
        self._bytes = 0
        self._root = bytes(view.head.root) if view else state_tree.EMPTY_ROOT
        self._edges = _edges_of(view.head) if view else []
        self._bumped = int(view.head.bumped) if view else self._now
        self._local_members = int(view.head.local_members) if view else 0
        self._nodes = StateNodes(self.room_id or "")

    @property
    def events(self) -> list[Event]:
        """The events added so far."""
        return [entry.event for entry in self._entries]

    @property
    def is_full(self) -> bool:
        """Whether another event might not fit into the same transaction."""
        items = 1 + 3 * len(self._entries) + 5 * len(self._local_changes) + len(self._relied_on)
        return items + _MOST_ITEMS_OF_AN_EVENT > MAX_ITEMS or self._bytes > MAX_BYTES - MAX_EVENT_BYTES

    def trial(self) -> "RoomDraft":
        """A copy that is never committed: further events can be authorised on it."""
        copy = RoomDraft(self.view, self.rules, room_id=self.room_id, counters=self._counters)
        copy.state, copy.locals = dict(self.state), dict(self.locals)
        copy._nodes.new = dict(self._nodes.new)
        copy._position, copy._root, copy._edges = self._position, self._root, list(self._edges)
        copy._local_changes = dict(self._local_changes)
        return copy

    def auth_state(self) -> AuthState:
        """The state after the events added so far, as far as it was loaded."""
        return AuthState({key: entry.event for key, entry in self.state.items()})

    def add(self, draft: EventDraft, sender: str, *, client_transaction: str | None = None) -> Event:
        """Build, sign and authorise one event. Raises AuthRuleViolation, BadJson or TooLarge."""
        keys = auth_event_keys(draft.type, sender, draft.state_key, draft.content, self.rules)
        auth = [self.state[key] for key in keys if key in self.state]
        event = build_event(
            draft,
            rules=self.rules,
            room_id=self.room_id,
            sender=sender,
            prev_events=self._edges,
            auth_events=[Edge.to(entry.event) for entry in auth],
            origin_server_ts=self._now,
            server_name=settings().server_name,
            key=signing_key(),
            opaque_id=secrets.token_urlsafe(18) if self.rules.hashed_edges else None,
        )
        check_event_auth(event, self.auth_state())
        if self.room_id is None:
            self.room_id = event.room_id
            self._nodes.room_id = event.room_id
        self._rely_on(keys, event)
        self._append(event, auth, client_transaction)
        return event

    def redact(self, target: Event, position: int, because: Event, pruned: Event) -> None:
        """Let the commit prune every copy of a committed event."""
        entry = self.state.get(target.key) if target.is_state else None
        in_state = entry is not None and entry.event == target and target.key not in self._changed
        self._redacted.append(Redacted(pruned, position, because, in_state))
        if in_state and entry is not None:
            # The row keeps its event, without what was redacted.
            self.state[target.key] = StateEntry(pruned, entry.position, entry.cover)

    def commit(self) -> None:
        """Write everything in one transaction. Raises Raced if another commit came first."""
        if self.room_id is None:
            raise ValueError("a draft without events cannot be committed")
        self._nodes.write()
        after = self._head(self.room_id)
        try:
            write_commit(
                Commit(
                    before=self.view.head if self.view else None,
                    after=after,
                    entries=self._entries,
                    state=list(self._changed.values()),
                    locals=list(self._local_changes.values()),
                    redacted=self._redacted,
                    relied_on=[(k, i) for k, i in self._relied_on.items() if k not in self._changed],
                    client_transaction=self.client_transaction,
                    extras=self.extras,
                )
            )
        except TransactionCancelled as error:
            raise Raced from error
        # After a redaction nothing that was remembered before counts any more.
        kept = self.state if self._redacted else {key: self.state[key] for key in self._changed}
        remember(self.room_id, kept, int(after.redaction_position))

    def _rely_on(self, keys: Iterable[StateKey], event: Event) -> None:
        for key in keys:
            entry = self.state.get(key)
            if entry is not None and key not in _LETTERS and entry.position <= self._start and key != _key_of(event):
                self._relied_on[key] = entry.event.event_id

    @property
    def _start(self) -> int:
        return int(self.view.head.position) if self.view else 0

    def _append(self, event: Event, auth: list[StateEntry], client_transaction: str | None) -> None:
        before = self._root
        self._position += 1
        # A state event is stored three times: in the timeline, with its record, and as current state.
        self._bytes += (3 if event.is_state else 1) * len(encode_for_room(event.pdu, self.rules))
        replaced = self.state.get(event.key) if event.is_state else None
        cover: ChainCover | None = None
        if event.is_state:
            update = state_tree.update(self._nodes, before, {event.key: event.event_id})
            self._nodes.add(update.new_nodes)
            self._root = update.root
            if event.type in AUTHORISING_TYPES:
                covers = [ChainCover.unpack(entry.cover) for entry in auth if entry.cover is not None]
                continues = replaced if replaced in auth else None
                previous = ChainCover.unpack(continues.cover) if continues and continues.cover else None
                cover = cover_of(event.event_id, covers, continues=previous)
        packed_cover = cover.pack() if cover else None
        self._entries.append(
            NewEntry(
                event,
                self._position,
                room_root=self._root,
                state_before=before,
                state_after=self._root,
                cover=packed_cover,
                chain_item=f"chain/{cover.chain}/{cover.number}" if cover and cover.number else None,
                replaces=replaced.event if replaced else None,
                client_transaction=client_transaction,
            )
        )
        self._edges = [_edge_to(event)]
        if event.type in BUMPING_TYPES:
            self._bumped = self._now
        if event.is_state:
            self._set_state(event, packed_cover)

    def _set_state(self, event: Event, cover: bytes | None) -> None:
        key = event.key
        earlier = self._changed.get(key)
        original = self.view.state.get(key) if self.view else None
        replaced = earlier.replaced if earlier else (original.event.event_id if original else None)
        self.state[key] = StateEntry(event, self._position, cover)
        self._changed[key] = NewState(event, self._position, cover, replaced)
        if event.type == "m.room.member" and domain_of(key[1]) == settings().server_name:
            self._set_local(event, key[1])

    def _set_local(self, event: Event, user_id: str) -> None:
        known = self._local_changes.get(user_id) or self.locals.get(user_id)
        membership = str(event.content["membership"])
        was_joined = known is not None and known.membership == "join"
        slot = int(known.slot) if known is not None and known.slot is not None else None
        new_slot = isinstance(known, LocalChange) and known.new_slot
        joined_since = int(known.joined_since) if known is not None and known.joined_since is not None else None
        left_at = int(known.left_at) if known is not None and known.left_at is not None else None
        if membership == "join" and not was_joined:
            self._local_members += 1
            joined_since, left_at = self._position, None
            if slot is None:
                counters = self._counters.get(user_id)
                slot, new_slot = int(counters.next_slot or 0) if counters else 0, True
        elif membership != "join" and was_joined:
            self._local_members -= 1
            left_at = self._position
        self._local_changes[user_id] = LocalChange(
            user_id,
            membership,
            event.event_id,
            self._position,
            slot,
            new_slot,
            joined_since,
            left_at,
            acting=event.sender == user_id,
        )

    def _head(self, room_id: str) -> Head:
        before = self.view.head if self.view else None
        changes_state = bool(self._changed)
        authorising = dict(before.authorising) if before else {}
        for key, state in self._changed.items():
            if key in _LETTERS:
                authorising[_LETTERS[key]] = state.event.event_id
        edge = self._edges[0]
        extremity = [edge.event_id, edge.sha256] if edge.sha256 else edge.event_id
        # Rows follow the root in the same transaction, unless they were behind before: then they stay behind.
        in_step = before is None or before.rows_root == before.root
        return Head(
            room_id,
            HEAD,
            version=int(before.version) + 1 if before else 1,
            position=self._position,
            room_version=self.rules.version,
            extremities=[extremity],
            depth=edge.depth,
            root=self._root,
            rows_root=self._root if in_step or before is None else bytes(before.rows_root),
            authorising=authorising,
            state_position=self._position if changes_state else int(before.state_position if before else 0),
            redaction_position=self._position if self._redacted else int(before.redaction_position if before else 0),
            arrived=self._now,
            bumped=self._bumped,
            local_members=self._local_members,
            remote_servers=int(before.remote_servers) if before else 0,
        )


def _key_of(event: Event) -> StateKey | None:
    return event.key if event.is_state else None


def _edge_to(event: Event) -> Edge:
    digest = encode(reference_hash(event.pdu, event.rules)) if event.rules.hashed_edges else None
    return Edge(event.event_id, event.depth, digest)


def _edges_of(head: Head) -> list[Edge]:
    depth = int(head.depth)
    return [Edge(e, depth) if isinstance(e, str) else Edge(e[0], depth, e[1]) for e in head.extremities]
