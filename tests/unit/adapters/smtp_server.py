"""A real SMTP server on loopback, for tests: aiosmtpd, plain or with TLS, with or without a login."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from local.certificate import certificate_of

USER, PASSWORD = "mail user", "p@ss:w/ord"


@dataclass
class SmtpServer:
    """What arrived, and how. `refuse`: what is answered to a command (`RCPT`, `DATA`) instead of "250"."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)

    async def handle_RCPT(  # noqa: N802 - the name that aiosmtpd looks for
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if "RCPT" in self.refuse:
            return self.refuse["RCPT"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - as above
        if "DATA" in self.refuse:
            return self.refuse["DATA"]
        mail = message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos))
        self.encrypted.append(server.transport.get_extra_info("sslcontext") is not None)
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login.decode())
        right = (data.login.decode(), data.password.decode()) == (USER, PASSWORD)
        return AuthResult(success=right, handled=right)


class _Controller(Controller):
    """A controller that can be given port 0: it looks whether the server answers under the port that it got."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def smtp_server(folder: Path, *, tls: str = "", login: bool = False) -> Iterator[SmtpServer]:
    """`tls`: "" for none, "starttls", or "smtps" from the first byte on. The certificate signs itself."""
    found = SmtpServer()
    context = None
    if tls:
        pair = certificate_of(folder, "mail.example", (None, None))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
    options: dict[str, Any] = {}
    if login:
        options |= {"authenticator": found.authenticate, "auth_require_tls": tls == "starttls"}
    if tls == "starttls":
        options["tls_context"] = context
    ssl_context = context if tls == "smtps" else None
    controller = _Controller(found, hostname="127.0.0.1", port=0, ssl_context=ssl_context, **options)
    controller.start()
    try:
        found.port = controller.port
        yield found
    finally:
        controller.stop()
