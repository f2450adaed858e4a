"""What a user may read of a room.

Source: client-server API v1.19, "Room History Visibility".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from homeserver.matrix import state_tree
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.history_visibility import WORLD_READABLE, ReaderState, can_see_event, visibility_of
from homeserver.services.send_event import NOT_IN_ROOM, check_room_id
from homeserver.storage.connection import Key, batch_get, in_parallel
from homeserver.storage.room_items import EventRecord, LocalMember
from homeserver.storage.rooms import RoomView, StateKey, load_room
from homeserver.storage.state_cache import state_events
from homeserver.storage.state_nodes import StateNodes, read_trees
from homeserver.storage.timeline import Entry, read_entry

_VISIBILITY = ("m.room.history_visibility", "")
_MEMBER = "m.room.member"


@dataclass(slots=True)
class Reader:
    """A local user who reads a room, with what is known about them there."""

    user_id: str
    view: RoomView
    row: LocalMember | None
    _states: dict[bytes, ReaderState] = field(default_factory=dict)

    @property
    def is_joined(self) -> bool:
        return self.row is not None and self.row.membership == "join"

    @property
    def is_open(self) -> bool:
        """Whether anyone may read the room as it is now; only where the view has the history visibility."""
        setting = self.view.event(*_VISIBILITY)
        return visibility_of(setting.content if setting else None) == WORLD_READABLE

    @property
    def last_position(self) -> int:
        """The last position that the user may have seen: where they left, but for members and open rooms the head."""
        if self.row is not None and not self.is_joined and self.row.left_at is not None and not self.is_open:
            return int(self.row.left_at)
        return int(self.view.head.position)

    @property
    def keys(self) -> list[StateKey]:
        """What of a state decides what the user may see of it: its history visibility, and the user's membership."""
        # Who has no row was never a member, or has forgotten the room and reads it as a stranger.
        return [_VISIBILITY, (_MEMBER, self.user_id)] if self.row is not None else [_VISIBILITY]

    def was_there(self, position: int) -> bool:
        """Whether the position lies in the user's last stay in the room."""
        if self.row is None or self.row.joined_since is None or position < self.row.joined_since:
            return False
        return self.row.left_at is None or position <= self.row.left_at

    def was_at(self, entry: Entry) -> bool:
        """Whether the entry lies in the user's last stay. Of what was backfilled only its own state says so."""
        return not entry.offset and self.was_there(entry.position)

    def membership_at(self, entry: Entry) -> str | None:
        """The user's membership at an entry that `visible` let pass, after the event; None where it is not known.

        No read: it is what the entry's visibility was decided by. Source: `unsigned.membership` of "ClientEvent".
        """
        pdu = entry.pdu
        if pdu is not None and (pdu["type"], pdu.get("state_key")) == (_MEMBER, self.user_id):
            return str(pdu["content"].get("membership", "leave"))
        if self.was_at(entry):
            return "join"
        state = self._states.get(entry.own_root)
        # Who forgot the room is a stranger in it, of whom nothing is looked up.
        return state.membership if state is not None and self.row is not None else None

    def visible(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of the entries that the user may see; markers are never among them.

        Entries of the user's last stay need no read. For the others, the state at each is looked up: one round a
        level of the tree for all of them, and one for events that are not in force any more.
        """
        unsure = self.unsure(entries)
        for entry in unsure:
            # Where a room begins there is nothing but its create event: no setting of visibility, and no member.
            if entry.position == 1 and entry.pdu is not None and entry.pdu["type"] == "m.room.create":
                self._states[entry.own_root] = ReaderState(visibility_of(None), "leave")
        before = self._read_states(unsure)
        self._learn({entry.own_root for entry in unsure} | set(before.values()))
        return [entry for entry in entries if entry.pdu is not None and self._can_see(entry, before)]

    def unsure(self, entries: Iterable[Entry]) -> list[Entry]:
        """The events among the entries of which only the state says whether the user may see them."""
        return [entry for entry in entries if entry.pdu is not None and not self.was_at(entry)]

    def _read_states(self, unsure: Sequence[Entry]) -> dict[str | None, bytes]:
        """Bring the states after these events into memory; returns what `_own_state_before` does: at the same time."""
        roots = {entry.own_root for entry in unsure} - self._states.keys()
        if not roots:
            return self._own_state_before(unsure)
        nodes = StateNodes(self.view.room_id)
        before, _ = in_parallel(
            partial(self._own_state_before, unsure), partial(read_trees, nodes, paths=roots, keys=self.keys)
        )
        return dict(before)

    def _can_see(self, entry: Entry, before: dict[str | None, bytes]) -> bool:
        if self.was_at(entry):
            return True
        after = self._states[entry.own_root]
        earlier = self._states[before[entry.event_id]] if entry.event_id in before else after
        return can_see_event(earlier, after, joined_since=self._joined_after(entry))

    def _joined_after(self, entry: Entry) -> bool:
        """Whether the user was joined at any time after an entry that does not lie in their last stay."""
        if self.row is None or self.row.joined_since is None:
            return False
        if not entry.offset:
            return int(self.row.joined_since) > entry.position
        return self.row.left_at is None or int(self.row.left_at) >= entry.position

    def _own_state_before(self, entries: Iterable[Entry]) -> dict[str | None, bytes]:
        """The state before each event for which it matters: for others it says the same as the state after."""
        special = {_VISIBILITY, (_MEMBER, self.user_id)}
        wanted = [
            entry.event_id
            for entry in entries
            if entry.pdu is not None and (entry.pdu["type"], entry.pdu.get("state_key")) in special
        ]
        found = batch_get([(EventRecord, event_id, None) for event_id in wanted], consistent=True) if wanted else {}
        return {
            record.event_id: bytes(record.state_before) for record in found.values() if record.state_before is not None
        }

    def _learn(self, roots: set[bytes]) -> None:
        missing = roots - self._states.keys()
        if not missing:
            return
        member = (_MEMBER, self.user_id)
        ids = state_tree.get_many_of(StateNodes(self.view.room_id), missing, self.keys)
        setting, row = self.view.event(*_VISIBILITY), self.row
        said = {setting.event_id: visibility_of(setting.content)} if setting is not None else {}
        if row is not None and row.event_id:
            said[row.event_id] = row.membership
        unknown = {pair for found in ids.values() for pair in found.items() if pair[1] not in said}
        for event in state_events(self.view.head, self.view.rules, unknown):
            is_setting = event.key == _VISIBILITY
            said[event.event_id] = visibility_of(event.content) if is_setting else str(event.content.get("membership"))
        for root, found in ids.items():
            visibility = said[found[_VISIBILITY]] if _VISIBILITY in found else visibility_of(None)
            self._states[root] = ReaderState(visibility, said[found[member]] if member in found else "leave")


def reader_of(user_id: str, room_id: str, keys: Sequence[StateKey] = (), *, extras: Sequence[Key] = ()) -> Reader:
    """The user as a reader of the room, in one round; `keys` are entries of its current state to bring along.

    `extras` are other items, which the view has then.

    Raises InvalidParam for what is no room ID; Forbidden for a room that does not exist, or that is not open to the
    world and that the user was never in or has forgotten.
    """
    check_room_id(room_id)
    view, _ = load_room(room_id, [_VISIBILITY, *keys], local_users=[user_id], extras=extras)
    if view is None:
        raise Forbidden(NOT_IN_ROOM)
    row = view.locals.get(user_id)
    reader = Reader(user_id, view, None if row is not None and row.forgotten is not None else row)
    was_member = reader.row is not None and reader.row.joined_since is not None
    if not was_member and not reader.is_open:
        raise Forbidden(NOT_IN_ROOM)
    return reader


def root_for(reader: Reader) -> bytes | None:
    """The root of the state that the reader may see whole: None for the current one, which rows show."""
    if reader.is_joined or reader.row is None or reader.row.left_at is None or reader.is_open:
        return None
    position = int(reader.row.left_at)
    entry = read_entry(reader.view.room_id, position)
    if entry is None:
        raise LookupError(f"position {position} of {reader.view.room_id} is missing")
    return entry.room_root
