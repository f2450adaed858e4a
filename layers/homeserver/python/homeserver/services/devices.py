"""The devices of a user.

Source: client-server API v1.19, "Device Management". Clients cannot make devices here: only a login does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pynamodb.exceptions import UpdateError

from homeserver.matrix.errors import BadJson, InvalidParam, MissingParam, NotFound
from homeserver.matrix.identifiers import fits_identifier
from homeserver.services.access_tokens import Requester, revoke_device
from homeserver.services.login import MAX_DEVICE_NAME
from homeserver.services.login_stages.stage import Origin
from homeserver.services.oauth_links import own_flows
from homeserver.services.user_interactive_auth import Operation, authorise
from homeserver.storage import accounts
from homeserver.storage.accounts import Device


def list_devices(requester: Requester) -> list[dict[str, Any]]:
    """All devices of the requester, as clients see them."""
    return [_as_seen(device) for device in accounts.list_devices(requester.user_id)]


def get_device(requester: Requester, device_id: str) -> dict[str, Any]:
    """One device of the requester. Raises NotFound."""
    device = accounts.load_device(requester.user_id, device_id) if fits_identifier(device_id) else None
    if device is None:
        raise _unknown()
    return _as_seen(device)


def rename_device(requester: Requester, device_id: str, display_name: str | None) -> None:
    """Give a device another name; None leaves it as it is. Raises NotFound, InvalidParam (too long)."""
    if display_name is not None and len(display_name) > MAX_DEVICE_NAME:
        raise InvalidParam(f"display_name is longer than {MAX_DEVICE_NAME} characters.")
    if not fits_identifier(device_id):
        raise _unknown()
    if display_name is None:
        get_device(requester, device_id)
        return
    device = Device(requester.user_id, accounts.device_key(device_id))
    try:
        device.update([Device.name.set(display_name)], Device.k.exists())
    except UpdateError as error:
        if error.cause_response_code == "ConditionalCheckFailedException":
            raise _unknown() from error
        raise


def delete_device(requester: Requester, device_id: str, body: Mapping[str, Any], origin: Origin) -> None:
    """Delete one device and its tokens, after authentication. One that does not exist is deleted already."""
    _delete(requester, f"DELETE /devices/{device_id}", [device_id], body, origin)


def delete_devices(requester: Requester, body: Mapping[str, Any], origin: Origin) -> None:
    """Delete the devices that `body["devices"]` names, after authentication. Raises MissingParam or BadJson."""
    device_ids = body.get("devices")
    if device_ids is None:
        raise MissingParam("devices is required.")
    if not isinstance(device_ids, list) or not all(isinstance(device_id, str) for device_id in device_ids):
        raise BadJson("devices must be an array of strings.")
    _delete(requester, "POST /delete_devices", device_ids, body, origin)


def _delete(
    requester: Requester, name: str, device_ids: Sequence[str], body: Mapping[str, Any], origin: Origin
) -> None:
    operation = Operation(name, requester.user_id, body, origin=origin)
    authorisation = authorise(operation, own_flows(requester.user_id))
    # Names that are no devices cost nothing, however many a request lists.
    existing = {device.device_id for device in accounts.list_devices(requester.user_id)}
    # The requester's own device last: if this is interrupted, the token for the next try still works.
    for device_id in sorted(existing.intersection(device_ids), key=lambda each: each == requester.device_id):
        revoke_device(requester.user_id, device_id)
    authorisation.finish()


def _as_seen(device: Device) -> dict[str, Any]:
    answer: dict[str, Any] = {"device_id": device.device_id}
    if device.name is not None:
        answer["display_name"] = device.name
    if device.seen_ip is not None:
        answer["last_seen_ip"] = device.seen_ip
    if device.seen_at is not None:
        answer["last_seen_ts"] = int(device.seen_at)
    return answer


def _unknown() -> NotFound:
    return NotFound("You have no such device.")
