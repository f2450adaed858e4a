"""Reading a room: its head with the rows one asks for, as one picture that a commit can be conditional on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersionRules
from homeserver.storage.connection import Key, batch_get, query_whole
from homeserver.storage.room_items import (
    AUTHORISING,
    HEAD,
    EventRecord,
    Head,
    LocalMember,
    StateRow,
    parse_state_key,
    state_key,
)
from homeserver.storage.state_nodes import StateNodes

StateKey = tuple[str, str]
_LETTERS = {key: letter for letter, key in AUTHORISING.items()}
_TORN_READS = 10
_CACHED_ROOMS = 2048


@dataclass(frozen=True, slots=True)
class StateEntry:
    """One entry of a room's current state: the event, where it was set, its packed chain cover."""

    event: Event
    position: int
    cover: bytes | None


@dataclass(slots=True)
class RoomView:
    """A room at one version of its head: whatever was asked for and exists."""

    head: Head
    rules: RoomVersionRules
    state: dict[StateKey, StateEntry] = field(default_factory=dict)
    locals: dict[str, LocalMember] = field(default_factory=dict)
    extras: dict[Key, Any] = field(default_factory=dict)

    @property
    def room_id(self) -> str:
        return self.head.room

    def event(self, event_type: str, key: str = "") -> Event | None:
        """The current state event of this key, if it was asked for and exists."""
        entry = self.state.get((event_type, key))
        return entry.event if entry else None

    def membership(self, user_id: str) -> str:
        """The user's membership (`leave` if there is none); only for a user whose member event was asked for."""
        event = self.event("m.room.member", user_id)
        return str(event.content.get("membership")) if event else "leave"


# The authorising state of rooms met before, by room and key, with the head's last redaction. Entries are right exactly
# if the head names them and nothing was redacted since.
_authorising: dict[tuple[str, StateKey], tuple[int, StateEntry]] = {}


def entry_of_row(row: StateRow, rules: RoomVersionRules) -> StateEntry:
    """The state entry that a row holds."""
    event = Event(row.event_id, row.room, unpack(row.packed), rules)
    return StateEntry(event, int(row.position), row.cover)


def load_room(
    room_id: str,
    keys: Iterable[StateKey] = (),
    *,
    local_users: Iterable[str] = (),
    extras: Sequence[Key] = (),
) -> tuple[RoomView | None, dict[Key, Any]]:
    """The room with some of its current state, read consistently in one round; None if it does not exist.

    `extras` are other items to bring along; they are returned beside the view even where there is no room.
    A batch of reads is no snapshot: rows that the head does not name are read again, so that the authorising state
    belongs to this head. Member rows are not named by the head: a commit has to check the ones it relied on.
    """
    wanted = list(dict.fromkeys(keys))
    locals_ = list(dict.fromkeys(local_users))
    cached = {key: entry for key in wanted if (entry := _authorising.get((room_id, key))) is not None}
    known = {key: entry for key, (_, entry) in cached.items()}
    for _ in range(_TORN_READS):
        read: list[Key] = [(Head, room_id, HEAD)]
        read += [(StateRow, room_id, state_key(*key)) for key in wanted if key not in known]
        read += [(LocalMember, room_id, f"local/{user}") for user in locals_]
        found = batch_get([*read, *extras], consistent=True)
        other = {key: found[key] for key in extras if key in found}
        head: Head | None = found.get((Head, room_id, HEAD))
        if head is None:
            return None, other
        rules = ROOM_VERSIONS[head.room_version]
        state = dict(known)
        for key in wanted:
            row = found.get((StateRow, room_id, state_key(*key)))
            if row is not None:
                state[key] = entry_of_row(row, rules)
        if head.rows_root != head.root:
            _follow_tree(head, wanted, state, rules)
        redaction = int(head.redaction_position)
        stale = {key for key in wanted if not _is_named(head, key, state.get(key))}
        stale |= {key for key in known if cached[key][0] != redaction}
        if not stale:
            remember(room_id, state, redaction)
            view = RoomView(head, rules, state, extras=other)
            view.locals = {
                user: found[LocalMember, room_id, f"local/{user}"]
                for user in locals_
                if (LocalMember, room_id, f"local/{user}") in found
            }
            return view, other
        known = {key: entry for key, entry in known.items() if key not in stale}
    raise TimeoutError(f"the state of {room_id} changes faster than it can be read")


