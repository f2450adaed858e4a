"""Sending a mail: by SES, or by the operator's own mail server.

A mail is text and HTML of the same (RFC 2046, 5.1.4), built by the standard library, which refuses a header with an end
of line in it. `Auto-Submitted` (RFC 3834) keeps answering machines quiet.
"""

import smtplib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.headerregistry import BaseHeader
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, make_msgid
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from botocore.exceptions import ClientError

from homeserver.adapters import aws
from homeserver.settings import settings

SECONDS = 8.0  # for a connection, and for each answer of the mail server
# Submission (RFC 8314): AWS lets nobody out to port 25.
_PORTS = {"smtp": 587, "smtps": 465}
_POLICY = SMTP.clone(cte_type="7bit")
# What SES says of mails that it will not take the next time either.
_REFUSALS = {
    "AccountSuspendedException",
    "BadRequestException",
    "MailFromDomainNotVerifiedException",
    "MessageRejected",
    "NotFoundException",
    "SendingPausedException",
}


class MailFailed(Exception):
    """A mail could not be handed over; another try may do it. The text names no address."""


class MailRefused(Exception):
    """A mail that will not be taken, however often it is tried. The text names no address."""


@dataclass(frozen=True, slots=True)
class MailServer:
    """What SMTP_URL says. Without a user name nobody logs in."""

    host: str
    port: int
    tls: bool  # from the first byte on; else by STARTTLS, where it is offered
    user: str
    password: str

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine: then its certificate may be anybody's, and it may have none."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def mail_server(url: str) -> MailServer:
    """The server of `smtp[s]://[user:password@]host[:port]`. Raises ValueError, without repeating the URL."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("SMTP_URL must be smtp[s]://[user:password@]host[:port]")
    try:
        port = parts.port or _PORTS[parts.scheme]
    except ValueError:
        raise ValueError("SMTP_URL has a port that is none") from None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return MailServer(parts.hostname, port, parts.scheme == "smtps", user, password)


def message(sender: str, to: str, subject: str, text: str, html: str) -> EmailMessage:
    """The mail. `sender`: an address, or a name and an address in angle brackets. Raises MailRefused."""
    mail = EmailMessage(policy=_POLICY)
    try:
        mail["From"] = sender
        mail["To"] = to
        mail["Subject"] = subject
    except (ValueError, IndexError, HeaderParseError):
        raise MailRefused("a header of it cannot be written") from None
    senders, recipients = mail["From"].addresses, mail["To"].addresses
    if len(senders) != 1 or len(recipients) != 1 or recipients[0].addr_spec != to or not recipients[0].domain:
        raise MailRefused("it must have one sender and one recipient")
    if not to.isascii():
        raise MailRefused("an address beyond ASCII cannot be sent to")
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = make_msgid(domain=senders[0].domain)
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text)
    mail.add_alternative(html, subtype="html")
    return mail


def send(sender: str, to: str, subject: str, text: str, html: str) -> None:
    """Send a mail to one address. Raises MailRefused for one that nobody will take, else MailFailed."""
    mail = message(sender, to, subject, text, html)
    if settings().smtp_url:
        _send_by_smtp(mail_server(settings().smtp_url), mail)
    else:
        _send_by_ses(mail)


def _encoded(header: BaseHeader) -> str:
    """The value of a header in ASCII, as it stands in the mail."""
    return "".join(header.fold(policy=_POLICY).partition(":")[2].split("\r\n")).strip()


def _send_by_ses(mail: EmailMessage) -> None:
    try:
        aws.client("sesv2").send_email(
            FromEmailAddress=_encoded(mail["From"]),
            Destination={"ToAddresses": [str(mail["To"])]},
            Content={"Raw": {"Data": mail.as_bytes()}},
        )
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _REFUSALS:
            raise MailRefused(f"SES: {code}") from None
        raise MailFailed(f"SES: {code}") from None


def _send_by_smtp(server: MailServer, mail: EmailMessage) -> None:
    try:
        with _connected(server) as connection:
            # Not send_message: that writes ">From" where a line begins with "From".
            connection.sendmail(mail["From"].addresses[0].addr_spec, [str(mail["To"])], mail.as_bytes())
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        if all(code >= 500 for code in codes):
            raise MailRefused(f"SMTP {codes[0]} for the recipient") from None
        raise MailFailed(f"SMTP {codes[0]} for the recipient") from None
    except smtplib.SMTPResponseException as error:
        if error.smtp_code >= 500 and isinstance(error, smtplib.SMTPDataError | smtplib.SMTPSenderRefused):
            raise MailRefused(f"SMTP {error.smtp_code}") from None
        raise MailFailed(f"SMTP {error.smtp_code}: {type(error).__name__}") from None
    except (OSError, smtplib.SMTPException) as error:
        # Its text may quote what was sent.
        raise MailFailed(f"SMTP: {type(error).__name__}") from None


def _connected(server: MailServer) -> smtplib.SMTP:
    """A connection that may be used. Raises OSError or SMTPException."""
    if server.tls:
        connection: smtplib.SMTP = smtplib.SMTP_SSL(
            server.host, server.port, timeout=SECONDS, context=_tls_context(server)
        )
    else:
        connection = smtplib.SMTP(server.host, server.port, timeout=SECONDS)
    try:
        connection.ehlo_or_helo_if_needed()
        is_private = server.tls
        if not server.tls and connection.has_extn("starttls"):
            connection.starttls(context=_tls_context(server))
            connection.ehlo()
            is_private = True
        _log_in(connection, server, is_private=is_private)
    except BaseException:
        connection.close()
        raise
    return connection


def _log_in(connection: smtplib.SMTP, server: MailServer, *, is_private: bool) -> None:
    if not server.user:
        return
    if not is_private and not server.is_here:
        raise MailFailed("the mail server offers no STARTTLS, and the password is not sent in the clear")
    try:
        connection.login(server.user, server.password)
    except (OSError, smtplib.SMTPException) as error:
        raise MailFailed(f"SMTP, at the login: {type(error).__name__}") from None


def _tls_context(server: MailServer) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if server.is_here:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
