"""The local run's own mail: what is printed, what its page shows and to whom; invocations that nobody waits for."""

import logging
import threading
import time
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from local.invoke import Functions
from local.mail import KEPT, PATH, CapturedMail
from local.permissions import running_function
from local.resources import Function

NEAR = ("127.0.0.1", "::1", "192.168.1.20", "10.0.0.3", "fe80::1%eth0", "172.16.0.9")


def mail(subject: str = "Hello", text: str = "12345678\n", html: str = "<head></head><p>12345678</p>") -> bytes:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "chat@localhost", "erin@mail.example", subject
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message.as_bytes()


def shown(captured: CapturedMail, path: str = PATH) -> str:
    page = captured.page(path, "127.0.0.1", {})
    assert page is not None
    assert page[0] == 200
    return page[1].decode()


def tags_of(page: str) -> list[tuple[str, list[str]]]:
    """The elements of a page with the names of their attributes."""
    found: list[tuple[str, list[str]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, [name for name, _ in attrs]))

    Reader().feed(page)
    return found


def test_a_mail_is_printed_as_text() -> None:
    said: list[str] = []
    CapturedMail(said.append).accept(mail(text="Your code\n\n    12345678\n"))
    assert said == ["mail to erin@mail.example: Hello\n  | Your code\n  |\n  |     12345678"]


def test_the_page_lists_mails_the_newest_first_and_shows_each() -> None:
    captured = CapturedMail(lambda _: None)
    assert "No mail was sent" in shown(captured)
    for subject in ("First", "Second"):
        captured.accept(mail(subject, text="see https://example.org/x?token=a&b=c\n"))
    listed = shown(captured)
    assert listed.index("Second") < listed.index("First")
    assert f'href="{PATH}/2"' in listed
    letter = shown(captured, f"{PATH}/1")
    assert "<h1>First</h1>" in letter
    assert '<a href="https://example.org/x?token=a&amp;b=c">https://example.org/x?token=a&amp;b=c</a>' in letter
    assert "<dd>erin@mail.example</dd>" in letter
    assert f'href="{PATH}/1/html"' in letter
    as_html = captured.page(f"{PATH}/1/html", "127.0.0.1", {})
    assert as_html is not None
    assert as_html[1] == b"<head></head><p>12345678</p>\n"
    assert dict(as_html[2])[b"content-security-policy"].endswith(b"; sandbox")
    for path in (f"{PATH}/3", f"{PATH}/1/other"):
        missing = captured.page(path, "127.0.0.1", {})
        assert missing is not None
        assert missing[0] == 404


def test_a_mail_cannot_run_scripts_on_the_page_nor_break_out_of_it() -> None:
    captured = CapturedMail(lambda _: None)
    evil = '"><script>alert(1)</script>'
    captured.accept(mail(evil, f'{evil} https://x.example/\'"onclick="alert(1)', f"<head></head>{evil}"))
    for page in (shown(captured), shown(captured, f"{PATH}/1")):
        tags = tags_of(page)
        assert "script" not in {tag for tag, _ in tags}
        assert not any(name.startswith("on") for _, names in tags for name in names)
    _, _, headers = captured.page(PATH, "127.0.0.1", {})
    policy = dict(headers)[b"content-security-policy"]
    assert policy.startswith(b"default-src 'none'")
    assert b"script" not in policy


def test_only_the_last_mails_are_kept() -> None:
    captured = CapturedMail(lambda _: None)
    for number in range(KEPT + 5):
        captured.accept(mail(f"Number {number}"))
    assert len(captured.mails()) == KEPT
    assert captured.mails()[0].message["Subject"] == f"Number {KEPT + 4}"


@pytest.mark.parametrize("client", NEAR)
def test_whoever_is_near_may_read_mails(client: str) -> None:
    assert CapturedMail(lambda _: None).page(PATH, client, {}) is not None


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("203.0.113.9", {}),
        ("", {}),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.9"}),
        ("127.0.0.1", {"forwarded": "for=203.0.113.9"}),
        ("127.0.0.1", {"via": "1.1 proxy"}),
    ],
)
def test_nobody_else_may(client: str, headers: dict[str, str]) -> None:
    captured = CapturedMail(lambda _: None)
    captured.accept(mail())
    assert captured.page(PATH, client, headers) is None
    assert captured.page(f"{PATH}/1", client, headers) is None


def test_other_paths_are_none_of_its_pages() -> None:
    captured = CapturedMail(lambda _: None)
    for path in ("/", "/_local", "/_local/mailbox", "/_matrix/client/versions"):
        assert captured.page(path, "127.0.0.1", {}) is None


# ── Invocations that nobody waits for ───────────────────────────────────────────────────────────────


class Worker:
    """A function that fails some times; `calls` has the event and the function that AWS would see."""

    def __init__(self, failures: int = 0, retries: int = 2, *, blocks: bool = False) -> None:
        self.calls: list[tuple[Any, str]] = []
        self.done = threading.Event()
        self.go_on = threading.Event()
        self._failures = failures
        function = Function("WorkerFunction", "worker", "worker.handler", Path(), {}, 3, 128, retries)
        self.functions = Functions([function])
        self.functions._handlers["worker"] = self._handle
        if not blocks:
            self.go_on.set()

    def _handle(self, event: Any, context: Any) -> None:
        self.go_on.wait(10)
        self.calls.append((event, running_function.get()))
        if len(self.calls) <= self._failures:
            raise ConnectionError("not yet")
        self.done.set()

    def invoke(self, event: bytes = b'{"mail": 1}') -> int:
        path = "/2015-03-31/functions/worker/invocations"
        status, _, body = self.functions.answer(path, {"x-amz-invocation-type": "Event"}, event)
        assert body == b""
        return status


def test_who_asks_is_answered_at_once_and_the_function_runs_as_itself() -> None:
    worker = Worker(blocks=True)
    assert worker.invoke() == 202
    assert worker.calls == []
    worker.go_on.set()
    assert worker.done.wait(10)
    assert worker.calls == [({"mail": 1}, "worker")]


def test_a_function_that_fails_is_tried_again_twice_and_then_given_up(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(failures=1)
    with caplog.at_level(logging.ERROR, "local"):
        worker.invoke()
        assert worker.done.wait(10)
    assert len(worker.calls) == 2
    assert "worker failed, try 1 of 3" in caplog.text
    given_up = Worker(failures=9, retries=0)
    given_up.invoke()
    given_up.functions.stop(10)
    assert len(given_up.calls) == 1


def test_to_stop_waits_for_what_runs_and_tries_nothing_again() -> None:
    worker = Worker(failures=9, blocks=True)
    worker.invoke()
    threading.Timer(0.2, worker.go_on.set).start()
    started = time.monotonic()
    worker.functions.stop(10)
    assert time.monotonic() - started < 5
    assert len(worker.calls) == 1


def test_to_stop_leaves_behind_what_does_not_end() -> None:
    worker = Worker(blocks=True)
    worker.invoke()
    started = time.monotonic()
    worker.functions.stop(0.2)
    assert time.monotonic() - started < 5
    assert worker.calls == []
    worker.go_on.set()
    assert worker.done.wait(10)
