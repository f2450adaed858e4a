"""The draft's registration: what is offered, the ways of each date, stages, names, crashes."""

import json

import pytest

from functions.drafting import (
    EMAIL_CODE,
    EMAIL_URL,
    OLD_L,
    PASSWORD,
    POLICIES,
    RECAPTCHA,
    TERMS,
    TOKEN,
    V3,
    L,
    crash_at,
    flows,
    login,
    pass_stage,
    refusal,
    register,
    solve_captchas,
    whoami,
)
from functions.harness import User, call
from functions.login_machine import LoginMachine
from functions.mailbox import Mailbox
from homeserver.matrix.access_token import token_hash
from homeserver.services import login_sessions
from homeserver.storage import accounts, registration_tokens, sessions, threepids
from homeserver.storage.connection import Transaction
from homeserver.storage.profiles import Profile, profile_fields
from homeserver.storage.sessions import Session

NEW = {"type": PASSWORD, "user": "erin", "password": "pw"}
ERIN = "@erin:example.org"
RESULT = {"user_id", "access_token", "home_server", "device_id"}
ADDRESS = "erin@mail.test"


def no_account_of(localpart: str) -> bool:
    return accounts.load_account(f"@{localpart}:example.org") is None


def accounts_made() -> list[str]:
    return [account.user for account in accounts.Account.scan() if account.k == accounts.ACCOUNT]


@pytest.fixture
def offer(server, mailbox: Mailbox, monkeypatch):
    """`offer([stages], ...)`: a server with these registration flows, and whatever their stages need."""
    solve_captchas(monkeypatch)
    server(TERMS=json.dumps(POLICIES), RECAPTCHA_PUBLIC_KEY="key", RECAPTCHA_PRIVATE_KEY="captcha secret")
    return lambda *stages: server(REGISTRATION_FLOWS=flows(*stages))


# ── What is offered ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefix", [L, OLD_L])
def test_an_open_server_offers_the_password_alone(prefix):
    answer = call("client_login", "GET", f"{prefix}/register")
    assert (answer.status, answer.json) == (200, {"type": PASSWORD, "flows": [{"type": PASSWORD}]})


def test_the_password_is_the_last_stage_of_each_flow(offer):
    offer([TERMS, EMAIL_CODE], ["m.login.dummy"])
    stages = {"type": TERMS, "stages": [TERMS, EMAIL_CODE, PASSWORD]}
    assert call("client_login", "GET", f"{L}/register").json == {**stages, "flows": [stages, {"type": PASSWORD}]}


def test_a_server_that_wants_a_token_says_so(server):
    server(REGISTRATION="token", REGISTRATION_TOKEN="operator's token")
    stages = {"type": TOKEN, "stages": [TOKEN, PASSWORD]}
    assert call("client_login", "GET", f"{L}/register").json == {**stages, "flows": [stages]}


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("GET", None),
        ("POST", {}),
        ("POST", NEW),
        ("POST", {"user_id": "erin", "password": "pw"}),
        ("POST", {"username": "erin", "password": "pw", "auth": {"type": "m.login.dummy"}}),
        ("POST", {"type": PASSWORD, "session": "S"}),
    ],
)
def test_a_closed_server_offers_nothing_and_takes_nothing(server, method, body):
    server(REGISTRATION="closed")
    assert refusal(call("client_login", method, f"{L}/register", body)) == (403, "M_FORBIDDEN")
    assert accounts_made() == []


# ── Of the draft's own date ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefix", [L, OLD_L])
@pytest.mark.parametrize("key", ["user_id", "user"])
@pytest.mark.parametrize("name", ["erin", ERIN])
def test_name_and_password_make_an_account(prefix, key, name, machine):
    answer = call("client_login", "POST", f"{prefix}/register", {key: name, "password": "pw"})
    assert (answer.status, set(answer.json)) == (200, RESULT)
    assert (answer.json["user_id"], answer.json["home_server"]) == (ERIN, "example.org")
    assert whoami(answer.json["access_token"]).json["user_id"] == ERIN
    account = accounts.load_account(ERIN)
    assert account.password.startswith("$argon2id$")
    assert profile_fields(Profile.fetch(ERIN)) == {"displayname": "erin"}
    assert (list(Session.scan()), machine.executions) == ([], {})


