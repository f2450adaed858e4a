"""The pages of stages of User-Interactive Authentication: what they ask, and that nothing passes unasked."""

import json
import re
from collections.abc import Callable, Iterator

import pytest

from functions.captcha_service import CaptchaService
from functions.harness import User, call
from functions.mailbox import Mailbox
from functions.mailing import link_address
from functions.paging import (
    HOSTILE,
    TERMS,
    V3,
    begin_registration,
    data_of,
    fetch,
    finish_registration,
    is_done,
    offer,
    send,
    stage_path,
)


def test_a_stage_that_asks_nothing_is_done_by_its_button(server: Callable[..., None]) -> None:
    offer(server, "m.login.dummy")
    session = begin_registration()
    page = fetch(stage_path("m.login.dummy"), {"session": session})
    assert (page.status, page.title) == (200, "Go on")
    assert "to create your account" in page.text
    assert finish_registration(session).status == 401
    assert is_done(send(stage_path("m.login.dummy"), page.fields()))
    answer = finish_registration(session)
    assert (answer.status, answer.json["user_id"]) == (200, "@erin:example.org")


def test_a_stage_that_is_done_says_so_again(server: Callable[..., None]) -> None:
    offer(server, "m.login.dummy")
    session = begin_registration()
    for _ in range(2):
        assert is_done(send(stage_path("m.login.dummy"), {"session": session}))
    assert is_done(fetch(stage_path("m.login.dummy"), {"session": session}))


def test_terms_have_to_be_agreed_to_one_by_one(server: Callable[..., None]) -> None:
    offer(server, "m.login.terms", TERMS=json.dumps(TERMS))
    session = begin_registration()
    path = stage_path("m.login.terms")
    page = fetch(path, {"session": session})
    assert page.text.count("I agree to") == 2
    assert "the &lt;privacy&gt; notice" in page.html
    assert 'href="https://example.org/p?a=1&amp;b=2"' in page.html
    refused = send(path, {"session": session, "agree0": "yes"})
    assert (refused.status, refused.problem) == (400, "You have to agree to each of them to go on.")
    assert is_done(send(path, page.fields()))
    assert finish_registration(session).status == 200


def test_the_registration_token_is_asked_for_until_it_is_right(server: Callable[..., None]) -> None:
    server(REGISTRATION="token", REGISTRATION_TOKEN="sesame")
    session = begin_registration()
    path = stage_path("m.login.registration_token")
    page = fetch(path, {"session": session})
    assert page.title == "Enter your registration token"
    wrong = send(path, {**page.fields(), "token": HOSTILE})
    assert (wrong.status, wrong.problem) == (403, "The registration token is not valid.")
    assert "alert(1)" not in wrong.html
    assert send(path, page.fields()).problem == "token is required."
    assert is_done(send(path, {**wrong.fields(), "token": "sesame"}))
    assert finish_registration(session).status == 200


def test_the_fifth_wrong_answer_ends_the_session(server: Callable[..., None]) -> None:
    server(REGISTRATION="token", REGISTRATION_TOKEN="sesame")
    path, fields = stage_path("m.login.registration_token"), {"session": begin_registration(), "token": "guess"}
    pages = [send(path, fields) for _ in range(6)]
    assert [page.status for page in pages] == [403, 403, 403, 403, 429, 401]
    assert pages[4].headers["retry-after"] == "1"
    assert pages[5].problem == "This session is unknown or has expired."


def test_a_password_page_says_for_whom_and_for_what(alice: User) -> None:
    operation = (f"{V3}/account/deactivate", {"erase": False})
    answer = call("client_account", "POST", *operation, token=alice.token)
    session = answer.json["session"]
    path = stage_path("m.login.password")
    page = fetch(path, {"session": session})
    assert (page.status, page.title) == (200, "Enter your password")
    assert "to close your account (@alice:example.org)" in page.text
    assert set(page.fields()) == {"session", "password"}
    wrong = send(path, {"session": session, "password": "wrong"})
    assert (wrong.status, wrong.problem) == (403, "The password is wrong.")
    assert is_done(send(path, {"session": session, "password": alice.password}))
    repeated = {**operation[1], "auth": {"session": session}}
    assert call("client_account", "POST", operation[0], repeated, token=alice.token).status == 200


@pytest.fixture
def captchas(server: Callable[..., None]) -> Iterator[CaptchaService]:
    service = CaptchaService()
    offer(server, "m.login.recaptcha", **service.settings)
    yield service
    service.close()


