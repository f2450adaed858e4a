"""Crashes at every step from the commit to the last follower, and kill -9 in the middle of traffic.

`CRASH_AT=point:n` ends the server the n-th time it comes by a fault point. With `CRASH_SAVES=1` the store is on disk as
it was at that moment, as DynamoDB's would be; without it the last seconds are lost, as with kill -9.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest

from e2e.client import V3, Client, at_once, is_message, segments
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


POINTS = {
    # The commit: nothing of it is there yet, or all of it but nobody was answered.
    "commit.before": "message",
    "commit.before:2": "kick",
    "commit.after": "message",
    "commit.after:2": "kick",
    "commit.after:3": "invitation",
    # The inbox follower, at the message, then at what changes memberships.
    "follower.before_inboxes": "message",
    "follower.between_inboxes": "message",
    "follower.before_cursor": "message",
    "follower.after_cursor": "message",
    "follower.between_memberships": "kick",
    "follower.between_memberships:2": "invitation",
}


def crash(prepared: Prepared, folder: Path, point: str, *, saves: bool) -> tuple[str | None, bool]:
    """Let a server on a copy of the folder crash while people talk; the answered event ID, and whether all was."""
    shutil.copytree(prepared.folder, folder)
    answered, complete = None, False
    with Server(folder, CRASH_AT=point, CRASH_SAVES="1" if saves else "0") as server:
        users = prepared.on(server)
        try:
            answered = users["alice"].send(prepared.room_id, "during", "the-transaction")
            talk(users, prepared.room_id)
            complete = True
        except httpx.TransportError:
            pass
        assert server.wait() == 137
        assert f"crashed at {point.partition(':')[0]}" in server.lines
    return answered, complete


@pytest.mark.parametrize(
    ("point", "saves"),
    [
        pytest.param(point, saves, marks=pytest.mark.xdist_group(f"crashes-{saves}"), id=f"{point}-{kept}")
        for saves, kept in ((True, "saved"), (False, "lost"))
        for point in POINTS
    ],
)
def test_after_a_crash_everything_is_delivered_once(
    prepared: Prepared, tmp_path: Path, point: str, saves: bool
) -> None:
    folder, room_id = tmp_path / "data", prepared.room_id
    answered, _ = crash(prepared, folder, point, saves=saves)
    with Server(folder) as server:
        users = prepared.on(server)
        alice, bob, carol, dave, erin = users.values()
        before = alice.history(room_id)  # whatever was lost, what is there is whole
        assert [e["content"]["body"] for e in before if is_message(e)] in (["before"], ["before", "during"])
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
        at_once(kill, *(partial(chatter, name) for name in names), *(partial(listen, name) for name in ("alice", "bob")))
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
            try:
                event_id = server.welcome(owner).send(room_id, point, point)
            except httpx.TransportError:
                pass
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