def test_without_a_name_one_is_made():
    first, second = (register({"password": "pw"}).json["user_id"] for _ in range(2))
    assert first != second
    assert first.endswith(":example.org")


def test_without_a_password_only_the_token_opens_the_account():
    answer = register({"user_id": "erin"})
    assert (answer.status, set(answer.json)) == (200, RESULT)
    assert accounts.load_account(ERIN).password is None
    assert whoami(answer.json["access_token"]).json["user_id"] == ERIN
    assert refusal(login({**NEW, "password": ""})) == (403, "M_FORBIDDEN")


def test_what_is_said_of_the_device_counts():
    answer = register({"user": "erin", "password": "pw", "device_id": "PHONE", "refresh_token": True})
    assert (answer.json["device_id"], "refresh_token" in answer.json) == ("PHONE", True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"user_id": "erin", "password": ""}, (400, "M_WEAK_PASSWORD")),
        ({"user_id": "erin", "password": "x" * 513}, (400, "M_INVALID_PARAM")),
        ({"user_id": "erin", "password": 7}, (400, "M_BAD_JSON")),
        ({"user_id": 7, "password": "pw"}, (400, "M_BAD_JSON")),
        ({"user_id": "erin", "password": "pw", "device_id": ""}, (400, "M_INVALID_PARAM")),
        ({"session": "S", "user": "erin", "password": "pw"}, (400, "M_MISSING_PARAM")),
    ],
)
def test_what_makes_no_account_is_refused(body, expected):
    assert refusal(register(body)) == expected
    assert accounts_made() == []


@pytest.mark.parametrize("stages", [[TERMS], [TOKEN, TERMS]])
def test_where_more_is_needed_both_dialects_are_told_their_flows(offer, machine, stages):
    offer(stages)
    answer = register({"user_id": "erin", "password": "pw"})
    drafted = {"type": stages[0], "stages": [*stages, PASSWORD]}
    assert answer.status == 401
    assert answer.json == {
        "session": answer.json["session"],
        "completed": [],
        "params": {TERMS: {"policies": POLICIES}},
        "flows": [{"stages": stages}, drafted],
    }
    assert no_account_of("erin")
    assert machine.executions == {}


def test_today_s_way_out_of_that_works_at_the_draft_s_address(offer):
    offer([TERMS])
    session = register({"user_id": "erin", "password": "pw"}).json["session"]
    answer = register({"user_id": "erin", "password": "pw", "auth": {"type": TERMS, "session": session}})
    assert (answer.status, set(answer.json), answer.json["user_id"]) == (200, RESULT, ERIN)
    assert sessions.load(session) is None


# ── Today's way at the draft's address ──────────────────────────────────────────────────────────────


def test_auth_is_user_interactive_authentication():
    body = {"username": "erin", "password": "pw", "auth": {"type": "m.login.dummy"}}
    answer = register(body)
    assert (answer.status, set(answer.json), answer.json["home_server"]) == (200, RESULT, "example.org")
    assert register({**body, "username": "gina", "inhibit_login": True}).json == {
        "user_id": "@gina:example.org",
        "home_server": "example.org",
    }
    assert refusal(register(body)) == (400, "M_USER_IN_USE")


def test_today_s_address_answers_as_ever():
    body = {"username": "erin", "password": "pw", "auth": {"type": "m.login.dummy"}}
    answer = call("client_login", "POST", f"{V3}/register", body)
    assert set(answer.json) == {"user_id", "access_token", "device_id"}


# ── Names ───────────────────────────────────────────────────────────────────────────────────────────


