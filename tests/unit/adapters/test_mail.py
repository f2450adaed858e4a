"""Mails arrive at a real SMTP server, and at SES as moto has it."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from email import message_from_bytes, message_from_string
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from moto import mock_aws
from moto.ses.models import ses_backends

from homeserver.adapters import aws, mail
from homeserver.adapters.mail import MailFailed, MailRefused, MailServer, mail_server, message, send
from homeserver.settings import settings
from unit.adapters.smtp_server import PASSWORD, USER, SmtpServer, smtp_server

SENDER, TO = "Grüße <chat@example.org>", "erin@mail.example"
CONTENT = {"subject": "Ihr Code für example.org ✓", "text": "Grüße\n\n.\n12345678\n", "html": "<p>Grüße</p>\n"}


@pytest.fixture(autouse=True)
def smtp_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`smtp_url(url)` sets SMTP_URL; without it there is none."""

    def configure(url: str) -> None:
        monkeypatch.setenv("SMTP_URL", url)
        settings.cache_clear()

    configure("")
    yield configure
    settings.cache_clear()


def check_arrived(server: SmtpServer, *, encrypted: bool) -> None:
    (arrived,) = server.mails
    assert server.envelopes == [("chat@example.org", [TO])]
    assert server.encrypted == [encrypted]
    assert (arrived["From"], arrived["To"], arrived["Subject"]) == (SENDER, TO, CONTENT["subject"])
    assert arrived["Auto-Submitted"] == "auto-generated"
    assert arrived["Message-ID"].endswith("@example.org>")
    assert arrived["Date"].datetime is not None
    assert arrived.get_content_type() == "multipart/alternative"
    parts = [part.get_content().replace("\r\n", "\n") for part in arrived.iter_parts()]
    assert parts == [CONTENT["text"], CONTENT["html"]]
    assert [part.get_content_type() for part in arrived.iter_parts()] == ["text/plain", "text/html"]
    assert arrived.as_bytes().isascii()


# ── SMTP ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tls", ["", "starttls", "smtps"])
def test_a_mail_arrives(tmp_path: Path, smtp_url: Any, tls: str) -> None:
    with smtp_server(tmp_path, tls=tls) as server:
        smtp_url(f"{'smtps' if tls == 'smtps' else 'smtp'}://127.0.0.1:{server.port}")
        send(SENDER, TO, **CONTENT)
    check_arrived(server, encrypted=bool(tls))


@pytest.mark.parametrize("tls", ["", "starttls", "smtps"])
def test_a_mail_arrives_after_a_login(tmp_path: Path, smtp_url: Any, tls: str) -> None:
    with smtp_server(tmp_path, tls=tls, login=True) as server:
        login = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"
        smtp_url(f"{'smtps' if tls == 'smtps' else 'smtp'}://{login}@localhost:{server.port}")
        send(SENDER, TO, **CONTENT)
    check_arrived(server, encrypted=bool(tls))
    assert server.logins == [USER]


def test_a_wrong_password_may_be_corrected_and_is_not_repeated(tmp_path: Path, smtp_url: Any) -> None:
    with smtp_server(tmp_path, tls="starttls", login=True) as server:
        smtp_url(f"smtp://{quote(USER)}:wrong-one@127.0.0.1:{server.port}")
        with pytest.raises(MailFailed) as failed:
            send(SENDER, TO, **CONTENT)
    assert server.mails == []
    assert str(failed.value) == "SMTP, at the login: SMTPAuthenticationError"
    assert failed.value.__cause__ is None
    assert server.logins


