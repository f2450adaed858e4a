"""The login page, and pages behind links in mails: what they show and take, and that nothing becomes part of them."""

import json
import re
from collections.abc import Callable

import pytest

from client_login_pages.shell import script
from functions.harness import User, call, invoke, payload
from functions.mailbox import Mailbox
from functions.mailing import link_address
from functions.paging import (
    FALLBACK,
    HOSTILE,
    PAGES,
    TERMS,
    V3,
    data_of,
    fetch,
    send,
)


@pytest.mark.parametrize("path", [FALLBACK, "/matrix/client/api/v1/login/fallback", "/_matrix/static/client/login/"])
def test_the_login_page_is_one_document_that_asks_only_this_server(path: str) -> None:
    page = fetch(path)
    assert (page.status, page.title) == (200, "Log in")
    assert page.policy["connect-src"] == ["'self'"]
    assert page.policy["script-src"] == page.policy["style-src"]
    assert set(page.policy) == {
        *("default-src", "script-src", "style-src", "img-src", "connect-src", "form-action", "base-uri"),
        "frame-ancestors",
    }
    assert not re.search(r"""(?:src|href)=["'](?!data:,)""", page.html.partition("<script nonce")[0])
    assert script("parts", "login") in page.html
    assert "needs JavaScript" in page.text
    assert data_of(page) == {
        "login": "/_matrix/client/api/v1/login",
        "server_name": "example.org",
        "body": {},
        "continuation": None,
        "providers": [],
        "terms": [],
        "recaptcha": None,
    }


def test_a_page_has_another_nonce_each_time() -> None:
    assert fetch(FALLBACK).policy["script-src"] != fetch(FALLBACK).policy["script-src"]


def test_what_the_app_says_of_its_device_goes_on_with_the_login_and_cannot_end_the_script() -> None:
    page = fetch(FALLBACK, {"device_id": "PHONE", "initial_device_display_name": "</script><b>phone", "user": "eve"})
    assert data_of(page)["body"] == {"device_id": "PHONE", "initial_device_display_name": "</script><b>phone"}
    assert "</script><b>" not in page.html


def test_a_device_that_is_described_at_great_length_is_refused() -> None:
    page = fetch(FALLBACK, {"device_id": "D" * 513})
    assert (page.status, page.problem) == (400, "A device is described in at most 512 characters.")


def test_the_login_for_another_client_names_where_it_will_go() -> None:
    page = fetch(FALLBACK, {"redirectUrl": "https://app.example.net/back?x=1#part"})
    data = data_of(page)
    assert data["body"] == {"org.eigenserver.result": "login_token"}
    assert data["continuation"] == {
        "client": "app.example.net",
        "url": "https://app.example.net/back?x=1&loginToken=LOGIN-TOKEN-GOES-HERE#part",
        "placeholder": "LOGIN-TOKEN-GOES-HERE",
    }


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "vbscript:x",
        "//elsewhere.example",
        "/relative",
        "https://user@elsewhere.example/",
        "https:\\\\elsewhere.example",
        "",
    ],
)
@pytest.mark.parametrize("path", [FALLBACK, f"{V3}/login/sso/redirect", "/_matrix/client/api/v1/login/oauth2/pick"])
def test_no_login_ends_at_an_address_that_is_none_of_a_client(path: str, url: str) -> None:
    page = fetch(path, {"redirectUrl": url})
    assert (page.status, page.title) == (400, "That did not work")
    assert page.problem in {"redirectUrl is no address that a login can end at.", "redirectUrl is required."}
    assert "alert(1)" not in page.html


def test_an_app_is_a_place_where_a_login_may_end() -> None:
    data = data_of(fetch(FALLBACK, {"redirectUrl": "org.example.chat://login"}))
    assert isinstance(data["continuation"], dict)
    assert data["continuation"]["client"] == "org.example.chat:"


def test_the_login_page_has_the_documents_and_the_captcha_that_its_flows_need(server: Callable[..., None]) -> None:
    flows = [["m.login.recaptcha", "m.login.terms", "m.login.password"]]
    server(
        LOGIN_FLOWS=json.dumps(flows),
        TERMS=json.dumps(TERMS),
        RECAPTCHA_PUBLIC_KEY="site-key",
        RECAPTCHA_PRIVATE_KEY="a-secret-key-of-captchas",
    )
    page = fetch(FALLBACK)
    data = data_of(page)
    assert data["terms"] == [
        {"name": "the <privacy> notice", "url": "https://example.org/p?a=1&b=2"},
        {"name": "die Regeln", "url": "https://example.org/regeln"},
    ]
    assert data["recaptcha"] == {"key": "site-key", "script": "https://www.google.com/recaptcha/api.js"}
    assert "a-secret-key-of-captchas" not in page.html
    assert page.policy["script-src"][1:] == ["'strict-dynamic'"]
    assert page.policy["frame-src"] == ["https://www.google.com", "https://www.gstatic.com"]


