"""Crashes at every step from the commit to the last follower, and kill -9 in the middle of traffic.

`CRASH_AT=point:n` ends the server the n-th time it comes by a fault point. With `CRASH_SAVES=1` the store is on disk as
it was at that moment, as DynamoDB's would be; without it the last seconds are lost, as with kill -9.
"""

import contextlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest

from e2e.client import PASSWORD, V3, Client, at_once, is_message
from e2e.local_run import Server


@dataclass(frozen=True, slots=True)
class Prepared:
    """A stopped server's folder with a room of alice, bob and carol; dave is invited, erin is nobody yet."""

    folder: Path
    room_id: str
    users: Mapping[str, Client]

    def on(self, server: Server) -> dict[str, Client]:
        """The users with their tokens and sync chains, talking to another process."""
        return {name: server.welcome(user) for name, user in self.users.items()}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    with Server(folder) as server:
        users = {name: server.register(name) for name in ("alice", "bob", "carol", "dave", "erin")}
        alice = users["alice"]
        room_id = alice.create_room(preset="private_chat", name="Crash course")
        for name in ("bob", "carol", "dave"):
            alice.invite(room_id, users[name].user_id)
        for name in ("bob", "carol"):
            users[name].join(room_id)
        alice.send(room_id, "before")
        for name in ("alice", "bob", "carol"):
            users[name].sync_until(lambda user=users[name]: user.bodies(room_id) == ["before"])
        users["dave"].sync()
        assert server.stop() == 0
    return Prepared(folder, room_id, users)


def members(client: Client, room_id: str) -> dict[str, str]:
    state = client.state(room_id)
    return {key: event["content"]["membership"] for (kind, key), event in state.items() if kind == "m.room.member"}


def talk(users: Mapping[str, Client], room_id: str) -> str:
    """What the tests crash in the middle of: a message, a kick, an invitation. Repeating it changes nothing."""
    alice, carol, erin = users["alice"], users["carol"], users["erin"]
    event_id = alice.send(room_id, "during", "the-transaction")
    kicked = alice.act(room_id, "kick", user_id=carol.user_id)
    assert kicked.status == 200 or (kicked.status, members(alice, room_id)[carol.user_id]) == (403, "leave")
    if members(alice, room_id).get(erin.user_id) != "invite":
        alice.invite(room_id, erin.user_id)
    return event_id


POINTS = (
    # The commit of the message, of the kick, of the invitation: nothing of it is there yet, or all of it but nobody
    # was answered.
    "commit.before",
    "commit.before:2",
    "commit.after",
    "commit.after:2",
    "commit.after:3",
    # The inbox follower, at the message.
    "follower.before_inboxes",
    "follower.between_inboxes",
    "follower.before_cursor",
    "follower.after_cursor",
    # The inbox follower, at the kick and at the invitation.
    "follower.between_memberships",
    "follower.between_memberships:2",
)


def crash(prepared: Prepared, folder: Path, point: str, *, saves: bool) -> str | None:
    """Let a server on a copy of the folder crash while people talk; the answered event ID."""
    shutil.copytree(prepared.folder, folder)
    answered = None
    with Server(folder, CRASH_AT=point, CRASH_SAVES="1" if saves else "0") as server:
        users = prepared.on(server)
        try:
            answered = users["alice"].send(prepared.room_id, "during", "the-transaction")
            talk(users, prepared.room_id)
        except httpx.TransportError:
            pass
        assert server.wait() == 137
        assert f"crashed at {point.partition(':')[0]}" in server.lines
    return answered