@pytest.fixture
def not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loopback address be that of a server elsewhere."""
    monkeypatch.setattr(MailServer, "is_here", property(lambda _: False))


@pytest.mark.parametrize("tls", ["starttls", "smtps"])
def test_a_server_elsewhere_must_show_a_certificate_that_somebody_vouches_for(
    tmp_path: Path, smtp_url: Any, not_here: None, tls: str
) -> None:
    with smtp_server(tmp_path, tls=tls) as server:
        smtp_url(f"{'smtps' if tls == 'smtps' else 'smtp'}://127.0.0.1:{server.port}")
        with pytest.raises(MailFailed, match="SSLCertVerificationError"):
            send(SENDER, TO, **CONTENT)
    assert server.mails == []


def test_a_server_elsewhere_is_not_told_the_password_in_the_clear(
    tmp_path: Path, smtp_url: Any, not_here: None
) -> None:
    with smtp_server(tmp_path, login=True) as server:
        smtp_url(f"smtp://{quote(USER)}:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}")
        with pytest.raises(MailFailed, match="no STARTTLS"):
            send(SENDER, TO, **CONTENT)
    assert (server.logins, server.mails) == ([], [])


@pytest.mark.parametrize(
    ("command", "answer", "error"),
    [
        ("RCPT", "550 nobody of this name: erin@mail.example", MailRefused),
        ("RCPT", "451 come back: erin@mail.example", MailFailed),
        ("DATA", "554 we do not like it: erin@mail.example", MailRefused),
        ("DATA", "451 disk full: erin@mail.example", MailFailed),
    ],
)
def test_what_a_server_refuses_for_ever_is_told_from_what_may_pass(
    tmp_path: Path, smtp_url: Any, command: str, answer: str, error: type[Exception]
) -> None:
    with smtp_server(tmp_path) as server:
        server.refuse[command] = answer
        smtp_url(f"smtp://127.0.0.1:{server.port}")
        with pytest.raises(error, match=answer[:3]) as refused:
            send(SENDER, TO, **CONTENT)
    # What is logged of it names nobody.
    assert "erin" not in str(refused.value)


def test_a_server_that_is_not_there_may_come_back(smtp_url: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    smtp_url(f"smtp://127.0.0.1:{port}")
    with pytest.raises(MailFailed, match="ConnectionRefusedError"):
        send(SENDER, TO, **CONTENT)


def test_a_server_that_says_nothing_is_waited_for_some_seconds(smtp_url: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mail.SECONDS == 8
    monkeypatch.setattr(mail, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        smtp_url(f"smtp://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(MailFailed, match=r"TimeoutError|SMTPServerDisconnected"):
            send(SENDER, TO, **CONTENT)


def test_a_connection_that_breaks_may_be_tried_again(smtp_url: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet_and_leave() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"220 hello\r\n")

        thread = threading.Thread(target=greet_and_leave)
        thread.start()
        smtp_url(f"smtp://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(MailFailed, match=r"SMTPServerDisconnected|ConnectionResetError|BrokenPipeError"):
            send(SENDER, TO, **CONTENT)
        thread.join(5)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example", MailServer("mail.example", 587, False, "", "")),
        ("smtps://mail.example", MailServer("mail.example", 465, True, "", "")),
        ("smtp://u%40x:p%2F%3A%40@mail.example:2525/", MailServer("mail.example", 2525, False, "u@x", "p/:@")),
        ("smtps://[::1]:1465", MailServer("::1", 1465, True, "", "")),
    ],
)
def test_the_url_of_a_mail_server_is_read(url: str, expected: MailServer) -> None:
    assert mail_server(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://secret@h",
        "smtp://",
        "smtp://secret@",
        "smtp://secret@h/path",
        "smtp://secret@h?x=1",
        "smtp://secret@h:99999",
    ],
)
def test_a_url_of_another_kind_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="SMTP_URL") as refused:
        mail_server(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("127.0.0.9", True), ("::1", True), ("10.0.0.1", False), ("localhost.example", False)],
)
def test_only_this_machine_is_here(host: str, here: bool) -> None:
    server = MailServer(host, 587, False, "", "")
    assert server.is_here is here
    assert (mail._tls_context(server).verify_mode == ssl.CERT_NONE) is here
    assert mail._tls_context(server).check_hostname is not here


# ── The message ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "change",
    [
        {"to": "erin@mail.example\r\nBcc: all@mail.example"},
        {"to": "erin@mail.example\nBcc: all@mail.example"},
        {"to": "erin@mail.example, all@mail.example"},
        {"to": "Erin <erin@mail.example>"},
        {"to": "all:erin@mail.example;"},
        {"to": "erin"},
        {"to": ""},
        {"to": "bücher@mail.example"},
        {"subject": "Hello\r\nBcc: all@mail.example"},
        {"subject": "Hello\n\nbody"},
        {"sender": "a@b.example, c@d.example"},
        {"sender": "a@b.example\nBcc: c@d.example"},
        {"sender": ""},
    ],
)
def test_no_header_can_be_smuggled_in_and_nobody_else_be_addressed(change: dict[str, str], smtp_url: Any) -> None:
    smtp_url("smtp://127.0.0.1:1")  # not reached
    with pytest.raises(MailRefused):
        send(**{"sender": SENDER, "to": TO, **CONTENT, **change})


def test_bodies_may_hold_anything_and_arrive_as_they_are(tmp_path: Path, smtp_url: Any) -> None:
    text = "From me\n.\n..\nBcc: x@y.example\n" + "long " * 300 + "\n✓\n"
    with smtp_server(tmp_path) as server:
        smtp_url(f"smtp://127.0.0.1:{server.port}")
        send(SENDER, TO, "s", text, "<p>\n.\n</p>\n")
    (arrived,) = server.mails
    assert arrived.get_body(("plain",)).get_content().replace("\r\n", "\n") == text
    assert arrived["Bcc"] is None
    assert max(map(len, arrived.as_bytes().splitlines())) < 999


def test_two_mails_have_two_ids() -> None:
    first, second = (message(SENDER, TO, **CONTENT)["Message-ID"] for _ in range(2))
    assert first != second


# ── SES ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """SES with the domain example.org verified; the mails that it took."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    aws.session.cache_clear()
    aws.client.cache_clear()
    with mock_aws():
        boto3.client("ses", region_name="us-east-1").verify_domain_identity(Domain="example.org")
        yield ses_backends["123456789012"]["us-east-1"].sent_messages
    aws.session.cache_clear()
    aws.client.cache_clear()


def test_without_a_mail_server_a_mail_goes_to_ses_as_it_is(ses: Any) -> None:
    send(SENDER, TO, **CONTENT)
    (sent,) = ses
    raw = sent.raw_data
    arrived = (
        message_from_bytes(raw, policy=default) if isinstance(raw, bytes) else message_from_string(raw, policy=default)
    )
    assert (arrived["To"], arrived["Subject"], arrived["From"]) == (TO, CONTENT["subject"], SENDER)
    assert arrived["Auto-Submitted"] == "auto-generated"
    assert set(sent.destinations) == {TO}


def test_a_sender_that_ses_does_not_know_is_refused(ses: Any) -> None:
    with pytest.raises(MailRefused, match=r"SES: (MessageRejected|MailFromDomainNotVerified)") as refused:
        send("x@elsewhere.example", TO, **CONTENT)
    assert TO not in str(refused.value)
    assert ses == []
