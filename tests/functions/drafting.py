"""Logging in and registering in the dialect of the 2014 draft: how each stage is passed, and what goes wrong.

answer = pass_stage(login, EMAIL_CODE, mailbox)              # asks for the mail, and sends the code that came
answer = login({**first_body(PASSWORD), "session": answer.json["session"]})
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from functions.harness import PASSWORD as SECRET
from functions.harness import SERVER_NAME, Answer, User, call
from functions.mailbox import Mailbox
from homeserver import observability
from homeserver.adapters.guarded_http import Reply
from homeserver.services import login_links
from homeserver.services.clock import now_ms
from homeserver.services.login_stages import oauth2, recaptcha
from homeserver.storage import sessions, threepids
from homeserver.storage.connection import Transaction

L = "/_matrix/client/api/v1"
OLD_L = "/matrix/client/api/v1"
V3 = "/_matrix/client/v3"

PASSWORD = "m.login.password"
EMAIL_CODE = "m.login.email.code"
EMAIL_URL = "m.login.email.url"
OAUTH2 = "m.login.oauth2"
RECAPTCHA = "m.login.recaptcha"
TERMS = "m.login.terms"
TOKEN = "m.login.registration_token"
ADDRESS = "alice@mail.test"
POLICIES = {"privacy": {"version": "1", "en": {"name": "Privacy", "url": "https://example.org/privacy"}}}

_AT = "https://login.example.org"
PROVIDER = {
    "id": "example",
    "name": "Example",
    "issuer": _AT,
    "client_id": "eigenserver",
    "authorization_endpoint": f"{_AT}/authorize",
    "token_endpoint": f"{_AT}/token",
    "jwks_uri": f"{_AT}/keys",
}

Send = Callable[..., Answer]
Body = dict[str, Any]


def login(body: Any, **more: Any) -> Answer:
    """POST /login at the draft's address."""
    return call("client_login", "POST", f"{L}/login", body, **more)


def register(body: Any, **more: Any) -> Answer:
    """POST /register at the draft's address."""
    return call("client_login", "POST", f"{L}/register", body, **more)


def link_address(user: User, address: str = ADDRESS) -> None:
    """Give an account an e-mail address."""
    transaction = Transaction()
    threepids.add(transaction, user.user_id, threepids.EMAIL, address, validated_at=now_ms(), added_at=now_ms())
    transaction.commit()


def flows(*stages: list[str]) -> str:
    """A value of LOGIN_FLOWS or REGISTRATION_FLOWS."""
    return json.dumps(stages)


def first_body(stage: str, name: str = "alice", address: str = ADDRESS) -> Body:
    """The body that starts a stage of a login."""
    return {
        PASSWORD: {"type": PASSWORD, "user": name, "password": SECRET},
        EMAIL_CODE: {"type": EMAIL_CODE, "user": name, "email": address},
        EMAIL_URL: {"type": EMAIL_URL, "user": name, "email": address},
        OAUTH2: {"type": OAUTH2, "user": name},
        RECAPTCHA: {"type": RECAPTCHA, "response": "solved"},
        TERMS: {"type": TERMS},
        TOKEN: {"type": TOKEN, "token": "operator's token"},
    }[stage]


def proof(stage: str, mailbox: Mailbox, session: str, address: str = ADDRESS) -> Body:
    """The body that ends a stage which waits, after what it waits for has happened."""
    if stage == OAUTH2:
        return_from_provider(session)
        return {"type": OAUTH2, "session": session}
    if stage == EMAIL_CODE:
        return {"type": EMAIL_CODE, "session": session, "code": mailbox.code(address)}
    assert stage == EMAIL_URL
    login_links.confirm(mailbox.token(address))
    return {"type": EMAIL_URL, "session": session}


def return_from_provider(session: str, user_id: str = f"@alice:{SERVER_NAME}") -> None:
    """Leave in a session what the callback leaves there when somebody has come back (test_oauth_login.py)."""
    stored = sessions.load(session)
    assert stored is not None
    pending = {**stored.pending[OAUTH2], oauth2.FOUND: user_id}
    assert sessions.change(stored, {"pending": {**stored.pending, OAUTH2: pending}})


def waits(stage: str) -> bool:
    """Whether a stage takes two requests."""
    return stage in {EMAIL_CODE, EMAIL_URL, OAUTH2}


def pass_stage(send: Send, stage: str, mailbox: Mailbox, session: str | None = None, **more: Any) -> Answer:
    """Submit a stage until it is done; the last answer."""
    known = {} if session is None else {"session": session}
    answer = send({**first_body(stage), **known, **more})
    if not waits(stage):
        return answer
    assert (answer.status, answer.json["type"]) == (200, stage), answer.json
    return send({**proof(stage, mailbox, answer.json["session"]), **more})


def pass_stages(send: Send, stages: list[str], mailbox: Mailbox) -> list[Answer]:
    """Submit stages in an order; the last answer of each."""
    answers: list[Answer] = []
    session = None
    for stage in stages:
        answers.append(pass_stage(send, stage, mailbox, session))
        session = answers[-1].json.get("session")
    return answers


def refusal(answer: Answer) -> tuple[int, str | None]:
    """Status and errcode."""
    return answer.status, answer.errcode


def whoami(token: str) -> Answer:
    """Whose an access token is."""
    return call("client_account", "GET", f"{V3}/account/whoami", token=token)


def crash_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Break the next request off at a fault point: it is answered with 500."""

    def stop(step: str) -> None:
        if step == name:
            monkeypatch.setattr(observability, "fault_hook", None)
            raise RuntimeError(step)

    monkeypatch.setattr(observability, "fault_hook", stop)


def solve_captchas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A captcha's provider for which "solved" is the right answer."""

    def fetched(method: str, url: str, *, form: Mapping[str, str], seconds: float) -> Reply:
        assert form["secret"] == "captcha secret"
        return Reply(200, {"success": form["response"] == "solved"})

    monkeypatch.setattr(recaptcha, "fetch_json", fetched)
