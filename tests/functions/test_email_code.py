"""`m.login.email.code`: a login, a registration and User-Interactive Authentication by a code that was mailed."""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from functions.harness import SERVER_NAME, Answer, User, call
from functions.mailbox import Mailbox
from functions.mailing import (
    ADDRESS,
    CODE,
    DEVICE,
    REGISTER,
    begun,
    change_pending,
    everything_stored,
    link_address,
    log_in,
    logged,
    pending,
    recorded_calls,
    unlink_address,
)
from homeserver.adapters.mail import MailFailed
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, LimitExceeded, MatrixError, MissingParam
from homeserver.services.login_stages.email_code import STAGE
from homeserver.services.login_stages.mailed import EMAIL
from homeserver.services.login_stages.stage import Attempt, Completed, Origin, Waiting
from homeserver.settings import settings
from homeserver.storage.threepids import user_of

HERE = Origin("192.0.2.1", DEVICE["user-agent"], "https://hs.example.org")
OTHER_ADDRESS = "mallory@mail.example"


@pytest.fixture(autouse=True)
def flows(server: Callable[..., None], mailbox: Mailbox) -> None:
    server(LOGIN_FLOWS=json.dumps([[CODE], [CODE, "m.login.password"]]))


def attempt(submitted: dict[str, Any], **more: Any) -> Attempt:
    return Attempt(
        **{"kind": "login", "session": "s1", "user_id": None, "origin": HERE, **more, "submitted": submitted}
    )


# ── Logging in ──────────────────────────────────────────────────────────────────────────────────────


