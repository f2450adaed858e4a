"""The recorded conversations of the draft's login and registration, word for word but for what is random."""

import pytest

from functions.drafting import EMAIL_CODE, EMAIL_URL, PASSWORD, L, flows, link_address, login, refusal, register, whoami
from functions.harness import call
from functions.harness import register as register_user
from functions.mailbox import Mailbox
from homeserver.services import login_links, passwords
from homeserver.storage import accounts

CAROL = "carol@mail.test"


@pytest.fixture
def carol(mailbox: Mailbox):
    user = register_user("carol")
    account = accounts.load_account(user.user_id)
    assert account.change_password_hash(account.password, passwords.hash_password("right"))
    link_address(user, CAROL)
    return user


def result_keys(answer) -> dict:
    """The answer without what is random, which has to be there and to be text."""
    assert all(isinstance(answer.json[key], str) and answer.json[key] for key in ("access_token", "device_id"))
    return {key: value for key, value in answer.json.items() if key not in {"access_token", "device_id"}}


def test_a_login_with_two_factors(server, carol, mailbox: Mailbox):
    """Transcript 6.1."""
    stages = [EMAIL_CODE, PASSWORD]
    server(LOGIN_FLOWS=flows(stages))
    flow = {"type": EMAIL_CODE, "stages": stages}
    assert call("client_login", "GET", f"{L}/login").json == {**flow, "flows": [flow]}

    asked = login({"type": EMAIL_CODE, "user": "carol", "email": CAROL})
    session = asked.json["session"]
    assert (asked.status, asked.json) == (200, {"type": EMAIL_CODE, "session": session})
    assert len(session) >= 22  # 128 bits

    wrong = login({"type": EMAIL_CODE, "session": session, "code": "000000"})
    assert (wrong.status, wrong.json) == (403, {"errcode": "M_FORBIDDEN", "error": "Wrong or expired code"})
    right = login({"type": EMAIL_CODE, "session": session, "code": mailbox.code(CAROL)})
    assert (right.status, right.json) == (200, {"next": PASSWORD, "session": session})

    changed = login({"type": PASSWORD, "session": session, "user": "dave", "password": "x"})
    assert refusal(changed) == (400, "M_UNKNOWN")
    last = {"type": PASSWORD, "session": session, "user": "carol", "password": "right"}
    done = login(last)
    assert (done.status, result_keys(done)) == (200, {"user_id": "@carol:example.org", "home_server": "example.org"})
    assert whoami(done.json["access_token"]).json["device_id"] == done.json["device_id"]

    assert refusal(login(last)) == (401, "M_UNKNOWN")
    alone = login({"type": PASSWORD, "user": "carol", "password": "right"})
    assert (alone.status, alone.json) == (400, {"errcode": "M_UNKNOWN", "error": "Bad login type"})


@pytest.mark.parametrize("poll", [EMAIL_URL, EMAIL_CODE])
def test_a_login_by_a_link_that_is_polled(server, carol, mailbox: Mailbox, poll):
    """Transcript 6.2; the draft's text polls with the type of the code."""
    server(LOGIN_FLOWS=flows([EMAIL_URL]))
    assert call("client_login", "GET", f"{L}/login").json == {"type": EMAIL_URL, "flows": [{"type": EMAIL_URL}]}
    asked = login({"type": EMAIL_URL, "user": "carol", "email": CAROL})
    session = asked.json["session"]
    assert asked.json == {"type": EMAIL_URL, "session": session}
    for _ in range(2):
        early = login({"type": poll, "session": session})
        assert (early.status, early.json) == (
            400,
            {"errcode": "M_LOGIN_EMAIL_URL_NOT_YET", "error": "Link not visited yet", "retry_after_ms": 2000},
        )
    token = mailbox.token(CAROL)
    assert login_links.look(token).user_id == carol.user_id
    assert refusal(login({"type": poll, "session": session})) == (400, "M_LOGIN_EMAIL_URL_NOT_YET")
    login_links.confirm(token)
    done = login({"type": poll, "session": session})
    assert (done.status, result_keys(done)) == (200, {"user_id": "@carol:example.org", "home_server": "example.org"})
    assert refusal(login({"type": poll, "session": session})) == (401, "M_UNKNOWN")


def test_polling_too_often_is_limited(server, carol, mailbox: Mailbox):
    server(LOGIN_FLOWS=flows([EMAIL_URL]))
    session = login({"type": EMAIL_URL, "user": "carol", "email": CAROL}).json["session"]
    server(RATE_LIMITS="on")
    answers = [refusal(login({"type": EMAIL_URL, "session": session})) for _ in range(6)]
    assert (400, "M_LOGIN_EMAIL_URL_NOT_YET") in answers
    assert (429, "M_LIMIT_EXCEEDED") in answers


def test_a_registration_in_three_skins():
    """Transcript 6.3."""
    first = register({"user_id": "erin", "password": "pw"})
    assert (first.status, result_keys(first)) == (200, {"user_id": "@erin:example.org", "home_server": "example.org"})

    second = register({"type": PASSWORD, "user": "frank", "password": "pw"})
    assert (second.status, result_keys(second)) == (
        200,
        {"user_id": "@frank:example.org", "home_server": "example.org"},
    )

    path = "/_matrix/client/v3/register"
    asked = call("client_login", "POST", path, {"username": "gina", "password": "pw"})
    session = asked.json["session"]
    assert (asked.status, asked.json) == (
        401,
        {"session": session, "flows": [{"stages": ["m.login.dummy"]}], "params": {}, "completed": []},
    )
    auth = {"type": "m.login.dummy", "session": session}
    third = call("client_login", "POST", path, {"username": "gina", "password": "pw", "auth": auth})
    assert (third.status, third.json["user_id"]) == (200, "@gina:example.org")

    for name, answer in (("erin", first), ("frank", second), ("gina", third)):
        assert whoami(answer.json["access_token"]).json["user_id"] == f"@{name}:example.org"
        assert login({"type": PASSWORD, "user": name, "password": "pw"}).status == 200
        taken = [
            register({"user_id": name, "password": "pw"}),
            register({"type": PASSWORD, "user": name, "password": "pw"}),
            call("client_login", "POST", path, {"username": name, "password": "pw"}),
            call("client_login", "POST", path, {"username": name, "password": "pw", "auth": {"type": "m.login.dummy"}}),
        ]
        assert [refusal(answer) for answer in taken] == [(400, "M_USER_IN_USE")] * 4
