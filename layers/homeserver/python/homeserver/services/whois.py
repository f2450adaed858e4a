"""Where a user is logged in, for the user and for who runs the server.

Source: the client API of 2014, `GET /admin/whois/{userId}`; client-server API v1.19, "Server Administration".
"""

from typing import Any

from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.identifiers import is_user_id
from homeserver.services.access_tokens import Requester
from homeserver.storage import accounts
from homeserver.storage.accounts import Device
from homeserver.storage.connection import in_parallel


def draft_whois(requester: Requester, user_id: str) -> dict[str, Any]:
    """The user's devices, each with its one session and the address that it was made from, as 2014 listed them.

    Raises Forbidden unless the requester is the user or an administrator, InvalidParam for what is no
    user ID, NotFound for who has no account here.
    """
    if not is_user_id(user_id):
        raise InvalidParam("This is not a user ID.")
    if requester.user_id != user_id:
        account = accounts.load_account(requester.user_id)
        if account is None or not account.admin or not account.active:
            raise Forbidden("Only the user and administrators may ask this.")
    account, devices = in_parallel(lambda: accounts.load_account(user_id), lambda: accounts.list_devices(user_id))
    if account is None:
        raise NotFound("There is no such user.")
    return {"user_id": user_id, "devices": [_device(device) for device in devices]}


def _device(device: Device) -> dict[str, Any]:
    connection = {"ip": device.seen_ip, "last_seen": None if device.seen_at is None else int(device.seen_at)}
    known = {name: value for name, value in connection.items() if value is not None}
    return {"device_id": device.device_id, "sessions": [{"connections": [known] if known else []}]}
