"""Logging in at another server: the pages and redirects of `m.login.oauth2` and of `m.login.sso`.

Source: the 2014 draft, "OAuth2-based" login; client-server API v1.19, "SSO client login/authentication"; OAuth 2.0
(RFC 6749) with PKCE (RFC 7636); OpenID Connect Core 1.0, "Authentication using the Authorization Code Flow".

A browser is only ever sent to a provider that the operator configured, and from there to where this server's own
record of the request says. What comes back with a state is answered once.

Whoever begins a login can send the provider's address to somebody else, who then would log them in. So a return from
another network than the login was begun in has to be confirmed by a click on a page that says where that was, unless
the request shows that it knows the session. An SSO login, which a browser begins, ends in that browser only.
"""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote, unquote, urlencode, urlsplit

from homeserver.matrix.access_token import token_hash
from homeserver.matrix.errors import Forbidden, InvalidParam, MatrixError, MissingParam, NotFound
from homeserver.services import login_sessions, oauth_accounts, oauth_requests
from homeserver.services.login_flows import OAUTH2, PASSWORD, login_flows
from homeserver.services.login_sessions import UnknownSession
from homeserver.services.login_stages.oauth2 import ADDRESS, CLAIMED, FAILED, FOUND, PICK_PATH, USER_AGENT
from homeserver.services.login_stages.stage import Origin
from homeserver.services.login_tokens import new_login_token
from homeserver.services.oauth_links import link
from homeserver.services.oauth_providers import Provider, provider_of, providers
from homeserver.services.rate_limits import network_of, take_oauth
from homeserver.storage import oauth_states, sessions
from homeserver.storage.oauth_identities import identity_hash
from homeserver.storage.oauth_states import OauthState

CALLBACK_PATH = oauth_requests.CALLBACK_PATH
FALLBACK_PATH = "/_matrix/client/api/v1/login/fallback"
SSO_PATH = "/_matrix/client/v3/login/sso/redirect"
# The cookie that binds an SSO login to the browser that began it, which sso_redirect is asked from, and callback: to be
# set with Path=/_matrix/client; Max-Age=600; HttpOnly; SameSite=Lax; Secure where the request came over https.
BROWSER_COOKIE = "oauth_browser"
# Among the providers of m.login.sso: this server's own page, where it knows ways to log in that clients do not.
OWN_PAGE = "org.eigenserver.page"
_MAX_URL = 2048
_COOKIE_LENGTH = 43
# Schemes that a browser runs or opens itself, instead of giving the address to a client.
_NO_CLIENTS = frozenset({"javascript", "data", "vbscript", "blob", "file", "about", "view-source", "filesystem", "ws"})
_RACES = 8