BAD_NAMES = ["Erin", "er in", "ёrin", "\u0430lice", "@erin:elsewhere.org", "a:b", "a" * 250, "a#b", "a/b\n"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("user_id", {}),
        ("user", {}),
        ("user", {"type": PASSWORD}),
        ("username", {"auth": {"type": "m.login.dummy"}}),
    ],
)
def test_a_name_that_could_be_mistaken_is_refused_and_the_key_is_named(name, key, more):
    answer = register({key: name, "password": "pw", **more})
    assert refusal(answer) == (400, "M_FAILED_HUMAN_ID_CHECK")
    assert answer.json["failed_keys"] == [key]
    assert accounts_made() == []


@pytest.mark.parametrize("name", BAD_NAMES)
def test_today_s_address_calls_that_an_invalid_user_name(name):
    answer = call("client_login", "POST", f"{V3}/register", {"username": name, "password": "pw"})
    assert refusal(answer) == (400, "M_INVALID_USERNAME")


@pytest.mark.parametrize("name", ["alice", "@alice:example.org"])
@pytest.mark.parametrize(
    "more", [{}, {"type": PASSWORD}, {"auth": {"type": "m.login.dummy"}}, {"auth": {"type": "m.login.dummy"}, "x": 1}]
)
def test_a_taken_name_is_refused_in_every_way(alice: User, name, more):
    assert refusal(register({"user": name, "password": "pw", **more})) == (400, "M_USER_IN_USE")
    assert accounts_made() == [alice.user_id]


# ── Stages ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_password_alone_is_one_request_without_a_session(machine: LoginMachine):
    answer = register(NEW)
    assert (answer.status, set(answer.json), answer.json["user_id"]) == (200, RESULT, ERIN)
    assert login(NEW).json["user_id"] == ERIN
    assert (list(Session.scan()), machine.executions) == ([], {})


def test_a_stage_without_a_name_makes_one():
    assert register({"type": PASSWORD, "password": "pw"}).json["user_id"].endswith(":example.org")
    assert refusal(register({"type": PASSWORD, "user": "erin"})) == (400, "M_MISSING_PARAM")


@pytest.mark.parametrize("stage", [TOKEN, TERMS, RECAPTCHA, EMAIL_CODE, EMAIL_URL])
def test_each_stage_comes_before_the_password(server, offer, mailbox: Mailbox, machine, stage):
    offer([stage])
    server(REGISTRATION_TOKEN="operator's token")
    early = register(NEW)
    assert (refusal(early), early.json["error"]) == ((400, "M_UNKNOWN"), "Bad login type")
    middle = pass_stage(register, stage, mailbox)
    session = middle.json["session"]
    assert middle.json == {"next": PASSWORD, "session": session}
    answer = register({**NEW, "session": session})
    assert (answer.status, set(answer.json), answer.json["user_id"]) == (200, RESULT, ERIN)
    assert refusal(register({**NEW, "session": session})) == (401, "M_UNKNOWN")
    assert machine.executions == {session: "DONE"}
    assert list(Session.scan()) == []
    assert (accounts_made(), len(accounts.list_devices(ERIN))) == ([ERIN], 1)


@pytest.mark.parametrize("stage", [EMAIL_CODE, EMAIL_URL])
def test_an_address_that_was_verified_is_the_account_s(offer, mailbox: Mailbox, stage):
    offer([stage])
    session = pass_stage(register, stage, mailbox).json["session"]
    assert register({**NEW, "session": session}).status == 200
    assert threepids.user_of(threepids.EMAIL, "alice@mail.test") == ERIN
    assert [entry.address for entry in threepids.list_of(ERIN)] == ["alice@mail.test"]


def test_an_address_that_went_to_somebody_else_meanwhile_makes_no_account(offer, alice: User, mailbox: Mailbox):
    offer([EMAIL_CODE])
    session = pass_stage(register, EMAIL_CODE, mailbox).json["session"]
    transaction = Transaction()
    threepids.add(transaction, alice.user_id, threepids.EMAIL, "alice@mail.test", validated_at=1, added_at=1)
    transaction.commit()
    assert refusal(register({**NEW, "session": session})) == (400, "M_THREEPID_IN_USE")
    assert no_account_of("erin")


