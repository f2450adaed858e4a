"""Whether another server may ask about a room, or take part in it.

Source: server-server API v1.19, "Server Access Control Lists (ACLs)"; the answers 403 and 404 of its endpoints.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from homeserver.matrix import state_tree
from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.identifiers import domain_of, is_room_id, is_user_id
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.server_acl import allows
from homeserver.observability import log
from homeserver.storage.connection import Key, batch_get
from homeserver.storage.room_items import AUTHORISING, HEAD, Head, RemoteServer, StateRow, state_key
from homeserver.storage.rooms import RoomView, StateKey, entry_of_row, fetch_state_events, load_room
from homeserver.storage.state_nodes import StateNodes

ACL: Final = ("m.room.server_acl", "")
_ACL_LETTER = next(letter for letter, key in AUTHORISING.items() if key == ACL)
_MEMBER = "m.room.member"
_LOOKS = 5  # at a row that changes while it is read


def check_access(
    room_id: str,
    origin: str,
    *,
    needs_member: bool = True,
    keys: Iterable[StateKey] = (),
    local_users: Iterable[str] = (),
    extras: Sequence[Key] = (),
) -> RoomView:
    """The room, if a server may ask about it: with its server ACL and what is asked for, as `load_room` has it.

    One round; where the room's rows lag behind its state, the tree is asked as well. `extras` that exist are in the
    view's `extras`. Raises InvalidParam for what is no room ID, NotFound for a room that this server was never in,
    Forbidden for a server that the room's ACL shuts out, and with `needs_member` for one without a joined member.
    """
    if not is_room_id(room_id):
        raise InvalidParam("This is not a room ID.")
    row = row_key(room_id, origin)
    view, _ = load_room(
        room_id,
        [ACL, *keys],
        local_users=local_users,
        extras=[row, *extras] if needs_member else extras,
    )
    if view is None or view.head.kind != "full":
        raise NotFound("This server does not know this room.")
    check_acl(view, origin)
    if needs_member and not is_member(view, origin, view.extras.get(row)):
        raise Forbidden("Your server is not in this room.")
    return view


def check_acl(view: RoomView, origin: str) -> None:
    """Raises Forbidden for a server that the ACL of a room shuts out. The view must have been asked for `ACL`."""
    if not is_allowed(view, origin):
        log.info("refused %s in %s: server ACL", origin, view.room_id)
        raise Forbidden("The server ACL of this room shuts your server out.")


def is_allowed(view: RoomView, origin: str) -> bool:
    """Whether the ACL of a room lets a server take part. The view must have been asked for `ACL`."""
    acl = view.event(*ACL)
    return allows(acl.content if acl is not None else None, origin)


def acl_row_key(room_id: str) -> Key:
    """The key of the row of a room's ACL: for who reads many rooms in one round."""
    return (StateRow, room_id, state_key(*ACL))


def acl_in_row(head: Head, row: StateRow | None) -> tuple[bool, Mapping[str, Any] | None]:
    """Whether the item of `acl_row_key` is what a head names as the room's ACL, and then its content.

    Read together, they need not belong together: then the room has to be loaded.
    """
    if head.authorising.get(_ACL_LETTER) != (row.event_id if row is not None else None):
        return False, None
    if row is None:
        return True, None
    return True, entry_of_row(row, ROOM_VERSIONS[head.room_version]).event.content


def row_key(room_id: str, origin: str) -> Key:
    """The key of what a room knows of a server: with `needs_member`, `check_access` brings it along."""
    return (RemoteServer, room_id, f"server/{origin}")


def is_member(view: RoomView, origin: str, row: RemoteServer | None) -> bool:
    """Whether a server has a joined member in a room; `row` is the item of `row_key`, read together with the head."""
    head = view.head
    if head.rows_root == head.root:
        return _count(row) > 0
    for _ in range(_LOOKS):
        # The rows are being brought along: this one must belong to the root that the head says they show.
        found = batch_get([row_key(head.room, origin), (Head, head.room, HEAD)], consistent=True)
        now: Head = found[Head, head.room, HEAD]
        if now.version == head.version:
            break
        head, row = now, found.get(row_key(head.room, origin))
    return _count(row) + _change(head, view, origin) > 0


def _count(row: RemoteServer | None) -> int:
    return int(row.members) if row is not None else 0


def _change(head: Head, view: RoomView, origin: str) -> int:
    """By how many joined members of a server the state is ahead of the rows."""
    differences = state_tree.diff(StateNodes(head.room), bytes(head.rows_root), bytes(head.root))
    of_server = [
        ids
        for (event_type, user_id), ids in differences.items()
        if event_type == _MEMBER and is_user_id(user_id) and domain_of(user_id) == origin
    ]
    wanted = {event_id for ids in of_server for event_id in ids if event_id is not None}
    events = fetch_state_events(head.room, wanted, view.rules) if wanted else {}

    def joined(event_id: str | None) -> int:
        return int(event_id is not None and events[event_id].event.content.get("membership") == "join")

    return sum(joined(new) - joined(old) for old, new in of_server)
