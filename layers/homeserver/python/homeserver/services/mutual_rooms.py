"""The rooms that the requester and another user are both in.

Source: client-server API v1.19, "Mutual rooms".
"""

from typing import Any

from homeserver.matrix.errors import InvalidParam, MissingParam
from homeserver.matrix.identifiers import is_room_id, is_user_id
from homeserver.matrix.unpadded_base64 import decode, encode_urlsafe
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.membership import joined_rooms
from homeserver.storage.connection import in_parallel

ROOMS_AT_ONCE = 100


def mutual_rooms(requester: Requester, user_id: str | None, start: str | None = None) -> dict[str, Any]:
    """Up to 100 rooms in the order of their IDs, the number of all, and `next_batch` if there are more.

    Reads the memberships of both users. A user who does not exist shares no rooms. A token is the last room of the
    batch before: rooms that come or go meanwhile move nothing else.
    Raises MissingParam, InvalidParam for no user ID, for the requester's own, and for what is no token, LimitExceeded.
    """
    if user_id is None:
        raise MissingParam("user_id is required.")
    if not is_user_id(user_id):
        raise InvalidParam("user_id is not a Matrix user ID.")
    if user_id == requester.user_id:
        raise InvalidParam("user_id must be another user than yourself.")
    after = _room_of(start) if start is not None else ""
    rate_limits.take_finding(requester.user_id)
    own, others = in_parallel(lambda: joined_rooms(requester.user_id), lambda: joined_rooms(user_id))
    shared = sorted(set(own) & set(others))
    rest = [room_id for room_id in shared if room_id > after]
    answer: dict[str, Any] = {"joined": rest[:ROOMS_AT_ONCE], "count": len(shared)}
    if len(rest) > ROOMS_AT_ONCE:
        answer["next_batch"] = encode_urlsafe(rest[ROOMS_AT_ONCE - 1].encode())
    return answer


def _room_of(token: str) -> str:
    try:
        room_id = decode(token).decode()
    except ValueError:  # a UnicodeDecodeError too
        room_id = ""
    if not is_room_id(room_id):
        raise InvalidParam("from is no token of this endpoint.")
    return room_id
