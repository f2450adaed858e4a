"""Every way to log in and to register, and what belongs to accounts by it: what the functions behind it ask of AWS."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from e2e.client import PASSWORD, Client
from e2e.conversation import Witness, confirmed
from e2e.local_run import Server
from e2e.pages import LOGIN, V3, PagesServer
from e2e.used_pages import OAUTH, look, path_of, send, wait_for_machine

L = LOGIN.removesuffix("/login")
CODE, URL, IDENTITY, WORD = "m.login.email.code", "m.login.email.url", "m.login.email.identity", "m.login.password"
LINKS = "/_matrix/client/unstable/org.eigenserver/oauth2"
SECRET = "s3cret"


Items = list[dict[str, Any]]


def live_with_logins(
    folder: Path,
    kind: type[Server],
    record: Callable[[Path], Any],
    rewrite: Callable[[Path, str, Callable[[Items], Items]], None],
) -> Iterator[Any]:
    """Two servers on one folder; what `record` says of each after it stopped.

    On the first people log in. The second finds sessions whose executions ended with the first; in one of them it is
    `rewrite` that has left who came back, as a page does that is then cut off.
    """
    # The sender whose rights the template gives by its defaults, which are what the record is held against.
    settings = {"people": "allow", "RATE_LIMITS": "on", "RECORD_PERMISSIONS": "1", "MAIL_FROM": "chat@none.invalid"}
    with PagesServer(folder, kind, **settings) as here, Witness(here.url) as nobody:
        for path in (f"{L}/login", f"{L}/register"):
            assert nobody.ask_anything("GET", path).status == 200
        for path in (f"{L}/login/fallback", "/_matrix/static/client/login/"):
            look(here, here.url + path)
        register_by_code(here, nobody)
        log_in_by_mail(here, nobody)
        guess(here, nobody)
        register_by_identity(here, nobody)
        with keep_addresses(here) as erin:
            log_in_another_device(erin, nobody)
            link_and_unlink(here, erin)
        reset_password(here, nobody)
        with come_from_elsewhere(here) as carol:
            begun, _ = ask_elsewhere(here, carol)
            left = begin_by_code(here, nobody, "erin", "erin@mail.example")
            wait_for_machine(here)
            assert here.server.stop() == 0
            assert "Traceback" not in here.server.log, here.server.log
    yield record(folder)
    rewrite(folder, "Sessions", lambda items: [came_back(item, begun["auth"]["session"], carol) for item in items])
    with PagesServer(folder, kind, **settings) as here, Witness(here.url, token=carol.token) as late:
        assert late.ask_anything("POST", LOGIN, left).status == 401
        gone = late.ask("POST", f"{V3}/delete_devices", begun)
        assert (gone.status, gone.json.get("errcode")) == (401, "M_UNKNOWN")
        assert here.server.stop() == 0
    yield record(folder)


def follow(here: PagesServer, link: str) -> None:
    """Open a link that was mailed, and press the button of its page."""
    look(here, link)
    send(here, link, dict(parse_qsl(link.partition("?")[2])), 200)


def posted(client: Client, path: str, body: Any, status: int = 200) -> Any:
    answer = client.ask_anything("POST", path, body)
    assert answer.status == status, (path, body, answer)
    return answer.json


def register_by_code(here: PagesServer, nobody: Witness) -> None:
    """The draft's registration in two stages, the machine being as quick as the person."""
    address = "erin@mail.example"
    session = posted(nobody, f"{L}/register", {"type": CODE, "email": address})["session"]
    code = here.code(address)
    wait_for_machine(here)
    assert posted(nobody, f"{L}/register", {"type": CODE, "session": session, "code": code})["next"] == WORD
    wait_for_machine(here)
    body = {"type": WORD, "session": session, "user": "erin", "password": PASSWORD}
    assert posted(nobody, f"{L}/register", body)["user_id"].startswith("@erin:")


def begin_by_code(here: PagesServer, nobody: Witness, user: str, address: str, number: int = 2) -> dict[str, Any]:
    """The body that ends the first stage of a login."""
    session = posted(nobody, LOGIN, {"type": CODE, "user": user, "email": address})["session"]
    return {"type": CODE, "session": session, "code": here.code(address, number)}


def log_in_by_mail(here: PagesServer, nobody: Witness) -> None:
    user, address = here.with_address("mia")
    second = begin_by_code(here, nobody, "mia", address)
    assert posted(nobody, LOGIN, second)["next"] == WORD
    body = {"type": WORD, "session": second["session"], "password": PASSWORD}
    assert posted(nobody, LOGIN, body)["user_id"] == user.user_id
    session = posted(nobody, LOGIN, {"type": URL, "user": "mia", "email": address})["session"]
    posted(nobody, LOGIN, {"type": URL, "session": session}, 400)
    follow(here, here.link(address, 3))
    assert posted(nobody, LOGIN, {"type": URL, "session": session})["user_id"] == user.user_id


def guess(here: PagesServer, nobody: Witness) -> None:
    """Five wrong codes end a session, and its execution."""
    session = posted(nobody, LOGIN, {"type": CODE, "user": "nobody", "email": "nobody@mail.example"})["session"]
    wait_for_machine(here)
    for status in (403, 403, 403, 403, 429):
        posted(nobody, LOGIN, {"type": CODE, "session": session, "code": "00000000"}, status)


