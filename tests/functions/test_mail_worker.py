"""The function that writes and sends mails: once, whatever happens; to whom it may concern; and how they read."""

import copy
import html
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.harness import SERVER_NAME, User, payload
from functions.mailbox import FROM, Mailbox, html_of, text_of
from functions.mailing import (
    ADDRESS,
    CODE,
    URL,
    begun,
    change_pending,
    link_address,
    log_in,
    logged,
    pending,
    unlink_address,
)
from homeserver import observability
from homeserver.adapters.mail import MailFailed
from homeserver.services import login_mails, mail_delivery, mail_templates
from homeserver.services.login_mails import MailInWork
from homeserver.services.login_stages.stage import Origin
from homeserver.services.mails import Mail, device_name
from homeserver.storage import sessions
from homeserver.storage.sessions import Session

BUILT_IN = Path(mail_templates.__file__).parent.parent / "mail_templates"


@pytest.fixture(autouse=True)
def flows(server: Callable[..., None], mailbox: Mailbox, alice: User) -> None:
    server(LOGIN_FLOWS=json.dumps([[CODE], [URL]]))
    link_address(alice.user_id, ADDRESS)


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`crash(point)`: the function ends there the next time it comes by."""

    class Crash(BaseException):
        pass

    def arm(point: str) -> None:
        def hook(name: str) -> None:
            if name == point:
                monkeypatch.setattr(observability, "fault_hook", None)
                raise Crash

        monkeypatch.setattr(observability, "fault_hook", hook)

    arm.error = Crash  # type: ignore[attr-defined]
    return arm


def claim_ran_out(session: str, stage_type: str = CODE) -> None:
    """Lambda tries again after a minute."""
    change_pending(session, stage_type, claim=pending(session, stage_type)["claim"] - 60_000)


def logs_in(session: str, code: str) -> bool:
    return log_in({"type": CODE, "session": session, "code": code}).status == 200


# ── Once, whatever happens ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage_type", [CODE, URL])
def test_an_event_that_comes_again_sends_nothing_and_changes_nothing(mailbox: Mailbox, stage_type: str) -> None:
    session = begun(stage_type)
    before = pending(session, stage_type)
    assert mailbox.run() is False
    assert mailbox.run() is False
    assert len(mailbox.mails) == 1
    assert pending(session, stage_type) == before
    assert before["sent"] == before["asked"] == 1
    assert "claim" not in before


def test_after_a_crash_between_storing_and_sending_another_code_is_mailed(mailbox: Mailbox, crash) -> None:
    mailbox.hold()
    session = begun(CODE)
    crash("mail.before_sending")
    with pytest.raises(crash.error):
        mailbox.deliver()
    assert mailbox.mails == []
    # Nobody knows yet that the other one has ended: two of them would be two mails.
    with pytest.raises(MailInWork):
        mailbox.run()
    claim_ran_out(session)
    assert mailbox.run() is True
    assert len(mailbox.mails) == 1
    assert len(pending(session)["codes"]) == 2
    assert logs_in(session, mailbox.code())


def test_after_a_crash_between_sending_and_noting_one_more_mail_is_sent_and_both_codes_are_right(
    mailbox: Mailbox, crash
) -> None:
    mailbox.hold()
    first, second = begun(CODE), begun(CODE)
    for event in list(mailbox.events):
        crash("mail.sent")
        with pytest.raises(crash.error):
            mailbox.run(event)
        claim_ran_out(event["key"])
        assert mailbox.run(event) is True
        assert mailbox.run(event) is False
    assert len(mailbox.mails) == 4
    codes = [text_of(mail).split("\n    ")[1].split("\n")[0] for mail in mailbox.mails]
    assert len(set(codes)) == 4
    assert logs_in(first, codes[0])
    assert logs_in(second, codes[3])


def test_after_a_crash_the_first_link_works_too(mailbox: Mailbox, crash) -> None:
    from homeserver.services.login_links import confirm

    mailbox.hold()
    session = begun(URL)
    crash("mail.sent")
    with pytest.raises(crash.error):
        mailbox.run()
    claim_ran_out(session, URL)
    token = mailbox.token()
    assert mailbox.run() is True
    assert mailbox.token() != token
    confirm(token)
    assert log_in({"type": URL, "session": session}).status == 200


def test_two_workers_at_once_send_one_mail(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox.hold()
    session = begun(CODE)
    seen: list[str] = []

    def hook(name: str) -> None:
        if name == "mail.before_sending" and not seen:
            seen.append(name)
            with pytest.raises(MailInWork):
                mailbox.run()

    monkeypatch.setattr(observability, "fault_hook", hook)
    mailbox.deliver()
    assert seen
    assert len(mailbox.mails) == 1
    assert len(pending(session)["codes"]) == 1


def test_a_failure_that_may_pass_is_raised_so_that_lambda_tries_again_at_once(mailbox: Mailbox) -> None:
    mailbox.hold()
    session = begun(CODE)
    mailbox.fails.append(iter([(403, {"__type": "AccessDeniedException"}), None]).__next__)
    with pytest.raises(MailFailed, match="AccessDenied"):
        mailbox.deliver()
    assert pending(session)["sent"] == 0
    assert mailbox.run() is True
    assert logs_in(session, mailbox.code())


def test_a_mail_that_is_refused_is_not_tried_again_until_somebody_asks(mailbox: Mailbox) -> None:
    mailbox.hold()
    session = begun(CODE)
    mailbox.fails.append(iter([(400, {"__type": "MessageRejected"}), None]).__next__)
    with logged() as lines:
        mailbox.deliver()
    assert lines == ["a mail of the kind login_code was refused: SES: MessageRejected"]
    assert mailbox.run() is False
    change_pending(session, asked_at=0)
    assert log_in({"type": CODE, "user": "alice", "email": ADDRESS, "session": session}).status == 200
    assert logs_in(session, mailbox.code())


def test_a_change_of_the_session_beside_it_is_not_lost(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox.hold()
    session = begun(CODE)
    change = sessions.change
    overtaken: list[int] = []

    def raced(item: Session, changes: Any) -> bool:
        if len(overtaken) < 2 and "pending" in changes:
            overtaken.append(1)
            other = sessions.load(session)
            assert other is not None
            assert change(other, {"failures": len(overtaken)})
            return change(item, changes)
        return change(item, changes)

    monkeypatch.setattr(sessions, "change", raced)
    mailbox.deliver()
    monkeypatch.undo()
    found = sessions.load(session)
    assert found is not None
    assert found.failures == 2
    assert pending(session)["sent"] == 1
    assert len(pending(session)["codes"]) == 1
    assert logs_in(session, mailbox.code())


# ── To whom it may concern ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", ["expired", "completed", "gone"])
def test_a_session_that_does_not_wait_gets_no_mail(mailbox: Mailbox, end: str) -> None:
    mailbox.hold()
    session = Session.fetch(begun(CODE))
    assert session is not None
    if end == "expired":
        session.update([Session.status.set("expired")])
    elif end == "completed":
        session.update([Session.pending.set({})])
    else:
        session.delete()
    mailbox.deliver()
    assert mailbox.mails == []


def test_an_address_that_changed_hands_since_is_looked_up_when_the_mail_is_written(
    mailbox: Mailbox, alice: User
) -> None:
    mailbox.hold()
    begun(CODE)
    unlink_address(alice.user_id, ADDRESS)
    mailbox.deliver()
    assert mailbox.mails == []


@pytest.mark.parametrize("name", ["mail_worker_login_code", "mail_worker_login_link", "mail_worker_validation"])
def test_an_event_of_a_session_that_is_gone_is_done(mailbox: Mailbox, name: str) -> None:
    assert mailbox.run(copy.deepcopy(payload(name))) is False
    assert mailbox.mails == []


def test_what_is_asked_for_is_the_event_that_is_documented(mailbox: Mailbox) -> None:
    session = begun(CODE)
    documented = payload("mail_worker_login_code")
    (event,) = mailbox.events
    assert set(event) == set(documented)
    assert (event["mail"], event["key"], event["address"]) == ("login_code", session, "192.0.2.1")


def test_a_kind_that_is_unknown_and_a_server_without_a_sender_are_told_to_the_operator(
    mailbox: Mailbox, server: Callable[..., None]
) -> None:
    with logged() as lines:
        assert mailbox.run({**payload("mail_worker_login_code"), "mail": "advertisement"}) is False
        server(MAIL_FROM="")
        assert mailbox.run(payload("mail_worker_login_code")) is False
    assert lines == [
        "a mail of the kind advertisement cannot be sent here",
        "a mail of the kind login_code cannot be sent here",
    ]


# ── How they read ───────────────────────────────────────────────────────────────────────────────────


def test_a_mail_says_who_asked_for_how_long_it_is_valid_and_what_to_do(mailbox: Mailbox, alice: User) -> None:
    begun(CODE)
    mail = mailbox.last()
    assert mail["Subject"] == f"Your login code for {SERVER_NAME}"
    assert (mail["From"], mail["To"], mail["Auto-Submitted"]) == (FROM, ADDRESS, "auto-generated")
    assert mail["Message-ID"].endswith("@example.org>")
    assert mail["Date"].datetime is not None
    assert mail.get_content_type() == "multipart/alternative"
    for body in (text_of(mail), html.unescape(html_of(mail))):
        flat = " ".join(body.split())
        for told in (
            alice.user_id,
            "Firefox on Linux at the address 192.0.2.1",
            "UTC",
            "valid for 10 minutes",
            "If it was not you",
            mailbox.code(),
        ):
            assert told in flat


def test_a_session_that_ends_sooner_says_so(mailbox: Mailbox) -> None:
    import time

    mailbox.hold()
    session = begun(CODE)
    Session(session).update([Session.expires.set(int(time.time()) + 185)])
    mailbox.deliver()
    assert "valid for 3 minutes" in mailbox.text()
    assert pending(session)["codes"][0]["until"] - time.time() <= 185


EVIL = '<script src="https://evil.example">&$server_name ${code}\r\nBcc: x@evil.example\u202egnp'


def delivered(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, mail: Mail, **event: str) -> bool:
    monkeypatch.setitem(mail_delivery._PREPARE, "login_code", lambda *_: mail)
    return mailbox.run({**payload("mail_worker_login_code"), **event})


def test_what_others_wrote_is_escaped_in_html_and_begins_no_line_anywhere(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = Mail(ADDRESS, "login_code", {"user": EVIL, "code": "12345678", "minutes": "10", "address": ADDRESS})
    assert delivered(mailbox, monkeypatch, mail, address=EVIL)
    page, text = mailbox.html(), mailbox.text()
    assert "<script" not in page
    assert page.count("&lt;script src=&quot;https://evil.example&quot;&gt;&amp;$server_name ${code}") == 2
    assert "\nBcc" not in text + page + mailbox.last().as_string()
    assert "\u202e" not in text + page
    assert mailbox.last()["Bcc"] is None


def test_a_user_agent_is_named_and_not_quoted(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    mail = Mail(ADDRESS, "login_code", {"user": "@a:b", "code": "12345678", "minutes": "10"})
    assert delivered(mailbox, monkeypatch, mail, user_agent="<b>https://evil.example/ click here")
    assert "evil" not in mailbox.text() + mailbox.html()
    assert "an unknown device" in mailbox.text()


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1 Version/18.0 Safari/605.1",
            "Safari on a Mac",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) CriOS/140.0 Mobile Safari/604.1",
            "Chrome on an iPhone",
        ),
        ("Element/1.11 (Android 15; Pixel)", "Element on Android"),
        ("curl/8.5.0", "curl"),
        ("matrix-nio/0.25", "matrix-nio"),
        ("Mozilla/5.0 (compatible)", "an unknown device"),
        ("", "an unknown device"),
        ("visit evil.example now", "visit"),
        ("\x1b[31m", "an unknown device"),
    ],
)
def test_devices_are_named_as_people_name_them(user_agent: str, name: str) -> None:
    assert device_name(user_agent) == name


@pytest.fixture
def templates(tmp_path: Path, server: Callable[..., None]) -> Iterator[Path]:
    """An operator's folder of templates."""
    server(MAIL_TEMPLATES=str(tmp_path))
    mail_templates.forget_templates()
    yield tmp_path
    mail_templates.forget_templates()


