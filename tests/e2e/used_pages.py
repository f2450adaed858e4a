"""All that the pages of login do for people, without a browser: what the function behind them asks of AWS."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from e2e.client import PASSWORD, Client
from e2e.conversation import Witness
from e2e.local_run import Server
from e2e.pages import LOGIN, TOKEN, V3, PagesServer

FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
OAUTH = "m.login.oauth2"


def live_with_pages(folder: Path, kind: type[Server], record: Callable[[Path], Any]) -> Iterator[Any]:
    """Two servers on one folder; what `record` says of each after it stopped.

    The first answers all pages. The second finds sessions whose executions ended with the first.
    """
    # The sender whose rights the template gives by its defaults, which are what the record is held against.
    settings = {"people": "allow", "RATE_LIMITS": "on", "RECORD_PERMISSIONS": "1", "MAIL_FROM": "chat@none.invalid"}
    with PagesServer(folder, kind, **settings) as here:
        stages(here)
        links(here)
        services(here)
        left = here.stage_page("email.code", "late")
        send(here, left[0], {"email": "late@mail.example"}, 200)
        code = here.code("late@mail.example")
        wait_for_machine(here)
        assert here.server.stop() == 0
        assert "Traceback" not in here.server.log, here.server.log
    yield record(folder)
    with PagesServer(folder, kind, **settings) as here:
        send(here, left[0], {"code": code}, 401)
        assert here.server.stop() == 0
    yield record(folder)


def path_of(address: str) -> str:
    return "/" + address.partition("://")[2].partition("/")[2]


def wait_for_machine(here: PagesServer) -> None:
    """Give the state machine the time to leave its token in the session's item."""
    time.sleep(1)


def look(here: PagesServer, address: str, status: int = 200, **headers: str) -> str:
    """GET a page."""
    answer, _, body = here.server.ask("GET", path_of(address), headers={"Accept": "text/html"} | headers)
    assert answer == status, (address, answer, body)
    if answer < 300:
        Witness.answered.add(("GET", path_of(address).partition("?")[0]))
    return body.decode()


def send(here: PagesServer, address: str, fields: Mapping[str, str], status: int) -> str:
    """Send the form of a page."""
    path = path_of(address)
    session = dict(parse_qsl(path.partition("?")[2])).get("session")
    body = urlencode({**({"session": session} if session else {}), **fields})
    answer, _, content = here.server.ask("POST", path, body, FORM)
    assert answer == status, (address, answer, content)
    if answer < 300:
        Witness.answered.add(("POST", path.partition("?")[0]))
    return content.decode()


def stages(here: PagesServer) -> None:
    """Stages of User-Interactive Authentication, right and wrong."""
    address, request = here.stage_page("registration_token", "tom")
    look(here, address)
    send(here, address, {"token": "stored, perhaps"}, 403)
    send(here, address, {"token": TOKEN}, 200)
    tom = here.server.client()
    assert tom.ask("POST", f"{V3}/register", request).status == 200
    address, _ = here.stage_page("email.code", "cody")
    send(here, address, {"email": "cody@mail.example"}, 200)
    here.code("cody@mail.example")
    wait_for_machine(here)
    for status in (403, 403, 403, 403, 429):
        send(here, address, {"code": "000000"}, status)
    address, _ = here.stage_page("email.code", "cora")
    send(here, address, {"email": "cora@mail.example"}, 200)
    wait_for_machine(here)
    send(here, address, {"code": here.code("cora@mail.example")}, 200)
    address, _ = here.stage_page("email.identity", "ida")
    send(here, address, {"email": "ida@mail.example"}, 200)
    link = here.link("ida@mail.example")
    look(here, link)
    send(here, link, dict(parse_qsl(link.partition("?")[2])), 200)
    pat = here.server.register("pat")
    session = pat.ask("POST", f"{V3}/account/deactivate", {}).json["session"]
    send(here, f"{here.url}{V3}/auth/m.login.password/fallback/web?session={session}", {"password": "wrong"}, 403)


def links(here: PagesServer) -> None:
    """A link that logs somebody in."""
    user, address = here.with_address("linda")
    body = {"type": "m.login.email.url", "user": user.user_id, "email": address}
    assert here.server.client().ask_anything("POST", LOGIN, body).status == 200
    link = here.link(address, 2)
    look(here, link)
    send(here, link, dict(parse_qsl(link.partition("?")[2])), 200)


def services(here: PagesServer) -> None:
    """Logins at another service: the first makes an account, one comes back to a device that there was."""
    with here.server.client() as nobody:
        for device_id in ("NEW", "NEW"):
            begun = nobody.ask_anything("POST", LOGIN, {"type": OAUTH, "device_id": device_id}).json
            look(here, begun["uri"])
            status, headers, _ = here.server.ask("GET", path_of(f"{begun['uri']}&provider=example"))
            assert status == 303
            back = here.services[0].visit(headers["location"])
            proof = {"Accept": "application/json", "X-Session": begun["session"]}
            assert '"device_id":"NEW"' in look(here, back, **proof)
        there = quote("https://app.example/", safe="")
        status, headers, _ = here.server.ask("GET", f"{V3}/login/sso/redirect/example?redirectUrl={there}")
        assert status == 302
        cookie = headers["set-cookie"].partition(";")[0]
        assert "loginToken=" in look(here, here.services[0].visit(headers["location"]), Cookie=cookie)
        link_account(here, here.server.register("lena"))


def link_account(here: PagesServer, user: Client) -> None:
    """Somebody who has a password links an account at a service."""
    address = "/_matrix/client/unstable/org.eigenserver/oauth2/link"
    asked = user.ask_anything("POST", address, {"provider": "other"})
    identifier = {"type": "m.id.user", "user": user.user_id}
    auth = {
        "type": "m.login.password",
        "identifier": identifier,
        "password": PASSWORD,
        "session": asked.json["session"],
    }
    uri = user.ask_anything("POST", address, {"provider": "other", "auth": auth}).json["uri"]
    look(here, here.services[1].visit(uri, "lena"))
