"""What another server may read of a room: what some user of that server may.

Source: client-server API v1.19, "Room History Visibility", which holds between servers as well: for a server it asks
whether any of its users was joined or invited at the event's own state.

Nothing lists a state's users by server. So what need not be known is not looked up: settings under which every server
in the room may read; a server that has been in the room since before the event. Only where that decides nothing, the
members at the event are gone through, once for all events of a request, and no further than `_MOST_MEMBERS_READ`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from homeserver.matrix import state_tree
from homeserver.matrix.history_visibility import INVITED, SHARED, WORLD_READABLE, visibility_of
from homeserver.matrix.identifiers import domain_of, is_user_id
from homeserver.services.server_access import row_key
from homeserver.storage.connection import Key, batch_get
from homeserver.storage.room_items import EventRecord, RemoteServer
from homeserver.storage.rooms import RoomView, StateKey, fetch_state_events
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import Entry

VISIBILITY: Final[StateKey] = ("m.room.history_visibility", "")
_MEMBER = "m.room.member"
_JOINED: Final = frozenset({"join"})
_JOINED_OR_INVITED: Final = frozenset({"join", "invite"})
_AT_ONCE = 100
_MOST_MEMBERS_READ = 1000


class Placed(Protocol):
    """An event where it stands: a timeline's Entry, or what a record says. Without a position: it was refused."""

    @property
    def event_id(self) -> str | None: ...
    @property
    def pdu(self) -> Any: ...
    @property
    def position(self) -> int | None: ...
    @property
    def offset(self) -> int: ...
    @property
    def own_root(self) -> bytes: ...
    @property
    def room_root(self) -> bytes: ...


