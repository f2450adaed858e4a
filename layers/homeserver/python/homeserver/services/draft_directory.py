"""The published rooms of this server as the 2014 draft lists them.

Source: the client-server specification of autumn 2014, "Listing rooms", `GET /publicRooms`.
"""

from functools import partial
from typing import Any

from homeserver.matrix.errors import BadPagination, InvalidParam
from homeserver.services.draft_views import local_aliases
from homeserver.services.public_rooms import DirectoryQuery, published_rooms
from homeserver.storage.connection import in_parallel

MOST_ROOMS = 100  # in one answer: the aliases of each are a read
START, END = "START", "END"
_KEYS = ("room_id", "name", "topic", "num_joined_members")


def draft_public_rooms(*, limit: int, start: str | None) -> dict[str, Any]:
    """A page of the directory: `chunk`, `start`, `end`, the latter `END` where no rooms are left.

    One round more than today's directory takes, for the aliases. Raises BadPagination for what is no token of it.
    """
    since = start if start not in {None, "", START} else None
    if since == END:
        return {"start": END, "end": END, "chunk": []}
    try:
        page = published_rooms(DirectoryQuery(limit=min(limit, MOST_ROOMS), since=since))
    except InvalidParam as error:
        raise BadPagination(error.message) from error
    aliases = in_parallel(*[partial(local_aliases, room["room_id"]) for room in page["chunk"]])
    chunk = [
        {**{key: room[key] for key in _KEYS if key in room}, "aliases": names}
        for room, names in zip(page["chunk"], aliases, strict=True)
    ]
    return {"start": since or START, "end": page.get("next_batch", END), "chunk": chunk}
