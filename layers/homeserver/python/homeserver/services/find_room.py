"""The summary of a room, wherever the room is.

Source: client-server API v1.19, "Room summary".
"""

from collections.abc import Sequence
from typing import Any

from homeserver.matrix.errors import InvalidParam, NotFound
from homeserver.services import rate_limits
from homeserver.services.remote_aliases import NamedRoom, room_named
from homeserver.services.remote_hierarchy import Asking, RemotePreview, known_servers
from homeserver.services.residency import candidates
from homeserver.services.room_preview import Preview, UserOutside, exact_preview, visible_among

_NO_ROOM = "There is no such room."


def room_summary(
    user_id: str | None, room_id_or_alias: str, via: Sequence[str] = (), *, address: str = ""
) -> dict[str, Any]:
    """The summary of a room with the membership of the reader; `user_id` is None for who gave no token.

    Of a room that this server is in it is exact; of another one it is what the first of its servers says that is asked:
    those of `via`, of the alias, and those that this server knows. `address`: of the client.

    Raises NotFound for a room that does not exist or that nobody tells of, or that the reader may not know of;
    MatrixError (502) where the alias's server cannot be asked; LimitExceeded.
    """
    try:
        room = room_named(room_id_or_alias, via, asked_from=address if user_id is None else None)
    except InvalidParam:
        raise NotFound(_NO_ROOM) from None
    reader = UserOutside(user_id)
    preview: Preview | None = exact_preview(room.room_id, reader)
    if preview is None:
        preview = _elsewhere(room, reader, address)
    if preview is None or not visible_among({room.room_id: preview}, reader):
        raise NotFound(_NO_ROOM)
    return preview.summary() | ({"membership": preview.membership} if user_id is not None else {})


def _elsewhere(room: NamedRoom, reader: UserOutside, address: str) -> RemotePreview | None:
    servers = candidates(room.servers, known_servers(room.room_id, reader.user_id))
    if not servers:
        return None
    if reader.user_id is None:
        rate_limits.take_question(address)
    else:
        rate_limits.take_finding(reader.user_id)
    told = Asking().ask({room.room_id: servers})[room.room_id]
    if told is None:
        return None
    membership = reader.memberships([room.room_id]).get(room.room_id, "leave")
    return RemotePreview.of(told.room, membership, told)
