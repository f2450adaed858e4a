"""The rows of a room that follow its state: the state itself, local members, other servers, and the head's counts.

Everything comes from what a key of the state had and has, never from what kind of event came: so it is right whether
an event, a fork that was merged or a worker that brings late rows along made the change.
"""

from collections.abc import Collection, Iterable, Mapping

from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import domain_of, is_user_id
from homeserver.settings import settings
from homeserver.storage.commit import LocalChange, NewMembership, NewState, ServerChange
from homeserver.storage.connection import Key, batch_get
from homeserver.storage.inbox import Counters
from homeserver.storage.inbox_shards import COUNTERS
from homeserver.storage.room_items import Head, LocalMember, RemoteServer
from homeserver.storage.rooms import StateEntry, StateKey

_MEMBER = "m.room.member"


def is_local(user_id: str) -> bool:
    """Whether a user is of this server; false also for what is no user ID."""
    return is_user_id(user_id) and domain_of(user_id) == settings().server_name


def is_remote(user_id: str) -> bool:
    """Whether a user is of another server; false also for what is no user ID."""
    return is_user_id(user_id) and domain_of(user_id) != settings().server_name


def is_joined(event: Event | None) -> bool:
    """Whether a membership event, or none, makes its user a member."""
    return event is not None and event.content.get("membership") == "join"


def membership_of(event: Event | None) -> str:
    """The membership that a membership event, or none, gives its user."""
    return str(event.content.get("membership")) if event else "leave"


def event_id_of(event: Event | None) -> str:
    """How a row names an event; empty for none."""
    return event.event_id if event else ""


class RoomRows:
    """Rows to be written with one commit. `locals_` and `counters` are rows as read, where they exist.

    A local member whose row was not read is taken for one who has none; `read` reads rows.
    """

    def __init__(
        self,
        room_id: str | None,
        head: Head | None,
        locals_: Mapping[str, LocalMember] | None = None,
        counters: Mapping[str, Counters | None] | None = None,
    ) -> None:
        self.room_id = room_id
        self.state: dict[StateKey, NewState] = {}
        self.locals: dict[str, LocalChange] = {}
        self.servers: dict[str, ServerChange] = {}
        self.memberships: dict[str, NewMembership] = {}
        self.local_members = int(head.local_members) if head else 0
        self.remote_servers = int(head.remote_servers) if head else 0
        self._is_new = head is None
        self._known_locals: dict[str, LocalMember] = dict(locals_ or {})
        self._counters: dict[str, Counters | None] = dict(counters or {})
        self._known_servers: dict[str, RemoteServer | None] = {}

    def copy(self) -> "RoomRows":
        """The same rows, to be changed further without changing these."""
        copy = RoomRows(self.room_id, None, self._known_locals, self._counters)
        copy.state, copy.locals, copy.servers = dict(self.state), dict(self.locals), dict(self.servers)
        copy.memberships = dict(self.memberships)
        copy.local_members, copy.remote_servers = self.local_members, self.remote_servers
        copy._known_servers, copy._is_new = dict(self._known_servers), self._is_new
        return copy

    def __len__(self) -> int:
        locals_ = sum(5 if change.acting or change.new_slot else 1 for change in self.locals.values())
        return len(self.state) + locals_ + len(self.servers) + len(self.memberships)

    def read(self, user_ids: Iterable[str]) -> None:
        """Read, in one round, the rows that a change of these users' memberships may touch."""
        users = list(user_ids)
        local = [user for user in users if is_local(user) and user not in self._known_locals]
        self._read(local, {domain_of(user) for user in users if is_remote(user)} - self._known_servers.keys())

    def _read(self, local: Collection[str], servers: Collection[str]) -> None:
        keys: list[Key] = [(LocalMember, self.room_id, f"local/{user}") for user in local]
        keys += [(Counters, user, COUNTERS) for user in local]
        keys += [(RemoteServer, self.room_id, f"server/{server}") for server in servers]
        found = batch_get(keys, consistent=True) if keys else {}
        for user in local:
            if (row := found.get((LocalMember, self.room_id, f"local/{user}"))) is not None:
                self._known_locals[user] = row
            self._counters.setdefault(user, found.get((Counters, user, COUNTERS)))
        for server in servers:
            self._known_servers[server] = found.get((RemoteServer, self.room_id, f"server/{server}"))

    def change(
        self,
        key: StateKey,
        shown: Event | None,
        entry: StateEntry | None,
        position: int,
        *,
        acting: bool = False,
        unannounced: bool = False,
        late_since: int | None = None,
    ) -> None:
        """Let the row of a key show another entry of the state, or none, from a position on.

        shown: the event that the row shows now (of a key that this commit changed before: any). See LocalChange for
        `acting`. `unannounced`: no event of the commit says so, and the event that the state has now may be an old one;
        a follower, which goes by the positions of events, could take an older change for the later one. `late_since`:
        the row has been late since this position, from which on the server of the user counts as being there, or gone.
        """
        earlier = self.state.get(key)
        if earlier is not None:
            shown = earlier.event
        replaced = earlier.replaced if earlier is not None else (shown.event_id if shown else None)
        event = entry.event if entry else None
        self.state[key] = NewState(key, event, position, entry.cover if entry else None, replaced)
        if unannounced and key[0] == _MEMBER and is_user_id(key[1]):
            self.memberships[key[1]] = NewMembership(key[1], membership_of(event), event_id_of(event), position)
        if key[0] == _MEMBER and is_local(key[1]):
            self._change_local(key[1], event, position, acting=acting)
        elif key[0] == _MEMBER and is_remote(key[1]) and is_joined(shown) != is_joined(event):
            since = position if late_since is None else late_since
            self._change_server(domain_of(key[1]), 1 if is_joined(event) else -1, since)

    def _change_local(self, user_id: str, event: Event | None, position: int, *, acting: bool) -> None:
        known = self.locals.get(user_id) or self._known_locals.get(user_id)
        membership = membership_of(event)
        was_joined = known is not None and known.membership == "join"
        slot = int(known.slot) if known is not None and known.slot is not None else None
        new_slot = isinstance(known, LocalChange) and known.new_slot
        joined_since = int(known.joined_since) if known is not None and known.joined_since is not None else None
        left_at = int(known.left_at) if known is not None and known.left_at is not None else None
        if membership == "join" and not was_joined:
            self.local_members += 1
            joined_since, left_at = position, None
            if slot is None:
                counters = self._counters.get(user_id)
                slot, new_slot = int(counters.next_slot or 0) if counters else 0, True
        elif membership != "join" and was_joined:
            self.local_members -= 1
            left_at = position
        self.locals[user_id] = LocalChange(
            user_id,
            membership,
            event_id_of(event),
            position,
            slot,
            new_slot,
            joined_since,
            left_at,
            acting=acting,
        )

    def _change_server(self, server: str, step: int, position: int) -> None:
        if not self._is_new and server not in self._known_servers and server not in self.servers:
            self._read((), (server,))
        known = self.servers.get(server) or self._known_servers.get(server)
        before = int(known.members) if known is not None else 0
        members = max(0, before + step)
        joined_since = int(known.joined_since) if known is not None else position
        left_at = int(known.left_at) if known is not None and known.left_at is not None else None
        if before == 0 and members > 0:
            self.remote_servers += 1
            joined_since, left_at = position, None
        elif before > 0 and members == 0:
            self.remote_servers -= 1
            left_at = position
        self.servers[server] = ServerChange(server, members, joined_since, left_at)
