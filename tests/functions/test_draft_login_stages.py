"""The draft's login in stages: order, sessions, limits, crashes and races."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest

from functions.drafting import (
    ADDRESS,
    EMAIL_CODE,
    EMAIL_URL,
    OAUTH2,
    PASSWORD,
    POLICIES,
    PROVIDER,
    RECAPTCHA,
    TERMS,
    crash_at,
    first_body,
    flows,
    link_address,
    login,
    pass_stage,
    pass_stages,
    proof,
    refusal,
    register,
    solve_captchas,
    waits,
    whoami,
)
from functions.harness import User, call
from functions.harness import register as register_user
from functions.login_machine import LoginMachine
from functions.mailbox import Mailbox
from homeserver.matrix.errors import MatrixError
from homeserver.services import draft_login, login_completion, login_sessions
from homeserver.services import passwords as password_service
from homeserver.services.login_stages.stage import Origin
from homeserver.storage import accounts, sessions
from homeserver.storage.sessions import Session
from homeserver.storage.tokens import Token

PROOFS = [PASSWORD, EMAIL_CODE, EMAIL_URL, OAUTH2]
STAGES = [*PROOFS, RECAPTCHA, TERMS]
UNKNOWN = (401, "M_UNKNOWN")


@pytest.fixture
def offer(server, mailbox: Mailbox, monkeypatch):
    """`offer([stages], ...)`: a server with these flows, and whatever its stages need."""
    solve_captchas(monkeypatch)
    server(OAUTH_PROVIDERS=json.dumps([PROVIDER]), OAUTH_CLIENT_SECRETS='{"example": "secret"}')
    server(TERMS=json.dumps(POLICIES), RECAPTCHA_PUBLIC_KEY="key", RECAPTCHA_PRIVATE_KEY="captcha secret")
    return lambda *stages: server(LOGIN_FLOWS=flows(*stages))


@pytest.fixture
def anna(alice: User, mailbox: Mailbox) -> User:
    """A user with an e-mail address."""
    link_address(alice)
    return alice


def is_login_of(answer, user: User) -> bool:
    assert answer.status == 200, answer.json
    assert set(answer.json) == {"user_id", "access_token", "home_server", "device_id"}
    told = whoami(answer.json["access_token"])
    return (told.status, answer.json["user_id"], told.json["user_id"]) == (200, user.user_id, user.user_id)


def live_tokens(user: User) -> list[Token]:
    """The tokens of a user, but that of the registration."""
    return [token for token in Token.scan() if token.user == user.user_id and token.device != user.device_id]


def codes_then_password(anna: User, mailbox: Mailbox) -> tuple[str, dict]:
    """A session whose code was entered, and the body that ends it."""
    session = pass_stage(login, EMAIL_CODE, mailbox).json["session"]
    return session, {**first_body(PASSWORD), "session": session}


# ── Each alone, each pair, three in a row ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", PROOFS)
def test_each_stage_alone_logs_in(offer, anna: User, mailbox: Mailbox, machine: LoginMachine, stage):
    offer([stage])
    answer = pass_stage(login, stage, mailbox)
    assert is_login_of(answer, anna)
    assert list(machine.executions.values()) == (["DONE"] if waits(stage) else [])
    assert len(live_tokens(anna)) == 1


@pytest.mark.parametrize("pair", [pair for pair in permutations(STAGES, 2) if set(pair) & set(PROOFS)])
def test_each_pair_logs_in_in_its_order_and_in_no_other(offer, anna: User, mailbox: Mailbox, machine, pair):
    first, second = pair
    offer([first, second])
    wrong_order = login(first_body(second))
    assert (refusal(wrong_order), wrong_order.json["error"]) == ((400, "M_UNKNOWN"), "Bad login type")
    assert (list(Session.scan()), machine.executions, mailbox.events) == ([], {}, [])
    middle, end = pass_stages(login, [first, second], mailbox)
    session = middle.json["session"]
    assert middle.json == {"next": second, "session": session}
    assert is_login_of(end, anna)
    assert machine.executions == {session: "DONE"}
    assert Session.fetch(session) is None


def test_three_factors_log_in(offer, anna: User, mailbox: Mailbox, machine: LoginMachine):
    offer([TERMS, EMAIL_CODE, EMAIL_URL, PASSWORD])
    *others, end = pass_stages(login, [TERMS, EMAIL_CODE, EMAIL_URL, PASSWORD], mailbox)
    assert [answer.json["next"] for answer in others] == [EMAIL_CODE, EMAIL_URL, PASSWORD]
    assert len({answer.json["session"] for answer in others}) == 1
    assert is_login_of(end, anna)
    assert list(machine.executions.values()) == ["DONE"]


# ── Which stage comes next ──────────────────────────────────────────────────────────────────────────


def test_where_flows_part_all_that_can_come_next_is_told_the_preferred_one_alone_too(offer, anna: User, mailbox):
    offer([EMAIL_CODE, PASSWORD], [EMAIL_CODE, TERMS], [EMAIL_URL])
    middle = pass_stage(login, EMAIL_CODE, mailbox).json
    assert middle == {"next": PASSWORD, "next_options": [PASSWORD, TERMS], "session": middle["session"]}
    assert is_login_of(login({"type": TERMS, "session": middle["session"]}), anna)


def test_what_can_no_longer_come_next_is_refused_and_harms_nothing(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, PASSWORD], [EMAIL_URL, PASSWORD])
    session, end = codes_then_password(anna, mailbox)
    for stage in (EMAIL_URL, TERMS, "m.login.riddle"):
        assert refusal(login({"type": stage, "session": session, "user": "alice", "email": ADDRESS})) == (
            400,
            "M_UNKNOWN",
        )
    assert is_login_of(login(end), anna)


def test_a_completed_stage_is_not_done_again(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, PASSWORD])
    session, end = codes_then_password(anna, mailbox)
    again = login({**first_body(EMAIL_CODE), "session": session})
    assert (refusal(again), len(mailbox.events)) == ((400, "M_UNKNOWN"), 1)
    assert is_login_of(login(end), anna)


def test_two_stages_may_wait_where_either_can_come_first(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE], [EMAIL_URL])
    session = login(first_body(EMAIL_CODE)).json["session"]
    other = login({**first_body(EMAIL_URL), "session": session})
    assert (other.status, other.json) == (200, {"type": EMAIL_URL, "session": session})
    assert is_login_of(login(proof(EMAIL_URL, mailbox, session)), anna)


# ── One session, one user, one kind ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("other", ["bob", "nobody", "@alice:elsewhere.org"])
def test_a_later_stage_is_for_the_same_user(offer, anna: User, bob: User, mailbox: Mailbox, other):
    offer([EMAIL_CODE, PASSWORD])
    _, end = codes_then_password(anna, mailbox)
    answer = login({**end, "user": other})
    assert refusal(answer) == (400, "M_UNKNOWN")
    assert "cannot change user" in answer.json["error"]
    assert live_tokens(bob) == []
    assert is_login_of(login(end), anna)


def test_a_later_stage_may_leave_the_user_out(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, PASSWORD])
    _, end = codes_then_password(anna, mailbox)
    del end["user"]
    assert is_login_of(login(end), anna)


def test_the_address_of_somebody_else_is_no_second_factor(offer, anna: User, bob: User, mailbox: Mailbox):
    link_address(bob, "bob@mail.test")
    offer([PASSWORD, EMAIL_CODE])
    session = login(first_body(PASSWORD)).json["session"]
    own = login({"type": EMAIL_CODE, "session": session, "email": "bob@mail.test"})
    assert (own.status, own.json, mailbox.mails) == (200, {"type": EMAIL_CODE, "session": session}, [])
    changed = login({"type": EMAIL_CODE, "session": session, "user": "bob", "email": "bob@mail.test"})
    assert changed.status == 400
    assert mailbox.mails == []


def test_a_session_is_good_for_what_it_was_begun_for(server, offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, PASSWORD])
    server(REGISTRATION_FLOWS=flows([EMAIL_CODE]))
    session, end = codes_then_password(anna, mailbox)
    assert refusal(register(end)) == UNKNOWN
    registering = register({"type": EMAIL_CODE, "email": "new@mail.test"}).json["session"]
    code = {"type": EMAIL_CODE, "session": registering, "code": mailbox.code("new@mail.test")}
    assert refusal(login(code)) == UNKNOWN
    path = "/_matrix/client/v3/register"
    modern = call("client_login", "POST", path, {"username": "new", "password": "x"}).json["session"]
    assert refusal(login({**end, "session": modern})) == UNKNOWN
    assert refusal(register({**code, "session": modern})) == UNKNOWN
    auth = {"username": "new", "password": "x", "auth": {"type": EMAIL_CODE, "session": session}}
    assert call("client_login", "POST", path, auth).status == 401
    assert is_login_of(login(end), anna)


# ── The end of a session ────────────────────────────────────────────────────────────────────────────


def test_after_the_login_the_session_is_unknown(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, PASSWORD])
    _, end = codes_then_password(anna, mailbox)
    assert is_login_of(login(end), anna)
    assert refusal(login(end)) == UNKNOWN
    assert len(live_tokens(anna)) == 1


def test_the_fifth_wrong_answer_ends_the_session(offer, anna: User, mailbox: Mailbox, machine: LoginMachine):
    offer([EMAIL_CODE, PASSWORD])
    session, end = codes_then_password(anna, mailbox)
    wrong = {**end, "password": "wrong"}
    assert [refusal(login(wrong)) for _ in range(4)] == [(403, "M_FORBIDDEN")] * 4
    fifth = login(wrong)
    assert (refusal(fifth), fifth.json["retry_after_ms"] > 0) == ((429, "M_LIMIT_EXCEEDED"), True)
    assert refusal(login(end)) == UNKNOWN
    assert machine.executions == {session: "FAILED"}
    assert live_tokens(anna) == []


def test_wrong_answers_of_all_stages_count_together(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, PASSWORD])
    session = login(first_body(EMAIL_CODE)).json["session"]
    wrong = {"type": EMAIL_CODE, "session": session, "code": "x"}
    assert [refusal(login(wrong)) for _ in range(3)] == [(403, "M_FORBIDDEN")] * 3
    assert login(proof(EMAIL_CODE, mailbox, session)).json["next"] == PASSWORD
    guess = {**first_body(PASSWORD), "session": session, "password": "wrong"}
    assert [login(guess).status for _ in range(3)] == [403, 429, 401]


def test_mistakes_that_are_no_answers_are_not_counted(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, PASSWORD])
    session, end = codes_then_password(anna, mailbox)
    for _ in range(6):
        assert refusal(login({"type": PASSWORD, "session": session})) == (400, "M_MISSING_PARAM")
        assert refusal(login({**end, "user": "bob"})) == (400, "M_UNKNOWN")
    assert is_login_of(login(end), anna)


@pytest.mark.parametrize("done", [0, 1])
def test_a_session_that_the_machine_ended_is_unknown(offer, anna: User, mailbox: Mailbox, machine, done):
    offer([EMAIL_CODE, PASSWORD])
    session = login(first_body(EMAIL_CODE)).json["session"]
    last = proof(EMAIL_CODE, mailbox, session)
    if done:
        assert login(last).json["next"] == PASSWORD
        last = {**first_body(PASSWORD), "session": session}
    machine.time_out(session)
    assert refusal(login(last)) == UNKNOWN
    assert machine.executions == {session: "EXPIRED"}
    assert live_tokens(anna) == []


def test_a_session_is_over_after_a_quarter_of_an_hour_without_the_machine_too(offer, anna, mailbox, machine):
    offer([EMAIL_CODE, PASSWORD])
    machine.late = True
    session, end = codes_then_password(anna, mailbox)
    stored = Session.fetch(session)
    assert 890 <= stored.expires - stored.created / 1000 <= 901
    stored.update([Session.expires.set(int(stored.created / 1000) - 1)])
    assert refusal(login(end)) == UNKNOWN


def test_an_execution_that_was_stopped_stops_the_login(offer, anna: User, mailbox: Mailbox, machine: LoginMachine):
    offer([EMAIL_CODE, PASSWORD])
    session, end = codes_then_password(anna, mailbox)
    machine.abort(session)
    assert refusal(login(end)) == UNKNOWN
    assert refusal(login(end)) == UNKNOWN
    assert live_tokens(anna) == []


@pytest.mark.parametrize("late", [False, True])
def test_a_machine_that_is_late_changes_nothing(offer, anna: User, mailbox: Mailbox, machine: LoginMachine, late):
    offer([EMAIL_CODE, PASSWORD])
    machine.late = late
    session, end = codes_then_password(anna, mailbox)
    assert is_login_of(login(end), anna)
    machine.catch_up()
    assert machine.executions[session] in {"DONE", "EXPIRED"}


# ── The device ──────────────────────────────────────────────────────────────────────────────────────


def test_what_an_earlier_stage_said_of_the_device_is_kept(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, PASSWORD])
    said = {"device_id": "PHONE", "initial_device_display_name": "x" * 300, "refresh_token": True}
    session = login({**first_body(EMAIL_CODE), **said}).json["session"]
    assert login(proof(EMAIL_CODE, mailbox, session)).json["next"] == PASSWORD
    answer = login({**first_body(PASSWORD), "session": session})
    assert set(answer.json) == {
        *("user_id", "access_token", "home_server", "device_id", "refresh_token", "expires_in_ms"),
    }
    device = accounts.load_device(anna.user_id, "PHONE")
    assert (answer.json["device_id"], device.name) == ("PHONE", "x" * 256)


def test_what_a_stage_in_the_middle_said_is_kept_and_the_last_word_counts(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, TERMS, PASSWORD])
    first = {"device_id": "ONE", "initial_device_display_name": "First"}
    session = login({**first_body(EMAIL_CODE), **first}).json["session"]
    login({**proof(EMAIL_CODE, mailbox, session), "device_id": "TWO"})
    login({"type": TERMS, "session": session})
    answer = login({**first_body(PASSWORD), "session": session, "refresh_token": True})
    assert (answer.json["device_id"], "refresh_token" in answer.json) == ("TWO", True)
    assert accounts.load_device(anna.user_id, "TWO").name == "First"


def test_a_mistake_about_the_device_is_told_at_once(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE])
    assert refusal(login({**first_body(EMAIL_CODE), "device_id": ""})) == (400, "M_INVALID_PARAM")
    assert mailbox.events == []


# ── Crashes, races ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["login_sessions.stage_completed", "login_sessions.machine_told", "login_completion.issued"])
def step(request) -> str:
    """Where a request breaks off."""
    return request.param


@pytest.mark.parametrize("device", [{}, {"device_id": "PHONE"}])
def test_after_a_crash_the_same_request_finishes_the_login_on_the_same_device(  # noqa: PLR0917 - fixtures
    offer, anna: User, mailbox: Mailbox, machine, monkeypatch, step, device
):
    offer([EMAIL_CODE, PASSWORD])
    session, end = codes_then_password(anna, mailbox)
    end |= device
    crash_at(monkeypatch, step)
    assert login(end).status == 500
    made = {token.device for token in live_tokens(anna)}
    assert len(made) == (1 if step == "login_completion.issued" else 0)
    assert refusal(login(end)) == (429, "M_LIMIT_EXCEEDED")  # whoever has the session may be at work still
    monkeypatch.setattr(login_sessions, "now_ms", lambda: now() + login_sessions.LEASE_MS)
    other = {**end, "password": "wrong"}
    assert refusal(login(other)) == UNKNOWN
    answer = login(end)
    assert is_login_of(answer, anna)
    assert made <= {answer.json["device_id"]}
    assert len(live_tokens(anna)) == 1
    assert refusal(login(end)) == UNKNOWN
    assert machine.executions == {session: "DONE"}


now = login_sessions.now_ms


def test_after_a_crash_in_the_middle_the_same_request_goes_on(offer, anna: User, mailbox, machine, monkeypatch):
    offer([EMAIL_CODE, TERMS, PASSWORD])
    session = pass_stage(login, EMAIL_CODE, mailbox).json["session"]
    agreement = {"type": TERMS, "session": session}
    crash_at(monkeypatch, "login_sessions.stage_completed")
    assert login(agreement).status == 500
    assert login(agreement).json == {"next": PASSWORD, "session": session}
    assert is_login_of(login({**first_body(PASSWORD), "session": session}), anna)
    assert machine.executions == {session: "DONE"}


def test_who_hears_of_no_session_begins_again(offer, anna: User, mailbox: Mailbox, monkeypatch):
    offer([TERMS, PASSWORD])
    crash_at(monkeypatch, "login_sessions.stored")
    assert login({"type": TERMS}).status == 500
    assert is_login_of(pass_stages(login, [TERMS, PASSWORD], mailbox)[-1], anna)


def test_of_two_simultaneous_correct_submissions_one_is_a_login(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, PASSWORD])
    for _ in range(5):
        _, end = codes_then_password(anna, mailbox)
        before = len(live_tokens(anna))
        barrier = threading.Barrier(3)

        def submit(barrier=barrier, end=end):
            barrier.wait()
            try:
                return draft_login.log_in(end, Origin("192.0.2.1"))["user_id"]
            except MatrixError as refused:
                return refused.status

        with ThreadPoolExecutor(3) as threads:
            answers = [done.result() for done in [threads.submit(submit) for _ in range(3)]]
        assert answers.count(anna.user_id) == 1, answers
        assert set(answers) <= {anna.user_id, 401, 429}
        assert len(live_tokens(anna)) == before + 1


def test_who_lost_the_session_to_a_repetition_makes_no_second_login(offer, anna: User, mailbox, monkeypatch):
    offer([EMAIL_CODE, PASSWORD])
    _, end = codes_then_password(anna, mailbox)
    answers = []
    real = login_completion.add_login

    def slowly(*details, **more):
        monkeypatch.setattr(login_completion, "add_login", real)
        monkeypatch.setattr(login_sessions, "now_ms", lambda: now() + login_sessions.LEASE_MS)
        answers.append(draft_login.log_in(end, Origin("192.0.2.1")))
        return real(*details, **more)

    monkeypatch.setattr(login_completion, "add_login", slowly)
    slow = login(end)
    assert refusal(slow) == UNKNOWN
    assert whoami(answers[0]["access_token"]).json["user_id"] == anna.user_id
    assert len(live_tokens(anna)) == 1


@pytest.mark.parametrize("when", ["password", "end"])
def test_an_account_that_changes_half_way_is_not_logged_in_to(offer, anna: User, mailbox: Mailbox, when):
    offer([PASSWORD, EMAIL_CODE])
    session = login(first_body(PASSWORD)).json["session"]
    assert login({"type": EMAIL_CODE, "session": session, "email": ADDRESS}).status == 200
    account = accounts.load_account(anna.user_id)
    if when == "password":
        assert account.change_password_hash(account.password, password_service.hash_password("another"))
    else:
        account.update([accounts.Account.deactivating.set(True)])
    answer = login({"type": EMAIL_CODE, "session": session, "code": mailbox.code(ADDRESS)})
    assert refusal(answer) == (403, "M_FORBIDDEN" if when == "password" else "M_USER_DEACTIVATED")
    assert live_tokens(anna) == []


# ── A login token instead of a login ────────────────────────────────────────────────────────────────


WANTED = {"org.eigenserver.result": "login_token"}


def logs_in(answer, user: User) -> bool:
    """Whether an answer is a login token, of this user, that works once."""
    assert answer.status == 200, answer.json
    assert set(answer.json) == {"user_id", "login_token", "expires_in_ms"}
    assert (answer.json["user_id"], answer.json["expires_in_ms"]) == (user.user_id, 120_000)
    body = {"type": "m.login.token", "token": answer.json["login_token"]}
    first, second = (call("client_login", "POST", "/_matrix/client/v3/login", body) for _ in range(2))
    return (first.json["user_id"], refusal(second)) == (user.user_id, (403, "M_FORBIDDEN"))


@pytest.mark.parametrize("stages", [[PASSWORD], [EMAIL_URL], [OAUTH2], [EMAIL_CODE, PASSWORD]])
def test_a_page_can_end_a_login_in_a_token_for_another_client(offer, anna: User, mailbox: Mailbox, machine, stages):
    offer(stages)
    session = {}
    for stage in stages:
        answer = pass_stage(login, stage, mailbox, **WANTED, **session)
        session = {"session": answer.json.get("session")}
    assert live_tokens(anna) == []
    assert len(accounts.list_devices(anna.user_id)) == 1  # that of the registration
    assert logs_in(answer, anna)
    assert list(machine.executions.values()) == ([] if stages == [PASSWORD] else ["DONE"])


def test_a_wrong_password_gives_no_token(anna: User):
    assert refusal(login({**first_body(PASSWORD), **WANTED, "password": "wrong"})) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize("wrong", ["access_token", "", 7, ["login_token"], {}])
def test_a_login_ends_in_nothing_else(anna: User, wrong):
    answer = login({**first_body(PASSWORD), "org.eigenserver.result": wrong})
    assert refusal(answer) == (400, "M_INVALID_PARAM")


def test_after_a_crash_the_same_request_gives_the_token(offer, anna: User, mailbox: Mailbox, monkeypatch):
    offer([EMAIL_CODE, PASSWORD])
    _, end = codes_then_password(anna, mailbox)
    crash_at(monkeypatch, "login_completion.issued")
    assert login({**end, **WANTED}).status == 500
    monkeypatch.setattr(login_sessions, "now_ms", lambda: now() + login_sessions.LEASE_MS)
    assert refusal(login(end)) == UNKNOWN
    assert logs_in(login({**end, **WANTED}), anna)


# ── What strangers can cost ─────────────────────────────────────────────────────────────────────────


def test_sessions_are_limited_per_address_and_together(server, offer, anna: User, mailbox: Mailbox, machine):
    offer([TERMS, PASSWORD])
    server(RATE_LIMITS="on", LOGIN_SESSIONS_PER_DAY="1500")
    statuses = [login({"type": TERMS}, address="192.0.2.7").status for _ in range(22)]
    assert statuses == [200] * 20 + [429] * 2
    others = [login({"type": TERMS}, address=f"198.51.100.{number}").status for number in range(12)]
    assert others == [200] * 10 + [429] * 2  # 2 % of a day's executions at once
    assert len(machine.executions) == 30
    assert len(list(Session.scan())) == 30


def test_a_login_that_is_refused_at_its_first_stage_starts_nothing(offer, anna: User, mailbox: Mailbox, machine):
    offer([PASSWORD, EMAIL_CODE])
    assert refusal(login({**first_body(PASSWORD), "password": "wrong"})) == (403, "M_FORBIDDEN")
    assert (machine.executions, list(Session.scan())) == ({}, [])


def test_somebody_else_s_wrong_codes_do_not_end_a_session(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE])
    mine, theirs = (login(first_body(EMAIL_CODE)).json["session"] for _ in range(2))
    code = mailbox.code(ADDRESS)
    assert [login({"type": EMAIL_CODE, "session": mine, "code": "x"}).status for _ in range(6)] == [
        *([403] * 4),
        429,
        401,
    ]
    assert is_login_of(login({"type": EMAIL_CODE, "session": theirs, "code": code}), anna)


def test_sessions_know_no_session_of_other_users(offer, anna: User, mailbox: Mailbox):
    offer([EMAIL_CODE, PASSWORD])
    other = register_user("carla")
    link_address(other, "carla@mail.test")
    first, second = (
        login(first_body(EMAIL_CODE, name, address)).json["session"]
        for name, address in (("alice", ADDRESS), ("carla", "carla@mail.test"))
    )
    crossed = login({"type": EMAIL_CODE, "session": first, "code": mailbox.code("carla@mail.test")})
    assert refusal(crossed) == (403, "M_FORBIDDEN")
    assert (sessions.load(first).user, sessions.load(second).user) == (anna.user_id, other.user_id)
