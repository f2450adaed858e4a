"""Every function asks AWS for what its policy allows, and its policy allows nothing that it never asks for.

A conversation that touches every endpoint runs on a server that records each function's API actions and resources
(`RECORD_PERMISSIONS=1`); the record is held against the policies in template.yaml.
"""

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest

from e2e.client import PASSWORD, V3, Answer, Client, at_once, segments
from e2e.local_run import SERVER_NAME, Server
from homeserver.matrix.access_token import token_hash
from homeserver.matrix.sync_token import SyncToken
from homeserver.web.known_endpoints import known_endpoints
from infrastructure.templates import FUNCTIONS, as_list

Pair = tuple[str, str]  # (action, resource): dynamodb:GetItem, RoomsTable
TOKEN, SECRET = "come-in", "between us"
OLD_SLOTS, OLD_POSITION = range(64, 640), 1 << 30  # rooms that a user has been in
MOST_INVITES = 200  # as homeserver.storage.invites has it, whose import would need a server's environment


class Witness(Client):
    """A client that remembers which endpoints answered it well."""

    answered: ClassVar[set[tuple[str, str]]] = set()

    def ask_anything(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        answer = super().ask_anything(method, path, body, **options)
        if answer.status < 300:
            self.answered.add((method, path.partition("?")[0]))
        return answer


def record(folder: Path) -> dict[str, set[Pair]]:
    """What each function asked for on a stopped server, by the function's folder."""
    found = orjson.loads((folder / "permissions.json").read_bytes())
    by_name = {f"eigenserver-{function.logical_id}": folder for folder, function in FUNCTIONS.items()}
    return {by_name[name]: {(action, short(resource)) for action, resource in pairs} for name, pairs in found.items()}


def short(resource: str) -> str:
    """The part of an ARN or name that tells resources apart."""
    name = re.sub(r"^arn:aws:[a-z]+:[^:]*:\d*:(table/|function:|parameter(?=/))?", "", resource)
    name = re.sub(r"/stream/.*", "/stream", name)
    return name.removeprefix("eigenserver-").removeprefix("DataStack-").removeprefix("QueuesStack-")


def allowed(folder: str) -> set[Pair]:
    return {
        (action, short(resource))
        for statement in FUNCTIONS[folder].statements
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    }


class ColdServer(Server):
    """A local run whose functions remember nothing from call to call."""

    module = "e2e.cold_functions"


# ── The conversation ────────────────────────────────────────────────────────────────────────────────


def with_token(client: Client, name: str, token: str = TOKEN, **more: Any) -> Client:
    """Register in the stages of User-Interactive Authentication, with a registration token."""
    body = {"username": name, "password": PASSWORD, **more}
    asked = client.ask("POST", f"{V3}/register", body)
    assert asked.status == 401
    auth = {"type": "m.login.registration_token", "token": token, "session": asked.json["session"]}
    return client._logged_in(client.ok("POST", f"{V3}/register", body | {"auth": auth}))


def with_secret(client: Client, name: str) -> Client:
    """Register by the shared secret."""
    nonce = client.ask_anything("GET", "/_synapse/admin/v1/register").json["nonce"]
    message = b"\0".join([nonce.encode(), name.encode(), PASSWORD.encode(), b"notadmin"])
    mac = hmac.new(SECRET.encode(), message, hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": name, "password": PASSWORD, "admin": False, "mac": mac}
    answer = client.ask_anything("POST", "/_synapse/admin/v1/register", body)
    assert answer.status == 200, answer
    return client._logged_in(answer.json)


def confirmed(client: Client, method: str, path: str, body: Mapping[str, Any]) -> Any:
    """An operation that asks for the password first."""
    asked = client.ask(method, path, body)
    assert asked.status == 401, asked
    identifier = {"type": "m.id.user", "user": client.user_id}
    auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    return client.ok(method, path, {**body, "auth": auth | {"session": asked.json["session"]}})


def discover(nobody: Client, server: Server) -> None:
    assert server.ask("GET", "/")[0] == 200
    nobody.answered.add(("GET", "/"))
    nobody.ok("GET", "/_matrix/client/versions")
    nobody.ok("GET", "/.well-known/matrix/client")
    for name in ("server", "support"):
        nobody.ask_anything("GET", f"/.well-known/matrix/{name}")
    assert nobody.ask_anything("GET", "/nowhere").status == 404


def come_and_go(nobody: Client, server: Server) -> tuple[Client, Client, Client]:
    nobody.ok("GET", f"{V3}/login")
    nobody.ok("GET", f"{V3}/register/available?username=alice")
    nobody.ok("GET", f"/_matrix/client/v1/register/m.login.registration_token/validity?token={TOKEN}")
    nobody.ok("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token=unknown")
    alice = with_token(Witness(server.url), "alice", refresh_token=True)
    bob, carol = (with_secret(Witness(server.url), name) for name in ("bob", "carol"))
    assert nobody.ask("POST", f"{V3}/register", {"username": "alice", "password": PASSWORD}).errcode == "M_USER_IN_USE"
    for _ in range(2):  # the first pair of tokens ends when the second is used
        pair = alice.ok("POST", f"{V3}/refresh", {"refresh_token": alice.refresh_token})
        alice.token, alice.refresh_token = pair["access_token"], pair["refresh_token"]
        alice.ok("GET", f"{V3}/account/whoami")
    room_id = alice.create_room()
    for method, path in (  # a new token may be shown to any function first
        ("GET", segments("user", alice.user_id, "account_data", "org.example.none")),
        ("GET", f"{V3}/joined_rooms"),
        ("PUT", segments("rooms", room_id, "send", "org.example.x", "1")),
        ("GET", segments("rooms", room_id, "joined_members")),
        ("GET", f"{V3}/sync"),
    ):
        pair = alice.ok("POST", f"{V3}/refresh", {"refresh_token": alice.refresh_token})
        alice.token, alice.refresh_token = pair["access_token"], pair["refresh_token"]
        assert alice.ask(method, path, {} if method == "PUT" else None).status in {200, 404}
    for leave in ("logout", "logout/all"):
        with Witness(server.url) as guest:
            guest.log_in("bob" if leave == "logout" else "carol", refresh_token=True)
            guest.ok("POST", f"{V3}/{leave}", {})
    carol.log_in("carol")
    carol.log_in("carol", device_id=carol.device_id)  # the same device again: its token is replaced
    wrong = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}, "password": "wrong"}
    assert nobody.ask("POST", f"{V3}/login", wrong).status == 403
    return alice, bob, carol


