"""Endpoints of the requester's own account, its e-mail addresses and its devices."""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.services import account, devices, email_validation, oauth_links, password_change, threepids
from homeserver.services.whois import draft_whois
from homeserver.web.authentication import authenticate, token_of
from homeserver.web.requests import field, json_object, json_response, origin_of
from homeserver.web.routing import LEGACY, Router

router = Router()
ANY = ("",)  # these paths have no version
_OAUTH = "/_matrix/client/unstable/org.eigenserver/oauth2"


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
    """POST /account/password — "Changes a user's password"; without an access token where mail can reset it."""
    by_mail = not token_of(request) and password_change.can_be_reset()
    requester = None if by_mail else authenticate(request)
    password_change.change_password(requester, json_object(request), origin_of(request))
    return json_response({})


@router.post("/_matrix/client/{version}/account/password/email/requestToken")
def request_token_to_reset_password(request: Request) -> Response:
    """POST /account/password/email/requestToken — "Requests a validation token be sent to the given email address"."""
    return json_response(email_validation.request_token("password", json_object(request), origin_of(request)))


@router.post("/_matrix/client/{version}/account/password/msisdn/requestToken")
def request_text_message_to_reset_password(request: Request) -> Response:
    """POST /account/password/msisdn/requestToken — this server sends no text messages, and says so."""
    email_validation.refuse_phone_number(json_object(request))


@router.get("/_matrix/client/{version}/account/3pid")
def list_threepids(request: Request) -> Response:
    """GET /account/3pid — "Gets a list of a user's third-party identifiers"."""
    return json_response({"threepids": threepids.list_threepids(authenticate(request).user_id)})


@router.post("/_matrix/client/{version}/account/3pid")
def add_threepid_by_credentials(request: Request) -> Response:
    """POST /account/3pid (deprecated) — "Adds contact information to the user's account"."""
    threepids.add_by_credentials(authenticate(request).user_id, json_object(request), origin_of(request))
    return json_response({})


@router.post("/_matrix/client/{version}/account/3pid/add")
def add_threepid(request: Request) -> Response:
    """POST /account/3pid/add — "Adds contact information to the user's account"."""
    threepids.add_validated(authenticate(request).user_id, json_object(request), origin_of(request))
    return json_response({})


@router.post("/_matrix/client/{version}/account/3pid/delete")
def delete_threepid(request: Request) -> Response:
    """POST /account/3pid/delete — "Deletes a third-party identifier from the user's account"."""
    result = threepids.delete_threepid(authenticate(request).user_id, json_object(request))
    return json_response({"id_server_unbind_result": result})


@router.post("/_matrix/client/{version}/account/3pid/email/requestToken")
def request_token_to_add_address(request: Request) -> Response:
    """POST /account/3pid/email/requestToken — "Begins the validation process for an email address"."""
    return json_response(email_validation.request_token("add", json_object(request), origin_of(request)))


@router.post("/_matrix/client/{version}/account/3pid/msisdn/requestToken")
def request_text_message_to_add_number(request: Request) -> Response:
    """POST /account/3pid/msisdn/requestToken — this server sends no text messages, and says so."""
    email_validation.refuse_phone_number(json_object(request))


@router.post("/_matrix/client/{version}/account/deactivate")
def deactivate(request: Request) -> Response:
    """POST /account/deactivate — "Deactivate a user's account"."""
    result = account.deactivate(authenticate(request), json_object(request), origin_of(request))
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
    devices.delete_device(authenticate(request), device_id, json_object(request), origin_of(request))
    return json_response({})


@router.post("/_matrix/client/{version}/delete_devices")
def delete_devices(request: Request) -> Response:
    """POST /delete_devices — "Bulk deletion of devices"."""
    devices.delete_devices(authenticate(request), json_object(request), origin_of(request))
    return json_response({})


@router.get("/{version}/admin/whois/{user_id...}", LEGACY)
def who_is(request: Request, user_id: str) -> Response:
    """GET /admin/whois/{userId} — of the draft of 2014."""
    return json_response(draft_whois(authenticate(request), user_id))


@router.post(_OAUTH + "/link", ANY)
def link_oauth_account(request: Request) -> Response:
    """POST /oauth2/link: where to go to link an account at an OAuth provider with one's own."""
    requester = authenticate(request)
    return json_response({"uri": oauth_links.begin_link(requester, json_object(request), origin_of(request))})


@router.get(_OAUTH + "/links", ANY)
def list_oauth_links(request: Request) -> Response:
    """GET /oauth2/links: the accounts at OAuth providers that one can log in with."""
    return json_response({"links": oauth_links.links(authenticate(request).user_id)})


@router.delete(_OAUTH + "/links/{link_id}", ANY)
def unlink_oauth_account(request: Request, link_id: str) -> Response:
    """DELETE /oauth2/links/{linkId}: end one of them."""
    oauth_links.unlink(authenticate(request).user_id, link_id)
    return json_response({})