def _is_named(head: Head, key: StateKey, entry: StateEntry | None) -> bool:
    letter = _LETTERS.get(key)
    return letter is None or head.authorising.get(letter) == (entry.event.event_id if entry else None)


def remembered(room_id: str, key: StateKey) -> Event | None:
    """A state event as this process read it last, for who has just read it and wants no other read; may be outdated."""
    known = _authorising.get((room_id, key))
    return known[1].event if known is not None else None


def remember(room_id: str, state: Mapping[StateKey, StateEntry], redaction: int) -> None:
    """Keep the authorising state among these entries, so that the next read of the room need not bring it.

    `redaction` is the `redaction_position` of the head that they belong to.
    """
    for key, entry in state.items():
        if key in _LETTERS:
            _authorising[room_id, key] = (redaction, entry)
    while len(_authorising) > _CACHED_ROOMS * len(_LETTERS):
        _authorising.pop(next(iter(_authorising)), None)


def _follow_tree(
    head: Head, wanted: Sequence[StateKey], state: dict[StateKey, StateEntry], rules: RoomVersionRules
) -> None:
    """Where the rows lag behind the head's root, take the entries that differ from the tree: one path an entry."""
    ids = state_tree.get_many(StateNodes(head.room), head.root, wanted)
    late = [event_id for key, event_id in ids.items() if key not in state or state[key].event.event_id != event_id]
    events = fetch_state_events(head.room, late, rules, consistent=True) if late else {}
    for key in wanted:
        if key not in ids:
            state.pop(key, None)
        elif ids[key] in events:
            state[key] = events[ids[key]]


def fetch_state_events(
    room_id: str, event_ids: Iterable[str], rules: RoomVersionRules, *, consistent: bool = False
) -> dict[str, StateEntry]:
    """State events of a room by ID, from their records (which keep the body of every state event).

    Only with `consistent` they are certainly without what an earlier redaction took from them.
    """
    wanted = list(event_ids)
    records = batch_get([(EventRecord, event_id, None) for event_id in wanted], consistent=consistent)
    missing = [event_id for event_id in wanted if (EventRecord, event_id, None) not in records]
    if missing:
        records |= batch_get([(EventRecord, event_id, None) for event_id in missing], consistent=True)
    return {
        record.event_id: StateEntry(
            Event(record.event_id, room_id, unpack(record.packed), rules, rejected="r" in (record.flags or "")),
            int(record.position or 0),
            record.cover,
        )
        for record in records.values()
        if record.packed is not None and record.room == room_id
    }


def current_state(head: Head, rules: RoomVersionRules) -> dict[StateKey, StateEntry]:
    """The whole current state of a room at this head, which must have been read before.

    One Query of the rows, or several where they fill more than one page. A row that was set after the head's position,
    or that lags behind the head's root, is taken from the tree instead: the root is the truth, the rows are how it is
    read cheaply.
    """
    rows = {parse_state_key(row.k): row for row in query_whole(StateRow, head.room, "state/")}
    state = {key: entry_of_row(row, rules) for key, row in rows.items()}
    nodes = StateNodes(head.room)
    later = [key for key, entry in state.items() if entry.position > head.position]
    if head.rows_root != head.root:
        later += state_tree.diff(nodes, head.rows_root, head.root)
    if later:
        ids = state_tree.get_many(nodes, head.root, later)
        events = fetch_state_events(head.room, ids.values(), rules)
        for key in later:
            state.pop(key, None)
        state.update({key: events[event_id] for key, event_id in ids.items()})
    return state


def load_heads(room_ids: Iterable[str]) -> dict[str, Head]:
    """The heads of rooms, consistently, in one round per 100 rooms (at the same time)."""
    found = batch_get([(Head, room_id, HEAD) for room_id in room_ids], consistent=True)
    return {head.room: head for head in found.values()}
