"""The pages around logging in at another service."""

import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

import pytest

from client_login_pages.app import lambda_handler
from client_login_pages.shell import script
from functions.authorisation_server import SECRET, AuthorisationServer
from functions.harness import Answer, LambdaContext, call, http_event
from functions.paging import (
    HOSTILE,
    V3,
    fetch,
    fetch_anything,
)

PROVIDERS = [
    {
        "id": name,
        "name": f"{name.title()} <b>& Co</b>",
        "issuer": f"https://{name}.example",
        "client_id": "eigenserver",
        "authorization_endpoint": f"https://{name}.example/authorize",
        "token_endpoint": f"https://{name}.example/token",
        "jwks_uri": f"https://{name}.example/jwks",
    }
    for name in ("one", "two")
]


@pytest.fixture
def providers(server: Callable[..., None]) -> None:
    """Two services where people can log in."""
    server(
        LOGIN_FLOWS=json.dumps([["m.login.oauth2"]]),
        OAUTH_PROVIDERS=json.dumps(PROVIDERS),
        OAUTH_CLIENT_SECRETS=json.dumps({"one": "s1", "two": "s2"}),
    )


@pytest.mark.usefixtures("providers")
def test_the_choice_between_services_leads_to_each() -> None:
    body = {"type": "m.login.oauth2"}
    begun = call("client_login", "POST", "/_matrix/client/api/v1/login", body).json
    path, _, query = begun["uri"].partition("amazonaws.com")[2].partition("?")
    assert query == f"session={begun['session']}"
    page = fetch(path, {"session": begun["session"]})
    assert (page.status, page.title) == (200, "Where do you want to log in?")
    assert "One &lt;b&gt;&amp; Co&lt;/b&gt;" in page.html
    assert f"{path}?session={begun['session']}&amp;provider=two" in page.html
    gone = fetch_anything(path, {"session": begun["session"], "provider": "two"})
    assert gone.status == 303
    assert gone.headers["location"].startswith("https://two.example/authorize?")
    assert gone.headers["referrer-policy"] == "no-referrer"


@pytest.mark.usefixtures("providers")
def test_what_cannot_be_chosen_is_answered_in_words() -> None:
    path = "/_matrix/client/api/v1/login/oauth2/pick"
    assert fetch(path, {"session": HOSTILE}).status == 401
    assert fetch(path).status == 400
    assert fetch(f"{V3}/login/sso/redirect/three", {"redirectUrl": "https://app.example"}).status == 404


@pytest.mark.usefixtures("providers")
def test_a_browser_that_logs_in_for_a_client_gets_a_cookie_that_only_this_server_sees() -> None:
    event = http_event("GET", f"{V3}/login/sso/redirect/one", query={"redirectUrl": "https://app.example.net/"})
    gone = lambda_handler(event, LambdaContext())
    assert gone["statusCode"] == 302
    assert gone["headers"]["location"].startswith("https://one.example/authorize?")
    (cookie,) = gone["cookies"]
    name, _, attributes = cookie.partition("; ")
    assert re.fullmatch(r"oauth_browser=[A-Za-z0-9_-]{43}", name)
    expected = {"HttpOnly", "Max-Age=600", "Path=/_matrix/client", "SameSite=lax", "Secure"}
    assert set(attributes.split("; ")) == expected


@pytest.mark.usefixtures("providers")
def test_a_return_that_nobody_waits_for_is_a_page_for_browsers_and_json_for_programs() -> None:
    path = "/_matrix/client/api/v1/login/oauth2/callback"
    query = {"state": HOSTILE, "code": "x", "error_description": HOSTILE}
    page = fetch(path, query)
    assert page.status == 400
    assert page.problem
    assert "alert(1)" not in page.html
    answer = fetch_anything(path, query, headers={"accept": "application/json"})
    assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")


@pytest.fixture
def service(server: Callable[..., None]) -> Iterator[AuthorisationServer]:
    """One service where people can log in, who get an account here by that."""
    running = AuthorisationServer()
    running.client.redirect_host = "abcdefghij.execute-api.eu-central-1.amazonaws.com"
    server(
        PLAIN_HTTP="loopback",
        FEDERATION_ALLOW_RANGES="127.0.0.0/8",
        LOGIN_FLOWS=json.dumps([["m.login.oauth2"]]),
        OAUTH_PROVIDERS=json.dumps([running.provider(register=True)]),
        OAUTH_CLIENT_SECRETS=json.dumps({"example": SECRET}),
    )
    yield running
    running.close()