def validated(here: PagesServer, client: Client, path: str, address: str, number: int = 1) -> dict[str, str]:
    """Ask for a mail, follow its link: what then shows that the address is one's own."""
    asked = {"client_secret": SECRET, "email": address, "send_attempt": 1}
    sid = client.ok("POST", f"{V3}{path}/email/requestToken", asked)["sid"]
    follow(here, here.link(address, number))
    return {"sid": sid, "client_secret": SECRET}


def register_by_identity(here: PagesServer, nobody: Witness) -> None:
    creds = validated(here, nobody, "/register", "ida@mail.example")
    body = {"username": "ida", "password": PASSWORD}
    session = nobody.ask("POST", f"{V3}/register", body).json["session"]
    auth = {"type": IDENTITY, "session": session, "threepid_creds": creds}
    assert nobody.ok("POST", f"{V3}/register", body | {"auth": auth})["user_id"].startswith("@ida:")


def keep_addresses(here: PagesServer) -> Client:
    """Erin on a new device, who adds and removes addresses."""
    erin = Witness(here.url)
    identifier = {"type": "m.id.thirdparty", "medium": "email", "address": "erin@mail.example"}
    erin._logged_in(erin.ok("POST", f"{V3}/login", {"type": WORD, "identifier": identifier, "password": PASSWORD}))
    confirmed(erin, "POST", f"{V3}/account/3pid/add", validated(here, erin, "/account/3pid", "e2@mail.example"))
    creds = validated(here, erin, "/account/3pid", "e3@mail.example")
    confirmed(erin, "POST", f"{V3}/account/3pid", {"three_pid_creds": creds})
    assert len(erin.ok("GET", f"{V3}/account/3pid")["threepids"]) == 3
    erin.ok("POST", f"{V3}/account/3pid/delete", {"medium": "email", "address": "e3@mail.example"})
    return erin


def reset_password(here: PagesServer, nobody: Witness) -> None:
    creds = validated(here, nobody, "/account/password", "e2@mail.example", 2)
    body = {"new_password": PASSWORD}
    session = nobody.ask("POST", f"{V3}/account/password", body).json["session"]
    auth = {"type": IDENTITY, "session": session, "threepid_creds": creds}
    nobody.ok("POST", f"{V3}/account/password", body | {"auth": auth})


def log_in_another_device(erin: Client, nobody: Witness) -> None:
    token = confirmed(erin, "POST", "/_matrix/client/v1/login/get_token", {})["login_token"]
    assert nobody.ok("POST", f"{V3}/login", {"type": "m.login.token", "token": token})["user_id"] == erin.user_id


def link_and_unlink(here: PagesServer, erin: Client) -> None:
    asked = erin.ask_anything("POST", f"{LINKS}/link", {"provider": "other"})
    identifier = {"type": "m.id.user", "user": erin.user_id}
    auth = {"type": WORD, "identifier": identifier, "password": PASSWORD, "session": asked.json["session"]}
    look(here, here.services[1].visit(posted(erin, f"{LINKS}/link", {"provider": "other", "auth": auth})["uri"]))
    (link,) = erin.ask_anything("GET", f"{LINKS}/links").json["links"]
    assert erin.ask_anything("DELETE", f"{LINKS}/links/{quote(link['id'], safe='')}").status == 200


def come_from_elsewhere(here: PagesServer) -> Client:
    """Carol, who has no password: she logs in, registers by it, and confirms what she does at the other service."""
    there = quote("https://app.example/", safe="")
    for path in ("", "/example"):
        status, headers, _ = here.server.ask("GET", f"{V3}/login/sso/redirect{path}?redirectUrl={there}")
        assert status == 302, headers
        Witness.answered.add(("GET", f"{V3}/login/sso/redirect{path}"))
    carol = Witness(here.url)
    begun = posted(carol, LOGIN, {"type": OAUTH})
    look(here, begun["uri"])
    _, headers, _ = here.server.ask("GET", path_of(f"{begun['uri']}&provider=example"))
    look(here, here.services[0].visit(headers["location"], "carol"))
    carol._logged_in(posted(carol, LOGIN, {"type": OAUTH, "session": begun["session"]}))
    body, uri = ask_elsewhere(here, carol)
    look(here, here.services[0].visit(uri, "carol"))
    carol.ok("POST", f"{V3}/delete_devices", body)
    body, uri = ask_elsewhere(here, carol)
    look(here, here.services[0].visit(uri, "eve"), 403)
    for status in (401, 401, 401, 401, 429):
        assert carol.ask("POST", f"{V3}/delete_devices", body).status == status
    return carol


def ask_elsewhere(here: PagesServer, carol: Client) -> tuple[dict[str, Any], str]:
    """Begin an operation that is confirmed at the other service: its body, and where to go."""
    path, body = f"{V3}/delete_devices", {"devices": ["NONE"]}
    session = carol.ask("POST", path, body).json["session"]
    asked = body | {"auth": {"type": OAUTH, "session": session, "provider": "example"}}
    uri = carol.ask_anything("POST", path, asked).json["uri"]
    wait_for_machine(here)
    return asked, uri


def came_back(item: dict[str, Any], session: str, user: Client) -> dict[str, Any]:
    """A session's item as it is when somebody has just come back from the other service."""
    if item["session"]["S"] != session:
        return item
    pending = json.loads(item["pending"]["S"])
    return item | {"pending": {"S": json.dumps({OAUTH: pending[OAUTH] | {"found": user.user_id}})}}
