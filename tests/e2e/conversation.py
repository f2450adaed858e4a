"""A conversation that touches every endpoint, for what has to be seen of all of them."""

import hashlib
import hmac
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from e2e.client import PASSWORD, V3, Answer, Client, at_once, segments
from e2e.local_run import SERVER_NAME, Server

TOKEN, SECRET = "come-in", "between us"  # of registration


class Witness(Client):
    """A client that remembers which endpoints answered it well."""

    answered: ClassVar[set[tuple[str, str]]] = set()

    def ask_anything(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        answer = super().ask_anything(method, path, body, **options)
        if answer.status < 300:
            self.answered.add((method, path.partition("?")[0]))
        return answer


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
