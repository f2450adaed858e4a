"""The pages around logging in at another server: choosing one, coming back, and going on to another client."""

from starlette.requests import Request
from starlette.responses import Response

from client_login_pages.shell import event_cookies, script, shown
from homeserver.services import draft_login, oauth_login
from homeserver.services.oauth_login import BROWSER_COOKIE, CallbackResult, Confirmation, Continue, Redirect
from homeserver.web.pages import (
    Html,
    facts,
    hidden,
    joined,
    link_button,
    markup,
    paragraph,
    redirect,
    success,
)
from homeserver.web.requests import json_response, origin_of, query

_COOKIE_SECONDS = 600
_COOKIE_PATH = "/_matrix/client"


def pick_page(request: Request) -> Response:
    """GET /login/oauth2/pick: where to log in. Raises what oauth_login.pick does."""
    picked = oauth_login.pick(
        origin_of(request),
        session_id=query(request, "session"),
        redirect_url=query(request, "redirectUrl"),
        provider_id=query(request, "provider"),
    )
    if isinstance(picked, Redirect):
        return _redirected(request, picked)
    items = [markup("<li>{link}</li>", link=link_button(choice.url, choice.name, second=True)) for choice in picked]
    choices = markup('<ul class="choices">{items}</ul>', items=joined(items))
    return shown("Where do you want to log in?", joined([paragraph("Choose the service that knows you."), choices]))


def sso_redirect(request: Request, idp_id: str | None = None) -> Response:
    """GET /login/sso/redirect: off to a provider, or to a choice. Raises what oauth_login.sso_redirect does."""
    browser = event_cookies(request).get(BROWSER_COOKIE)
    url = query(request, "redirectUrl")
    return _redirected(request, oauth_login.sso_redirect(url, idp_id, origin_of(request), browser=browser), 302)


def callback(request: Request) -> Response:
    """GET /login/oauth2/callback: back from a provider. Raises what oauth_login.callback does."""
    cookies = event_cookies(request)
    result = oauth_login.callback(
        dict(request.query_params),
        origin_of(request),
        accept=request.headers.get("accept", ""),
        proof=request.headers.get("x-session") or cookies.get("session"),
        browser=cookies.get(BROWSER_COOKIE),
    )
    if result.as_json:
        body = {"type": "m.login.oauth2", "session": result.session}
        return json_response(draft_login.log_in(body, origin_of(request)), headers={"Cache-Control": "no-store"})
    return _returned(result)


def _returned(result: CallbackResult) -> Response:
    if result.confirmation is not None:
        return _confirmation(result.confirmation, result)
    if result.continuation is not None:
        return continue_page(result.continuation, result.user_id)
    if result.kind == "linked":
        text = f"Your account at {result.provider_name} now logs you in as {result.user_id}."
        return shown("Thank you", joined([success(text), paragraph("You can close this page.")]))
    body = joined(
        [
            success(f"You logged in at {result.provider_name}, as {result.user_id}."),
            paragraph("You can close this page and go back to where you came from: it goes on by itself."),
        ]
    )
    return shown("Thank you", body, script=script("parts", "returned"), data="null")


def _confirmation(asked: Confirmation, result: CallbackResult) -> Response:
    """Somebody else may have begun this login and got a person to finish it: so the person is asked."""
    rows = [("Account", result.user_id), ("Asked for by", asked.user_agent), ("At the address", asked.address)]
    button: Html = markup(
        '<form method="get" action="{path}">{fields}<button type="submit">Yes, that was me</button></form>',
        path=oauth_login.CALLBACK_PATH,
        fields=hidden(confirm=asked.token),
    )
    about = paragraph("Somebody began this in another place than the one you are at:")
    warning = paragraph(
        "Only go on if that was you. Otherwise somebody wants to get into your account: close this page. Then nothing "
        "happens."
    )
    return shown("Was this you?", joined([about, facts(rows), warning, button]))


def continue_page(end: Continue, user_id: str) -> Response:
    """The end of a login for another client, which is named before anybody goes there."""
    about = markup(
        "<p>You are signed in as {user}. Continue to <strong>{client}</strong>? It will be able to act as you. "
        "Only go on if this is where you came from.</p>",
        user=user_id,
        client=end.client,
    )
    return shown("Continue", joined([about, link_button(end.url, f"Continue to {end.client}")]))


def _redirected(request: Request, to: Redirect, status: int = 303) -> Response:
    response = redirect(to.url, status)
    if to.cookie is not None:
        secure = request.scope["scheme"] == "https"
        response.set_cookie(
            BROWSER_COOKIE, to.cookie, _COOKIE_SECONDS, path=_COOKIE_PATH, secure=secure, httponly=True, samesite="lax"
        )
    return response