@pytest.mark.parametrize(
    ("point", "saves"),
    [
        pytest.param(point, saves, marks=pytest.mark.xdist_group(f"crashes-{saves}"), id=f"{point}-{kept}")
        for saves, kept in ((True, "saved"), (False, "lost"))
        for point in (POINTS if saves else ("commit.before", "commit.after", "follower.before_cursor"))
    ],
)
def test_after_a_crash_everything_is_delivered_once(
    prepared: Prepared, tmp_path: Path, point: str, saves: bool
) -> None:
    folder, room_id = tmp_path / "data", prepared.room_id
    answered = crash(prepared, folder, point, saves=saves)
    with Server(folder) as server:
        users = prepared.on(server)
        alice, bob, carol, dave, erin = users.values()
        before = alice.history(room_id)
        # A commit is there as a whole or not at all, and what was lost is lost as a whole.
        lost = not saves or point == "commit.before"
        assert [e["content"]["body"] for e in before if is_message(e)] == ["before", "during"][: 1 if lost else 2]
        event_id = talk(users, room_id)
        if saves and answered is not None:
            assert event_id == answered
        assert alice.send(room_id, "during", "the-transaction") == event_id
        after = alice.send(room_id, "after")

        events = alice.history(room_id)
        assert [e["content"]["body"] for e in events if is_message(e)] == ["before", "during", "after"]
        changes = [
            (e["state_key"], e["content"]["membership"])
            for e in events
            if e["type"] == "m.room.member" and e["sender"] == alice.user_id and e["state_key"] != alice.user_id
        ]
        assert changes[-2:] == [(carol.user_id, "leave"), (erin.user_id, "invite")]
        assert len(changes) == 5

        for user in (alice, bob):
            user.sync_from_scratch()
            user.catch_up(room_id, events)
        carol.seen = {}
        told = carol.sync()
        assert room_id not in told.get("rooms", {}).get("join", {})
        for user in (dave, erin):
            assert list(user.sync()["rooms"]["invite"]) == [room_id]
            user.join(room_id)
            user.sync_until(lambda user=user: after in user.ids(room_id))
        assert room_id in bob.ok("GET", f"{V3}/joined_rooms")["joined_rooms"]
        assert carol.ok("GET", f"{V3}/joined_rooms")["joined_rooms"] == []
        assert server.stop() == 0
        assert server.lagging_rooms() == []
        assert memberships(server, room_id) == members_in_state(server, room_id)


def memberships(server: Server, room_id: str) -> dict[str, str]:
    """The memberships that the follower keeps by user."""
    return {row["user"]["S"]: row["m"]["S"] for row in server.stored("Members") if row["room"]["S"] == room_id}


def members_in_state(server: Server, room_id: str) -> dict[str, str]:
    """The memberships that the commits keep in the room."""
    prefix = "local/"
    rows = (row for row in server.stored("Rooms") if row["room"]["S"] == room_id)
    return {row["k"]["S"].removeprefix(prefix): row["m"]["S"] for row in rows if row["k"]["S"].startswith(prefix)}


def test_kill_in_the_middle_of_traffic_leaves_whole_rooms(prepared: Prepared, tmp_path: Path) -> None:
    folder, room_id = tmp_path / "data", prepared.room_id
    shutil.copytree(prepared.folder, folder)
    answered: dict[str, list[str]] = {}
    with Server(folder, SAVE_SECONDS="0.3") as server:
        users = prepared.on(server)

        def chatter(name: str) -> None:
            answered[name] = []
            try:
                for number in range(10_000):
                    users[name].send(room_id, f"{name} {number}", f"txn{number}")
                    answered[name].append(f"{name} {number}")
            except httpx.TransportError:
                pass

        def listen(name: str) -> None:
            listener = users[name].twin()
            try:
                while True:
                    listener.sync(timeout=5)
            except httpx.TransportError:
                users[name].since = listener.since

        def kill() -> None:
            time.sleep(2.5)
            server.kill()

        names = ("alice", "bob", "carol")
        at_once(
            kill, *(partial(chatter, name) for name in names), *(partial(listen, name) for name in ("alice", "bob"))
        )
        assert all(len(lines) > 5 for lines in answered.values())
    with Server(folder) as server:
        old = users
        users = prepared.on(server)
        events = users["alice"].history(room_id)
        for name in names:
            kept = [e["content"]["body"] for e in events if e["sender"] == users[name].user_id and is_message(e)]
            kept = [body for body in kept if body != "before"]
            # The last moment may be lost, and the last request may have been carried out without an answer.
            assert kept == [f"{name} {number}" for number in range(len(kept))]
            assert len(kept) <= len(answered[name]) + 1
            again = users[name].send(room_id, f"{name} 0", "txn0")
            if kept:
                assert again == next(e["event_id"] for e in events if e["content"].get("body") == f"{name} 0")
        for name in ("alice", "bob"):
            users[name].since = old[name].since  # may be ahead of the store that came back
            users[name].sync_from_scratch()
            last = users["carol"].send(room_id, f"{name}, are you there?")
            users[name].sync_until(lambda name=name, last=last: last in users[name].ids(room_id))
            assert users[name].ids(room_id)[-5:] == [e["event_id"] for e in users["alice"].history(room_id)][-5:]
        assert server.stop() == 0
        assert server.lagging_rooms() == []