@dataclass(frozen=True, slots=True)
class Redirect:
    """302 to `url`. `cookie`: the value to set BROWSER_COOKIE to, None to set none."""

    url: str
    cookie: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One line of a page of choices: what it says, and the link (of this server) behind it."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Continue:
    """What the page at the end of an SSO login says and does.

    `client` is the domain, or the scheme of an application, that gets to act for the user: the page names it before
    anybody follows the link `url`, which has the login token. It does not follow the link by itself.
    """

    client: str
    url: str


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What somebody has to agree to because the request was begun somewhere else: at `address`, with `user_agent`.

    The page has one button: a form, method GET, to CALLBACK_PATH with the hidden field `confirm` = `token`.
    """

    token: str
    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class CallbackResult:
    """What came of a return from a provider.

    `kind`: "login": the session `session` now is `user_id`'s, as far as this stage goes: the page says that one can
    go back to where one came from. If `as_json`, the answer is instead what `POST /login` answers to the body
    `{"type": "m.login.oauth2", "session": session}`. "linked": the account of the provider now is `user_id`'s.
    "sso": a login for another client, see `continuation`. "confirm": nothing has happened yet, see `confirmation`;
    it would be a login as, or a link with, `user_id`.
    """

    kind: Literal["login", "linked", "sso", "confirm"]
    user_id: str
    provider_name: str
    session: str | None = None
    as_json: bool = False
    continuation: Continue | None = None
    confirmation: Confirmation | None = None


# ── What is offered ─────────────────────────────────────────────────────────────────────────────────


def sso_flow() -> dict[str, Any] | None:
    """The `m.login.sso` entry of `GET /login`, or None if there is nothing that it would lead to.

    Its `identity_providers` are there if a provider's word alone logs people in. Clients show them, and nothing else:
    where this server's own page knows more, it is one of them.
    """
    shown = [provider.shown() for provider in _sole_providers()]
    if not shown:
        return {"type": "m.login.sso"} if _needs_own_page() else None
    if _needs_own_page():
        shown.append({"id": OWN_PAGE, "name": "More ways to log in"})
    return {"type": "m.login.sso", "identity_providers": shown}


def _sole_providers() -> tuple[Provider, ...]:
    """The providers, if one of them is all that a login takes, and not one stage of several."""
    return providers() if (OAUTH2,) in login_flows() else ()


def _needs_own_page() -> bool:
    """Whether there are flows that today's clients cannot do: mails, terms, several stages."""
    return any(flow not in {(PASSWORD,), (OAUTH2,)} for flow in login_flows())


# ── The way there ───────────────────────────────────────────────────────────────────────────────────


def pick(
    origin: Origin, *, session_id: str | None, redirect_url: str | None, provider_id: str | None
) -> list[Choice] | Redirect:
    """`GET /login/oauth2/pick`: the providers to choose from, or the way to the one that was chosen (`provider`).

    The query has `session` (m.login.oauth2) or `redirectUrl` (m.login.sso).
    Raises MissingParam for neither, M_UNKNOWN (401) for an unknown session, NotFound for an unknown provider,
    InvalidParam for a redirect URL that cannot be used, LimitExceeded, M_UNKNOWN (502).
    """
    take_oauth(origin.address)
    if session_id is None:
        query = urlencode({"redirectUrl": _checked(redirect_url)[0]})
        sole = _sole_providers()
        return [
            Choice(p.name, f"{oauth_requests.own_address(origin)}{SSO_PATH}/{quote(p.id, safe='')}?{query}")
            for p in sole
        ]
    left = _waiting(session_id).pending[OAUTH2]
    if provider_id is None:
        here = oauth_requests.own_address(origin) + PICK_PATH
        return [Choice(p.name, f"{here}?{urlencode({'session': session_id, 'provider': p.id})}") for p in providers()]
    # Whoever picks may be at another place than who began: it is the latter whom they would log in.
    beginner = replace(origin, address=left[ADDRESS], user_agent=left[USER_AGENT])
    request = oauth_requests.prepare(provider_of(provider_id), "login", session_id, beginner)
    request.store()
    return Redirect(request.url)


def sso_redirect(redirect_url: str | None, idp: str | None, origin: Origin, *, browser: str | None) -> Redirect:
    """`GET /login/sso/redirect[/{idpId}]`: where a browser goes that wants to log in with a client at `redirect_url`.

    To the provider `idp`; without one to this server's own page, if there are flows that only it can do; else to the
    only provider, or to the choice of several. `browser`: the cookie BROWSER_COOKIE of the request.
    Raises MissingParam without a redirect URL, InvalidParam for one that cannot be used, NotFound for an unknown
    provider or where there is no SSO, LimitExceeded, M_UNKNOWN (502).
    """
    take_oauth(origin.address)
    checked, _ = _checked(redirect_url)
    sole = _sole_providers()
    here, query = oauth_requests.own_address(origin), urlencode({"redirectUrl": checked})
    if _needs_own_page() and idp in {None, OWN_PAGE}:
        return Redirect(f"{here}{FALLBACK_PATH}?{query}")
    if idp is None and len(sole) > 1:
        return Redirect(f"{here}{PICK_PATH}?{query}")
    chosen = [provider for provider in sole if idp in {None, provider.id}]
    if not chosen:
        raise NotFound("This server has no such way to log in.")
    # One cookie for several logins that a browser has under way.
    cookie = browser if browser is not None and len(browser) == _COOKIE_LENGTH else secrets.token_urlsafe(32)
    request = oauth_requests.prepare(chosen[0], "sso", checked, origin, browser=cookie)
    request.store()
    return Redirect(request.url, cookie)


