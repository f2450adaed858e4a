"""Whether anybody here shares a room with a user of another server: their own memberships say so.

This server knows of rooms that its users are in, and of no others.
"""

from collections.abc import Collection
from functools import partial

from homeserver.storage.connection import in_parallel, query_raw
from homeserver.storage.room_items import Membership

_MOST_ROOMS = 200  # that are looked through for one that the user is still in


def users_with_rooms(user_ids: Collection[str]) -> set[str]:
    """Those of the users who are joined to a room that this server knows: one round."""
    users = list(user_ids)
    return {user for user, has in zip(users, in_parallel(*[partial(_has_room, u) for u in users]), strict=True) if has}


def _has_room(user_id: str) -> bool:
    rows = query_raw(Membership, user_id, None, None, consistent=False, limit=_MOST_ROOMS)
    return any(row["m"]["S"] == "join" for row in rows)
