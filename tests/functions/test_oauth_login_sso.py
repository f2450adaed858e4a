"""`m.login.sso`: today's clients log in at another server, or on this server's own page."""

import json
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest

from client_login_pages.app import lambda_handler
from functions.harness import PASSWORD, call, http_event, invoke, register
from functions.oauth_logins import (
    ELSEWHERE,
    HERE,
    OAUTH2,
    L,
    carol,
    come_back,
    configure,
    linked,
    one,
    other_provider,
    provider,
    whoami,
)
from homeserver.adapters import aws
from homeserver.services import oauth_login
from homeserver.storage import oauth_identities

__all__ = ["carol", "configure", "one", "other_provider", "provider"]

V3 = "/_matrix/client/v3"
CLIENT = "https://chat.example.net/#/login"
MAIL_FLOWS = [["m.login.email.code", "m.login.password"]]


def go(client=CLIENT, idp=None, *, address=HERE, cookies=()):
    """A client sends its user's browser to the SSO."""
    path = f"{V3}/login/sso/redirect{'' if idp is None else '/' + quote(idp, safe='')}"
    query = {} if client is None else {"redirectUrl": client}
    event = http_event("GET", path, query=query, headers={"accept": "text/html"}, address=address)
    event["cookies"] = list(cookies)
    set_cookies = []

    def kept(event, context):
        answer = lambda_handler(event, context)
        set_cookies.extend(answer.get("cookies") or ())
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client_login_pages.app.lambda_handler", kept)
        answer = invoke("client_login_pages", event)
    return answer, (set_cookies or [""])[0]


def sent(cookie):
    """A cookie as the browser sends it back."""
    return (cookie.partition(";")[0],)


def link_of(page):
    """Where the page goes on to, as the browser reads it."""
    from html import unescape

    hrefs = [unescape(part.partition('"')[0]) for part in page.json.split('href="')[1:]]
    (found,) = [href for href in hrefs if "loginToken=" in href]
    return found


def flows():
    return call("client_login", "GET", f"{V3}/login").json["flows"]


def test_the_providers_are_listed_with_their_icons(configure, provider, other_provider):
    configure(
        (provider, {"provider_id": "example", "icon": "mxc://example.org/abc", "brand": "example"}),
        (other_provider, {"provider_id": "other"}),
    )
    assert [flow for flow in flows() if flow["type"] == "m.login.sso"] == [
        {
            "type": "m.login.sso",
            "identity_providers": [
                {"id": "example", "name": "Example", "icon": "mxc://example.org/abc", "brand": "example"},
                {"id": "other", "name": "Other"},
            ],
        }
    ]
    assert "m.login.token" in {flow["type"] for flow in flows()}


def test_an_sso_login_ends_with_a_token_for_the_client_that_the_page_names(carol, one):
    answer, cookie = go()
    assert answer.status == 302
    assert answer.headers["location"].startswith(f"{one.issuer}/authorize?")
    assert {part.strip() for part in cookie.lower().split(";")[1:]} == {
        "httponly",
        "max-age=600",
        "path=/_matrix/client",
        "samesite=lax",
        "secure",
    }
    page = come_back(one.visit(answer.headers["location"]), cookies=sent(cookie))
    assert page.status == 200
    assert "chat.example.net" in page.json
    link = link_of(page)
    assert link.startswith("https://chat.example.net/?loginToken=")
    assert link.endswith("#/login")
    token = dict(parse_qsl(urlsplit(link).query))["loginToken"]
    done = call("client_login", "POST", f"{V3}/login", {"type": "m.login.token", "token": token})
    assert done.json["user_id"] == carol.user_id
    assert whoami(done.json["access_token"]).status == 200
    assert call("client_login", "POST", f"{V3}/login", {"type": "m.login.token", "token": token}).status == 403


@pytest.mark.parametrize("cookies", [(), ("oauth_browser=" + "x" * 43,), ("oauth_browser=",)])
def test_an_sso_login_ends_in_the_browser_that_began_it(carol, one, cookies):
    answer, _ = go()
    page = come_back(one.visit(answer.headers["location"]), cookies=cookies)
    assert page.status == 403
    assert "loginToken" not in page.json
    assert all(path != "/token" for _, path, _ in one.asked)


def test_a_browser_may_have_two_logins_under_way_and_change_its_network(carol, one):
    first, cookie = go()
    second, same = go("https://other.example.net/", cookies=sent(cookie))
    assert sent(same) == sent(cookie)
    for begun, name in ((first, "chat.example.net"), (second, "other.example.net")):
        page = come_back(one.visit(begun.headers["location"]), cookies=sent(cookie), address=ELSEWHERE)
        assert (page.status, name in page.json) == (200, True)


