"""A conversation that touches every endpoint, for what has to be seen of all of them."""

import hashlib
import hmac
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar
from urllib.parse import quote

from e2e.client import PASSWORD, V3, Answer, Client, at_once, segments
from e2e.local_run import SERVER_NAME, Server

TOKEN, SECRET = "come-in", "between us"  # of registration


class Witness(Client):
    """A client that remembers which endpoints answered it well."""

    answered: ClassVar[set[tuple[str, str]]] = set()

    def moved_to(self, base: str) -> "Witness":
        """A twin of it remembers too."""
        moved = Witness(base, user_id=self.user_id, device_id=self.device_id, token=self.token, since=self.since)
        moved.seen = {room_id: list(events) for room_id, events in self.seen.items()}
        return moved

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


def with_secret(client: Client, name: str, *, admin: bool = False) -> Client:
    """Register by the shared secret."""
    nonce = client.ask_anything("GET", "/_synapse/admin/v1/register").json["nonce"]
    message = b"\0".join([nonce.encode(), name.encode(), PASSWORD.encode(), b"admin" if admin else b"notadmin"])
    mac = hmac.new(SECRET.encode(), message, hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": name, "password": PASSWORD, "admin": admin, "mac": mac}
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
        ("POST", segments("rooms", room_id, "read_markers")),
        ("POST", f"{V3}/search"),
        ("POST", f"{V3}/user_directory/search"),
        ("POST", "/_synapse/admin/v1/send_server_notice"),
        ("GET", f"{V3}/sync"),
        ("GET", "/_matrix/client/api/v1/events/$none"),
        ("POST", "/_matrix/client/api/v1/rooms/none/leave"),
    ):
        pair = alice.ok("POST", f"{V3}/refresh", {"refresh_token": alice.refresh_token})
        alice.token, alice.refresh_token = pair["access_token"], pair["refresh_token"]
        # Who asks is looked at first, then what for.
        assert alice.ask_anything(method, path, {} if method == "PUT" else None).status in {200, 400, 404}
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
    tags = segments("user", alice.user_id, "rooms", room_id, "tags")
    alice.ok("PUT", f"{tags}/m.favourite", {"order": 0.5})
    alice.ok("GET", tags)
    alice.ok("DELETE", f"{tags}/m.favourite")
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


def find(alice: Client, bob: Client, nobody: Client) -> None:
    """Published rooms, summaries, spaces, mutual rooms, users."""
    space = alice.create_room(
        preset="public_chat", visibility="public", room_alias_name="space", creation_content={"type": "m.space"}
    )
    for name in ("one", "two"):
        child = alice.create_room(preset="public_chat", name=name)
        alice.set_state(space, "m.space.child", {"via": [SERVER_NAME]}, child)
    bob.join(child)
    for visibility in ("private", "public"):
        alice.ok("PUT", segments("directory", "list", "room", space), {"visibility": visibility})
    assert nobody.ok("GET", segments("directory", "list", "room", space)) == {"visibility": "public"}
    assert space in {room["room_id"] for room in nobody.ok("GET", f"{V3}/publicRooms")["chunk"]}
    spaces = bob.ok("POST", f"{V3}/publicRooms", {"filter": {"room_types": ["m.space"]}})
    assert [room["room_id"] for room in spaces["chunk"]] == [space]
    v1, unstable = "/_matrix/client/v1", "/_matrix/client/unstable"
    alias, room = quote(f"#space:{SERVER_NAME}", safe=""), quote(space, safe="")
    assert nobody.ok("GET", f"{v1}/room_summary/{alias}")["room_id"] == space
    for old in ("summary/{}", "rooms/{}/summary"):
        path = f"{unstable}/im.nheko.summary/{old.format(room)}"
        assert bob.ask_anything("GET", path).json["room_id"] == space
    token = None
    for _ in range(3):
        query = {"limit": 1, **({"from": token} if token else {})}
        token = bob.ok("GET", f"{v1}/rooms/{room}/hierarchy", query=query).get("next_batch")
    assert token is None
    query = {"user_id": alice.user_id}
    assert child in bob.ok("GET", f"{v1}/mutual_rooms", query=query)["joined"]
    answer = bob.ask_anything("GET", f"{unstable}/uk.half-shot.msc2666/user/mutual_rooms", query=query)
    assert child in answer.json["joined"]
    displayname = f"{segments('profile', alice.user_id)}/displayname"
    for name in ("Alice Liddell", "Alice"):
        alice.ok("PUT", displayname, {"displayname": name})

    def search() -> list[str]:
        answer = bob.ok("POST", f"{V3}/user_directory/search", {"search_term": "ALI"})
        return [user["user_id"] for user in answer["results"]]

    assert at_once(*[search] * 4) == [[alice.user_id]] * 4  # some of them find that the rate has been used


