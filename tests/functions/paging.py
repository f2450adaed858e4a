"""Pages as a browser without scripts uses them: fetched, read, and their forms sent."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

from client_login_pages.shell import script
from functions.harness import Answer, call, http_event, invoke

PAGES = "client_login_pages"
V3 = "/_matrix/client/v3"
FALLBACK = "/_matrix/client/api/v1/login/fallback"
HOSTILE = "\"><script>alert(1)</script>'&lt;"
TERMS = {
    "privacy": {"version": "2", "en": {"name": "the <privacy> notice", "url": "https://example.org/p?a=1&b=2"}},
    "rules": {"version": "7", "de": {"name": "die Regeln", "url": "https://example.org/regeln"}},
}
BROWSER = {
    "accept": "text/html,application/xhtml+xml",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
}
_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-type": "text/html; charset=utf-8",
}


@dataclass(frozen=True)
class Shown:
    """A page that was answered."""

    status: int
    html: str
    headers: dict[str, str]

    @property
    def title(self) -> str:
        found = re.search(r"<h1[^>]*>(.*?)</h1>", self.html)
        assert found, self.html
        return found[1]

    @property
    def text(self) -> str:
        """What stands in the card, without markup."""
        reader = _Reader()
        reader.feed(self.html.partition("<main>")[2].partition("</main>")[0])
        return " ".join(" ".join(reader.words).split())

    @property
    def problem(self) -> str | None:
        """What is announced as wrong."""
        found = re.search(r'<div class="notice bad" role="alert"><p>(.*?)</p></div>', self.html)
        return found[1] if found else None

    @property
    def policy(self) -> dict[str, list[str]]:
        """The Content-Security-Policy: directive -> sources."""
        parts = (part.split() for part in self.headers["content-security-policy"].split(";"))
        return {name: sources for name, *sources in parts}

    def fields(self, number: int = 0) -> dict[str, str]:
        """The fields of a form, with the values that it has by itself."""
        forms = re.findall(r"<form method=\"post\">(.*?)</form>", self.html, re.DOTALL)
        assert len(forms) > number, self.html
        reader = _Reader()
        reader.feed(forms[number])
        return reader.inputs


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.inputs: dict[str, str] = {}

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "input" and found.get("name"):
            self.inputs[str(found["name"])] = found.get("value") or ""


def _shown(answer: Answer) -> Shown:
    """Every page, whatever it says, is one document of ours that nobody keeps, frames or learns of."""
    assert isinstance(answer.json, str), answer
    page = Shown(answer.status, answer.json, answer.headers)
    assert {name: answer.headers.get(name) for name in _HEADERS} == _HEADERS
    assert page.policy["default-src"] == ["'none'"]
    assert page.policy["frame-ancestors"] == ["'none'"]
    assert page.policy["base-uri"] == ["'none'"]
    assert page.policy["form-action"][0] == "'self'"
    (nonce,) = page.policy["style-src"]
    inline = re.findall(r"<(?:script|style)(?: [^>]*)?>", page.html)
    assert inline
    assert all(f'nonce="{nonce[7:-1]}"' in tag for tag in inline)
    assert not re.search(r"<[a-z]+[^>]* (?:on[a-z]+|style)=", page.html)
    assert page.html.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "<title>" in page.html
    assert 'name="viewport"' in page.html
    labels = set(re.findall(r'<label for="([^"]+)"', page.html))
    typed = re.findall(r'<input type="(?:text|email|password)" id="([^"]+)"', page.html)
    assert labels == set(typed)
    return page


def fetch(path: str, query: Mapping[str, str] | None = None, **more: Any) -> Shown:
    """GET a page."""
    return _shown(fetch_anything(path, query, **more))


def fetch_anything(
    path: str, query: Mapping[str, str] | None = None, *, cookies: Mapping[str, str] | None = None, **more: Any
) -> Answer:
    """GET what may be no page: a redirect, or JSON."""
    event = http_event("GET", path, query=query, **{"headers": BROWSER} | more)
    if cookies:
        event["cookies"] = [f"{name}={value}" for name, value in cookies.items()]
    return invoke(PAGES, event)


def send(path: str, fields: Mapping[str, str] | str, query: Mapping[str, str] | None = None, **more: Any) -> Shown:
    """POST a form."""
    body = fields if isinstance(fields, str) else urlencode(fields)
    event = http_event("POST", path, body, query=query, **{"headers": BROWSER} | more)
    event["headers"]["content-type"] = "application/x-www-form-urlencoded"
    return _shown(invoke(PAGES, event))


def data_of(page: Shown) -> dict[str, object]:
    """What the page hands to its script."""
    found = re.search(r'<script type="application/json" id="data"[^>]*>(.*?)</script>', page.html, re.DOTALL)
    assert found, page.html
    data: dict[str, object] = json.loads(found[1])
    return data


# ── Stages of a registration ────────────────────────────────────────────────────────────────────────


def begin_registration(name: str = "erin") -> str:
    """The session of a registration that was asked for."""
    answer = call("client_login", "POST", f"{V3}/register", {"username": name, "password": "a long pass phrase"})
    assert answer.status == 401, answer.json
    return str(answer.json["session"])


def finish_registration(session: str, name: str = "erin") -> Answer:
    """The client repeats its request with the session alone."""
    body = {"username": name, "password": "a long pass phrase", "auth": {"session": session}}
    return call("client_login", "POST", f"{V3}/register", body)


def stage_path(stage: str) -> str:
    return f"{V3}/auth/{stage}/fallback/web"


def offer(server: Callable[..., None], *stages: str, **more: str) -> None:
    """Let a registration take these stages."""
    server(REGISTRATION="open", REGISTRATION_FLOWS=json.dumps([list(stages)]), **more)


def is_done(page: Shown) -> bool:
    """Whether a page says that its stage is done, and tells the app."""
    return page.status == 200 and page.title == "Thank you" and script("parts", "stage") in page.html
