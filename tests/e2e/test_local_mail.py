"""Mails of a whole local run: captured, or handed to a real SMTP server; and a login with what is in them."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.local_run import Server
from e2e.test_permissions import allowed, record
from unit.adapters.smtp_server import smtp_server

pytestmark = pytest.mark.e2e
DRAFT = "/_matrix/client/api/v1"
CODE, URL = "m.login.email.code", "m.login.email.url"
ERIN = "erin@mail.example"
FLOWS = {
    "LOGIN_FLOWS": f'[["{CODE}"], ["{URL}"]]',
    "REGISTRATION": "open",
    "REGISTRATION_FLOWS": f'[["{CODE}"]]',
}


def until(found: Callable[[], Any]) -> Any:
    """What comes within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.05)
    raise AssertionError("it did not come")


def register(nobody: httpx.Client, code: Callable[[], str]) -> str:
    """Register Erin with her address."""
    session = nobody.post(f"{DRAFT}/register", json={"type": CODE, "email": ERIN}).json()["session"]
    submitted = nobody.post(f"{DRAFT}/register", json={"type": CODE, "session": session, "code": until(code)})
    assert submitted.json() == {"next": "m.login.password", "session": session}
    last = {"type": "m.login.password", "session": session, "user": "erin", "password": "a password 1"}
    return str(nobody.post(f"{DRAFT}/register", json=last).json()["user_id"])


def test_mails_are_shown_on_a_page_and_in_the_terminal_and_nowhere_kept(tmp_path: Path) -> None:
    with (
        Server(tmp_path, RECORD_PERMISSIONS="1", MAIL_FROM="Erins Server <chat@none.invalid>", **FLOWS) as server,
        httpx.Client(base_url=server.url) as nobody,
    ):

        def last_code() -> str | None:
            found = re.findall(r"^  \|     ([0-9]{8})$", server.log, re.MULTILINE)
            return found[-1] if found else None

        user_id = register(nobody, last_code)
        assert nobody.get("/_local/mail").text.count("Your registration code") == 1
        letter = nobody.get("/_local/mail/1").text
        assert last_code() in letter
        assert nobody.get("/_local/mail", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 404
        assert nobody.post("/_local/mail").status_code == 404

        session = nobody.post(f"{DRAFT}/login", json={"type": URL, "user": "erin", "email": ERIN}).json()["session"]
        link = until(lambda: re.search(r"http\S+token=\S+", server.log))[0]
        assert link.startswith(f"{server.url}{DRAFT}/login/email/confirm?token=")
        poll = {"type": CODE, "session": session}
        assert nobody.post(f"{DRAFT}/login", json=poll).json()["errcode"] == "M_LOGIN_EMAIL_URL_NOT_YET"
        assert nobody.get(link).status_code == 200
        assert nobody.post(f"{DRAFT}/login", json=poll).status_code == 400
        page, _, token = link.partition("?token=")
        assert nobody.post(page, data={"token": token}, headers={"Origin": server.url}).status_code == 200
        assert nobody.post(f"{DRAFT}/login", json=poll).json()["user_id"] == user_id
        code = last_code()
        assert code is not None
        assert server.stop() == 0
    assert "Traceback" not in server.log
    stored = b"".join(file.read_bytes() for file in (tmp_path / "store").iterdir())
    assert token.encode() not in stored
    assert code.encode() not in stored
    asked = record(tmp_path)
    # The rights of the template are for the domain none.invalid where MailFrom is empty, as it is by default.
    assert asked["mail_worker"] == allowed("mail_worker")
    assert ("lambda:InvokeFunction", "MailWorkerFunction") in asked["client_login"]


def test_with_a_mail_server_mails_go_there_and_no_page_shows_them(tmp_path: Path) -> None:
    with smtp_server(tmp_path, tls="starttls", login=True) as mails:
        url = f"smtp://mail%20user:p%40ss%3Aw%2Ford@127.0.0.1:{mails.port}"
        with Server(tmp_path / "data", SMTP_URL=url, **FLOWS) as server, httpx.Client(base_url=server.url) as nobody:

            def mailed_code() -> str | None:
                if not mails.mails:
                    return None
                text = mails.mails[-1].get_body(("plain",))
                assert text is not None
                return re.findall(r"^ +([0-9]{8})\s*$", text.get_content(), re.MULTILINE)[0]

            assert register(nobody, mailed_code) == "@erin:e2e.test"
            assert nobody.get("/_local/mail").status_code == 404
            assert mailed_code() not in server.log
        assert mails.encrypted == [True]
        assert mails.envelopes == [("eigenserver@localhost", [ERIN])]