def test_the_denied_sso_login_is_a_page_without_a_token(carol, one):
    one.answer = "deny"
    answer, cookie = go()
    page = come_back(one.visit(answer.headers["location"]), cookies=sent(cookie))
    assert page.status == 403
    assert "loginToken" not in page.json


def test_a_client_asks_for_one_provider(configure, provider, other_provider):
    configure((provider, {"provider_id": "example"}), (other_provider, {"provider_id": "other"}))
    answer, _ = go(idp="other")
    assert answer.headers["location"].startswith(f"{other_provider.issuer}/authorize?")
    assert go(idp="third")[0].status == 404


def test_without_one_there_is_a_page_to_choose_from(configure, provider, other_provider):
    configure((provider, {"provider_id": "example"}), (other_provider, {"provider_id": "other"}))
    answer, _ = go()
    assert (answer.status, answer.headers["location"]) == (
        302,
        f"https://example.org{L}/login/oauth2/pick?{urlencode({'redirectUrl': CLIENT})}",
    )
    page = come_back(answer.headers["location"])
    assert page.status == 200
    for name in ("example", "other"):
        link = f"https://example.org{V3}/login/sso/redirect/{name}?{urlencode({'redirectUrl': CLIENT})}"
        assert f'href="{link}"' in page.json


def test_where_there_is_no_sso_there_is_no_way(server):
    assert all(flow["type"] != "m.login.sso" for flow in flows())
    answer, _ = go()
    assert answer.status == 404


@pytest.mark.parametrize(
    "client",
    [
        None,
        "",
        "chat.example.net",
        "/relative",
        "//chat.example.net/",
        "https://",
        "https:///path",
        "https://good.example@evil.example/",
        "https://good.example\\@evil.example/",
        "https://evil.example/ x",
        "https://evil.example/\nx",
        "https://evil.example:99999/",
        "https://[::1/",
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "https://example.net/" + "x" * 2048,
    ],
)
def test_addresses_that_no_client_can_be_at_are_refused(one, client):
    assert go(client)[0].status == 400
    if client is not None:
        assert come_back(f"https://example.org{L}/login/oauth2/pick?{urlencode({'redirectUrl': client})}").status == 400


@pytest.mark.parametrize(
    ("client", "name", "url"),
    [
        ("https://chat.example.net", "chat.example.net", "https://chat.example.net?loginToken=T"),
        ("http://127.0.0.1:8080/a?b=c%20d&e", "127.0.0.1", "http://127.0.0.1:8080/a?b=c%20d&e&loginToken=T"),
        ("https://x.example/?loginToken=old&a=1#f", "x.example", "https://x.example/?a=1&loginToken=T#f"),
        ("https://x.example/?login%54oken=old", "x.example", "https://x.example/?loginToken=T"),
        ("https://X.Example/", "x.example", "https://X.Example/?loginToken=T"),
        ("io.element.app:/callback", "io.element.app:", "io.element.app:/callback?loginToken=T"),
        ("element://vector/?no_universal_links=true", "element:", None),
    ],
)
def test_the_token_is_added_to_the_clients_address_and_nothing_else_changes(client, name, url):
    end = oauth_login.sso_finish(client, "T")
    assert end.client == name
    assert end.url == (url or client + "&loginToken=T")


# ── The server's own page ────────────────────────────────────────────────────


def test_flows_that_clients_cannot_do_are_on_our_own_page(configure, provider):
    configure((provider, {}), flows=[[OAUTH2], *MAIL_FLOWS], MAIL_FROM="chat@example.org")
    (sso,) = [flow for flow in flows() if flow["type"] == "m.login.sso"]
    assert sso["identity_providers"] == [
        {"id": "example", "name": "Example"},
        {"id": oauth_login.OWN_PAGE, "name": "More ways to log in"},
    ]
    page = f"https://example.org{L}/login/fallback?{urlencode({'redirectUrl': CLIENT})}"
    for idp in (None, oauth_login.OWN_PAGE):
        answer, _ = go(idp=idp)
        assert (answer.status, answer.headers["location"]) == (302, page)
    assert go(idp="example")[0].headers["location"].startswith(provider.issuer)


