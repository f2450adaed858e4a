"""A server with every way to log in, and what tests of its pages have in common: mails, pictures, what apps hear."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from playwright.sync_api import Browser, Page, expect

from e2e.browser import DESKTOP, PHONE, screenshot, watched_page
from e2e.client import PASSWORD, Client
from e2e.local_run import Server
from e2e.servers import eventually
from functions.authorisation_server import SECRET, AuthorisationServer
from functions.captcha_service import CaptchaService

V3 = "/_matrix/client/v3"
LOGIN = "/_matrix/client/api/v1/login"
FALLBACK = f"{LOGIN}/fallback"
TERMS = {"privacy": {"version": "1", "en": {"name": "the privacy notice", "url": "http://127.0.0.1:1/privacy"}}}
LOGIN_FLOWS = [
    ["m.login.password"],
    ["m.login.email.code", "m.login.password"],
    ["m.login.email.url"],
    ["m.login.oauth2"],
    ["m.login.recaptcha", "m.login.terms", "m.login.password"],
    ["m.login.terms", "m.login.email.code"],
    ["m.login.terms", "m.login.email.url"],
]
STAGES = ("dummy", "terms", "recaptcha", "registration_token", "email.code", "email.url", "email.identity")
TOKEN = "sesame"


class PagesServer:
    """The server, two services where its people can log in, and one for captchas.

    `kind`: the class of the server; `environment`: settings that it has in place of the usual ones. `people`: what
    people do at the services: allow at once, or read a page first.
    """

    def __init__(self, folder: Path, kind: type[Server] = Server, *, people: str = "page", **environment: str) -> None:
        self.captchas = CaptchaService()
        self.services = [AuthorisationServer(), AuthorisationServer()]
        names = ("example", "other")
        providers = []
        for name, service in zip(names, self.services, strict=True):
            service.client.redirect_host = "127.0.0.1"
            service.answer = people
            providers.append(service.provider(name, register=True))
        settings = {
            "REGISTRATION": "open",
            "REGISTRATION_TOKEN": TOKEN,
            "MAIL_FROM": "Example <chat@example.org>",
            "LOGIN_FLOWS": json.dumps(LOGIN_FLOWS),
            "REGISTRATION_FLOWS": json.dumps([[f"m.login.{stage}"] for stage in STAGES]),
            "TERMS": json.dumps(TERMS),
            "OAUTH_PROVIDERS": json.dumps(providers),
            "OAUTH_CLIENT_SECRETS": json.dumps(dict.fromkeys(names, SECRET)),
        }
        self.server = kind(folder, **settings | self.captchas.settings | environment)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.__exit__(*exception)
        self.captchas.close()
        for service in self.services:
            service.close()

    @property
    def url(self) -> str:
        return self.server.url

    # ── people ─────────────────────────────────────────────────────────────────────────────────────

    def with_address(self, name: str) -> tuple[Client, str]:
        """A new user, and the e-mail address that belongs to them."""
        user, address = self.server.register(name), f"{name}@mail.example"
        asked = {"client_secret": "s3cret", "email": address, "send_attempt": 1}
        sid = user.ok("POST", f"{V3}/account/3pid/email/requestToken", asked)["sid"]
        path, _, query = self.link(address).partition(self.url)[2].partition("?")
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert self.server.ask("POST", path, query, form)[0] == 200
        identifier = {"type": "m.id.user", "user": user.user_id}
        auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        user.ok("POST", f"{V3}/account/3pid/add", {"sid": sid, "client_secret": "s3cret", "auth": auth})
        return user, address

    def with_service_account(self, page: Page, service: str, look: Callable[[], None] = lambda: None) -> Client:
        """Whoever the browser is at a service, logged in with a client that sends them there.

        `look` is called when the page at the end of that is shown.
        """
        there = f"{self.url}/_matrix/client/versions"
        page.goto(f"{self.url}{V3}/login/sso/redirect/{service}?redirectUrl={there}")
        page.get_by_role("link", name="allow").click()
        expect(page.get_by_role("heading", name="Continue")).to_be_visible()
        look()
        page.get_by_role("link", name="Continue to 127.0.0.1").click()
        page.wait_for_url(re.compile(r"versions\?loginToken="))
        body = {"type": "m.login.token", "token": page.url.partition("loginToken=")[2]}
        client = self.server.client()
        answer = client.ok("POST", f"{V3}/login", body)
        client.user_id, client.token = answer["user_id"], answer["access_token"]
        return client

    def stage_page(self, stage: str, name: str = "erin") -> tuple[str, dict[str, Any]]:
        """The page of a stage of a registration, and the request that waits for it."""
        body = {"username": name, "password": PASSWORD}
        session = self.server.client().ask("POST", f"{V3}/register", body).json["session"]
        address = f"{self.url}{V3}/auth/m.login.{stage}/fallback/web?session={session}"
        return address, {**body, "auth": {"session": session}}

    # ── mails ──────────────────────────────────────────────────────────────────────────────────────

    def _mailed(self, address: str, number: int, pattern: str) -> str:
        """What stands on a line of its own in the mail that came to an address as the so manieth, once it is there."""
        found: list[str] = []

        def is_there() -> bool:
            mails = re.split(r"^mail to ", self.server.log, flags=re.MULTILINE)[1:]
            own = [mail for mail in mails if mail.startswith(f"{address}:")]
            found[:] = re.findall(rf"^  \| *({pattern})$", own[number - 1], re.MULTILINE) if len(own) >= number else []
            return bool(found)

        eventually(is_there, f"mail {number} to {address}")
        return found[0]

    def code(self, address: str, number: int = 1) -> str:
        """The code that was mailed."""
        return self._mailed(address, number, "[0-9]{6,8}")

    def link(self, address: str, number: int = 1) -> str:
        """The link that was mailed."""
        return self._mailed(address, number, r"http\S+")


# ── What an app hears ───────────────────────────────────────────────────────────────────────────────


def listen(page: Page, how: str = "window.onLogin = heard") -> None:
    """Let the page be opened by an app that takes the result."""
    page.add_init_script(f"window.results = []; const heard = (result) => window.results.push(result); {how}")


def result_of(page: Page) -> dict[str, Any]:
    """What the app was told, once; and nothing of it that is secret stands on the page."""
    expect(page.get_by_role("heading", name="You are signed in")).to_be_visible()
    (result,) = page.evaluate("window.results")
    assert result["access_token"] not in page.content()
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0
    return dict(result)


def check_login(server: PagesServer, result: dict[str, Any], user_id: str) -> None:
    """The result is a login of this user that works."""
    assert result["user_id"] == user_id
    with Client(server.url, token=result["access_token"]) as device:
        who = device.ok("GET", f"{V3}/account/whoami")
    assert (who["user_id"], who["device_id"]) == (user_id, result["device_id"])


# ── Pictures ────────────────────────────────────────────────────────────────────────────────────────


def picture(page: Page, name: str) -> None:
    """Pictures of what a page shows, on a phone and on a desk, on neither of which it scrolls sideways."""
    for size in (PHONE, DESKTOP):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
        path = screenshot(page, name)
        assert path.stat().st_size > 1000
    unreadable = page.evaluate(_SMALL)
    assert unreadable == [], name


# Text below 14 pixels, and buttons that a thumb misses.
_SMALL = """() => [...document.querySelectorAll("main *, footer")].filter((e) => {
  if (e.offsetParent === null) return false;
  const own = [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
  const small = own && parseFloat(getComputedStyle(e).fontSize) < 14;
  return small || (e.matches("button, .button, input:not([type=checkbox])") && e.getBoundingClientRect().height < 44);
}).map((e) => e.outerHTML.slice(0, 100))"""


@contextmanager
def phone(browser: Browser, **more: Any) -> Iterator[Page]:
    """A page on a phone."""
    with watched_page(browser, PHONE, **more) as page:
        yield page