def sso_finish(redirect_url: str, login_token: str) -> Continue:
    """The end of a login for another client: also of the fallback page in SSO mode, with the token the engine made.

    Raises InvalidParam for a redirect URL that cannot be used.
    """
    url, client = _checked(redirect_url)
    address, mark, fragment = url.partition("#")
    address, _, query = address.partition("?")
    kept = [pair for pair in query.split("&") if pair and unquote(pair.partition("=")[0]) != "loginToken"]
    with_token = "&".join([*kept, urlencode({"loginToken": login_token})])
    return Continue(client, f"{address}?{with_token}{mark}{fragment}")


def _checked(url: str | None) -> tuple[str, str]:
    """A client's URL, in which browsers see the same as we do, and the client. Raises MissingParam or InvalidParam."""
    if not url:
        raise MissingParam("redirectUrl is required.")
    client = _client_at(url)
    if client is None:
        raise InvalidParam("redirectUrl is no address that a login can end at.")
    return url, client


def _client_at(url: str) -> str | None:
    """The domain, or for other schemes than those of the web the scheme, of a URL; None for none that can be used."""
    if len(url) > _MAX_URL or not url.isprintable() or {" ", "\\"} & set(url):
        return None
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return None
    if not parts.scheme or parts.scheme in _NO_CLIENTS or "@" in parts.netloc:
        return None
    return host if parts.scheme in {"http", "https"} else f"{parts.scheme}:"


# ── The way back ────────────────────────────────────────────────────────────────────────────────────


def callback(
    query: Mapping[str, str], origin: Origin, *, accept: str, proof: str | None, browser: str | None
) -> CallbackResult:
    """`GET /login/oauth2/callback`: somebody returns from a provider, or has confirmed.

    `query`: the parameters (`state`, `code`, `error`, `iss`; or `confirm`). `accept`: the Accept header. `proof`: the
    session ID that the request carries in the cookie `session` or the header `X-Session`. `browser`: the cookie
    BROWSER_COOKIE.
    Raises M_UNKNOWN (400) for a state that is unknown, used or too old, MissingParam; Forbidden for a refusal by the
    person or the provider, for an ID token that is not what was asked for, and for an account that is nobody's here or
    somebody else's; M_UNKNOWN (502) for a provider that cannot be asked or makes no sense; LimitExceeded.
    """
    take_oauth(origin.address)
    if "confirm" in query:
        return _confirmed(query["confirm"], origin)
    request = oauth_requests.take(query.get("state"))
    provider = _still_known(request)
    if request.purpose == "sso":
        return _sso(provider, request, query, origin, browser)
    if request.purpose == "link":
        claims = oauth_requests.identity_claims(provider, request, query)
        hashed = identity_hash(provider.issuer, claims["sub"])
        if _is_elsewhere(request, origin):
            return _ask(provider, request, request.target, hashed)
        link(provider.id, hashed, request.target)
        return CallbackResult("linked", request.target, provider.name)
    try:
        user_id = _back_for_session(provider, request, query, origin)
    except MatrixError as error:
        _leave(request.target, {FAILED: {"status": error.status, "errcode": error.errcode, "error": error.message}})
        raise
    is_proved = proof is not None and hmac.compare_digest(proof.encode(), request.target.encode())
    if not is_proved and _is_elsewhere(request, origin):
        return _ask(provider, request, user_id, None)
    _complete(request.target, user_id, origin)
    as_json = is_proved and "text/html" not in accept
    return CallbackResult("login", user_id, provider.name, session=request.target, as_json=as_json)