def test_a_crash_during_a_fan_out_in_parts_is_made_up_for(tmp_path: Path) -> None:
    """More than fifty local members: the follower hands parts of them to a queue."""
    folder = tmp_path / "data"
    with Server(folder) as server:
        users = [server.register(f"user{number}") for number in range(54)]
        owner, *others = users
        room_id = owner.create_room(preset="public_chat")
        for start in range(0, len(others), 18):
            at_once(*(partial(user.join, room_id) for user in others[start : start + 18]))
        owner.send(room_id, "all here")
        watchers = [owner, users[1], users[52], users[53]]
        for user in watchers:
            user.sync_until(lambda user=user: user.bodies(room_id) == ["all here"])
        assert server.stop() == 0
    for point in ("follower.between_parts", "fanout.after"):
        with Server(folder, CRASH_AT=point, CRASH_SAVES="1") as server:
            event_id = ""
            with contextlib.suppress(httpx.TransportError):
                event_id = server.welcome(owner).send(room_id, point, point)
            assert server.wait() == 137
        with Server(folder) as server:
            twins = [server.welcome(user) for user in watchers]
            assert twins[0].send(room_id, point, point) == (event_id or twins[0].send(room_id, point, point))
            events = twins[0].history(room_id)
            for user, twin in zip(watchers, twins, strict=True):
                twin.sync_from_scratch()
                twin.catch_up(room_id, events)
                user.since, user.seen = twin.since, twin.seen
            assert server.stop() == 0
            assert server.lagging_rooms() == []


@pytest.mark.parametrize(
    ("point", "request_body", "errcode"),
    [
        ("account.password_changed", {"new_password": "another secret"}, "M_FORBIDDEN"),
        ("account.deactivating", {"erase": True}, "M_USER_DEACTIVATED"),
        ("account.rooms_left", {"erase": True}, "M_USER_DEACTIVATED"),
    ],
)
def test_the_repetition_of_a_request_finishes_what_a_crash_left(
    prepared: Prepared, tmp_path: Path, point: str, request_body: dict[str, object], errcode: str
) -> None:
    folder, room_id = tmp_path / "data", prepared.room_id
    shutil.copytree(prepared.folder, folder)
    gone = "erase" in request_body
    address = f"{V3}/account/{'deactivate' if gone else 'password'}"
    with Server(folder, CRASH_AT=point, CRASH_SAVES="1") as server:
        bob = prepared.on(server)["bob"]
        asked = bob.ask("POST", address, request_body)
        assert asked.status == 401
        identifier = {"type": "m.id.user", "user": bob.user_id}
        auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        request = {**request_body, "auth": auth | {"session": asked.json["session"]}}
        with pytest.raises(httpx.TransportError):
            bob.ask("POST", address, request)
        assert server.wait() == 137
    with Server(folder) as server:
        users = prepared.on(server)
        assert users["bob"].ask("POST", address, request).status == 200
        old = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        assert users["bob"].ask("POST", f"{V3}/login", old).errcode == errcode
        assert members(users["alice"], room_id)[users["bob"].user_id] == ("leave" if gone else "join")
        assert users["bob"].ask("GET", f"{V3}/account/whoami").status == (401 if gone else 200)
        events = users["alice"].history(room_id)
        bobs = [event for event in events if event.get("state_key") == users["bob"].user_id]
        leaves = [event for event in bobs if event["content"]["membership"] == "leave"]
        assert len(leaves) == (1 if gone else 0)
