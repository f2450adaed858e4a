"""The login page: `GET /login/fallback` of the draft, which performs every login that this server offers.

The page is a form of nothing: `static/login.js` asks `GET /login` what there is to do, and does it.
"""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from client_login_pages.shell import script, shown
from homeserver.matrix.errors import InvalidParam
from homeserver.services import login_flows, oauth_login, oauth_providers
from homeserver.services.login_flows import OAUTH2, RECAPTCHA, TERMS
from homeserver.services.login_stages import terms
from homeserver.settings import settings
from homeserver.web.pages import Html, origin_of
from homeserver.web.requests import query

_LOGIN = "/_matrix/client/api/v1/login"
_FORWARDED = ("device_id", "initial_device_display_name")
_LONGEST = 512
_TOKEN_GOES_HERE = "LOGIN-TOKEN-GOES-HERE"

# The text stands where the script begins: so it is read where there are no scripts.
_BODY = Html("""<div id="stage"><p>This page needs JavaScript, which is off in this browser. Turn it on for this page,
or log in with an app that asks for your password itself.</p></div>
<div id="problem" class="notice bad below" role="alert"></div>
<div id="news" class="notice wait below" role="status"></div>""")


def login_page(request: Request) -> Response:
    """The page for whoever opened it: an app, or, with `redirectUrl`, a browser that logs in for another client.

    Raises InvalidParam for a redirect URL that cannot be used, or a device that is described at too great length.
    """
    stages = {kind for flow in login_flows.login_flows() for kind in flow}
    body = {name: value for name in _FORWARDED if (value := query(request, name))}
    if any(len(value) > _LONGEST for value in body.values()):
        raise InvalidParam(f"A device is described in at most {_LONGEST} characters.")
    continuation = _continuation(query(request, "redirectUrl"))
    if continuation is not None:
        body["org.eigenserver.result"] = "login_token"
    data: dict[str, Any] = {
        "login": _LOGIN,
        "server_name": settings().server_name,
        "body": body,
        "continuation": continuation,
        "providers": [provider.name for provider in oauth_providers.providers()] if OAUTH2 in stages else [],
        "terms": [{"name": d.name, "url": d.url} for d in terms.documents()] if TERMS in stages else [],
        "recaptcha": captcha_data() if RECAPTCHA in stages else None,
    }
    foreign = captcha_sources() if RECAPTCHA in stages else None
    return shown("Log in", _BODY, script=script("parts", "login"), data=json.dumps(data), foreign=foreign)


def _continuation(redirect_url: str | None) -> dict[str, str] | None:
    if redirect_url is None:
        return None
    end = oauth_login.sso_finish(redirect_url, _TOKEN_GOES_HERE)
    return {"client": end.client, "url": end.url, "placeholder": _TOKEN_GOES_HERE}


def captcha_data() -> dict[str, str]:
    """What the script of a page needs for the captcha."""
    return {"key": settings().recaptcha_public_key, "script": settings().recaptcha_script_url}


def captcha_sources() -> dict[str, tuple[str, ...]]:
    """What the captcha's own script loads and shows, for the policy of a page that has one.

    The script brings others from its maker's hosts: what a script of ours loads may load more ('strict-dynamic').
    """
    origin = origin_of(settings().recaptcha_script_url)
    hosts = (origin, "https://www.gstatic.com") if origin == "https://www.google.com" else (origin,)
    return {
        "script-src": ("'strict-dynamic'",),
        "frame-src": hosts,
        "connect-src": hosts,
        "img-src": hosts,
        # It styles what it shows with attributes.
        "style-src-attr": ("'unsafe-inline'",),
    }