def keep_account(alice: Client, server: Server) -> None:
    alice.ok("GET", f"{V3}/capabilities")
    devices = []
    for _ in range(2):
        with Witness(server.url) as other:
            devices.append(other.log_in("alice").device_id)
    alice.ok("GET", f"{V3}/devices")
    alice.ok("GET", segments("devices", devices[0]))
    alice.ok("PUT", segments("devices", devices[0]), {"display_name": "Toaster"})
    confirmed(alice, "DELETE", segments("devices", devices[0]), {})
    confirmed(alice, "POST", f"{V3}/delete_devices", {"devices": [devices[1]]})
    confirmed(alice, "POST", f"{V3}/account/password", {"new_password": PASSWORD})


def keep_data(alice: Client, room_id: str) -> None:
    profile = segments("profile", alice.user_id)
    alice.ok("PUT", f"{profile}/displayname", {"displayname": "Alice"})
    alice.ok("PUT", f"{profile}/org.example.mood", {"org.example.mood": "bright"})
    alice.ok("GET", f"{profile}/displayname")
    alice.ok("DELETE", f"{profile}/org.example.mood")
    alice.ok("GET", profile)
    for path in (
        segments("user", alice.user_id, "account_data", "org.example.x"),
        segments("user", alice.user_id, "rooms", room_id, "account_data", "org.example.x"),
    ):
        alice.ok("PUT", path, {"x": 1})
        alice.ok("GET", path)
    filters = segments("user", alice.user_id, "filter")
    for _ in range(2):
        filter_id = alice.ok("POST", filters, {"room": {"timeline": {"limit": 3}}})["filter_id"]
    alice.ok("GET", f"{filters}/{filter_id}")
    alice.ok("GET", f"{V3}/sync", query={"filter": filter_id})