def test_a_template_of_the_operator_takes_the_place_of_the_built_in_file_of_its_name(
    mailbox: Mailbox, templates: Path
) -> None:
    (templates / "login_code.txt").write_text(
        "Subject: Ihr Code für $server_name\n\n    $code\n\nGrüße, $$5\n", "utf-8"
    )
    begun(CODE)
    assert mailbox.last()["Subject"] == f"Ihr Code für {SERVER_NAME}"
    assert mailbox.text() == f"    {mailbox.code()}\n\nGrüße, $5\n"
    assert "Your login code" in mailbox.html()
    (templates / "frame.html").write_text("<main>$content</main>", "utf-8")
    mail_templates.forget_templates()
    begun(CODE)
    assert mailbox.html().startswith("<main><h1")


@pytest.mark.parametrize(
    ("text", "error"),
    [("Hello $user", ValueError), ("Subject: $nobody\n\n", KeyError), ("Subject: x\n\n$ 5", ValueError)],
)
def test_a_template_that_cannot_be_used_says_what_is_wrong(
    mailbox: Mailbox, templates: Path, text: str, error: type[Exception]
) -> None:
    (templates / "login_code.txt").write_text(text, "utf-8")
    mailbox.hold()
    begun(CODE)
    with pytest.raises(error):
        mailbox.deliver()
    assert mailbox.mails == []