def _still_known(request: OauthState) -> Provider:
    try:
        return provider_of(request.provider)
    except NotFound:
        raise MatrixError("This server no longer knows the provider.") from None


def _sso(
    provider: Provider, request: OauthState, query: Mapping[str, str], origin: Origin, browser: str | None
) -> CallbackResult:
    if browser is None or not hmac.compare_digest(token_hash(browser).encode(), str(request.browser).encode()):
        raise Forbidden("This login was begun in another browser.")
    claims = oauth_requests.identity_claims(provider, request, query)
    user_id = oauth_accounts.user_of(provider, claims, origin.address, may_register=True)
    ending = sso_finish(request.target, new_login_token(user_id))
    return CallbackResult("sso", user_id, provider.name, continuation=ending)


def _back_for_session(provider: Provider, request: OauthState, query: Mapping[str, str], origin: Origin) -> str:
    """The user who came back for a session that still waits, if they are whom it is for."""
    session = _waiting(request.target)
    claims = oauth_requests.identity_claims(provider, request, query)
    claimed = session.pending[OAUTH2].get(CLAIMED)
    user_id = oauth_accounts.user_of(provider, claims, origin.address, may_register=claimed is None)
    if claimed not in {None, user_id}:
        raise Forbidden(f"This account of {provider.name} is linked to another user.")
    return user_id


def _is_elsewhere(request: OauthState, origin: Origin) -> bool:
    return network_of(origin.address) != network_of(request.address)


def _ask(provider: Provider, request: OauthState, user_id: str, hashed: str | None) -> CallbackResult:
    """Let somebody who came back elsewhere say whether it was them who began. `hashed`: what would be linked."""
    token = secrets.token_urlsafe(32)
    state = OauthState(purpose="confirm", provider=provider.id, target=request.target, user=user_id, identity=hashed)
    oauth_states.store(token_hash(token), state)
    asked = Confirmation(token, request.address, request.user_agent or "")
    return CallbackResult("confirm", user_id, provider.name, confirmation=asked)


def _confirmed(token: str, origin: Origin) -> CallbackResult:
    request = oauth_states.take(token_hash(token[:_MAX_URL]))
    if request is None or request.purpose != "confirm":
        raise MatrixError("There is nothing to confirm: it came too late, or was done before.")
    provider = _still_known(request)
    if request.identity is not None:
        link(provider.id, request.identity, request.user)
        return CallbackResult("linked", request.user, provider.name)
    _complete(request.target, request.user, origin)
    return CallbackResult("login", request.user, provider.name, session=request.target)


# ── The session that waits ──────────────────────────────────────────────────────────────────────────


def _waiting(session_id: str) -> sessions.Session:
    """A session that waits for somebody to come back. Raises UnknownSession."""
    session = sessions.load(session_id)
    left = session.pending.get(OAUTH2) if session is not None and session.status == "active" else None
    if session is None or left is None or FOUND in left or FAILED in left:
        raise UnknownSession
    return session


def _leave(session_id: str, what: Mapping[str, Any]) -> bool:
    """Let a waiting session know what came of it. False if it does not wait any more."""
    for _ in range(_RACES):
        try:
            session = _waiting(session_id)
        except UnknownSession:
            return False
        pending = {**session.pending, OAUTH2: {**session.pending[OAUTH2], **what}}
        if sessions.change(session, {"pending": pending}):
            return True
    return False


def _complete(session_id: str, user_id: str, origin: Origin) -> None:
    """A session's stage has its answer. The client submits it; of another's page it does not know when it may."""
    if not _leave(session_id, {FOUND: user_id}):
        raise UnknownSession
    session = sessions.load(session_id)
    if session is not None and session.kind == "interactive":
        # A client that opened this server's page for the stage then repeats its request, without naming the stage.
        login_sessions.submit(session, OAUTH2, {}, origin)
