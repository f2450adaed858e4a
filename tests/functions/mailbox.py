"""The mails that a test's server sends: what `mail_worker` is asked for, and what it hands to SES.

    def test_a_code_arrives(call, mailbox):
        call("client_login", "POST", "/_matrix/client/api/v1/login", {...})
        assert mailbox.code(to="alice@example.org") == "..."

`mailbox` is a fixture of conftest.py. Lambda and SES are cut off where botocore would send: the function runs at once
in this thread, as its handler; with `mailbox.hold()` only when the test says `mailbox.deliver()`.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from importlib import import_module
from typing import Any

import botocore.compat
import pytest
from botocore.awsrequest import AWSResponse

from functions.harness import LambdaContext
from homeserver.adapters import aws
from homeserver.services import mail_templates

FROM = "Example <chat@example.org>"


class Mailbox:
    """`mails`: what was sent, the oldest first. `events`: what `mail_worker` was asked for, sent or not."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.events: list[dict[str, Any]] = []
        self.fails: list[Callable[[], tuple[int, dict[str, Any]] | None]] = []  # answers of SES instead of success
        self._held: list[dict[str, Any]] | None = None

    # ── what Lambda and SES are asked ──────────────────────────────────────────────────────────────

    def invoke(self, event: dict[str, Any]) -> None:
        """Lambda was asked to run the function."""
        self.events.append(event)
        if self._held is None:
            self.run(event)
        else:
            self._held.append(event)

    def run(self, event: dict[str, Any] | None = None) -> bool:
        """Run the function on an event, by default the last one again, as Lambda may; whether it sent a mail."""
        answer = import_module("mail_worker.app").lambda_handler(event or self.events[-1], LambdaContext())
        sent: bool = answer["sent"]
        return sent

    def hold(self) -> None:
        """From now on nothing is sent before `deliver`."""
        self._held = []

    def deliver(self) -> None:
        """Send what was held, and hold nothing any more."""
        held, self._held = self._held or [], None
        for event in held:
            self.run(event)

    # ── what came ──────────────────────────────────────────────────────────────────────────────────

    def to(self, address: str) -> list[EmailMessage]:
        """The mails to one address."""
        return [mail for mail in self.mails if mail["To"] == address]

    def last(self, to: str | None = None) -> EmailMessage:
        """The youngest mail, to anybody or to one address."""
        mails = self.mails if to is None else self.to(to)
        assert mails, f"no mail came for {to or 'anybody'}"
        return mails[-1]

    def text(self, to: str | None = None) -> str:
        """The text of the youngest mail."""
        return text_of(self.last(to))

    def html(self, to: str | None = None) -> str:
        """The HTML of the youngest mail."""
        return html_of(self.last(to))

    def code(self, to: str | None = None) -> str:
        """The code in the youngest mail."""
        found = re.findall(r"^ *([0-9]{6,8}) *$", self.text(to), re.MULTILINE)
        assert len(found) == 1, self.text(to)
        return str(found[0])

    def link(self, to: str | None = None) -> str:
        """The link in the youngest mail."""
        found = re.findall(r"https?://\S+", self.text(to))
        assert len(found) == 1, self.text(to)
        return str(found[0])

    def token(self, to: str | None = None) -> str:
        """The parameter `token` of the link in the youngest mail."""
        found = re.search(r"[?&]token=([^&]+)", self.link(to))
        assert found, self.link(to)
        return found[1]


def text_of(mail: EmailMessage) -> str:
    """The text part of a mail."""
    part = mail.get_body(("plain",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def html_of(mail: EmailMessage) -> str:
    """The HTML part of a mail."""
    part = mail.get_body(("html",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


class _Raw:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


def _answer(request: Any, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> AWSResponse:
    content = json.dumps(body).encode() if body else b""
    found = botocore.compat.HTTPHeaders.from_dict({"Content-Type": "application/json", **(headers or {})})
    response = AWSResponse(request.url, status, found, _Raw(content))
    response._content = content
    return response


@contextmanager
def opened_mailbox(monkeypatch: pytest.MonkeyPatch, server: Callable[..., None]) -> Iterator[Mailbox]:
    """A server that sends its mails to this mailbox."""
    box = Mailbox()

    def invoked(request: Any, **_: Any) -> AWSResponse:
        assert request.headers["X-Amz-Invocation-Type"] in {"Event", b"Event"}
        assert request.url.endswith("/functions/mail_worker/invocations")
        box.invoke(json.loads(request.body))
        return _answer(request, 202, {})

    def sent(request: Any, **_: Any) -> AWSResponse:
        for fail in box.fails:
            if (refusal := fail()) is not None:
                status, body = refusal
                return _answer(request, status, body, {"x-amzn-errortype": body["__type"]})
        asked = json.loads(request.body)
        mail = message_from_bytes(base64.b64decode(asked["Content"]["Raw"]["Data"]), policy=default)
        assert isinstance(mail, EmailMessage)
        assert asked["Destination"]["ToAddresses"] == [mail["To"]]
        box.mails.append(mail)
        return _answer(request, 200, {"MessageId": "0100"})

    for name in ("SMTP_URL", "MAIL_TEMPLATES"):
        monkeypatch.delenv(name, raising=False)
    server(MAIL_FROM=FROM, MAIL_WORKER_FUNCTION="mail_worker")
    mail_templates.forget_templates()
    doors = [("lambda", "before-send.lambda.Invoke", invoked), ("sesv2", "before-send.sesv2.SendEmail", sent)]
    for service, event, handler in doors:
        aws.client(service).meta.events.register_first(event, handler)
    try:
        yield box
    finally:
        for service, event, handler in doors:
            aws.client(service).meta.events.unregister(event, handler)