@pytest.mark.parametrize("name", sorted(path.stem for path in BUILT_IN.glob("*.txt")))
def test_a_built_in_template_can_be_filled_in_and_reads_on_a_phone(name: str) -> None:
    values = dict.fromkeys(
        ("server_name", "requester", "requested", "address", "user", "minutes", "hours", "code", "link", "token"), "v"
    )
    written = mail_templates.written(name, values)
    assert SERVER_NAME not in written.subject
    assert "v" in written.subject
    for part in (written.text, written.html):
        assert "$" not in part
        assert "If it was not you" in part
    assert max(map(len, (BUILT_IN / f"{name}.txt").read_text("utf-8").splitlines())) <= 80
    assert 'name="viewport"' in written.html
    assert written.html.count("<h1") == written.html.count("</h1>") == 1


def test_every_text_has_its_html(mailbox: Mailbox) -> None:
    texts = {path.stem for path in BUILT_IN.glob("*.txt")}
    assert {path.stem for path in BUILT_IN.glob("*.html")} == texts | {"frame"}


def test_the_hash_is_made_once_however_often_the_session_changes(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    hash_password = login_mails.hash_password
    monkeypatch.setattr(login_mails, "hash_password", lambda text: made.append(text) or hash_password(text))
    monkeypatch.setattr(sessions, "change", iter_then(sessions.change, [False, False]))
    mailbox.hold()
    session = begun_without_races(mailbox)
    assert login_mails.prepare_code(session, Origin("192.0.2.1")) is not None
    assert len(made) == 1


def iter_then(change: Callable[..., bool], first: list[bool]) -> Callable[..., bool]:
    """Answers of these, then those of the function."""
    answers = list(first)

    def changed(*args: Any) -> bool:
        return answers.pop(0) if answers else change(*args)

    return changed


def begun_without_races(mailbox: Mailbox) -> str:
    begun(CODE)
    return str(mailbox.events[-1]["key"])