def come_in_otherwise(alice: Client, bob: Client, carol: Client, server: Server) -> None:
    """Knocks, restricted joins, guests, and memberships as state events. Needs GUEST_ACCOUNTS=on."""

    def rule(name: str, **content: Any) -> dict[str, Any]:
        return {"type": "m.room.join_rules", "content": {"join_rule": name, **content}}

    knocked = alice.create_room(initial_state=[rule("knock")])
    for _ in range(2):
        carol.ok("POST", segments("knock", knocked), {"reason": "tea"})
        carol.sync_until(lambda: "knock" in carol.ok("GET", f"{V3}/sync").get("rooms", {}))
        assert alice.act(knocked, "kick", user_id=carol.user_id).status == 200
    alice.set_state(knocked, "m.room.member", {"membership": "invite"}, bob.user_id)
    bob.ok("PUT", segments("rooms", knocked, "state", "m.room.member", bob.user_id), {"membership": "join"})
    allow = [{"type": "m.room_membership", "room_id": knocked}]
    inner = alice.create_room(initial_state=[rule("restricted", allow=allow)], invite=[carol.user_id])
    assert carol.act(inner, "join").status == 200
    assert alice.act(inner, "leave").status == 200
    assert bob.act(inner, "join").status == 200
    access = {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}
    open_room = alice.create_room(preset="public_chat", initial_state=[access])
    with Witness(server.url) as guest, Witness(server.url) as other:
        for who in (guest, other):
            who._logged_in(who.ok("POST", f"{V3}/register?kind=guest", {}))
        assert guest.act(open_room, "join").status == 200
        joins = {"membership": "join"}
        other.ok("PUT", segments("rooms", open_room, "state", "m.room.member", other.user_id), joins)
        alice.set_state(open_room, "m.room.guest_access", {"guest_access": "forbidden"})
        assert guest.act(open_room, "join").errcode == "M_GUEST_ACCESS_FORBIDDEN"


def keep_order(alice: Client, bob: Client, server: Server) -> None:
    """Upgrades, search, reports, notices. Needs SERVER_NOTICES_LOCALPART."""
    # A hundred events make a bucket of the timeline.
    state: list[Any] = [{"type": "m.room.topic", "content": {"topic": "tea"}}]
    state += [{"type": "org.example.number", "state_key": str(number), "content": {}} for number in range(95)]
    room_id = alice.create_room(
        preset="public_chat", room_alias_name="old", visibility="public", name="House", initial_state=state
    )
    bob.join(room_id)
    said = alice.send(room_id, "more tea")
    here = {"rooms": [room_id]}
    criteria = {"search_term": "tea", "filter": here, "include_state": True, "event_context": {"include_profile": True}}
    for _ in range(2):
        answer = bob.ok("POST", f"{V3}/search", {"search_categories": {"room_events": criteria}})
        results = answer["search_categories"]["room_events"]["results"]
        found = {result["result"]["type"]: result["result"]["event_id"] for result in results}
        assert found.keys() == {"m.room.topic", "m.room.message"}
    alice.ok("PUT", segments("rooms", room_id, "redact", found["m.room.topic"], "indexed"), {})
    bob.ok("POST", segments("rooms", room_id, "report", said), {"reason": "rude"})
    bob.ok("POST", segments("rooms", room_id, "report"), {"reason": ""})
    bob.ok("POST", segments("users", alice.user_id, "report"), {"reason": ""})
    room = quote(room_id, safe="")
    alice.ok("GET", f"/_matrix/client/v1/rooms/{room}/timestamp_to_event", query={"ts": 1, "dir": "f"})
    for user in (alice, bob):
        user.ok("PUT", f"{segments('user', user.user_id, 'rooms', room_id, 'tags')}/m.favourite", {})
    bob.ok("PUT", segments("user", bob.user_id, "account_data", "m.direct"), {alice.user_id: [room_id]})
    new = alice.ok("POST", segments("rooms", room_id, "upgrade"), {"new_version": "11"})["replacement_room"]
    bob.join(new)
    with with_secret(Witness(server.url), "root", admin=True) as root:
        at_once(*(partial(send_notice, root, user.user_id) for user in (alice, bob, root)))
        send_notice(root, bob.user_id, txn_id="once")


