"""Whether this server is in a room, or has to ask others about it; and whom it could ask.

Source: server-server API v1.19, "Joining Rooms".
"""

from collections.abc import Iterable

from homeserver.matrix.event_auth import AuthState
from homeserver.matrix.identifiers import domain_of, is_server_name, is_user_id
from homeserver.services.resident_servers import resident_servers
from homeserver.settings import settings
from homeserver.storage.room_items import Head
from homeserver.storage.rooms import RoomView

MOST_CANDIDATES = 8
_MOST_NAMED = 5  # by the user: so that there is room for those whom this server knows itself


class NotResident(Exception):
    """Where an event cannot be made here, because the server is not in the room."""


def is_resident(view: RoomView | None) -> bool:
    """Whether what this server knows of a room is the room: it has a member there, or nobody else has one.

    After the last local member left, other servers go on without telling this one.
    """
    return view is not None and knows_room(view.head)


def knows_room(head: Head) -> bool:
    """`is_resident` by the head alone."""
    return head.kind == "full" and (int(head.local_members) > 0 or int(head.remote_servers) == 0)


def candidates(*sources: Iterable[object]) -> list[str]:
    """The first servers that may be asked, each once, never this one; what is no server name is passed over.

    None where this server talks to no other one.
    """
    if not settings().federation:
        return []
    names = [name for source in sources for name in source if is_server_name(name)]
    return [str(name) for name in dict.fromkeys(names) if name != settings().server_name][:MOST_CANDIDATES]


def named(servers: Iterable[str]) -> list[str]:
    """Servers that a user, a link or another server names: only so many of them are listened to."""
    return candidates(servers)[:_MOST_NAMED]


def server_of_id(room_id: str) -> list[str]:
    """The server that a room ID names, which once made the room; none in room version 12."""
    return [domain_of(room_id)] if domain_of(room_id) else []


def servers_that_invite(view: RoomView) -> list[str]:
    """The servers of users who are powerful enough to invite, the most powerful first; then others of the room.

    `view` has create and power levels.
    """
    state = AuthState({key: entry.event for key, entry in view.state.items()})
    levels = state.power_levels
    users = {**dict.fromkeys(state.creators, 0), **levels.table("users")}
    strong = [user for user in users if is_user_id(user) and levels.user_level(user) >= levels.invite]
    strong.sort(key=lambda user: (-levels.user_level(user), user))
    return [*(domain_of(user) for user in strong), *resident_servers(view.room_id)]