@dataclass(slots=True)
class ServerReader:
    """Another server as the reader of a room. `row` is what the room knows of it; None for one that was never there."""

    view: RoomView
    origin: str
    row: RemoteServer | None
    is_member: bool

    @property
    def last_position(self) -> int:
        """The last position that the server may have seen: the head, for a member."""
        return int(self.view.head.position)

    def visible(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of the entries that the server may see; markers are never among them."""
        events = [entry for entry in entries if entry.pdu is not None]
        seen = self.visible_ids(events)
        return [entry for entry in events if entry.event_id in seen]

    def visible_ids(self, events: Sequence[Placed]) -> set[str]:
        """The IDs of those of the events that the server may see.

        Reads the setting of visibility at each event: one round a level of the tree for all, and one for events.
        """
        before = self._roots_before(events)
        roots: dict[str, set[bytes]] = {}
        for event in events:
            event_id = str(event.event_id)
            roots[event_id] = {event.own_root} | ({before[event_id]} if event_id in before else set())
        settings = self._settings({root for found in roots.values() for root in found})
        seen = set()
        unsure: dict[str, list[tuple[bytes, Collection[str]]]] = {}
        for event in events:
            event_id = str(event.event_id)
            after_it = self._was_joined_after(event)
            said = {root: settings[root] for root in roots[event_id]}
            if WORLD_READABLE in said.values() or (after_it and SHARED in said.values()) or self._is_certain(event):
                seen.add(event_id)
            elif self.row is not None or self.is_member:
                unsure[event_id] = [
                    (root, _JOINED_OR_INVITED if setting == INVITED else _JOINED) for root, setting in said.items()
                ]
        users = _UsersOfServer(self.view, self.origin)
        return seen | {
            event_id for event_id, asked in unsure.items() if any(users.any_is(wanted, root) for root, wanted in asked)
        }

    def _is_certain(self, event: Placed) -> bool:
        """Whether the server was in the room at the event: it sent it, or is there since before it."""
        if domain_of(event.pdu["sender"]) == self.origin:
            return True
        if event.position is None or event.own_root != event.room_root or event.offset:
            return False  # not in the line of what the room went through
        return self.is_member and self.row is not None and int(self.row.joined_since) <= event.position

    def _was_joined_after(self, event: Placed) -> bool:
        """Whether the server has a joined member now, or had one at any time after the event."""
        if self.is_member:
            return True
        left_at = int(self.row.left_at) if self.row is not None and self.row.left_at is not None else 0
        return event.position is not None and event.position < left_at

    def _roots_before(self, events: Iterable[Placed]) -> dict[str, bytes]:
        """The own state before each event for which it matters: for others it says the same as the state after."""
        wanted = [event.event_id for event in events if self._is_special(event.pdu)]
        keys: list[Key] = [(EventRecord, event_id, None) for event_id in wanted]
        found = batch_get(keys, consistent=True).values() if keys else ()
        return {record.event_id: bytes(record.state_before) for record in found if record.state_before is not None}

    def _is_special(self, pdu: Any) -> bool:
        if pdu["type"] == _MEMBER:
            user_id = pdu.get("state_key")
            return is_user_id(user_id) and domain_of(user_id) == self.origin
        return (pdu["type"], pdu.get("state_key")) == VISIBILITY

    def _settings(self, roots: set[bytes]) -> dict[bytes, str]:
        """The history visibility in each of the states."""
        found = state_tree.get_many_of(StateNodes(self.view.room_id), roots, [VISIBILITY])
        ids = {ids[VISIBILITY] for ids in found.values() if VISIBILITY in ids}
        events = fetch_state_events(self.view.room_id, ids, self.view.rules) if ids else {}
        return {
            root: visibility_of(events[ids[VISIBILITY]].event.content if VISIBILITY in ids else None)
            for root, ids in found.items()
        }


def reader_for(view: RoomView, origin: str) -> ServerReader:
    """The reader that a server is in a room into which `check_access` has let it as a member."""
    return ServerReader(view, origin, view.extras.get(row_key(view.room_id, origin)), is_member=True)


def visible_to_server(view: RoomView, events: Sequence[Placed], origin: str) -> set[str]:
    """The IDs of those of the events that a member server may see; the view is that of `check_access`."""
    return reader_for(view, origin).visible_ids(events)


class _UsersOfServer:
    """The users of one server who have a membership in some state of a room."""

    def __init__(self, view: RoomView, origin: str) -> None:
        self._view, self._origin = view, origin
        self._nodes = StateNodes(view.room_id)
        self._at: tuple[bytes, dict[str, str]] | None = None
        self._memberships: dict[str, str] = {}
        self._left_to_read = _MOST_MEMBERS_READ

    def any_is(self, memberships: Collection[str], root: bytes) -> bool:
        """Whether any of them has one of the memberships in a state; false also where finding out takes too much."""
        ids = list(self._users_at(root).values())
        if any(self._memberships.get(event_id) in memberships for event_id in ids):
            return True
        unknown = [event_id for event_id in ids if event_id not in self._memberships]
        while unknown and self._left_to_read > 0:
            chunk, unknown = unknown[:_AT_ONCE], unknown[_AT_ONCE:]
            self._left_to_read -= len(chunk)
            for event_id, entry in fetch_state_events(self._view.room_id, chunk, self._view.rules).items():
                self._memberships[event_id] = str(entry.event.content.get("membership"))
            if any(self._memberships.get(event_id) in memberships for event_id in chunk):
                return True
        return False

    def _users_at(self, root: bytes) -> dict[str, str]:
        """Their membership events by user; one state is read whole, of the others what differs."""
        if self._at is None:
            users = {
                key[1]: event_id for key, event_id in state_tree.items(self._nodes, root).items() if self._has(key)
            }
        else:
            known, users = self._at[0], dict(self._at[1])
            for key, (_, event_id) in state_tree.diff(self._nodes, known, root).items():
                if self._has(key):
                    users.pop(key[1], None)
                    users |= {key[1]: event_id} if event_id is not None else {}
        self._at = (root, users)
        return users

    def _has(self, key: StateKey) -> bool:
        return key[0] == _MEMBER and is_user_id(key[1]) and domain_of(key[1]) == self._origin