def test_a_captcha_is_checked_by_the_service_that_made_it(captchas: CaptchaService) -> None:
    session = begin_registration()
    path = stage_path("m.login.recaptcha")
    page = fetch(path, {"session": session})
    assert data_of(page) == {"key": "site-key", "script": f"{captchas.url}/api.js"}
    assert page.policy["frame-src"] == [captchas.url]
    assert "a-secret-key-of-captchas" not in page.html
    assert page.fields() == {"session": session, "response": ""}
    assert send(path, page.fields()).problem == "response is required: the answer of the captcha."
    wrong = send(path, {"session": session, "response": "made up"})
    assert (wrong.status, wrong.problem) == (403, "The captcha was not solved: try again.")
    assert is_done(send(path, {"session": session, "response": "solved"}, address="203.0.113.9"))
    assert captchas.asked[-1] == (
        "application/x-www-form-urlencoded",
        {"secret": "a-secret-key-of-captchas", "response": "solved", "remoteip": "203.0.113.9"},
    )
    assert finish_registration(session).status == 200


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {}),
        (404, {"success": True}),
        (200, {"success": False, "error-codes": ["invalid-input-secret"]}),
        (200, ["success"]),
    ],
)
def test_nobody_passes_a_captcha_that_cannot_be_checked(captchas: CaptchaService, status: int, body: object) -> None:
    captchas.answers["solved"] = (status, body)
    session = begin_registration()
    fields = {"session": session, "response": "solved"}
    pages = [send(stage_path("m.login.recaptcha"), fields) for _ in range(6)]
    assert {page.status for page in pages} == {502}
    assert pages[0].problem == "The captcha cannot be checked at the moment: try again later."
    captchas.answers["solved"] = (200, {"success": True})  # none of these tries was counted
    assert is_done(send(stage_path("m.login.recaptcha"), fields))


def test_nobody_passes_a_captcha_while_its_service_is_down(captchas: CaptchaService) -> None:
    session = begin_registration()
    captchas.close()
    page = send(stage_path("m.login.recaptcha"), {"session": session, "response": "solved"})
    assert (page.status, page.problem) == (502, "The captcha cannot be checked at the moment: try again later.")
    assert finish_registration(session).status == 401


def test_a_client_that_shows_the_captcha_itself_is_told_the_key_and_why_it_failed(captchas: CaptchaService) -> None:
    body = {"username": "erin", "password": "a long pass phrase"}
    offered = call("client_login", "POST", f"{V3}/register", body).json
    assert offered["params"] == {"m.login.recaptcha": {"public_key": "site-key"}}
    auth = {"type": "m.login.recaptcha", "session": offered["session"], "response": "made up"}
    refused = call("client_login", "POST", f"{V3}/register", {**body, "auth": auth})
    assert (refused.status, refused.errcode) == (401, "M_CAPTCHA_INVALID")
    done = call("client_login", "POST", f"{V3}/register", {**body, "auth": {**auth, "response": "solved"}})
    assert done.status == 200


def test_a_client_that_shows_the_terms_itself_is_told_them(server: Callable[..., None]) -> None:
    offer(server, "m.login.terms", TERMS=json.dumps(TERMS))
    body = {"username": "erin", "password": "a long pass phrase"}
    offered = call("client_login", "POST", f"{V3}/register", body).json
    assert offered["params"] == {"m.login.terms": {"policies": TERMS}}
    auth = {"type": "m.login.terms", "session": offered["session"]}
    assert call("client_login", "POST", f"{V3}/register", {**body, "auth": auth}).status == 200


def test_a_mailed_code_is_typed_into_the_page(server: Callable[..., None], mailbox: Mailbox) -> None:
    offer(server, "m.login.email.code")
    session = begin_registration()
    path = stage_path("m.login.email.code")
    asking = fetch(path, {"session": session})
    assert asking.title == "Get a code by e-mail"
    bad = send(path, {"session": session, "email": "no address"})
    assert bad.status == 400
    assert bad.problem
    page = send(path, {**asking.fields(), "email": "erin@mail.example"})
    assert page.title == "Enter the code"
    assert "erin@mail.example" in page.text
    assert fetch(path, {"session": session}).title == "Enter the code"
    assert send(path, {"session": session, "code": "1"}).problem == "Wrong or expired code"
    # The second form asks for another mail, which is too early now.
    again = send(path, page.fields(1))
    assert again.status == 429
    assert again.problem == "A mail was asked for a moment ago."
    assert is_done(send(path, {**page.fields(), "code": mailbox.code(to="erin@mail.example")}))
    assert finish_registration(session).status == 200


def test_a_mailed_link_is_confirmed_elsewhere(server: Callable[..., None], mailbox: Mailbox) -> None:
    offer(server, "m.login.email.url")
    session = begin_registration()
    path = stage_path("m.login.email.url")
    page = send(path, {"session": session, "email": "erin@mail.example"})
    assert page.title == "Open the link"
    early = send(path, page.fields())
    assert (early.status, early.problem) == (400, "Link not visited yet")
    link = mailbox.link(to="erin@mail.example").partition("example.org")[2] or mailbox.link()
    confirm = "/_matrix/client/api/v1/login/email/confirm"
    token = {"token": mailbox.token()}
    assert confirm in link
    look = fetch(confirm, token)
    assert (look.status, look.title) == (200, "Confirm your e-mail address?")
    assert send(path, page.fields()).status == 400  # to look changes nothing
    done = send(confirm, look.fields())
    assert (done.title, "Your e-mail address is confirmed." in done.text) == ("Thank you", True)
    assert is_done(send(path, page.fields()))
    assert finish_registration(session).status == 200


