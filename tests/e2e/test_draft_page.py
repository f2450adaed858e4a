"""The example of a client of 2014 in a browser: two people talk to each other through the page at /2014."""

import itertools
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from e2e.browser import DESKTOP, PHONE, browser, needs_browser, screenshot, watched_page
from e2e.client import PASSWORD, Client
from e2e.draft_client import DraftClient
from e2e.local_run import Server

__all__ = ["browser"]

pytestmark = needs_browser
_names = itertools.count(1)


@pytest.fixture
def people(server: Server) -> tuple[Client, Client]:
    """Two people who have registered."""
    number = next(_names)
    return server.register(f"anna{number}"), server.register(f"ben{number}")


@pytest.fixture
def desktop(browser: Browser, server: Server) -> Iterator[Page]:
    with watched_page(browser, DESKTOP) as opened:
        opened.goto(f"{server.url}/2014")
        yield opened


@pytest.fixture
def phone(browser: Browser, server: Server) -> Iterator[Page]:
    with watched_page(browser, PHONE, dark=True) as opened:
        opened.goto(f"{server.url}/2014")
        yield opened


def localpart(user: Client) -> str:
    return user.user_id[1:].partition(":")[0]


def sign_in(page: Page, user: Client, password: str = PASSWORD) -> None:
    page.get_by_label("User name").fill(localpart(user))
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def test_two_pages_talk_to_each_other(desktop: Page, phone: Page, people: tuple[Client, Client]) -> None:
    anna, ben = people
    sign_in(desktop, anna)
    sign_in(phone, ben)
    desktop.get_by_label("Make a room").fill("Tea")
    desktop.get_by_role("button", name="Make").click()
    expect(desktop.get_by_role("heading", name="Tea")).to_be_visible()
    desktop.get_by_role("button", name="Invite", exact=True).click()
    dialog = desktop.get_by_role("dialog")
    dialog.get_by_label("User").fill(localpart(ben))
    dialog.get_by_role("button", name="Invite").click()
    expect(dialog).to_be_hidden()

    phone.get_by_role("button", name="Invitation").click()
    expect(phone.get_by_role("heading", name="Tea")).to_be_visible()
    log, other_log = desktop.get_by_role("log"), phone.get_by_role("log")
    expect(log).to_contain_text(f"{localpart(ben)} is here")

    phone.get_by_label("Message", exact=True).press_sequentially("Is there")
    expect(desktop.get_by_role("status")).to_contain_text("is typing")
    say(phone, "Is there tea?")
    expect(log).to_contain_text("Is there tea?")
    expect(desktop.get_by_role("status")).to_have_text("")
    expect(other_log).to_contain_text("Read by")
    for text in ("Yes.", "Green, <b>black</b>… & mint"):
        say(desktop, text)
        expect(other_log).to_contain_text(text)
    # What was read is told with the last of the messages alone.
    expect(log.locator("li.own", has_text="Green").locator(".seen")).to_contain_text("Read by")
    expect(log.locator("li.own", has_text="Yes.").locator(".seen")).to_have_text("")
    assert log.locator("b b").count() == 0  # what people write is text
    for page in (desktop, phone):
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.get_by_role("log").locator("p").all_inner_texts()[-3:] == [
            "Is there tea?",
            "Yes.",
            "Green, <b>black</b>… & mint",
        ]
    screenshot(desktop, "2014-room")
    screenshot(phone, "2014-room")
    phone.get_by_role("button", name="Back to the rooms").click()
    expect(phone.get_by_role("button", name="Tea")).to_be_visible()
    say(desktop, "Come back!")
    expect(phone.get_by_role("button", name="Tea")).to_contain_text("1 new")
    screenshot(phone, "2014-rooms")


def test_a_room_that_was_there_before_is_told_with_its_history(desktop: Page, people: tuple[Client, Client]) -> None:
    anna, ben = people
    room_id = anna.create_room(name="Old", topic="What was", invite=[ben.user_id])
    ben.join(room_id)
    sent = [anna.send(room_id, f"text {number}") for number in range(40)]
    reader = DraftClient(ben)
    # The last one by its ID: what Ben's stream has of them by now is a matter of time.
    body = {"type": "delivered", "target_event_id": sent[-1]}
    reader.ok("POST", "rooms", room_id, "send", "m.room.message.feedback", body=body)
    screenshot(desktop, "2014-entry")
    sign_in(desktop, anna)
    desktop.get_by_role("button", name="Old").click()
    log = desktop.get_by_role("log")
    expect(log.locator("li")).to_have_count(30)
    expect(log.locator("li").last.locator(".seen")).to_contain_text("Delivered to")
    desktop.get_by_role("button", name="Earlier messages").click()
    expect(log).to_contain_text("text 0")
    texts = [text for text in log.locator("p").all_inner_texts() if text.startswith("text ")]
    assert texts == [f"text {number}" for number in range(40)]
    desktop.reload()
    expect(desktop.get_by_role("button", name="Old")).to_be_visible()
    desktop.get_by_role("button", name="Sign out").click()
    expect(desktop.get_by_role("button", name="Sign in", exact=True)).to_be_visible()


def test_a_wrong_password_is_said_and_nothing_is_signed_in(phone: Page, people: tuple[Client, Client]) -> None:
    screenshot(phone, "2014-entry")
    sign_in(phone, people[0], "not this one")
    expect(phone.get_by_role("alert")).not_to_be_empty()
    expect(phone.get_by_label("User name")).to_be_visible()
    assert phone.evaluate("sessionStorage.length") == 0


def test_a_login_of_several_stages_is_gone_through_on_the_servers_page(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    policies = {"privacy": {"version": "1", "en": {"name": "Privacy", "url": "https://example.org/privacy"}}}
    flows = [["m.login.terms", "m.login.password"]]
    settings = {"LOGIN_FLOWS": json.dumps(flows), "TERMS": json.dumps(policies)}
    with Server(tmp_path_factory.mktemp("stages"), **settings) as server, watched_page(browser, DESKTOP) as opened:
        user = server.register("stella")
        opened.goto(f"{server.url}/2014")
        expect(opened.get_by_label("Password")).to_be_hidden()
        with opened.expect_popup() as popped:
            opened.get_by_role("button", name="Sign in on the server's page").click()
        popup = popped.value
        popup.get_by_role("checkbox").check()
        popup.get_by_role("button", name="Continue").click()
        popup.get_by_label("User name").fill("stella")
        popup.get_by_label("Password", exact=True).fill(PASSWORD)
        popup.get_by_role("button", name="Log in", exact=True).click()
        expect(opened.get_by_text(user.user_id)).to_be_visible()
        expect(opened.get_by_role("heading", name="Rooms")).to_be_visible()
        assert popup.is_closed()


def test_the_page_is_there_on_the_local_run_and_may_run_nothing_but_itself(server: Server) -> None:
    status, headers, body = server.ask("GET", "/2014")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"<script>" in body
    assert server.ask("GET", "/2014/other")[0] == 404