def live_in_rooms(alice: Client, bob: Client, carol: Client) -> str:
    room_id = alice.create_room(preset="private_chat", invite=[bob.user_id], name="Lounge", room_alias_name="lounge")
    alias = segments("directory", "room", f"#parlour:{SERVER_NAME}")
    alice.ok("PUT", alias, {"room_id": room_id})
    bob.ok("GET", alias)
    alice.ok("GET", segments("rooms", room_id, "aliases"))
    alice.set_state(room_id, "m.room.canonical_alias", {"alias": f"#lounge:{SERVER_NAME}", "alt_aliases": []})
    alice.ok("DELETE", alias)
    bob.sync_until(lambda: "invite" in bob.sync(full_state=True).get("rooms", {}))
    bob.ok("POST", segments("join", f"#lounge:{SERVER_NAME}"), {})
    assert carol.act(room_id, "join").status == 403
    alice.invite(room_id, carol.user_id)
    carol.join(room_id)
    alice.ok("GET", f"{V3}/joined_rooms")
    for action, body in (
        ("kick", {"user_id": carol.user_id}),
        ("ban", {"user_id": carol.user_id}),
        ("unban", {"user_id": carol.user_id}),
        ("invite", {"user_id": carol.user_id}),
    ):
        answer = alice.act(room_id, action, **body)
        assert answer.status == 200, answer
    assert carol.act(room_id, "leave").status == 200
    assert carol.act(room_id, "forget").status == 200
    crowd = [f"@crowd{number}:{SERVER_NAME}" for number in range(60)]
    published = alice.create_room(
        preset="public_chat", visibility="public", room_version="5", invite=crowd, topic="More than one commit holds"
    )
    carol.join(published)
    bob.join(published)
    return room_id


def talk(alice: Client, bob: Client, room_id: str) -> None:
    for user in (alice, bob):
        user.sync()
    event_id = alice.send(room_id, "hello", "txn")
    assert alice.send(room_id, "hello", "txn") == event_id
    alice.set_state(room_id, "m.room.topic", {"topic": "tea"})
    alice.ok("PUT", segments("rooms", room_id, "state", "m.room.topic"), {"topic": "coffee"})
    topic = alice.ok("PUT", f"{segments('rooms', room_id, 'state', 'm.room.topic')}/", {"topic": "milk"})["event_id"]
    alice.ok("PUT", segments("rooms", room_id, "redact", event_id, "1"), {"reason": "typo"})
    alice.ok("PUT", segments("rooms", room_id, "redact", topic, "2"), {})
    alice.ok("PUT", segments("rooms", room_id, "send", "m.room.redaction", "3"), {"redacts": bob.send(room_id, "oops")})
    alice.ok("PUT", segments("rooms", room_id, "state", "m.room.member", bob.user_id), {"membership": "leave"})
    alice.invite(room_id, bob.user_id)
    bob.ok("PUT", segments("rooms", room_id, "state", "m.room.member", bob.user_id), {"membership": "join"})
    for number in range(15):
        last = alice.send(room_id, str(number))
    bob.sync_until(lambda: last in bob.ids(room_id), filter={"room": {"state": {"lazy_load_members": True}}})
    lazy = {"filter": '{"lazy_load_members":true}'}
    rooms = segments("rooms", room_id)
    for path, query in (
        ("messages", {"dir": "b", **lazy}),
        ("messages", {"dir": "f", "from": bob.since}),
        (f"event/{event_id}", {}),
        (f"context/{last}", lazy),
        ("state", {}),
        ("state/m.room.name", {"format": "event"}),
        ("state/m.room.name/", {"format": "event"}),
        (f"state/m.room.member/{bob.user_id}", {"format": "event"}),
        ("members", {"at": bob.since}),
        ("joined_members", {}),
    ):
        bob.ok("GET", f"{rooms}/{path}", query=query)
    alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    assert bob.act(room_id, "leave").status == 200
    alice.send(room_id, "not for bob")
    bob.messages(room_id, "b")
    bob.state(room_id)
    wait_for(alice, room_id, "waiting")
    twins = [alice.twin() for _ in range(4)]  # the second of two at once finds that the rate has been used
    at_once(*(partial(twin.send, room_id, "quick") for twin in twins))
    at_once(*(twin.create_room for twin in twins))


