"""`m.login.email.url`: a login and a registration by a link that was mailed, and what is behind the link."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import SERVER_NAME, User, call
from functions.mailbox import Mailbox
from functions.mailing import (
    ADDRESS,
    CODE,
    DEVICE,
    REGISTER,
    URL,
    begun,
    change_pending,
    everything_stored,
    link_address,
    log_in,
    logged,
    pending,
    recorded_calls,
)
from homeserver.matrix.access_token import token_hash
from homeserver.matrix.errors import NotFound
from homeserver.services.login_links import LinkView, confirm, look
from homeserver.services.login_stages.email_url import STAGE
from homeserver.storage import sessions
from homeserver.storage.mail_tokens import MailToken
from homeserver.storage.sessions import Session

OTHER_ADDRESS = "mallory@mail.example"


@pytest.fixture(autouse=True)
def flows(server: Callable[..., None], mailbox: Mailbox) -> None:
    server(LOGIN_FLOWS=json.dumps([[URL]]))


def poll(session: str, stage_type: str = URL, **more: Any) -> Any:
    return log_in({"type": stage_type, "session": session}, **more)


def test_the_client_polls_until_the_link_was_confirmed(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(URL)
    not_yet = poll(session)
    assert (not_yet.status, not_yet.json) == (
        400,
        {"errcode": "M_LOGIN_EMAIL_URL_NOT_YET", "error": "Link not visited yet", "retry_after_ms": 2000},
    )
    assert not_yet.headers["retry-after"] == "2"
    confirm(mailbox.token(to=ADDRESS))
    done = poll(session)
    assert (done.status, done.json["user_id"]) == (200, alice.user_id)
    assert done.json["home_server"] == SERVER_NAME


def test_the_drafts_own_example_polls_with_the_type_of_the_code(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(URL)
    assert poll(session, CODE).errcode == "M_LOGIN_EMAIL_URL_NOT_YET"
    confirm(mailbox.token())
    assert poll(session, CODE).json["user_id"] == alice.user_id


def test_not_yet_is_no_wrong_answer(mailbox: Mailbox) -> None:
    session = begun(URL)
    assert {poll(session).status for _ in range(8)} == {400}
    found = sessions.load(session)
    assert found is not None
    assert found.failures == 0


def test_polling_faster_than_once_a_second_is_limited(server: Callable[..., None], mailbox: Mailbox) -> None:
    session, other = begun(URL), begun(URL)
    server(RATE_LIMITS="on")
    assert poll(session).status == 400
    fast = poll(session)
    assert (fast.status, fast.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert 0 < fast.json["retry_after_ms"] <= 1000
    assert poll(other).status == 400


def test_the_link_leads_to_the_page_and_shows_who_asked(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    log_in({"type": URL, "user": "alice", "email": ADDRESS}, address="203.0.113.9")
    pattern = r"https://[^/]+/_matrix/client/api/v1/login/email/confirm\?token=[A-Za-z0-9_-]{43}"
    assert re.fullmatch(pattern, mailbox.link())
    assert mailbox.link() in mailbox.html()
    view = look(mailbox.token())
    now = time.time() * 1000
    assert now - 60_000 < view.requested <= now
    assert 595_000 < view.expires - view.requested <= 600_000 + 1000
    shown = LinkView("login", ADDRESS, alice.user_id, "203.0.113.9", "Firefox on Linux", view.requested, view.expires)
    assert view == shown


def test_to_look_at_a_link_confirms_nothing(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(URL)
    with recorded_calls() as calls:
        for _ in range(3):
            look(mailbox.token())
    assert {operation for operation, _ in calls} == {"GetItem"}
    assert poll(session).errcode == "M_LOGIN_EMAIL_URL_NOT_YET"


def test_a_link_works_once(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(URL)
    token = mailbox.token()
    confirm(token)
    for again in (confirm, look):
        with pytest.raises(NotFound, match="used already"):
            again(token)
    assert poll(session).status == 200
    with pytest.raises(NotFound):
        confirm(token)


def test_of_two_links_of_a_session_one_works(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(URL)
    change_pending(session, URL, asked_at=0)
    assert log_in({"type": URL, "user": "alice", "email": ADDRESS, "session": session}).status == 200
    first, second = (
        re.findall(r"token=(\S+)", str(mail.get_body(("plain",)).get_content()))[0] for mail in mailbox.mails
    )
    assert look(first).user_id == look(second).user_id == alice.user_id
    confirm(second)
    with pytest.raises(NotFound):
        confirm(first)
    assert poll(session).json["user_id"] == alice.user_id


def test_after_a_crash_between_the_session_and_the_link_the_link_is_used(
    alice: User, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(URL)
    token = mailbox.token()

    class Crash(Exception):
        pass

    def crash(_: MailToken) -> None:
        raise Crash

    monkeypatch.setattr(MailToken, "remove", crash)
    with pytest.raises(Crash):
        confirm(token)
    monkeypatch.undo()
    with pytest.raises(NotFound):
        confirm(token)
    assert sessions.load(session) is not None


def test_a_link_is_confirmed_beside_another_change_of_its_session(
    alice: User, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(URL)
    change = sessions.change
    lost: list[bool] = []

    def overtaken(item: Session, changes: Any) -> bool:
        if not lost:
            lost.append(True)
            other = sessions.load(session)
            assert other is not None
            assert change(other, {"failures": 1})
        return change(item, changes)

    monkeypatch.setattr(sessions, "change", overtaken)
    confirm(mailbox.token())
    monkeypatch.undo()
    found = sessions.load(session)
    assert found is not None
    assert (found.failures, found.pending[URL]["confirmed"]) == (1, True)


@pytest.mark.parametrize("what", ["link", "session"])
def test_a_link_is_unknown_when_its_time_is_over(alice: User, mailbox: Mailbox, what: str) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(URL)
    token = mailbox.token()
    if what == "link":
        MailToken(f"mail/{token_hash(token)}").update([MailToken.expires.set(int(time.time()) - 1)])
    else:
        Session(session).update([Session.status.set("expired")])
    for use in (look, confirm):
        with pytest.raises(NotFound):
            use(token)


@pytest.mark.parametrize("token", ["", "x" * 43, "a" * 5000, "../..", "é", "mail/x"])
def test_a_token_that_never_was_is_unknown(mailbox: Mailbox, token: str) -> None:
    begun(URL)
    for use in (look, confirm):
        with pytest.raises(NotFound):
            use(token)


def test_the_session_id_is_no_token_and_the_mail_does_not_have_it(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    session = begun(URL)
    assert session not in mailbox.last().as_string()
    with pytest.raises(NotFound):
        confirm(session)


def test_the_token_stands_nowhere_but_in_the_mail(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    with logged() as lines:
        session = begun(URL)
        poll(session)
        token = mailbox.token()
        for place in (everything_stored(), json.dumps(mailbox.events), "\n".join(lines)):
            assert token not in place
        assert token_hash(token) in everything_stored()
        confirm(token)
    assert token_hash(token) not in everything_stored()


def test_an_address_that_is_not_linked_is_answered_alike_and_mailed_nothing(alice: User, mailbox: Mailbox) -> None:
    link_address(alice.user_id, ADDRESS)
    mailbox.hold()
    with recorded_calls() as linked:
        begun(URL)
    with recorded_calls() as other:
        session = begun(URL, "alice", OTHER_ADDRESS)
    assert linked == other
    mailbox.deliver()
    assert [mail["To"] for mail in mailbox.mails] == [ADDRESS]
    with recorded_calls() as polled:
        assert poll(session).errcode == "M_LOGIN_EMAIL_URL_NOT_YET"
    assert [operation for operation, _ in polled] == ["GetItem"]
    assert pending(session, URL)["sent"] == 1


def test_a_registration_verifies_the_address(mailbox: Mailbox, server: Callable[..., None]) -> None:
    server(REGISTRATION_FLOWS=json.dumps([[URL]]))

    def register(body: dict[str, Any]) -> Any:
        return call("client_login", "POST", REGISTER, body, headers=DEVICE)

    session = register({"type": URL, "email": "erin@mail.example"}).json["session"]
    assert register({"type": URL, "session": session}).errcode == "M_LOGIN_EMAIL_URL_NOT_YET"
    view = look(mailbox.token(to="erin@mail.example"))
    assert (view.purpose, view.user_id, view.email) == ("register", None, "erin@mail.example")
    confirm(mailbox.token())
    assert register({"type": CODE, "session": session}).json == {"next": "m.login.password", "session": session}
    last = {"type": "m.login.password", "session": session, "user": "erin", "password": "a password 1"}
    assert register(last).json["user_id"] == f"@erin:{SERVER_NAME}"


def test_links_lead_where_the_operator_says_and_not_where_the_request_says(
    alice: User, mailbox: Mailbox, server: Callable[..., None]
) -> None:
    link_address(alice.user_id, ADDRESS)
    for setting, expected in (
        ({"API_DOMAIN": "matrix.example.org"}, "https://matrix.example.org/_matrix/"),
        ({"PUBLIC_BASE_URL": "https://chat.example.org/m"}, "https://chat.example.org/m/_matrix/"),
    ):
        server(**setting)
        begun(URL)
        assert mailbox.link().startswith(expected)


def test_it_tells_clients_nothing_in_advance() -> None:
    assert STAGE.describe() == {}
