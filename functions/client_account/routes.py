"""Endpoints of the requester's own account and devices."""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.services import account, devices
from homeserver.web.authentication import authenticate
from homeserver.web.requests import field, json_object, json_response
from homeserver.web.routing import Router

router = Router()


@router.get("/_matrix/client/{version}/account/whoami")
def who_am_i(request: Request) -> Response:
    """GET /account/whoami — "Gets information about the owner of an access token"."""
    return json_response(account.who_am_i(authenticate(request)))


@router.get("/_matrix/client/{version}/capabilities")
def get_capabilities(request: Request) -> Response:
    """GET /capabilities — "Gets information about the server's capabilities"."""
    authenticate(request)
    return json_response({"capabilities": account.capabilities()})


@router.post("/_matrix/client/{version}/account/password")
def change_password(request: Request) -> Response:
    """POST /account/password — "Changes a user's password"."""
    account.change_password(authenticate(request), json_object(request))
    return json_response({})


@router.post("/_matrix/client/{version}/account/deactivate")
def deactivate(request: Request) -> Response:
    """POST /account/deactivate — "Deactivate a user's account"."""
    result = account.deactivate(authenticate(request), json_object(request))
    return json_response({"id_server_unbind_result": result})


@router.get("/_matrix/client/{version}/devices")
def list_devices(request: Request) -> Response:
    """GET /devices — "List registered devices for the current user"."""
    return json_response({"devices": devices.list_devices(authenticate(request))})


@router.get("/_matrix/client/{version}/devices/{device_id...}")
def get_device(request: Request, device_id: str) -> Response:
    """GET /devices/{deviceId} — "Get a single device"."""
    return json_response(devices.get_device(authenticate(request), device_id))


@router.put("/_matrix/client/{version}/devices/{device_id...}")
def rename_device(request: Request, device_id: str) -> Response:
    """PUT /devices/{deviceId} — "Create or update a device"."""
    requester = authenticate(request)
    devices.rename_device(requester, device_id, field(json_object(request), "display_name", str))
    return json_response({})


@router.delete("/_matrix/client/{version}/devices/{device_id...}")
def delete_device(request: Request, device_id: str) -> Response:
    """DELETE /devices/{deviceId} — "Delete a device"."""
    devices.delete_device(authenticate(request), device_id, json_object(request))
    return json_response({})


@router.post("/_matrix/client/{version}/delete_devices")
def delete_devices(request: Request) -> Response:
    """POST /delete_devices — "Bulk deletion of devices"."""
    devices.delete_devices(authenticate(request), json_object(request))
    return json_response({})
