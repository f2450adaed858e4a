"""Endpoints of discovery."""

from starlette.requests import Request
from starlette.responses import Response

from homeserver.matrix.errors import NotFound
from homeserver.services import discovery
from homeserver.settings import settings
from homeserver.web.pages import page_response
from homeserver.web.requests import json_response
from homeserver.web.routing import Router
from server_discovery.page import front_page

router = Router()
ANY = ("",)  # these paths have no version


@router.get("/", ANY)
def show_front_page(request: Request) -> Response:
    """GET / — for people who open the server's address in a browser."""
    try:
        url = discovery.base_url(*_asked(request))
    except NotFound:
        url = ""
    return page_response(front_page(discovery.server_name(), url, settings().registration))


@router.get("/_matrix/client/versions", ANY)
def get_versions(request: Request) -> Response:
    """GET /versions — "Gets the versions of the specification supported by the server"."""
    return json_response(discovery.versions())


@router.get("/.well-known/matrix/client", ANY)
def get_client_information(request: Request) -> Response:
    """GET /.well-known/matrix/client — "Gets Matrix server discovery information about the domain"."""
    return json_response(discovery.client_information(*_asked(request)))


@router.get("/.well-known/matrix/server", ANY)
def get_server_information(request: Request) -> Response:
    """GET /.well-known/matrix/server — "Gets information about the delegated server ..."."""
    return json_response(discovery.server_information(*_asked(request)))


@router.get("/.well-known/matrix/support", ANY)
def get_support_information(request: Request) -> Response:
    """GET /.well-known/matrix/support — "Gets homeserver contacts and support details"."""
    return json_response(discovery.support_information(getattr(settings(), "admin_contact", "")))


def _asked(request: Request) -> tuple[str, str]:
    """Scheme and host of the address that was asked."""
    return request.scope["scheme"], request.headers.get("host", "")
