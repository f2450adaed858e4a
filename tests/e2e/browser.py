"""A real browser for tests of pages: headless Chromium, driven by Playwright, that reaches this machine only.

`make chromium` unpacks one; `CHROMIUM` may name another. A module takes part with

    from e2e.browser import browser, needs_browser, page

    pytestmark = needs_browser
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, ViewportSize, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
_UNPACKED = ROOT / ".tools" / "chromium" / "chromium"
_NAMES = ("chromium", "chromium-headless-shell", "google-chrome", "chrome")
EXECUTABLE = os.environ.get("CHROMIUM") or (
    str(_UNPACKED) if _UNPACKED.is_file() else next(filter(None, map(shutil.which, _NAMES)), "")
)
WHY_ABSENT = "there is no Chromium (`make chromium`, or CHROMIUM): pages are not tried in a browser"
needs_browser = [pytest.mark.slow, pytest.mark.skipif(not EXECUTABLE, reason=WHY_ABSENT)]
DESKTOP = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=360, height=740)
SCREENSHOTS = ROOT / "tests" / ".screenshots"
_PATIENCE = 15_000.0  # milliseconds until what a test waits for must be seen
_HERE = {"127.0.0.1", "localhost", "::1"}
expect.set_options(timeout=_PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a file. Not longer: while it runs, its thread has a running event loop."""
    if not EXECUTABLE:
        pytest.skip(WHY_ABSENT)
    with sync_playwright() as playwright:
        # Root gets no sandbox. No name is resolved but those of this machine.
        elsewhere = "MAP * ~NOTFOUND, " + ", ".join(f"EXCLUDE {host}" for host in sorted(_HERE))
        running = playwright.chromium.launch(
            executable_path=EXECUTABLE, args=["--no-sandbox", f"--host-resolver-rules={elsewhere}"]
        )
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a new profile, at 1280 pixels. The test fails if it logged an error or asked another machine."""
    with watched_page(browser) as opened:
        yield opened


@contextmanager
def watched_page(
    browser: Browser, viewport: ViewportSize = DESKTOP, *, dark: bool = False, script: bool = True
) -> Iterator[Page]:
    """The same with another size, in dark colours, or without JavaScript."""
    problems: list[str] = []
    context = browser.new_context(
        viewport=viewport, color_scheme="dark" if dark else "light", java_script_enabled=script, locale="en-GB"
    )
    context.set_default_timeout(_PATIENCE)
    context.on("console", lambda message: problems.extend(_told(message)))
    context.on("weberror", lambda error: problems.append(f"uncaught: {error.error}"))
    context.on("request", lambda request: problems.extend(_left(request)))
    opened = context.new_page()
    yield opened
    context.close()
    assert problems == [], problems


def _told(message: ConsoleMessage) -> list[str]:
    # The browser itself logs each answer of 4xx; what a page makes of one is what a test looks at.
    expected = message.type != "error" or message.text.startswith("Failed to load resource: the server responded")
    return [] if expected else [f"console: {message.text}"]


def _left(request: Request) -> list[str]:
    address = urlsplit(request.url)
    at_home = address.scheme in {"data", "blob", "about"} or address.hostname in _HERE
    return [] if at_home else [f"asked {request.url}"]


def screenshot(page: Page, name: str) -> Path:
    """A picture of a whole page in tests/.screenshots, `<name>-<width>.png`."""
    SCREENSHOTS.mkdir(exist_ok=True)
    width = page.viewport_size["width"] if page.viewport_size else 0
    path = SCREENSHOTS / f"{name}-{width}.png"
    page.screenshot(path=path, full_page=True, animations="disabled")
    return path
