"""Pages for people who log in: HTML, where everything else of this server is JSON."""

from starlette.requests import Request
from starlette.responses import Response

from client_login_pages import link_pages, login_page, oauth_pages, stage_pages
from client_login_pages.shell import page_route
from homeserver.services.email_validation import SUBMIT_PATH
from homeserver.web.routing import LEGACY, Router

router = Router()
ANY = ("",)  # these paths have no version


@router.get("/{version}/login/fallback", LEGACY)
@page_route
def show_login(request: Request) -> Response:
    """GET /login/fallback of the draft: "an HTML page which can perform the entire login process"."""
    return login_page.login_page(request)


@router.get("/_matrix/static/client/login/", ANY)
@page_route
def show_static_login(request: Request) -> Response:
    """GET /_matrix/static/client/login/ — "Login Fallback"."""
    return login_page.login_page(request)


@router.get("/_matrix/client/{version}/auth/{stage_type}/fallback/web")
@page_route
def show_stage(request: Request, stage_type: str) -> Response:
    """GET /auth/{authType}/fallback/web — "Fallback" of User-Interactive Authentication."""
    return stage_pages.stage_page(request, stage_type)


@router.post("/_matrix/client/{version}/auth/{stage_type}/fallback/web")
@page_route
def submit_stage(request: Request, stage_type: str) -> Response:
    """POST /auth/{authType}/fallback/web: the form of that page."""
    return stage_pages.submit_page(request, stage_type)


@router.get("/{version}/login/email/confirm", LEGACY)
@page_route
def show_link(request: Request) -> Response:
    """GET /login/email/confirm: where the mail of m.login.email.url leads."""
    return link_pages.confirm_page(request)


@router.post("/{version}/login/email/confirm", LEGACY)
@page_route
def confirm_link(request: Request) -> Response:
    """POST /login/email/confirm: the form of that page."""
    return link_pages.confirm(request)


@router.get(SUBMIT_PATH, ANY)
@page_route
def show_validation(request: Request) -> Response:
    """GET submit_token: where the mail of a requestToken endpoint leads."""
    return link_pages.validation_page(request)


@router.post(SUBMIT_PATH, ANY)
def validate(request: Request) -> Response:
    """POST submit_token: the form of that page, or what a client sends to `submit_url` as JSON."""
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return page_route(link_pages.validate)(request)
    return link_pages.validate_from_client(request)


@router.get("/{version}/login/oauth2/pick", LEGACY)
@page_route
def pick_provider(request: Request) -> Response:
    """GET /login/oauth2/pick: the choice between OAuth providers."""
    return oauth_pages.pick_page(request)


@router.get("/{version}/login/oauth2/callback", LEGACY)
def come_back(request: Request) -> Response:
    """GET /login/oauth2/callback: the redirect URI of this server at its OAuth providers."""
    is_browser = "text/html" in request.headers.get("accept", "")
    return page_route(oauth_pages.callback)(request) if is_browser else oauth_pages.callback(request)


@router.get("/_matrix/client/{version}/login/sso/redirect")
@page_route
def redirect_to_sso(request: Request) -> Response:
    """GET /login/sso/redirect — "Redirect the user's browser to the SSO interface"."""
    return oauth_pages.sso_redirect(request)


@router.get("/_matrix/client/{version}/login/sso/redirect/{idp_id}")
@page_route
def redirect_to_provider(request: Request, idp_id: str) -> Response:
    """GET /login/sso/redirect/{idpId} — the same with one of the providers."""
    return oauth_pages.sso_redirect(request, idp_id)
