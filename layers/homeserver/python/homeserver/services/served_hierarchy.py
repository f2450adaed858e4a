"""A space and its children, for other servers.

Source: server-server API v1.19, "Spaces", `GET /hierarchy/{roomId}`.

Who may know of a room is what the server as a whole could do: it has a member there, anybody may join or read or ask to
be let in, or it has a member in one of the rooms whose members may join. That a user of it is invited alone is not
looked up. A server that the room's ACL shuts out can do nothing of this.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.errors import NotFound
from homeserver.matrix.server_acl import allows
from homeserver.services.room_preview import AnyPreview, exact_preview, previews_of, visible_among
from homeserver.services.send_event import check_room_id
from homeserver.services.server_access import ACL, acl_in_row, acl_row_key, is_allowed, is_member, row_key
from homeserver.services.space_hierarchy import ordered_children, stripped
from homeserver.storage.connection import Key, batch_get
from homeserver.storage.room_items import HEAD, Head
from homeserver.storage.rooms import RoomView, StateKey
from homeserver.storage.space_children import child_events

MOST_CHILDREN = 400  # of one answer: the first ones in the space's order

_SHUT_OUT = "ban"


@dataclass(frozen=True, slots=True)
class ServerOutside:
    """Another server, as `room_preview.Outside`: a member where it has one, banned where the ACL shuts it out."""

    origin: str

    @property
    def state(self) -> tuple[StateKey, ...]:
        return (ACL,)

    def keys(self, room_id: str) -> list[Key]:
        return [row_key(room_id, self.origin), acl_row_key(room_id)]

    def membership(self, head: Head, found: Mapping[Key, Any]) -> str | None:
        """By the rows; None where these lag behind the head, or belong to another one."""
        row_of_server, acl = (found.get(key) for key in self.keys(head.room))
        is_current, content = acl_in_row(head, acl)
        if head.rows_root != head.root or not is_current:
            return None
        if not allows(content, self.origin):
            return _SHUT_OUT
        return "join" if row_of_server is not None and row_of_server.members > 0 else "leave"

    def exact_membership(self, view: RoomView) -> str:
        if not is_allowed(view, self.origin):
            return _SHUT_OUT
        row = view.extras.get(row_key(view.room_id, self.origin))
        return "join" if is_member(view, self.origin, row) else "leave"

    def memberships(self, room_ids: Iterable[str]) -> dict[str, str]:
        wanted = list(room_ids)
        keys: list[Key] = [(Head, room_id, HEAD) for room_id in wanted]
        keys += [key for room_id in wanted for key in self.keys(room_id)]
        found = batch_get(keys, consistent=True)
        heads = [found[Head, room_id, HEAD] for room_id in wanted if (Head, room_id, HEAD) in found]
        # Where rows lag behind, the server counts for a stranger until they are there.
        said = {head.room: self.membership(head, found) for head in heads}
        return {room_id: membership for room_id, membership in said.items() if membership is not None}


def hierarchy_for_server(room_id: str, origin: str, *, suggested_only: bool) -> dict[str, Any]:
    """The body of `GET /hierarchy/{roomId}`: the room, and those of its children that the server could join or read.

    Children that this server knows and the other may not know of are named; those that this server does not know are
    left out. Raises InvalidParam for what is no room ID, NotFound for a room that the server may not know of.
    """
    check_room_id(room_id)
    reader = ServerOutside(origin)
    room = exact_preview(room_id, reader)
    if room is None or not _visible({room_id: room}, reader):
        raise NotFound("There is no such room here, or your server may not know of it.")
    events = child_events(room.head) if room.facts.is_space else []
    children = ordered_children(map(stripped, events), suggested_only=suggested_only)[:MOST_CHILDREN]
    ids = list(dict.fromkeys(child["state_key"] for child in children))
    known = previews_of([child for child in ids if child != room_id], reader)
    visible = _visible(known, reader)
    return {
        "room": room.summary() | {"children_state": children},
        "children": [visible[child].summary() for child in ids if child in visible],
        "inaccessible_children": [child for child in ids if child in known and child not in visible],
    }


def _visible(previews: Mapping[str, AnyPreview], reader: ServerOutside) -> dict[str, AnyPreview]:
    allowed = {room_id: preview for room_id, preview in previews.items() if preview.membership != _SHUT_OUT}
    return visible_among(allowed, reader)
