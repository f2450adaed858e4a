"""Mails: what there is to send, and asking for it. The function `mail_worker` writes and sends them (mail_delivery.py).

A request only asks: it does the same work whether somebody will get mail or nobody. What it hands over, and what Lambda
keeps until the mail is sent, names where the rest is to be found, and holds no secret.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from homeserver.adapters.invocations import invoke_later
from homeserver.services.login_stages.stage import Origin
from homeserver.settings import settings

# login_code, login_link: of a session (login_mails.py), for its stage that waits. validation: of a session of
# validation_mails.py. The key is the session's ID.
Kind = Literal["login_code", "login_link", "validation"]

_LONGEST = 300  # characters of a header that are handed on


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to write: a template (homeserver/mail_templates) and what fills it.

    `values` are texts, and may be anybody's: they are escaped where they are filled in. Every template also knows
    `server_name`, `requester` (address and device of who asked for the mail) and `requested` (when).
    `sent` is called after the mail was handed over, `not_sent` after that failed.
    """

    to: str  # a normalised address
    template: str
    values: Mapping[str, str] = field(default_factory=dict)
    sent: Callable[[], None] | None = None
    not_sent: Callable[[], None] | None = None


def request_mail(kind: Kind, key: str, origin: Origin) -> None:
    """Ask for a mail; somebody who is not to get one gets none."""
    event = {
        "mail": kind,
        "key": key,
        "address": origin.address[:_LONGEST],
        "user_agent": origin.user_agent[:_LONGEST],
        "base_url": origin.base_url[:_LONGEST],
    }
    invoke_later("MAIL_WORKER_FUNCTION", event)


def base_url(origin: Origin) -> str:
    """The address under which links in mails reach this server; no slash at its end.

    What the operator set goes first: the address that was asked comes from whoever asked.
    """
    if settings().public_base_url:
        return settings().public_base_url
    if settings().api_domain:
        return f"https://{settings().api_domain}"
    return origin.base_url.rstrip("/")


# What a User-Agent has in it -> how people call that. The first that fits counts: they imitate each other.
_PROGRAMS = {
    "Element": "Element",
    "Edg": "Edge",
    "OPR/": "Opera",
    "Firefox/": "Firefox",
    "FxiOS": "Firefox",
    "CriOS": "Chrome",
    "Chrome/": "Chrome",
    "Safari/": "Safari",
    "curl/": "curl",
}
_SYSTEMS = {
    "iPhone": "an iPhone",
    "iPad": "an iPad",
    "Android": "Android",
    "Windows": "Windows",
    "Mac OS": "a Mac",
    "CrOS": "ChromeOS",
    "Linux": "Linux",
}
# Of anything else only a bare name is taken: what stands in a mail must not be a text, or a link, of who asked for it.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,29}", re.ASCII)


def device_name(user_agent: str) -> str:
    """A device as people would name it: "Firefox on Linux"."""
    program = next((name for mark, name in _PROGRAMS.items() if mark in user_agent), None)
    system = next((name for mark, name in _SYSTEMS.items() if mark in user_agent), None)
    if program is None:
        named = _NAME.match(user_agent)
        program = named[0] if named is not None and named[0] != "Mozilla" else None
    if program is None:
        return "an unknown device"
    return program if system is None else f"{program} on {system}"