def test_an_address_is_proved_on_the_page_where_the_app_has_not_done_it(
    server: Callable[..., None], mailbox: Mailbox
) -> None:
    offer(server, "m.login.email.identity")
    session = begin_registration()
    path = stage_path("m.login.email.identity")
    asking = fetch(path, {"session": session})
    assert asking.title == "Confirm your e-mail address"
    assert "open the link in that one and go back to the app" in asking.text
    page = send(path, {**asking.fields(), "email": "erin@mail.example"})
    assert page.title == "Open the link"
    early = send(path, page.fields())
    assert (early.status, early.problem) == (403, "The link in the mail was not followed yet.")
    follow(mailbox)
    assert is_done(send(path, early.fields()))
    assert finish_registration(session).status == 200


def follow(mailbox: Mailbox) -> None:
    """Open the link of the last mail, and confirm."""
    path, query = re.match(r"https?://[^/]+([^?]+)\?(.*)", mailbox.link()).groups()  # type: ignore[union-attr]  # a URL
    page = fetch(path, dict(pair.split("=") for pair in query.split("&")))
    assert page.status == 200
    assert send(path, page.fields()).title == "Thank you"


def test_an_app_may_hand_its_own_validation_to_the_page(server: Callable[..., None], mailbox: Mailbox) -> None:
    offer(server, "m.login.email.identity")
    session = begin_registration()
    asked = {"client_secret": "of-the-app", "email": "erin@mail.example", "send_attempt": 1}
    sid = call("client_login", "POST", f"{V3}/register/email/requestToken", asked).json["sid"]
    path = stage_path("m.login.email.identity")
    page = fetch(path, {"session": session, "sid": sid, "client_secret": "of-the-app"})
    assert page.title == "Open the link"
    follow(mailbox)
    assert is_done(send(path, page.fields()))
    assert finish_registration(session).status == 200


def test_a_forgotten_password_is_set_anew_through_the_page(mailbox: Mailbox, alice: User) -> None:
    link_address(alice.user_id, "alice@mail.example")
    body = {"new_password": "another long pass phrase"}
    session = call("client_account", "POST", f"{V3}/account/password", body).json["session"]
    path = stage_path("m.login.email.identity")
    unknown = send(path, {"session": session, "email": "nobody@mail.example"})
    assert (unknown.status, unknown.problem) == (400, "No account has this e-mail address.")
    page = send(path, {"session": session, "email": "alice@mail.example"})
    assert "to set a new password" in page.text
    follow(mailbox)
    assert is_done(send(path, page.fields()))
    done = call("client_account", "POST", f"{V3}/account/password", {**body, "auth": {"session": session}})
    assert done.status == 200
    login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}}
    assert call("client_login", "POST", f"{V3}/login", {**login, "password": body["new_password"]}).status == 200


def test_a_page_needs_a_session_that_has_its_stage(server: Callable[..., None]) -> None:
    offer(server, "m.login.dummy")
    session = begin_registration()
    path = stage_path("m.login.dummy")
    for page in (fetch(path), fetch(path, {"session": ""}), send(path, {}), send(path, {}, {"session": session})):
        assert page.status == 400
        assert page.problem == "This address is not complete: it does not name a session. Go back to your app."
    for unknown in ("x", HOSTILE, "login/x", "x" * 100):
        page = fetch(path, {"session": unknown})
        assert (page.status, page.problem) == (401, "This session is unknown or has expired.")
        assert "alert(1)" not in page.html
        assert send(path, {"session": unknown}).status == 401
    for stage in ("m.login.password", "org.example.unknown", "%3Cscript%3Ealert(1)%3Cscript%3E"):
        page = fetch(stage_path(stage), {"session": session})
        assert page.status in {400, 404}
        assert "alert(1)" not in page.html
    assert finish_registration(session).status == 401


def test_the_session_of_a_login_has_no_stage_pages(server: Callable[..., None]) -> None:
    server(LOGIN_FLOWS=json.dumps([["m.login.terms", "m.login.password"]]), TERMS=json.dumps(TERMS))
    body = {"type": "m.login.terms"}
    session = call("client_login", "POST", "/_matrix/client/api/v1/login", body).json["session"]
    assert fetch(stage_path("m.login.password"), {"session": session}).status == 401


@pytest.mark.parametrize(
    "body", ["session=%ff", "x" * 70_000, "&".join(f"a{n}=1" for n in range(60)), "no form at all"]
)
def test_what_is_no_form_is_refused(body: str) -> None:
    page = send(stage_path("m.login.dummy"), body)
    assert page.status == 400
