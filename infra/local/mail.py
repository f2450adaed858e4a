"""Mails that the homeserver hands to SES: nobody gets them, the local run shows them.

Each is printed in the terminal, and stands on a page of the gateway, `/_local/mail`, which AWS does not have. The page
is for whoever sits at this machine or in its network: not for requests through a proxy, nor for those from elsewhere.
"""

import html
import ipaddress
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

from local.gateway import Answer

PATH = "/_local/mail"
KEPT = 100
_FORWARDED = ("x-forwarded-for", "forwarded", "via")
# Networks of one site (RFC 1918, RFC 4193) and of one link.
_NEAR = [
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
]
_LINK = re.compile(r"https?://[^\s<>\"]+")
_HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
]


@dataclass(frozen=True, slots=True)
class Captured:
    """A mail; `arrived` in seconds since the epoch."""

    number: int
    arrived: float
    message: EmailMessage

    @property
    def text(self) -> str:
        """Its text part."""
        return _part(self.message, "plain")

    @property
    def html(self) -> str:
        """Its HTML part."""
        return _part(self.message, "html")


class CapturedMail:
    """The mails of this run, the last hundred of them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._mails: deque[Captured] = deque(maxlen=KEPT)
        self._count = 0

    def accept(self, raw: bytes) -> None:
        """A mail in the format of RFC 5322."""
        message = message_from_bytes(raw, policy=default)
        with self._lock:
            self._count += 1
            mail = Captured(self._count, time.time(), message)
            self._mails.append(mail)
        indented = "\n".join(f"  | {line}" if line else "  |" for line in mail.text.rstrip().splitlines())
        self._say(f"mail to {message['To']}: {message['Subject']}\n{indented}")

    def mails(self) -> list[Captured]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._mails))

    def page(self, path: str, client: str, headers: Mapping[str, str]) -> Answer | None:
        """The answer to GET of this path, None if it is no page of these or not for who asks."""
        if path.rstrip("/") != PATH and not path.startswith(f"{PATH}/"):
            return None
        if any(name in headers for name in _FORWARDED) or not _is_near(client):
            return None
        wanted, _, part = path.removeprefix(PATH).strip("/").partition("/")
        if not wanted:
            return 200, _page("Mail", _list(self.mails())), list(_HEADERS)
        mail = next((mail for mail in self.mails() if str(mail.number) == wanted), None)
        if mail is None or part not in {"", "html"}:
            return 404, _page("No such mail", f'<p>It is gone. <a href="{PATH}">All mails</a></p>'), list(_HEADERS)
        if part:
            return 200, mail.html.encode(), _sandboxed()
        return 200, _page(str(mail.message["Subject"]), _letter(mail)), list(_HEADERS)


def _sandboxed() -> list[tuple[bytes, bytes]]:
    """The headers of a mail as it is: a page of no origin, that runs nothing and loads nothing."""
    return [(n, v + b"; sandbox" if n == b"content-security-policy" else v) for n, v in _HEADERS]


def _is_near(client: str) -> bool:
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in _NEAR)


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    return str(part.get_content()).replace("\r\n", "\n") if part is not None else ""


# ── HTML ───────────────────────────────────────────────────────────────────────────────────────

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --link: light-dark(#0b57d0, #a8c7fa);
  --ink: light-dark(#1b1b1f, #e4e2e6); --paper: light-dark(#fff, #1b1b1f); }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
main { max-width: 44rem; margin: 0 auto; }
a { color: var(--link); }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
ul { list-style: none; margin: 0; padding: 0; }
li a { display: block; padding: .75rem .25rem; border-top: 1px solid var(--line); text-decoration: none;
  overflow-wrap: anywhere; }
li b, li span { display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: .5rem;
  padding: 1rem; }
"""


def _page(title: str, content: str) -> bytes:
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1>\n{content}</main></body></html>\n"
    ).encode()


def _list(mails: list[Captured]) -> str:
    if not mails:
        return "<p>No mail was sent since the server was started. Load this page again when one should have been.</p>"
    rows = (
        f'<li><a href="{PATH}/{mail.number}"><b>{html.escape(str(mail.message["Subject"]))}</b>'
        f"<span>to {html.escape(str(mail.message['To']))}, {_time(mail.arrived)}</span></a></li>\n"
        for mail in mails
    )
    return f"<p>What the server has mailed; nothing of it left this machine.</p>\n<ul>\n{''.join(rows)}</ul>\n"


def _letter(mail: Captured) -> str:
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(str(mail.message[name]))}</dd>" for name in ("From", "To", "Date"))
    text = html.escape(mail.text, quote=False)
    linked = _LINK.sub(lambda found: f'<a href="{found[0].replace(chr(34), "")}">{found[0]}</a>', text)
    places = f'<a href="{PATH}">All mails</a> · <a href="{PATH}/{mail.number}/html">This one as HTML</a>'
    return f"<p>{places}</p><dl>{rows}</dl><pre>{linked}</pre>\n"


def _time(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
