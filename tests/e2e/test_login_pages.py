"""The pages of login in Chromium, against a local run: a person with a browser gets through every flow there is."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from e2e.browser import browser, needs_browser, page, watched_page
from e2e.client import PASSWORD
from e2e.pages import (
    FALLBACK,
    LOGIN,
    TOKEN,
    V3,
    PagesServer,
    check_login,
    listen,
    phone,
    picture,
    result_of,
)

__all__ = ["browser", "page"]
pytestmark = needs_browser


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PagesServer]:
    with PagesServer(tmp_path_factory.mktemp("pages")) as running:
        yield running
        assert "Traceback" not in running.server.log, running.server.log


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def title(page: Page, text: str) -> None:
    """Wait until the page has this heading."""
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def type_password(page: Page, user: str | None, password: str = PASSWORD) -> None:
    if user is not None:
        page.get_by_label("User name").fill(user)
    page.get_by_label("Password", exact=True).fill(password)
    press(page, "Log in")


def ask_for_mail(page: Page, user: str, address: str) -> None:
    page.get_by_label("User name").fill(user)
    page.get_by_label("E-mail address").fill(address)
    press(page, "Send the mail")


# ── The login page: every flow ──────────────────────────────────────────────────────────────────────


def test_a_password_logs_in_and_the_app_is_told(here: PagesServer, page: Page) -> None:
    user = here.server.register("pia")
    listen(page)
    page.goto(f"{here.url}{FALLBACK}?device_id=PHONE&initial_device_display_name=Pia%27s+phone")
    title(page, "How do you want to log in?")
    picture(page, "login-choice")
    press(page, "Password")
    title(page, "Log in with your password")
    expect(page.get_by_label("User name")).to_be_focused()
    picture(page, "login-password")
    type_password(page, "pia", "not the password")
    expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
    expect(page.get_by_label("Password", exact=True)).to_be_focused()
    picture(page, "login-password-wrong")
    type_password(page, "pia")
    result = result_of(page)
    picture(page, "login-done")
    check_login(here, result, user.user_id)
    assert result["device_id"] == "PHONE"
    devices = user.ok("GET", f"{V3}/devices")["devices"]
    assert [d["display_name"] for d in devices if d["device_id"] == "PHONE"] == ["Pia's phone"]


@pytest.mark.parametrize(
    "how",
    [
        "window.matrixLogin = {onLogin: heard}",
        "window.onLogin = () => { throw 1 }; window.matrixLogin = {onLogin: heard}",
    ],
)
def test_an_app_may_listen_as_todays_apps_do(here: PagesServer, page: Page, how: str) -> None:
    user = here.server.register(f"matrix{len(how)}")
    listen(page, how)
    page.goto(f"{here.url}/_matrix/static/client/login/")
    press(page, "Password")
    type_password(page, user.user_id)
    check_login(here, result_of(page), user.user_id)


def test_a_code_and_a_password(here: PagesServer, page: Page) -> None:
    user, address = here.with_address("cora")
    listen(page)
    page.goto(here.url + FALLBACK)
    press(page, "Code by e-mail, then password")
    title(page, "Get a code by e-mail")
    expect(page.get_by_text("Step 1 of 2")).to_be_visible()
    page.get_by_label("User name").fill("cora")
    page.get_by_label("E-mail address").fill(address)
    picture(page, "login-mail")
    press(page, "Send the mail")
    title(page, "Enter the code")
    picture(page, "login-code")
    page.get_by_label("Code").fill("000000")
    press(page, "Continue")
    expect(page.get_by_role("alert")).to_have_text("Wrong or expired code")
    press(page, "Send another code")
    expect(page.get_by_role("alert")).to_contain_text("A mail was asked for a moment ago. You can try again in")
    code = here.code(address, 2)  # the first mail was the one that linked the address
    page.get_by_label("Code").fill(f" {code[:3]} {code[3:]} ")
    press(page, "Continue")
    title(page, "Log in with your password")
    expect(page.get_by_text("Step 2 of 2")).to_be_visible()
    expect(page.get_by_label("User name")).to_have_value("cora")
    expect(page.get_by_label("User name")).to_have_attribute("readonly", "")
    type_password(page, None)
    check_login(here, result_of(page), user.user_id)


def test_a_link_that_is_confirmed_on_a_phone(here: PagesServer, page: Page, browser: Browser) -> None:
    user, address = here.with_address("linda")
    listen(page)
    page.goto(here.url + FALLBACK)
    press(page, "Link by e-mail")
    ask_for_mail(page, "linda", address)
    title(page, "Open the link")
    expect(page.get_by_role("status")).to_have_text("Waiting until the link is opened…")
    picture(page, "login-link")
    with phone(browser) as mail:
        mail.goto(here.link(address, 2))
        title(mail, "Log in?")
        for shown in (user.user_id, address, "127.0.0.1"):
            expect(mail.get_by_text(shown, exact=True)).to_be_visible()
        picture(mail, "confirm")
        page.wait_for_timeout(3000)
        title(page, "Open the link")  # to look at the page of the link logs nobody in
        press(mail, "Log in")
        expect(mail.get_by_text("The login is confirmed.")).to_be_visible()
        picture(mail, "confirmed")
        check_login(here, result_of(page), user.user_id)
        mail.goto(here.link(address, 2))
        title(mail, "That did not work")
        picture(mail, "confirm-used")


def test_another_service_in_a_new_window(here: PagesServer, page: Page) -> None:
    listen(page)
    page.goto(here.url + FALLBACK)
    press(page, "Account at another service")
    title(page, "Log in at the service")
    picture(page, "login-service")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Open in a new window").click()
    window = opened.value
    title(window, "Where do you want to log in?")
    assert window.evaluate("window.opener") is None
    picture(window, "pick")
    window.get_by_role("link", name="Example").click()
    window.get_by_role("link", name="allow").click()
    title(window, "Thank you")
    picture(window, "returned")
    result = result_of(page)
    check_login(here, result, result["user_id"])
    assert result["user_id"] in window.inner_text("main")


def test_another_service_in_the_same_window(here: PagesServer, page: Page) -> None:
    listen(page)
    page.goto(f"{here.url}{FALLBACK}?device_id=ONLYWINDOW")
    press(page, "Account at another service")
    page.get_by_role("link", name="Continue in this window").click()
    page.get_by_role("link", name="Other").click()
    page.get_by_role("link", name="allow").click()
    result = result_of(page)
    check_login(here, result, result["user_id"])
    assert result["device_id"] == "ONLYWINDOW"


def test_who_says_no_at_the_other_service_starts_again(here: PagesServer, page: Page) -> None:
    listen(page)
    page.goto(here.url + FALLBACK)
    press(page, "Account at another service")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Open in a new window").click()
    opened.value.get_by_role("link", name="Other").click()
    opened.value.get_by_role("link", name="deny").click()
    title(opened.value, "That did not work")
    title(page, "Please start again")
    assert page.get_by_role("alert").inner_text()
    press(page, "Start again")
    title(page, "How do you want to log in?")
    assert page.evaluate("window.results") == []


def test_a_captcha_the_terms_and_a_password(here: PagesServer, page: Page) -> None:
    user = here.server.register("tess")
    listen(page)
    page.goto(here.url + FALLBACK)
    press(page, "Captcha, then terms, then password")
    title(page, "Show that you are human")
    here.captchas.answers["solved"] = (200, {"success": False})
    press(page, "I am no robot (site-key)")
    expect(page.get_by_role("alert")).to_have_text("The captcha was not solved: try again.")
    here.captchas.answers["solved"] = (200, {"success": True})
    press(page, "Another try")
    title(page, "Terms")
    expect(page.get_by_text("Step 2 of 3")).to_be_visible()
    picture(page, "login-terms")
    press(page, "Continue")
    title(page, "Terms")  # the browser asks for the tick first
    page.get_by_role("checkbox").check()
    press(page, "Continue")
    type_password(page, "tess")
    check_login(here, result_of(page), user.user_id)


def test_a_stage_after_which_there_are_several_ways_on(here: PagesServer, page: Page) -> None:
    user, address = here.with_address("nora")
    listen(page)
    page.goto(here.url + FALLBACK)
    press(page, "Terms")
    page.get_by_role("checkbox").check()
    press(page, "Continue")
    title(page, "How do you want to go on?")
    press(page, "Link by e-mail")
    ask_for_mail(page, "nora", address)
    title(page, "Open the link")
    with page.context.new_page() as mail:
        mail.goto(here.link(address, 2))
        press(mail, "Log in")
        title(mail, "Thank you")
    check_login(here, result_of(page), user.user_id)


# ── The login page: what can go wrong, and who uses it ──────────────────────────────────────────────


def test_too_many_wrong_codes_end_in_a_new_start(here: PagesServer, page: Page) -> None:
    _, address = here.with_address("ursa")
    listen(page)
    page.goto(here.url + FALLBACK)
    press(page, "Code by e-mail, then password")
    ask_for_mail(page, "ursa", address)
    title(page, "Enter the code")
    for _ in range(4):
        page.get_by_label("Code").fill("000000")
        press(page, "Continue")
        expect(page.get_by_role("alert")).to_have_text("Wrong or expired code")
    page.get_by_label("Code").fill("000000")
    press(page, "Continue")
    expect(page.get_by_role("alert")).to_contain_text("There were too many wrong answers")
    expect(page.get_by_role("button", name="Continue", exact=True)).to_be_disabled()
    expect(page.get_by_role("status")).to_have_text("You can try again now.")
    page.get_by_label("Code").fill("000000")
    press(page, "Continue")
    title(page, "Please start again")
    picture(page, "login-over")
    press(page, "Start again")
    title(page, "How do you want to log in?")


def test_an_error_moves_nothing_that_was_there(here: PagesServer, page: Page) -> None:
    page.goto(here.url + FALLBACK)
    press(page, "Password")
    title(page, "Log in with your password")
    places = "[...document.querySelectorAll('h1, input, label, button')].map((e) => e.getBoundingClientRect().top)"
    before = page.evaluate(places)
    type_password(page, "nobody", "nothing")
    expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
    assert page.evaluate(places) == before


def test_the_keyboard_is_enough(here: PagesServer, page: Page) -> None:
    user = here.server.register("kim")
    listen(page)
    page.goto(here.url + FALLBACK)
    title(page, "How do you want to log in?")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Password", exact=True)).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    title(page, "Log in with your password")
    page.keyboard.type("kim")
    page.keyboard.press("Tab")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    check_login(here, result_of(page), user.user_id)


def test_a_browser_without_scripts_is_told_so(here: PagesServer, browser: Browser) -> None:
    with phone(browser, script=False) as page:
        page.goto(here.url + FALLBACK)
        title(page, "Log in")
        expect(page.get_by_text("This page needs JavaScript, which is off in this browser.")).to_be_visible()
        picture(page, "login-without-script")


def test_in_the_dark_the_pages_are_dark(here: PagesServer, browser: Browser) -> None:
    with watched_page(browser, dark=True) as page:
        page.goto(here.url + FALLBACK)
        press(page, "Password")
        type_password(page, "nobody", "nothing")
        expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
        picture(page, "dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 27)"


def test_a_login_for_another_client_goes_there_when_the_person_says_so(here: PagesServer, page: Page) -> None:
    user = here.server.register("sso")
    there = f"{here.url}/_matrix/client/versions?x=1"
    page.goto(f"{here.url}{V3}/login/sso/redirect?redirectUrl={there}".replace("?x=", "%3Fx%3D"))
    press(page, "Password")
    type_password(page, "sso")
    title(page, "Continue")
    expect(page.get_by_text("Continue to 127.0.0.1? It will be able to act as you.")).to_be_visible()
    shown = page.content()
    picture(page, "login-continue")
    press(page, "Continue to 127.0.0.1")
    page.wait_for_url(re.compile(r"versions\?x=1&loginToken="))
    token = page.url.partition("loginToken=")[2]
    assert token not in shown
    answer = here.server.client().ask("POST", f"{V3}/login", {"type": "m.login.token", "token": token})
    assert (answer.status, answer.json["user_id"]) == (200, user.user_id)


def test_another_service_logs_in_for_another_client(here: PagesServer, page: Page) -> None:
    page.context.add_cookies([{"name": "person", "value": "sam", "url": here.url}])
    user = here.with_service_account(page, "other", lambda: picture(page, "continue"))
    assert user.user_id == "@sam:e2e.test"
    again = {"type": "m.login.token", "token": page.url.partition("loginToken=")[2]}
    assert here.server.client().ask("POST", f"{V3}/login", again).status == 403


# ── Stages of User-Interactive Authentication ───────────────────────────────────────────────────────


@pytest.fixture
def app(here: PagesServer, page: Page) -> Page:
    """An app in the same browser, which opens pages and hears what they post."""
    page.goto(f"{here.url}/_matrix/client/versions")
    page.evaluate("window.heard = []; addEventListener('message', (event) => window.heard.push(event.data))")
    return page


def opened_by(app: Page, address: str) -> Page:
    with app.expect_popup() as opened:
        app.evaluate("(address) => { window.open(address) }", address)
    return opened.value


def check_stage(here: PagesServer, app: Page, window: Page, request: dict[str, object]) -> None:
    """The app was told, and its request goes through."""
    title(window, "Thank you")
    app.wait_for_function("window.heard.length > 0")
    assert app.evaluate("window.heard") == ["authDone"]
    answer = here.server.client().ask("POST", f"{V3}/register", request)
    assert (answer.status, answer.json["user_id"]) == (200, f"@{request['username']}:e2e.test")


def test_the_page_of_a_stage_that_asks_nothing(here: PagesServer, app: Page) -> None:
    address, request = here.stage_page("dummy", "dumont")
    window = opened_by(app, address)
    picture(window, "stage-dummy")
    press(window, "Continue")
    picture(window, "stage-done")
    check_stage(here, app, window, request)


def test_the_page_of_the_terms(here: PagesServer, app: Page) -> None:
    address, request = here.stage_page("terms", "terence")
    window = opened_by(app, address)
    title(window, "Terms")
    picture(window, "stage-terms")
    window.get_by_role("checkbox").check()
    press(window, "Continue")
    check_stage(here, app, window, request)


def test_the_page_of_the_captcha(here: PagesServer, app: Page) -> None:
    address, request = here.stage_page("recaptcha", "robert")
    window = opened_by(app, address)
    window.get_by_role("button", name="I am no robot (site-key)").wait_for()
    press(window, "I am no robot (site-key)")
    check_stage(here, app, window, request)


def test_the_page_of_the_registration_token(here: PagesServer, app: Page) -> None:
    address, request = here.stage_page("registration_token", "tokio")
    window = opened_by(app, address)
    window.get_by_label("Registration token").fill("wrong")
    press(window, "Continue")
    expect(window.get_by_role("alert")).to_have_text("The registration token is not valid.")
    picture(window, "stage-token-wrong")
    window.get_by_label("Registration token").fill(TOKEN)
    press(window, "Continue")
    check_stage(here, app, window, request)


def test_the_page_of_a_mailed_code(here: PagesServer, app: Page) -> None:
    address, request = here.stage_page("email.code", "codie")
    window = opened_by(app, address)
    window.get_by_label("E-mail address").fill("codie@mail.example")
    press(window, "Send the mail")
    title(window, "Enter the code")
    picture(window, "stage-code")
    window.get_by_label("Code").fill(here.code("codie@mail.example"))
    press(window, "Continue")
    check_stage(here, app, window, request)


@pytest.mark.parametrize(("stage", "name"), [("email.url", "urs"), ("email.identity", "ida")])
def test_the_page_of_a_mailed_link(here: PagesServer, app: Page, stage: str, name: str) -> None:
    address, request = here.stage_page(stage, name)
    window = opened_by(app, address)
    window.get_by_label("E-mail address").fill(f"{name}@mail.example")
    picture(window, f"stage-{stage}")
    press(window, "Send the mail")
    title(window, "Open the link")
    picture(window, f"stage-{stage}-sent")
    press(window, "I have confirmed")
    assert window.get_by_role("alert").inner_text() in {
        "Link not visited yet",
        "The link in the mail was not followed yet.",
    }
    with app.context.new_page() as mail:
        mail.goto(here.link(f"{name}@mail.example"))
        title(mail, "Confirm your e-mail address?")
        picture(mail, f"validate-{stage}")
        press(mail, "Confirm")
        title(mail, "Thank you")
    press(window, "I have confirmed")
    check_stage(here, app, window, request)


def test_the_page_of_a_password_in_an_app_that_listens_otherwise(here: PagesServer, page: Page) -> None:
    user = here.server.register("pat")
    session = user.ask("POST", f"{V3}/account/deactivate", {}).json["session"]
    page.add_init_script("window.done = 0; window.onAuthDone = () => { window.done += 1 }")
    page.goto(f"{here.url}{V3}/auth/m.login.password/fallback/web?session={session}")
    title(page, "Enter your password")
    picture(page, "stage-password")
    page.get_by_label("Password").fill(PASSWORD)
    press(page, "Continue")
    title(page, "Thank you")
    assert page.evaluate("window.done") == 1
    assert user.ask("POST", f"{V3}/account/deactivate", {"auth": {"session": session}}).status == 200


def test_the_page_of_a_stage_at_another_service(here: PagesServer, app: Page) -> None:
    app.context.add_cookies([{"name": "person", "value": "olga", "url": here.url}])
    user = here.with_service_account(app, "example")
    address = f"{V3}/account/deactivate"
    session = user.ask("POST", address, {}).json["session"]
    app.goto(f"{here.url}/_matrix/client/versions")
    app.evaluate("window.heard = []; addEventListener('message', (event) => window.heard.push(event.data))")
    window = opened_by(app, f"{here.url}{V3}/auth/m.login.oauth2/fallback/web?session={session}")
    title(window, "Log in elsewhere")
    press(window, "Continue")
    picture(window, "stage-service")
    press(window, "I have logged in")
    assert window.get_by_role("alert").inner_text() == "Nobody has come back from the provider yet."
    window.get_by_role("link", name="Log in there").click()
    window.get_by_role("link", name="Example").click()
    window.get_by_role("link", name="allow").click()
    title(window, "Thank you")
    app.wait_for_function("window.heard.length > 0")
    assert user.ask("POST", address, {"auth": {"session": session}}).status == 200


def test_an_address_that_is_nobodys_is_answered_in_words(here: PagesServer, page: Page) -> None:
    page.goto(f"{here.url}{V3}/auth/m.login.terms/fallback/web?session=<script>alert(1)</script>")
    title(page, "That did not work")
    expect(page.get_by_role("alert")).to_have_text("This session is unknown or has expired.")
    picture(page, "error")
    page.goto(f"{here.url}{LOGIN}/oauth2/callback?state=made-up&code=x")
    title(page, "That did not work")