def test_a_stored_token_is_used_up_by_the_account_that_is_made(server, mailbox: Mailbox):
    server(REGISTRATION="token")
    registration_tokens.create(token_hash("once"), uses_allowed=1, expiry_time=None)
    once = {"type": TOKEN, "token": "once"}
    first, second = (register(once).json["session"] for _ in range(2))
    assert registration_tokens.load(token_hash("once")).completed == 0
    assert register({**NEW, "session": first}).json["user_id"] == ERIN
    assert registration_tokens.load(token_hash("once")).completed == 1
    assert refusal(register({**NEW, "user": "gina", "session": second})) == (403, "M_FORBIDDEN")
    assert no_account_of("gina")
    assert refusal(register(once)) == (403, "M_FORBIDDEN")


def test_a_wrong_token_makes_no_account_and_the_fifth_ends_the_session(server, offer, machine):
    offer([TERMS, TOKEN])
    server(REGISTRATION_TOKEN="operator's token")
    session = register({"type": TERMS}).json["session"]
    wrong = {"type": TOKEN, "session": session, "token": "guess"}
    assert [refusal(register(wrong)) for _ in range(6)] == [
        *([(403, "M_FORBIDDEN")] * 4),
        (429, "M_LIMIT_EXCEEDED"),
        (401, "M_UNKNOWN"),
    ]
    assert machine.executions == {session: "FAILED"}


def test_a_taken_or_bad_name_in_the_last_stage_can_be_replaced(offer, alice: User):
    offer([TERMS])
    session = register({"type": TERMS}).json["session"]
    assert refusal(register({**NEW, "session": session, "user": "alice"})) == (400, "M_USER_IN_USE")
    assert refusal(register({**NEW, "session": session, "user": "Ёrin"})) == (400, "M_FAILED_HUMAN_ID_CHECK")
    assert refusal(register({**NEW, "session": session, "password": ""})) == (400, "M_WEAK_PASSWORD")
    assert register({**NEW, "session": session}).json["user_id"] == ERIN


def test_a_name_that_is_taken_at_the_last_moment_is_refused(offer, monkeypatch):
    offer([TERMS])
    session = register({"type": TERMS}).json["session"]
    real = login_sessions.submit

    def overtaken(*details, **more):
        monkeypatch.setattr(login_sessions, "submit", real)
        transaction = Transaction()
        accounts.create_account(transaction, ERIN, password_hash=None, admin=False, now=1)
        transaction.commit()
        return real(*details, **more)

    monkeypatch.setattr(login_sessions, "submit", overtaken)
    assert refusal(register({**NEW, "session": session})) == (400, "M_USER_IN_USE")
    assert accounts.load_account(ERIN).password is None
    assert accounts.list_devices(ERIN) == []


@pytest.mark.parametrize(
    "step", ["login_sessions.stage_completed", "login_sessions.machine_told", "login_completion.issued"]
)
@pytest.mark.parametrize("name", [{}, {"user": None}])
def test_after_a_crash_the_same_request_finishes_the_registration(offer, monkeypatch, step, name):
    offer([TERMS])
    session = register({"type": TERMS}).json["session"]
    last = {**NEW, "session": session, **name}
    crash_at(monkeypatch, step)
    assert register(last).status == 500
    made = accounts_made()
    assert len(made) == (1 if step == "login_completion.issued" else 0)
    now = login_sessions.now_ms
    monkeypatch.setattr(login_sessions, "now_ms", lambda: now() + login_sessions.LEASE_MS)
    answer = register(last)
    assert (answer.status, set(answer.json)) == (200, RESULT)
    assert accounts_made() == [answer.json["user_id"]]
    assert set(made) <= {answer.json["user_id"]}
    (device,) = accounts.list_devices(answer.json["user_id"])
    assert (device.device_id, len(device.token_hashes)) == (answer.json["device_id"], 1)
    assert whoami(answer.json["access_token"]).json["user_id"] == answer.json["user_id"]
    assert refusal(register(last)) == (401, "M_UNKNOWN")


def test_registrations_are_limited(server):
    server(RATE_LIMITS="on")
    statuses = [register({"user_id": f"user{number}"}).status for number in range(22)]
    assert statuses[:20] == [200] * 20
    assert 429 in statuses[20:]
