"""The account that the server speaks through, and the rooms it made: nobody leaves them.

Source: client-server API v1.19, "Server Notices". `SERVER_NOTICES_LOCALPART` names the account; empty turns it all off.
"""

from homeserver.matrix.errors import Forbidden
from homeserver.settings import settings
from homeserver.storage.rooms import load_room


def notices_user() -> str | None:
    """The user ID of the server's account, or None where there are no notices."""
    localpart = settings().server_notices_localpart
    return f"@{localpart}:{settings().server_name}" if localpart else None


def check_may_leave(user_id: str, room_id: str) -> None:
    """Raises M_CANNOT_LEAVE_SERVER_NOTICE_ROOM for a room that the server made for its notices, joined or invited.

    Reads nothing where there are no notices.
    """
    sender = notices_user()
    if sender is None or user_id == sender:
        return
    view, _ = load_room(room_id, [("m.room.create", "")])
    create = view.event("m.room.create") if view is not None else None
    if create is not None and create.sender == sender:
        raise Forbidden(
            "The server's notices cannot be rejected, nor their room left.",
            errcode="M_CANNOT_LEAVE_SERVER_NOTICE_ROOM",
        )