def send_notice(admin: Client, user_id: str, txn_id: str | None = None) -> None:
    """Write to a user as the server."""
    method, path = ("POST", "") if txn_id is None else ("PUT", f"/{txn_id}")
    body = {"user_id": user_id, "content": {"msgtype": "m.text", "body": "upgraded"}}
    answer = admin.ask_anything(method, f"/_synapse/admin/v1/send_server_notice{path}", body)
    assert answer.status == 200, answer


def listen_as_before(bob: Client, room_id: str, event_id: str) -> None:
    """The endpoints from before /sync."""
    bob.ok("GET", f"{segments('rooms', room_id)}/initialSync")
    bob.ok("GET", segments("events", event_id))
    since = bob.ok("GET", f"{V3}/initialSync", query={"limit": 2})["end"]
    bob.ok("GET", f"{V3}/events", query={"from": since, "timeout": 100})
    bob.ok("GET", f"{V3}/events", query={"room_id": room_id, "timeout": 100})


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
    relate(alice, bob, room_id)
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
    listen_as_before(bob, room_id, last)
    alice.create_room()
    alice.sync()  # who has account data gets that of a room that they come into
    alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    assert bob.act(room_id, "leave").status == 200
    alice.send(room_id, "not for bob")
    bob.messages(room_id, "b")
    bob.state(room_id)
    wait_for(alice, room_id, "waiting")
    twins = [alice.twin() for _ in range(4)]  # the second of two at once finds that the rate has been used
    at_once(*(partial(twin.send, room_id, "quick") for twin in twins))
    at_once(*(twin.create_room for twin in twins))


def relate(alice: Client, bob: Client, room_id: str) -> None:
    """Edits, reactions, threads; and some of them taken back."""
    root = alice.send(room_id, "root")
    room, parent = (quote(part, safe="") for part in (room_id, root))

    def child(rel_type: str, txn: str, **more: Any) -> str:
        content = {"msgtype": "m.text", "body": "*", "m.new_content": {"msgtype": "m.text", "body": "new"}}
        content |= {"m.relates_to": {"rel_type": rel_type, "event_id": root, **more}}
        event_id: str = alice.ok("PUT", segments("rooms", room_id, "send", "m.room.message", txn), content)["event_id"]
        return event_id

    related = [
        child("m.replace", "e"),
        child("m.thread", "t"),
        child("m.annotation", "a", key="+"),
        child("m.reference", "r"),
    ]
    children = f"relations/{parent}"
    for path in ("threads", children, f"{children}/m.thread", f"{children}/m.thread/m.room.message"):
        bob.ok("GET", f"/_matrix/client/v1/rooms/{room}/{path}")
    for number, event_id in enumerate(related[:3]):
        alice.ok("PUT", segments("rooms", room_id, "redact", event_id, f"related{number}"), {})


def read_along(alice: Client, bob: Client, carol: Client) -> None:
    """Receipts with and without threads, read markers, typing."""
    room_id = alice.create_room(preset="public_chat")
    rooms, early = segments("rooms", room_id), alice.send(room_id, "before the others came")
    for user in (bob, carol):
        user.join(room_id)
        user.ok("POST", f"{rooms}/receipt/m.read/{early}", {})
    content = {"msgtype": "m.text", "body": "reply", "m.relates_to": {"rel_type": "m.thread", "event_id": early}}
    reply = bob.ok("PUT", f"{rooms}/send/m.room.message/reply", content)["event_id"]
    event_id = alice.send(room_id, "read this")
    for user in (alice, bob, carol):
        for kind in ("m.read", "m.read.private"):
            for _ in range(2):
                user.ok("POST", f"{rooms}/receipt/{kind}/{event_id}", {"thread_id": "main"})
            user.ok("POST", f"{rooms}/receipt/{kind}/{reply}", {"thread_id": early})
        markers = {"m.fully_read": event_id, "m.read": event_id, "m.read.private": event_id}
        user.ok("POST", f"{rooms}/read_markers", markers)
        for typing in (True, False):
            user.ok("PUT", f"{rooms}/typing/{user.user_id}", {"typing": typing})
    fresh = bob.twin()
    fresh.since, fresh.seen = None, {}
    told = fresh.sync()["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert {event_id, reply} <= set(told[0]["content"])


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
