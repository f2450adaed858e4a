"""Logins at another server in tests: the fixtures, and what browsers and clients do.

    begun = submit(user="carol").json                    # what a client is told: `uri`, `session`
    page = come_back(provider.visit(begun["uri"]))       # what its browser sees then
    done = submit(session=begun["session"])

A module that uses the fixtures imports them and names them in __all__.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from functions.authorisation_server import SECRET, AuthorisationServer
from functions.harness import PASSWORD, Answer, User, call, http_event, invoke, register
from homeserver.storage import oauth_identities
from homeserver.storage.connection import Transaction

L = "/_matrix/client/api/v1"
CALLBACK = f"https://example.org{L}/login/oauth2/callback"
OAUTH = "/_matrix/client/unstable/org.eigenserver/oauth2"
OAUTH2 = "m.login.oauth2"
BOTH = [["m.login.password"], [OAUTH2]]
HTML = "text/html,application/xhtml+xml"
HERE, ELSEWHERE = "192.0.2.1", "203.0.113.9"


@pytest.fixture
def provider() -> Iterator[AuthorisationServer]:
    server = AuthorisationServer()
    yield server
    server.close()


@pytest.fixture
def other_provider() -> Iterator[AuthorisationServer]:
    server = AuthorisationServer()
    yield server
    server.close()


@pytest.fixture
def configure(server: Callable[..., None]) -> Callable[..., None]:
    """`configure((authorisation server, {more}), ..., flows=[...])` makes them the providers."""

    def set_providers(
        *entries: tuple[AuthorisationServer, dict[str, Any]],
        flows: Sequence[Sequence[str]] | str = BOTH,
        **environment: str,
    ) -> None:
        providers = [running.provider(**more) for running, more in entries]
        server(
            OAUTH_PROVIDERS=json.dumps(providers),
            OAUTH_CLIENT_SECRETS=json.dumps({one["id"]: SECRET for one in providers}),
            LOGIN_FLOWS=flows if isinstance(flows, str) else json.dumps(flows),
            PLAIN_HTTP="loopback",
            FEDERATION_ALLOW_RANGES="127.0.0.0/8",
            PUBLIC_BASE_URL="https://example.org",
            **environment,
        )

    return set_providers


@pytest.fixture
def one(configure: Callable[..., None], provider: AuthorisationServer) -> AuthorisationServer:
    """A server with one provider."""
    configure((provider, {}))
    return provider


@pytest.fixture
def carol(one: AuthorisationServer) -> User:
    """A user who is linked to the provider's carol."""
    user = register("carol")
    linked(one, user.user_id, "carol")
    return user


def linked(provider: AuthorisationServer, user_id: str, person: str) -> None:
    hashed = oauth_identities.identity_hash(provider.issuer, f"subject-of-{person}")
    transaction = Transaction()
    oauth_identities.add(transaction, user_id, hashed, provider="example", issuer=provider.issuer, now=1)
    transaction.commit()


def submit(address: str = HERE, **body: Any) -> Answer:
    """A client's body of the stage."""
    return call("client_login", "POST", f"{L}/login", {"type": OAUTH2, **body}, address=address)


def come_back(
    location: str,
    accept: str = HTML,
    *,
    proof: str | None = None,
    cookies: tuple[str, ...] = (),
    address: str = HERE,
    **changes: str | None,
) -> Answer:
    """What a browser does that is sent to `location`. `changes`: other parameters; None takes one away."""
    parts = urlsplit(location)
    query = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **changes}
    headers = {"accept": accept, **({"x-session": proof} if proof else {})}
    path = f"{parts.path}?{urlencode({key: value for key, value in query.items() if value is not None})}"
    event = http_event("GET", path, headers=headers, address=address)
    event["cookies"] = list(cookies)
    return invoke("client_login_pages", event)


def log_in_as(provider: AuthorisationServer, person: str) -> Answer:
    """A whole login of a client that follows the redirects itself."""
    begun = submit().json
    return come_back(provider.visit(begun["uri"], person), "application/json", proof=begun["session"])


def whoami(token: str) -> Answer:
    return call("client_account", "GET", "/_matrix/client/v3/account/whoami", token=token)


def confirmation(page: Answer) -> str:
    """The token behind the button of a page that asks."""
    assert isinstance(page.json, str)
    token = page.json.partition('name="confirm" value="')[2].partition('"')[0]
    assert len(token) == 43
    return token


def link_uri(user: User, body: dict[str, Any] | None = None, password: str = PASSWORD) -> Answer:
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user.user_id},
        "password": password,
    }
    return call("client_account", "POST", f"{OAUTH}/link", {"auth": auth, **(body or {})}, token=user.token)


def links(token: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call("client_account", "GET", f"{OAUTH}/links", token=token).json["links"]
    return found


# ── Answers of a provider that fails ─────────────────────────────────────────


def slowly(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(40):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        return


def hugely(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        handler.wfile.write(b'{"id_token": "' + b"x" * 1_000_000 + b'"}')
    except OSError:
        return


def answering(status: int, data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-length", str(len(data)))
        handler.send_header("location", "https://elsewhere.test/token")
        handler.end_headers()
        handler.wfile.write(data)

    return answer
