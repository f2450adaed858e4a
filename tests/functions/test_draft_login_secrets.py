"""What logins and registrations leave behind: no password, code, link or token, in no item, log, event or execution."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from functions.drafting import (
    ADDRESS,
    EMAIL_CODE,
    EMAIL_URL,
    PASSWORD,
    TOKEN,
    V3,
    crash_at,
    first_body,
    flows,
    link_address,
    login,
    proof,
    register,
)
from functions.harness import PASSWORD as SECRET
from functions.harness import User, call
from functions.mailbox import Mailbox
from homeserver.adapters import aws, executions
from homeserver.services import login_sessions

GUESS = "a wrong guess of the password"
NEW_PASSWORD = "the password of a new account"


class Traces:
    """Everything that was written to DynamoDB, and everything that was logged or handed on."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.said: list[str] = []

    def note_request(self, params, model, **_) -> None:
        if model.name in {"PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "BatchWriteItem"}:
            self.written.append(json.dumps(params, default=repr))

    def heard(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, which leaves a trace."""

        def told(*details: Any) -> Any:
            self.said.append(repr(details))
            return call(*details)

        return told

    def find(self, secrets: list[str]) -> list[str]:
        """Those secrets that stand somewhere."""
        everything = "\n".join([*self.written, *self.said])
        return [secret for secret in secrets if secret in everything]


@pytest.fixture
def traces(machine, monkeypatch, mailbox: Mailbox) -> Iterator[Traces]:
    found = Traces()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.said.append(self.format(record))

    listener = Listener(logging.DEBUG)
    log = logging.getLogger("eigenserver")
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(listener)
    for name in ("start", "stage_done", "session_failed"):
        monkeypatch.setattr(executions, name, found.heard(getattr(executions, name)))
    events = aws.client("dynamodb").meta.events
    events.register("provide-client-params.dynamodb", found.note_request)
    try:
        yield found
    finally:
        events.unregister("provide-client-params.dynamodb", found.note_request)
        log.removeHandler(listener)
        log.setLevel(level)


@pytest.fixture
def anna(alice: User, mailbox: Mailbox) -> User:
    link_address(alice)
    return alice


def tokens_of(answer) -> list[str]:
    assert answer.status == 200, answer.json
    return [answer.json[key] for key in ("access_token", "refresh_token") if key in answer.json]


def nothing_leaks(traces: Traces, mailbox: Mailbox, capfd, secrets: list[str]) -> bool:
    assert traces.written
    traces.said += [*capfd.readouterr(), *(json.dumps(event) for event in mailbox.events)]
    assert all(len(secret) >= 6 for secret in secrets)
    assert traces.find(secrets) == []
    return True


def test_the_traces_would_show_a_secret(traces: Traces, anna: User, mailbox: Mailbox, capfd):
    """That the other tests can fail: what is no secret is found everywhere it is searched for."""
    logging.getLogger("eigenserver").info("a line with %s", "words in a log")
    print("words on the console")
    login({**first_body(PASSWORD), "device_id": "a device in the store"})
    traces.said += capfd.readouterr()
    shown = ["words in a log", "words on the console", "a device in the store"]
    assert traces.find(shown) == shown


def test_a_login_with_the_password(traces: Traces, anna: User, mailbox: Mailbox, capfd):
    assert login({**first_body(PASSWORD), "password": GUESS}).status == 403
    answer = login({**first_body(PASSWORD), "refresh_token": True})
    assert nothing_leaks(traces, mailbox, capfd, [SECRET, GUESS, *tokens_of(answer)])


@pytest.mark.parametrize("stages", [[EMAIL_CODE, PASSWORD], [EMAIL_URL, PASSWORD], [PASSWORD, EMAIL_CODE]])
def test_a_login_with_two_factors(server, traces: Traces, anna: User, mailbox: Mailbox, capfd, stages):  # noqa: PLR0917 - fixtures
    server(LOGIN_FLOWS=flows(stages))
    session, answer = {}, None
    secrets = [SECRET, GUESS]
    for stage in stages:
        answer = login({**first_body(stage), **session, "refresh_token": True})
        session = {"session": answer.json["session"]} if "session" in answer.json else session
        if stage != PASSWORD:
            assert login({"type": stage, **session, "code": "75319864"}).status in {400, 403}
            secrets += ["75319864", mailbox.code(ADDRESS) if stage == EMAIL_CODE else mailbox.token(ADDRESS)]
            answer = login(proof(stage, mailbox, session["session"]))
        if "next" in answer.json and answer.json["next"] == PASSWORD:
            assert login({**first_body(PASSWORD), **session, "password": GUESS}).status == 403
    assert nothing_leaks(traces, mailbox, capfd, [*secrets, *tokens_of(answer)])


def test_a_login_that_crashes_and_is_repeated(server, traces: Traces, anna, mailbox: Mailbox, capfd, monkeypatch):  # noqa: PLR0917 - fixtures
    server(LOGIN_FLOWS=flows([EMAIL_CODE, PASSWORD]))
    session = login(first_body(EMAIL_CODE)).json["session"]
    code = mailbox.code(ADDRESS)
    login({"type": EMAIL_CODE, "session": session, "code": code})
    last = {**first_body(PASSWORD), "session": session}
    for step in ("login_sessions.stage_completed", "login_completion.issued"):
        crash_at(monkeypatch, step)
        assert login(last).status == 500
        now = login_sessions.now_ms
        monkeypatch.setattr(login_sessions, "now_ms", lambda now=now: now() + login_sessions.LEASE_MS)
    answer = login(last)
    assert any("RuntimeError" in line for line in traces.said)
    assert nothing_leaks(traces, mailbox, capfd, [SECRET, code, *tokens_of(answer)])


def test_a_registration_in_stages(server, traces: Traces, mailbox: Mailbox, capfd):
    server(REGISTRATION_FLOWS=flows([TOKEN, EMAIL_CODE]), REGISTRATION_TOKEN="operator's token")
    assert register({"type": TOKEN, "token": "a wrong token"}).status == 403
    session = register(first_body(TOKEN)).json["session"]
    register({"type": EMAIL_CODE, "email": ADDRESS, "session": session})
    code = mailbox.code(ADDRESS)
    register({"type": EMAIL_CODE, "session": session, "code": code})
    new = {"type": PASSWORD, "user": "erin", "password": NEW_PASSWORD, "session": session}
    answer = register(new)
    secrets = [NEW_PASSWORD, "operator's token", "a wrong token", code]
    assert nothing_leaks(traces, mailbox, capfd, [*secrets, *tokens_of(answer)])


def test_a_registration_at_once(traces: Traces, mailbox: Mailbox, capfd):
    answer = register({"user_id": "erin", "password": NEW_PASSWORD})
    assert nothing_leaks(traces, mailbox, capfd, [NEW_PASSWORD, *tokens_of(answer)])


def test_a_login_by_a_login_token(traces: Traces, anna: User, mailbox: Mailbox, capfd):
    identifier = {"type": "m.id.user", "user": "alice"}
    body = {"auth": {"type": PASSWORD, "identifier": identifier, "password": SECRET}}
    token = call("client_login", "POST", "/_matrix/client/v1/login/get_token", body, token=anna.token).json[
        "login_token"
    ]
    answer = call("client_login", "POST", f"{V3}/login", {"type": "m.login.token", "token": token})
    assert nothing_leaks(traces, mailbox, capfd, [SECRET, token, anna.token, *tokens_of(answer)])


def test_a_token_in_the_query_string(traces: Traces, anna: User, mailbox: Mailbox, capfd, monkeypatch):
    query = {"access_token": anna.token}
    assert call("client_account", "GET", f"{V3}/account/whoami", query=query).status == 200
    crash_at(monkeypatch, "account.password_changed")
    identifier = {"type": "m.id.user", "user": "alice"}
    body = {"new_password": NEW_PASSWORD, "auth": {"type": PASSWORD, "identifier": identifier, "password": SECRET}}
    assert call("client_account", "POST", f"{V3}/account/password", body, query=query).status == 500
    assert nothing_leaks(traces, mailbox, capfd, [anna.token, SECRET, NEW_PASSWORD])