DRAFT_LOGIN = "/_matrix/client/api/v1/login"


def begin_at(service: AuthorisationServer) -> tuple[str, str, dict[str, str]]:
    """The session of a login, and where the service sends back to: path and query."""
    begun = call("client_login", "POST", DRAFT_LOGIN, {"type": "m.login.oauth2"}).json
    path, _, query = service.visit(begun["uri"]).partition("amazonaws.com")[2].partition("?")
    return begun["session"], path, dict(parse_qsl(query))


def ask_for_login(session: str) -> Answer:
    return call("client_login", "POST", DRAFT_LOGIN, {"type": "m.login.oauth2", "session": session})


def test_who_comes_back_from_a_service_is_told_to_go_on_where_they_were(service: AuthorisationServer) -> None:
    session, path, query = begin_at(service)
    page = fetch(path, query)
    assert (page.status, page.title) == (200, "Thank you")
    assert "You logged in at Example, as @carol:example.org." in page.text
    assert script("parts", "returned") in page.html
    assert fetch(path, query).status == 400
    assert ask_for_login(session).json["user_id"] == "@carol:example.org"


def test_who_comes_back_somewhere_else_is_asked_whether_it_was_them(service: AuthorisationServer) -> None:
    session, path, query = begin_at(service)
    page = fetch(path, query, address="203.0.113.9")
    assert (page.status, page.title) == (200, "Was this you?")
    assert "At the address 192.0.2.1" in page.text
    assert ask_for_login(session).errcode == "M_LOGIN_OAUTH2_NOT_YET"
    found = re.search(
        r'<form method="get" action="([^"]+)"><input type="hidden" name="confirm" value="([^"]+)">', page.html
    )
    assert found
    done = fetch(found[1], {"confirm": found[2]}, address="203.0.113.9")
    assert (done.status, done.title) == (200, "Thank you")
    assert ask_for_login(session).json["user_id"] == "@carol:example.org"
    assert fetch(found[1], {"confirm": found[2]}, address="203.0.113.9").status == 400


def test_a_program_that_has_the_session_gets_the_login_itself(service: AuthorisationServer) -> None:
    session, path, query = begin_at(service)
    answer = fetch_anything(path, query, headers={"accept": "application/json", "x-session": session})
    assert (answer.status, answer.json["user_id"]) == (200, "@carol:example.org")
    assert answer.json["access_token"]
    assert answer.headers["cache-control"] == "no-store"
    session, path, query = begin_at(service)
    answer = fetch_anything(path, query, headers={"accept": "*/*"}, cookies={"a": "b", "session": session})
    assert (answer.status, answer.json["user_id"]) == (200, "@carol:example.org")


def test_a_refusal_at_the_service_is_told_in_words(service: AuthorisationServer) -> None:
    service.answer = "deny"
    session, path, query = begin_at(service)
    page = fetch(path, query)
    assert (page.status, page.title) == (403, "That did not work")
    assert ask_for_login(session).status == 403


def test_a_login_for_another_client_ends_at_a_page_that_names_it(service: AuthorisationServer) -> None:
    url = "https://app.example.net/back?x=1"
    event = http_event("GET", f"{V3}/login/sso/redirect", query={"redirectUrl": url})
    gone = lambda_handler(event, LambdaContext())
    path, _, query = service.visit(gone["headers"]["location"]).partition("amazonaws.com")[2].partition("?")
    name, _, value = gone["cookies"][0].partition(";")[0].partition("=")
    answer = fetch_anything(path, dict(parse_qsl(query)), cookies={name: value})
    assert answer.status == 200
    assert "Continue to <strong>app.example.net</strong>?" in answer.json
    found = re.search(r'href="https://app\.example\.net/back\?x=1&amp;loginToken=([^"]+)"', answer.json)
    assert found
    login = call("client_login", "POST", f"{V3}/login", {"type": "m.login.token", "token": found[1]})
    assert login.json["user_id"] == "@carol:example.org"