def wait_for(alice: Client, room_id: str, body: str) -> None:
    """A message arrives in a sync that waits for it."""
    twin = alice.twin()
    while "rooms" in twin.sync(timeout=0.3):
        pass

    def send() -> dict[str, Any]:
        time.sleep(0.3)
        return {"event_id": alice.send(room_id, body)}

    told, sent = at_once(lambda: twin.sync(timeout=5), send)
    events = told["rooms"]["join"][room_id]["timeline"]["events"]
    assert [event["event_id"] for event in events] == [sent["event_id"]]


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[Pair]]:
    """What each function asked for, in all of the conversation."""
    folder = tmp_path_factory.mktemp("recorded")
    settings = {"RATE_LIMITS": "on", "REGISTRATION": "token", "REGISTRATION_TOKEN": TOKEN, "RECORD_PERMISSIONS": "1"}
    with ColdServer(folder, REGISTRATION_SHARED_SECRET=SECRET, **settings) as server, Witness(server.url) as nobody:
        discover(nobody, server)
        alice, bob, carol = come_and_go(nobody, server)
        with alice, bob, carol:
            room_id = live_in_rooms(alice, bob, carol)
            keep_account(alice, server)
            keep_data(alice, room_id)
            talk(alice, bob, room_id)
            confirmed(carol, "POST", f"{V3}/account/deactivate", {"erase": True})
        assert server.stop() == 0
        assert "Traceback" not in server.log, server.log
    found = record(folder)
    for pairs in (crowded_room(folder), repaired(folder)):
        for function, more in pairs.items():
            found.setdefault(function, set()).update(more)
    return found


def crowded_room(folder: Path) -> dict[str, set[Pair]]:
    """More than fifty local members: the follower hands parts to the queue."""
    with ColdServer(folder, REGISTRATION="open", RECORD_PERMISSIONS="1") as server:
        owner = server.register("owner")
        room_id = owner.create_room(preset="public_chat")

        def enter(name: str) -> None:
            server.register(name).join(room_id)

        for start in range(0, 54, 9):
            at_once(*(partial(enter, f"guest{start + number}") for number in range(9)))
        owner.invite(room_id, f"@popular:{SERVER_NAME}")
        owner.send(room_id, "welcome")
        owner.sync_until(lambda: owner.bodies(room_id) == ["welcome"])
        assert server.stop() == 0
    return record(folder)


def repaired(folder: Path) -> dict[str, set[Pair]]:
    """What takes long to come about, written into the store by hand; the start's sweep finds every room behind."""
    rewrite(folder, "Rooms", lambda items: [item for item in items if item["k"]["S"] != "cursor/inbox"])
    stored = {"k": {"S": f"regtoken/{token_hash('stored')}"}, "completed": {"N": "0"}}
    rewrite(folder, "Server", lambda items: [*items, stored])
    rewrite(folder, "Inbox", inbox_of_a_busy_server)
    with ColdServer(folder, REGISTRATION="token", RATE_LIMITS="on", RECORD_PERMISSIONS="1") as server:
        owner = server.client().log_in("owner")
        late = with_token(server.client(), "late", "stored")
        owner.create_room(invite=[f"@popular:{SERVER_NAME}"])
        owner.sync()
        assert owner.since is not None
        token = SyncToken.decode(owner.since, user_id=owner.user_id)
        long = replace(token, positions=token.positions | dict.fromkeys(OLD_SLOTS, OLD_POSITION))
        lost = replace(token, base=7)
        # More positions than one token holds, and a base that is not there any more.
        for claimed, timeout in ((long, 0), (lost, 300)):
            owner.ok("GET", f"{V3}/sync", query={"since": claimed.encode(), "timeout": timeout})
        late.sync()
        late.sync(timeout=0.2)
        assert server.stop() == 0
        assert server.lagging_rooms() == []
        assert "Traceback" not in server.log, server.log
    return record(folder)