# ── Links in mails ──────────────────────────────────────────────────────────────────────────────────


def test_a_login_link_shows_who_asks_and_logs_in_only_by_its_button(
    server: Callable[..., None], mailbox: Mailbox, alice: User
) -> None:
    server(LOGIN_FLOWS=json.dumps([["m.login.email.url"]]))
    link_address(alice.user_id, "alice@mail.example")
    login = "/_matrix/client/api/v1/login"
    asked = {"type": "m.login.email.url", "user": "alice", "email": "alice@mail.example"}
    agent = {"user-agent": f"Mozilla/5.0 (Linux; Android 15) Firefox/140.0 {HOSTILE}"}
    session = call("client_login", "POST", login, asked, headers=agent, address="198.51.100.7").json["session"]
    path, token = f"{login}/email/confirm", {"token": mailbox.token(to="alice@mail.example")}
    page = fetch(path, token)
    assert (page.status, page.title) == (200, "Log in?")
    for shown in ("@alice:example.org", "alice@mail.example", "198.51.100.7", "Firefox on Android"):
        assert shown in page.text
    assert "alert(1)" not in page.html
    poll = {"type": "m.login.email.url", "session": session}
    assert call("client_login", "POST", login, poll).errcode == "M_LOGIN_EMAIL_URL_NOT_YET"
    done = send(path, page.fields())
    assert (done.status, done.title) == (200, "Thank you")
    assert call("client_login", "POST", login, poll).json["user_id"] == alice.user_id
    for used in (fetch(path, token), send(path, token)):
        assert used.status == 404
        assert used.problem == "This link was used already, is too old, or was not copied whole. Ask for a new one."


@pytest.mark.parametrize("query", [{}, {"token": ""}, {"token": HOSTILE}, {"token": "x" * 5000}])
def test_a_link_that_is_none_is_answered_in_words(query: dict[str, str]) -> None:
    path = "/matrix/client/api/v1/login/email/confirm"
    for page in (fetch(path, query), send(path, query)):
        assert page.status in {400, 404}
        assert page.problem
        assert "alert(1)" not in page.html


SUBMIT = "/_matrix/client/unstable/org.eigenserver/validate/email/submit_token"


def test_an_address_is_confirmed_by_its_button_which_leads_back_to_the_app(mailbox: Mailbox, alice: User) -> None:
    asked = {
        "client_secret": "s3cret",
        "email": "new@mail.example",
        "send_attempt": 1,
        "next_link": "https://app.example.net/?a=1&b=%22%3E",
    }
    answer = call("client_account", "POST", f"{V3}/account/3pid/email/requestToken", asked, token=alice.token)
    assert answer.json["submit_url"].endswith(SUBMIT)
    query = {"sid": answer.json["sid"], "token": mailbox.token()}
    page = fetch(SUBMIT, query)
    assert (page.status, page.title) == (200, "Add your e-mail address?")
    assert "new@mail.example" in page.text
    wrong = send(SUBMIT, {**page.fields(), "token": HOSTILE})
    assert (wrong.status, wrong.problem) == (400, "This is not the token that was mailed.")
    done = send(SUBMIT, page.fields())
    assert (done.status, done.title) == (200, "Thank you")
    assert 'href="https://app.example.net/?a=1&amp;b=%22%3E"' in done.html
    assert fetch(SUBMIT, query).title == "Thank you"
    assert fetch(SUBMIT, {"sid": "x"}).status == 400
    assert send(SUBMIT, {"token": "x"}).status == 400


def test_a_client_may_submit_the_token_itself(mailbox: Mailbox, alice: User) -> None:
    asked = {"client_secret": "s3cret", "email": "new@mail.example", "send_attempt": 1}
    answer = call("client_account", "POST", f"{V3}/account/3pid/email/requestToken", asked, token=alice.token)
    body = {"sid": answer.json["sid"], "client_secret": "s3cret", "token": mailbox.token()}
    wrong = call(PAGES, "POST", SUBMIT, {**body, "token": "x"})
    assert (wrong.status, wrong.errcode) == (400, "M_TOKEN_INCORRECT")
    assert call(PAGES, "POST", SUBMIT, body).json == {"success": True}
    assert call(PAGES, "POST", SUBMIT, "[").errcode == "M_NOT_JSON"


# ── Recorded requests ───────────────────────────────────────────────────────────────────────────────


def test_the_recorded_requests_are_answered() -> None:
    opened = invoke(PAGES, payload("client_login_pages_fallback"))
    assert (opened.status, '"device_id": "PHONE"' in opened.json) == (200, True)
    for name in ("stage", "submit"):
        answer = invoke(PAGES, payload(f"client_login_pages_{name}"))
        assert (answer.status, "This session is unknown or has expired." in answer.json) == (401, True)
