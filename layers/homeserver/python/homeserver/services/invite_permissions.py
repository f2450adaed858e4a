"""Invite blocking: account data with which users say that they want no invitations.

Source: client-server API v1.19, "Invite permission", `m.invite_permission_config`; error code `M_INVITE_BLOCKED`.
"""

from typing import Any

import orjson

from homeserver.matrix.errors import Forbidden
from homeserver.storage.connection import Key
from homeserver.storage.user_data import UserData, account_data_key, unpack

_TYPE = "m.invite_permission_config"


def permission_key(user_id: str) -> Key:
    """Where the setting of a local user is kept: to be read together with the room."""
    return (UserData, user_id, account_data_key(None, _TYPE))


def check_wants_invites(item: UserData | None) -> None:
    """Raises Forbidden with M_INVITE_BLOCKED where the item of `permission_key` blocks invitations.

    Only the value `block` does: whatever else stands there means that invitations are welcome.
    """
    content: Any = orjson.loads(unpack(item.packed)) if item is not None else None
    if isinstance(content, dict) and content.get("default_action") == "block":
        raise Forbidden("This user does not want to be invited.", errcode="M_INVITE_BLOCKED")