def inbox_of_a_busy_server(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A user with as many ended invitations as there can be; one with many rooms, the first of which is a large one."""
    popular, owner = ({"S": f"@{name}:{SERVER_NAME}"} for name in ("popular", "owner"))
    kept = [item for item in items if item["user"] != popular or not item["k"]["S"].startswith("v/")]
    for item in kept:
        if item["user"] == owner and item["k"]["S"] == "i00":
            item["h0"] = {"N": "1"}
    old = {"user": popular, "p": {"N": "1"}, "m": {"S": "leave"}, "j": {"B": base64.b64encode(b"[]").decode()}}
    shards: dict[int, dict[str, Any]] = {}
    for slot in OLD_SLOTS:
        shard = shards.setdefault(slot // 64, {"user": owner, "k": {"S": f"i{slot // 64:02d}"}})
        shard[str(slot % 64)] = {"N": str(OLD_POSITION * 100_000)}
    kept += shards.values()
    return [*kept, *(old | {"k": {"S": f"v/!old{n}:e2e.test"}, "n": {"N": str(n)}} for n in range(1, MOST_INVITES + 1))]


def rewrite(folder: Path, table: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change the items of a table in the snapshot of a stopped server."""
    store = folder / "store"
    files = orjson.loads((store / "manifest.json").read_bytes())["tables"]
    path = store / next(file for name, file in files.items() if name.endswith(f"{table}Table"))
    items = [item for line in path.read_bytes().splitlines() for item in orjson.loads(line)]
    path.write_bytes(orjson.dumps(change(items)) + b"\n")


# ── What it shows ───────────────────────────────────────────────────────────────────────────────────


def test_the_conversation_touches_every_endpoint(called: dict[str, set[Pair]]) -> None:
    """Only then does a right that was not used mean a right that is not needed."""
    untouched = []
    for path, methods in known_endpoints().items():
        if path.startswith(("/_matrix/client/r0", "/.well-known/matrix/s")):
            continue
        parts = re.split(r"(\{[a-z_]+(?:\.\.\.)?\})", path)
        pattern = "".join(re.escape(p) if p[:1] != "{" else (".*" if "..." in p else "[^/]+") for p in parts)
        untouched += [
            f"{method} {path}"
            for method in methods
            if not any(m == method and re.fullmatch(pattern, p) for m, p in Witness.answered)
        ]
    assert untouched == []
    assert set(called) == set(FUNCTIONS)


@pytest.mark.parametrize("folder", FUNCTIONS)
def test_a_function_asks_only_for_what_its_policy_allows(called: dict[str, set[Pair]], folder: str) -> None:
    assert sorted(called[folder] - allowed(folder)) == []


@pytest.mark.parametrize("folder", FUNCTIONS)
def test_a_policy_allows_only_what_its_function_asks_for(called: dict[str, set[Pair]], folder: str) -> None:
    assert sorted(allowed(folder) - called[folder]) == []


def test_a_function_is_told_where_to_find_what_it_asks_for(called: dict[str, set[Pair]]) -> None:
    """The local run's functions share one environment; on AWS each has its own."""
    names = {
        "ssm:GetParameter": "SIGNING_KEY_PARAMETER",
        "lambda:InvokeFunction": "SYNC_ANSWER_FUNCTION",
        ("sqs:SendMessage", "InboxFanoutQueue"): "INBOX_FANOUT_QUEUE",
        ("sqs:SendMessage", "FailedRecordsQueue"): "FAILED_RECORDS_QUEUE",
    }
    for folder, pairs in called.items():
        wanted = {names.get(pair) or names.get(pair[0]) for pair in pairs} - {None}
        assert wanted == set(names.values()) & set(FUNCTIONS[folder].environment), folder
