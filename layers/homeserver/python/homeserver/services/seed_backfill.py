"""The draft's trigger for a room's history: a member asks one server of the room for what came before.

What comes is checked, judged and stored as any history that is fetched (`backfill`), and shown as far as the member may
see it.
"""

from typing import Any

from homeserver.matrix.errors import Forbidden, InvalidParam, MissingParam
from homeserver.matrix.identifiers import is_server_name
from homeserver.services.access_tokens import Requester
from homeserver.services.aggregations import show_events
from homeserver.services.backfill import fill_gap
from homeserver.services.draft_views import LEVEL_KEYS, DraftRoom
from homeserver.services.send_event import NOT_IN_ROOM
from homeserver.services.server_access import is_member, row_key
from homeserver.services.visibility import reader_of
from homeserver.settings import settings
from homeserver.storage.backfilled_timeline import read_backfilled
from homeserver.storage.timeline import read_entry, read_positions

DEFAULT_LIMIT, MAX_LIMIT = 10, 100
_FIRST_POSITIONS = 100  # in which the oldest event that is known may have a gap before it


def backfill_from(requester: Requester, room_id: str, remote: str | None, limit: int) -> list[dict[str, Any]]:
    """Events that a server of the room holds from before the oldest ones known here, the newest first.

    They are in the draft's view of events. None where the history is known from its beginning, and where the server
    says nothing that can be used.

    Raises MissingParam, InvalidParam for what is no other server's name, Forbidden for who is not joined, and for a
    server without a joined member in the room.
    """
    if remote is None:
        raise MissingParam("remote is required.")
    if not is_server_name(remote) or remote == settings().server_name:
        raise InvalidParam("remote must be the name of another server.")
    key = row_key(room_id, remote)
    reader = reader_of(requester.user_id, room_id, LEVEL_KEYS, extras=[key])
    if not reader.is_joined:
        raise Forbidden(NOT_IN_ROOM)
    if not is_member(reader.view, remote, reader.view.extras.get(key)):
        raise Forbidden("This server is not in the room.")
    entries = read_positions(room_id, 1, min(_FIRST_POSITIONS, int(reader.view.head.position)))
    anchor = next((entry for entry in entries if entry.gap), None)
    if anchor is None:
        return []
    fill_gap(room_id, anchor.position, min(limit, MAX_LIMIT), server=remote)
    after = read_entry(room_id, anchor.position) or anchor
    placed = read_backfilled(room_id, anchor.position, -after.backfilled, -anchor.backfilled - 1)
    visible = reader.visible([placed[offset] for offset in sorted(placed, reverse=True)][:limit])
    room = DraftRoom.of_view(reader.view)
    return [room.show(event) for event in show_events(reader, visible, requester, room_id)]