def test_without_providers_our_own_page_is_all_of_the_sso(server, monkeypatch):
    server(LOGIN_FLOWS=json.dumps(MAIL_FLOWS), MAIL_FROM="chat@example.org", PUBLIC_BASE_URL="https://example.org")
    assert [flow["type"] for flow in flows()] == ["m.login.sso", "m.login.token"]
    assert oauth_login.sso_flow() == {"type": "m.login.sso"}
    answer, _ = go()
    assert answer.headers["location"].startswith(f"https://example.org{L}/login/fallback?")
    assert go(idp="example")[0].status == 404


def test_a_provider_that_is_one_stage_of_two_is_no_way_around_the_other(configure, provider):
    configure((provider, {}), flows=[[OAUTH2, "m.login.password"]])
    assert oauth_login.sso_flow() == {"type": "m.login.sso"}
    assert go(idp="example")[0].status == 404
    assert go()[0].headers["location"].startswith(f"https://example.org{L}/login/fallback?")
    page = come_back(f"https://example.org{L}/login/oauth2/pick?{urlencode({'redirectUrl': CLIENT})}")
    assert "login/sso/redirect" not in page.json


def test_without_configured_flows_providers_are_a_way_to_log_in(configure, provider):
    configure((provider, {"register": True}), flows="")
    assert oauth_login.sso_flow() == {
        "type": "m.login.sso",
        "identity_providers": [{"id": "example", "name": "Example"}],
    }
    answer, cookie = go()
    page = come_back(provider.visit(answer.headers["location"], "erin"), cookies=sent(cookie))
    assert page.status == 200
    assert "@erin:example.org" in page.json
    assert len(oauth_identities.links_of("@erin:example.org")) == 1


# ── User-Interactive Authentication ──────────────────────────────────────────


def test_who_has_no_password_shows_who_they_are_at_the_provider(configure, provider):
    configure((provider, {"register": True}), flows="")
    answer, cookie = go()
    link = link_of(come_back(provider.visit(answer.headers["location"], "erin"), cookies=sent(cookie)))
    body = {"type": "m.login.token", "token": dict(parse_qsl(urlsplit(link).query))["loginToken"]}
    token = call("client_login", "POST", f"{V3}/login", body).json["access_token"]

    def ask(auth=None):
        path = "/_matrix/client/unstable/org.eigenserver/oauth2/link"
        return call("client_account", "POST", path, {"auth": auth} if auth else {}, token=token)

    asked = ask()
    assert (asked.status, asked.json["flows"]) == (401, [{"stages": [OAUTH2]}])
    assert asked.json["params"] == {OAUTH2: {"providers": [{"id": "example", "name": "Example"}]}}
    session = asked.json["session"]
    waiting = ask({"type": OAUTH2, "session": session})
    assert waiting.status == 401
    assert come_back(provider.visit(waiting.json["uri"], "mallory")).status == 403
    assert ask({"type": OAUTH2, "session": session}).status == 401

    session = ask().json["session"]
    waiting = ask({"type": OAUTH2, "session": session})
    assert come_back(provider.visit(waiting.json["uri"], "erin")).status == 200
    # A client that opened the page of the stage repeats its request with the session alone.
    done = ask({"session": session})
    assert (done.status, set(done.json)) == (200, {"uri"})


def test_nobody_shows_that_they_are_somebody_else(one, carol):
    dave = register("dave")
    linked(one, dave.user_id, "dave")
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "dave"}, "password": PASSWORD}
    path = "/_matrix/client/unstable/org.eigenserver/oauth2/link"
    assert call("client_account", "POST", path, {"auth": auth}, token=carol.token).status == 401
    asked = call("client_account", "POST", path, {"auth": {"type": OAUTH2, "user": "dave"}}, token=carol.token)
    assert asked.status == 401
    assert "uri" not in asked.json


# ── Limits ───────────────────────────────────────────────────────────────────


def test_an_address_begins_so_many_logins_at_providers(configure, provider):
    configure((provider, {}), RATE_LIMITS="on")
    statuses = [go()[0].status for _ in range(45)]
    assert statuses[:40] == [302] * 40
    assert 429 in statuses[40:]
    assert go(address=ELSEWHERE)[0].status == 302


def test_the_states_of_unfinished_logins_expire(one):
    go()
    client = aws.client("dynamodb")
    items = client.scan(TableName="eigenserver-sessions")["Items"]
    (state,) = [item for item in items if item["session"]["S"].startswith("oauth/")]
    assert int(state["expires"]["N"]) > 0
    assert set(state) == {
        *("session", "kind", "expires", "purpose", "provider", "target", "salt", "redirect_uri", "browser", "address"),
    }