def test_who_reads_the_mail_of_a_linked_address_is_logged_in_by_its_code(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(CODE)
    code = mailbox.code(to=ADDRESS)
    assert len(code) == 8
    done = log_in({"type": CODE, "session": session, "code": code})
    # More flows begin with the code: the first that is complete counts.
    assert done.status == 200
    assert (done.json["user_id"], done.json["home_server"]) == (alice.user_id, SERVER_NAME)
    assert {"access_token", "device_id"} <= set(done.json)


def test_the_code_may_be_typed_in_groups(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(CODE)
    code = mailbox.code()
    answer = log_in({"type": CODE, "session": session, "code": f" {code[:4]}-{code[4:]} "})
    assert answer.json["user_id"] == alice.user_id


def test_an_address_is_compared_in_lower_case(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    begun(CODE, address="Alice@Mail.EXAMPLE")
    assert [mail["To"] for mail in mailbox.mails] == [ADDRESS]


def test_a_wrong_code_is_forbidden_and_the_fifth_ends_the_session(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(CODE)
    wrong = f"{(int(mailbox.code()) + 1) % 10**8:08}"
    for _ in range(4):
        answer = log_in({"type": CODE, "session": session, "code": wrong})
        assert (answer.status, answer.json) == (403, {"errcode": "M_FORBIDDEN", "error": "Wrong or expired code"})
    assert log_in({"type": CODE, "session": session, "code": wrong}).status == 429
    right = log_in({"type": CODE, "session": session, "code": mailbox.code()})
    assert (right.status, right.errcode) == (401, "M_UNKNOWN")


def test_a_code_is_forbidden_when_its_ten_minutes_are_over(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(CODE)
    (kept,) = pending(session)["codes"]
    assert 595 <= kept["until"] - time.time() <= 600
    change_pending(session, codes=[{**kept, "until": time.time() - 1}])
    answer = log_in({"type": CODE, "session": session, "code": mailbox.code()})
    assert (answer.status, answer.json["error"]) == (403, "Wrong or expired code")


def test_a_code_works_once(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(CODE)
    body = {"type": CODE, "session": session, "code": mailbox.code()}
    assert log_in(body).status == 200
    again = log_in({**body, "device_id": "OTHER"})
    assert (again.status, again.errcode) == (401, "M_UNKNOWN")


def test_a_code_is_of_no_use_once_the_address_was_taken_from_the_user(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(CODE)
    unlink_address(alice.user_id, ADDRESS)
    answer = log_in({"type": CODE, "session": session, "code": mailbox.code()})
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


def test_the_code_of_a_session_is_none_of_another(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    first = begun(CODE)
    code = mailbox.code()
    begun(CODE)
    assert mailbox.code() != code
    assert log_in({"type": CODE, "session": first, "code": mailbox.code()}).status == 403
    assert log_in({"type": CODE, "session": first, "code": code}).status == 200


# ── Whom it does not tell ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("user", "address"),
    [("alice", OTHER_ADDRESS), ("nobody", ADDRESS), ("@alice:elsewhere.org", ADDRESS), ("bob", ADDRESS)],
)
def test_an_address_that_is_not_linked_to_the_user_is_answered_alike_and_mailed_nothing(
    alice: User, bob: User, mailbox: Mailbox, user: str, address: str
) -> None:
    link_address(alice.user_id, ADDRESS)
    mailbox.hold()
    with recorded_calls() as linked:
        begun(CODE)
    with recorded_calls() as other:
        session = begun(CODE, user, address)
    assert linked == other
    assert [operation for operation, _ in linked] == ["PutItem", "UpdateItem", "Invoke"]
    known, unknown = mailbox.events
    assert {**known, "key": ""} == {**unknown, "key": ""}
    mailbox.deliver()
    assert [mail["To"] for mail in mailbox.mails] == [ADDRESS]
    assert len(mailbox.mails) == 1
    # Nor does a guess tell: the item has as many hashes, of something that is no code.
    with recorded_calls() as guessed:
        answer = log_in({"type": CODE, "session": session, "code": "00000000"})
    assert (answer.status, answer.json["error"]) == (403, "Wrong or expired code")
    assert [operation for operation, _ in guessed] == ["GetItem", "UpdateItem"]
    assert len(pending(session)["codes"]) == 1


def test_the_work_of_a_guess_is_the_same_for_an_address_that_is_not_linked(
    alice: User, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_address(alice.user_id, ADDRESS)
    hashed: list[str | None] = []

    def verify(password: str, stored: str | None) -> bool:
        hashed.append(stored)
        return False

    monkeypatch.setattr("homeserver.services.login_stages.email_code.verify_password", verify)
    sessions = [begun(CODE), begun(CODE, "nobody", OTHER_ADDRESS)]
    for session in sessions:
        log_in({"type": CODE, "session": session, "code": "00000000"})
    assert len(hashed) == 2
    parameters = [str(stored).split("$")[:4] for stored in hashed]
    assert parameters[0] == parameters[1]


def test_before_the_mail_is_written_a_guess_costs_as_much(alice: User, mailbox: Mailbox, monkeypatch) -> None:
    hashed: list[str | None] = []
    monkeypatch.setattr(
        "homeserver.services.login_stages.email_code.verify_password", lambda _, stored: bool(hashed.append(stored))
    )
    mailbox.hold()
    session = begun(CODE)
    assert log_in({"type": CODE, "session": session, "code": "00000000"}).status == 403
    assert hashed == [None]


# ── Secrets ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_code_stands_nowhere_but_in_the_mail(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    mailbox.fails.append(iter([(403, {"__type": "AccessDeniedException"}), *[None] * 9]).__next__)
    with logged() as lines:
        mailbox.hold()
        session = begun(CODE)
        with pytest.raises(MailFailed):
            mailbox.deliver()
        mailbox.run()
        code = mailbox.code()
        log_in({"type": CODE, "session": session, "code": f"{(int(code) + 1) % 10**8:08}"})
    kept = pending(session)["codes"][-1]
    for place in (everything_stored(), json.dumps(mailbox.events), "\n".join(lines)):
        assert code not in place
        assert base64.b64encode(code.encode()).decode().rstrip("=") not in place
    # Eight digits could be searched: so the hash is salted and slow.
    assert kept["hash"].startswith("$argon2id$")
    PasswordHasher().verify(kept["hash"], code)
    with pytest.raises(VerifyMismatchError):
        PasswordHasher().verify(kept["hash"], f"{(int(code) + 1) % 10**8:08}")
    # What limits mails and guesses does not say to whom.
    assert ADDRESS not in json.dumps(mailbox.events)


def test_the_hash_costs_what_a_password_costs(alice: User, mailbox: Mailbox, server: Callable[..., None]) -> None:
    link_address(alice.user_id, ADDRESS)
    server(PASSWORD_COST="normal")
    session = begun(CODE)
    assert "m=19456,t=2,p=1" in pending(session)["codes"][0]["hash"]


# ── Another mail ────────────────────────────────────────────────────────────────────────────────────


def test_another_mail_is_sent_after_a_minute_and_at_most_three(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(CODE)
    again = {"type": CODE, "user": "alice", "email": ADDRESS, "session": session}
    early = log_in(again)
    assert (early.status, early.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert 59_000 <= early.json["retry_after_ms"] <= 60_000
    assert early.headers["retry-after"] == "60"
    codes = [mailbox.code()]
    for count in (2, 3):
        change_pending(session, asked_at=pending(session)["asked_at"] - 60_000)
        answer = log_in(again)
        assert (answer.status, answer.json) == (200, {"type": CODE, "session": session})
        assert len(mailbox.mails) == count
        codes.append(mailbox.code())
    assert len(set(codes)) == 3
    change_pending(session, asked_at=0)
    assert log_in(again).status == 429
    assert len(mailbox.mails) == 3
    # People open them in any order.
    assert log_in({"type": CODE, "session": session, "code": codes[0]}).json["user_id"] == alice.user_id


def test_another_mail_goes_to_the_same_address_and_user_only(alice: User, bob: User, mailbox: Mailbox) -> None:
    session = begun(CODE)
    change_pending(session, asked_at=0)
    for user, address in (("alice", OTHER_ADDRESS), ("bob", ADDRESS)):
        answer = log_in({"type": CODE, "user": user, "email": address, "session": session})
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert len(mailbox.events) == 1


def test_nobody_can_be_flooded_from_many_sessions(server: Callable[..., None], mailbox: Mailbox) -> None:
    server(RATE_LIMITS="on")
    answers = [log_in({"type": CODE, "user": "alice", "email": ADDRESS}, address=f"192.0.2.{n}") for n in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].json["retry_after_ms"] > 1000
    # One address of the network cannot have many people mailed either.
    more = [
        log_in({"type": CODE, "user": "alice", "email": f"a{n}@b.example"}, address="192.0.2.99") for n in range(11)
    ]
    assert [answer.status for answer in more] == [200] * 10 + [429]
    assert len(mailbox.events) == 13


def test_codes_of_an_address_are_guessed_fifteen_times_in_all_sessions(
    server: Callable[..., None], mailbox: Mailbox
) -> None:
    sessions = [begun(CODE) for _ in range(4)]
    server(RATE_LIMITS="on")
    guesses = [log_in({"type": CODE, "session": s, "code": "00000000"}).status for s in sessions for _ in range(4)]
    assert guesses == [403] * 15 + [429]


# ── Bodies that cannot be used ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"user": "alice"}, "M_MISSING_PARAM"),
        ({"email": ADDRESS}, "M_MISSING_PARAM"),
        ({"user": "alice", "email": 7}, "M_BAD_JSON"),
        ({"user": 7, "email": ADDRESS}, "M_BAD_JSON"),
        ({"user": "alice", "email": "no address"}, "M_INVALID_PARAM"),
        ({"user": "alice", "email": "a@b.example\r\nBcc: c@d.example"}, "M_INVALID_PARAM"),
        ({"user": "alice", "email": "a@b.example,c@d.example"}, "M_INVALID_PARAM"),
        ({"user": "alice", "code": "12345678"}, "M_MISSING_PARAM"),
    ],
)
def test_a_first_body_without_its_keys_is_refused(mailbox: Mailbox, body: dict[str, Any], errcode: str) -> None:
    answer = log_in({"type": CODE, **body})
    assert (answer.status, answer.errcode) == (400, errcode)
    assert mailbox.events == []


def test_a_further_body_needs_the_code_as_text(mailbox: Mailbox) -> None:
    session = begun(CODE)
    assert log_in({"type": CODE, "session": session}).errcode == "M_MISSING_PARAM"
    assert log_in({"type": CODE, "session": session, "code": 12345678}).errcode == "M_BAD_JSON"


# ── Of several stages ───────────────────────────────────────────────────────────────────────────────


def test_it_is_the_first_of_two_factors(alice: User, mailbox: Mailbox, server: Callable[..., None]) -> None:
    server(LOGIN_FLOWS=json.dumps([[CODE, "m.login.password"]]))
    link_address(alice.user_id, ADDRESS)
    session = begun(CODE)
    next_one = log_in({"type": CODE, "session": session, "code": mailbox.code()})
    assert (next_one.status, next_one.json) == (200, {"next": "m.login.password", "session": session})
    other = {"type": "m.login.password", "session": session, "user": "bob", "password": alice.password}
    assert log_in(other).status == 400
    assert log_in({**other, "user": "alice"}).json["user_id"] == alice.user_id


def test_as_the_second_of_two_it_is_for_the_user_of_the_first(
    alice: User, bob: User, mailbox: Mailbox, server: Callable[..., None]
) -> None:
    server(LOGIN_FLOWS=json.dumps([["m.login.password", CODE]]))
    link_address(alice.user_id, ADDRESS)
    link_address(bob.user_id, OTHER_ADDRESS)
    first = log_in({"type": "m.login.password", "user": "alice", "password": alice.password})
    assert first.json["next"] == CODE
    session = first.json["session"]
    assert log_in({"type": CODE, "session": session, "user": "bob", "email": OTHER_ADDRESS}).status == 400
    assert log_in({"type": CODE, "session": session, "email": ADDRESS}).json == {"type": CODE, "session": session}
    done = log_in({"type": CODE, "session": session, "code": mailbox.code(to=ADDRESS)})
    assert done.json["user_id"] == alice.user_id
    assert mailbox.to(OTHER_ADDRESS) == []


# ── Registering ─────────────────────────────────────────────────────────────────────────────────────


def registering(body: dict[str, Any]) -> Answer:
    return call("client_login", "POST", REGISTER, body, headers=DEVICE)


def test_a_registration_verifies_the_address_first(mailbox: Mailbox, server: Callable[..., None]) -> None:
    server(REGISTRATION_FLOWS=json.dumps([[CODE]]))
    first = registering({"type": CODE, "email": "Erin@Mail.example"})
    assert first.json == {"type": CODE, "session": first.json["session"]}
    assert "make an account" in mailbox.text(to="erin@mail.example")
    second = registering({"type": CODE, "session": first.json["session"], "code": mailbox.code()})
    assert second.json == {"next": "m.login.password", "session": first.json["session"]}
    last = {"type": "m.login.password", "session": first.json["session"], "user": "erin", "password": "a password 1"}
    assert registering(last).json["user_id"] == f"@erin:{SERVER_NAME}"
    assert user_of("email", "erin@mail.example") == f"@erin:{SERVER_NAME}"


def test_an_address_that_has_an_account_is_told_so_by_mail_and_answered_alike(
    alice: User, mailbox: Mailbox, server: Callable[..., None]
) -> None:
    server(REGISTRATION_FLOWS=json.dumps([[CODE]]))
    link_address(alice.user_id, ADDRESS)
    mailbox.hold()
    with recorded_calls() as taken:
        first = registering({"type": CODE, "email": ADDRESS})
    with recorded_calls() as free:
        registering({"type": CODE, "email": OTHER_ADDRESS})
    assert taken == free
    assert first.json == {"type": CODE, "session": first.json["session"]}
    mailbox.deliver()
    assert mailbox.last(to=ADDRESS)["Subject"] == f"You already have an account on {SERVER_NAME}"
    assert alice.user_id not in mailbox.text(to=ADDRESS)
    assert len(mailbox.mails) == 2
    guess = registering({"type": CODE, "session": first.json["session"], "code": mailbox.code(to=OTHER_ADDRESS)})
    assert guess.status == 403


# ── The stage by itself ─────────────────────────────────────────────────────────────────────────────


def started(**more: Any) -> tuple[Attempt, Waiting]:
    first = attempt({"user": "alice", "email": ADDRESS}, **more)
    return first, STAGE.start(first)


def test_it_says_whom_the_session_is_for_and_that_the_code_proves_it() -> None:
    first, waiting = started()
    assert waiting.user_id == f"@alice:{SERVER_NAME}"
    assert waiting.answer == {}
    assert STAGE.describe() == {}
    from homeserver.services.passwords import hash_password

    link_address(f"@alice:{SERVER_NAME}", ADDRESS)
    left = {**waiting.pending, "codes": [{"hash": hash_password("12345678"), "until": time.time() + 60}]}
    done = STAGE.submit(replace(first, submitted={"code": "12345678"}, pending=left))
    assert done == Completed({}, f"@alice:{SERVER_NAME}", proves=True)
    new = STAGE.submit(replace(first, kind="register", submitted={"code": "12345678"}, pending={**left, "new": True}))
    assert new == Completed({EMAIL: ADDRESS})


def test_in_user_interactive_authentication_it_is_for_who_asks() -> None:
    asking = {"kind": "interactive", "operation": "POST /account/password"}
    me = f"@alice:{SERVER_NAME}"
    waiting = STAGE.start(attempt({"email": ADDRESS, "user": "bob"}, user_id=me, **asking))
    assert (waiting.pending["user"], waiting.pending["new"]) == (me, False)
    with pytest.raises(MatrixError, match="no user yet"):
        STAGE.start(attempt({"email": ADDRESS}, **asking))
    new = STAGE.start(attempt({"email": ADDRESS}, kind="interactive", operation="POST /register"))
    assert (new.pending["user"], new.pending["new"]) == (None, True)


def test_errors_are_matrix_errors_that_count_only_where_a_code_was_wrong() -> None:
    first, waiting = started()
    for submitted, error in (
        ({}, MissingParam),
        ({"code": []}, BadJson),
        ({"email": "b@mail.example", "user": "alice"}, InvalidParam),
        ({"email": ADDRESS, "user": "alice"}, LimitExceeded),
        ({"code": "0" * 600}, Forbidden),
        ({"code": "\uff11\uff12"}, Forbidden),
    ):
        with pytest.raises(error):
            STAGE.submit(replace(first, submitted=submitted, pending=waiting.pending))


def test_settings_without_a_sender_cannot_have_the_stage(server: Callable[..., None]) -> None:
    server(MAIL_FROM="")
    from homeserver.services.login_flows import login_flows

    with pytest.raises(ValueError, match="MAIL_FROM is empty"):
        login_flows()
    assert settings().mail_from == ""


def test_a_registration_of_today_takes_the_code_in_its_authentication(
    mailbox: Mailbox, server: Callable[..., None]
) -> None:
    server(REGISTRATION_FLOWS=json.dumps([[CODE]]))
    path = "/_matrix/client/v3/register"

    def register(auth: dict[str, Any] | None) -> Answer:
        body = {"username": "erin", "password": "a password 1"} | ({"auth": auth} if auth else {})
        return call("client_login", "POST", path, body, headers=DEVICE)

    first = register(None)
    assert (first.status, first.json["flows"]) == (401, [{"stages": [CODE]}])
    session = first.json["session"]
    waiting = register({"type": CODE, "session": session, "email": "erin@mail.example"})
    assert (waiting.status, waiting.json["completed"], "errcode" in waiting.json) == (401, [], False)
    wrong = register({"type": CODE, "session": session, "code": "1"})
    assert (wrong.status, wrong.errcode, wrong.json["session"]) == (401, "M_FORBIDDEN", session)
    done = register({"type": CODE, "session": session, "code": mailbox.code()})
    assert (done.status, done.json["user_id"]) == (200, f"@erin:{SERVER_NAME}")
    assert user_of("email", "erin@mail.example") == done.json["user_id"]
