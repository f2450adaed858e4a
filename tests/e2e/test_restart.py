"""Stopping and starting: what Ctrl-C saves, what a start refuses, and two servers side by side."""

import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from e2e.client import V3, Client, at_once, segments
from e2e.local_run import Server


def test_a_restart_brings_everything_back(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        alice, bob = server.register("alice"), server.register("bob")
        room_id = alice.create_room(preset="private_chat", name="Home", room_alias_name="home", invite=[bob.user_id])
        bob.join(room_id)
        alice.ok("PUT", segments("profile", alice.user_id, "displayname"), {"displayname": "Alice"})
        alice.ok("PUT", segments("user", alice.user_id, "account_data", "org.example.x"), {"x": 1})
        filter_id = alice.ok("POST", segments("user", alice.user_id, "filter"), {"room": {"timeline": {"limit": 5}}})
        sent = alice.send(room_id, "before", "txn")
        for user in (alice, bob):
            user.sync_until(lambda user=user: user.bodies(room_id) == ["before"])
        history, state = alice.history(room_id), alice.state(room_id)
        assert server.stop() == 0
        assert server.lines[-2:] == ["SIGINT: stopping", f"saved to {tmp_path / 'store'}"]
    for _ in range(2):
        with Server(tmp_path) as server:
            again, bob_again = server.welcome(alice), server.welcome(bob)
            assert again.ok("GET", f"{V3}/account/whoami")["device_id"] == alice.device_id
            # The tokens of the chain are valid: nothing is told again, nothing is missing.
            assert set(again.sync()) == {"next_batch"}
            assert [without_age(e) for e in again.history(room_id)] == [without_age(e) for e in history]
            assert again.state(room_id).keys() == state.keys()
            assert again.send(room_id, "before", "txn") == sent
            assert again.ok("GET", segments("profile", alice.user_id)) == {"displayname": "Alice"}
            assert again.ok("GET", segments("user", alice.user_id, "account_data", "org.example.x")) == {"x": 1}
            stored = again.ok("GET", segments("user", alice.user_id, "filter", filter_id["filter_id"]))
            assert stored["room"]["timeline"]["limit"] == 5
            assert again.ok("GET", segments("directory", "room", "#home:e2e.test"))["room_id"] == room_id
            server.log_in(alice)
            after = again.send(room_id, "after")
            bob_again.sync_until(lambda bob=bob_again, after=after: after in bob.ids(room_id))
            assert bob_again.gaps == 0
            alice.since, alice.seen, bob.since, bob.seen = again.since, again.seen, bob_again.since, bob_again.seen
            again.sync_until(lambda again=again, after=after: after in again.ids(room_id))
            alice.since, alice.seen = again.since, again.seen
            history = again.history(room_id)
            assert server.stop() == 0


def without_age(event: dict) -> dict:
    return event | {"unsigned": {key: value for key, value in event["unsigned"].items() if key != "age"}}


def test_what_was_sent_right_before_the_stop_is_delivered_after_it(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        alice, bob = server.register("alice"), server.register("bob")
        room_id = alice.create_room(preset="public_chat")
        bob.join(room_id)
        bob.sync()
        before = bob.ids(room_id)
        sent = [alice.send(room_id, f"{number}") for number in range(8)]
        assert server.stop() == 0
    with Server(tmp_path) as server:
        again = server.welcome(bob)
        again.sync_until(lambda: again.ids(room_id)[-8:] == sent)
        assert again.ids(room_id) == before + sent
        assert server.stop() == 0
        assert server.lagging_rooms() == []


def test_a_stop_does_not_wait_for_a_waiting_sync(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        alice = server.register("alice")
        alice.sync()
        waiting = alice.twin()

        def wait() -> str:
            path = f"{V3}/sync?since={alice.since}&timeout=20000"
            try:
                return str(waiting.ask("GET", path).status)
            except httpx.TransportError:
                return "closed"

        def stop() -> str:
            time.sleep(0.5)
            return str(server.stop())

        results = at_once(wait, stop)
        assert results[1] == "0"
        assert results[0] in {"503", "closed"}  # both tell a client to come again
        assert server.lines[-1] == f"saved to {tmp_path / 'store'}"


def test_a_start_under_another_name_is_refused(tmp_path: Path) -> None:
    with Server(tmp_path, SERVER_NAME="one.test") as server:
        server.register("alice")
        assert server.stop() == 0
    refused = Server(tmp_path, SERVER_NAME="two.test")
    assert refused.wait() == 1
    assert refused.lines[-1].startswith("cannot start: ")
    assert "one.test" in refused.lines[-1]
    assert "Traceback" not in refused.log
    refused.__exit__(None)
    with Server(tmp_path, SERVER_NAME="one.test") as server:
        assert server.client().log_in("alice").user_id == "@alice:one.test"


def test_a_folder_serves_one_process(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        second = Server(tmp_path)
        assert second.wait() == 1
        assert second.lines == [f"cannot start: {tmp_path} is in use by process {server.process.pid}"]
        second.__exit__(None)
        assert server.client().ok("GET", "/_matrix/client/versions")["versions"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("REGISTRATION", "perhaps"), ("SYNC_POLL_MS", "never"), ("PORT", "http"), ("SERVER_NAME", "no spaces")],
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, name: str, value: str) -> None:
    server = Server(tmp_path, **{name: value})
    assert server.wait() == 1
    assert name in server.lines[-1]
    assert value in server.lines[-1]
    assert "Traceback" not in server.log
    server.__exit__(None)


def test_two_servers_run_side_by_side(tmp_path: Path) -> None:
    with (
        Server(tmp_path / "one", SERVER_NAME="one.test") as one,
        Server(tmp_path / "two", SERVER_NAME="two.test") as two,
    ):
        users: list[Client] = at_once(partial(one.register, "alice"), partial(two.register, "alice"))
        assert [user.user_id for user in users] == ["@alice:one.test", "@alice:two.test"]
        rooms = [user.create_room(room_version="11") for user in users]
        assert [room_id.rpartition(":")[2] for room_id in rooms] == ["one.test", "two.test"]
        for user, room_id in zip(users, rooms, strict=True):
            user.send(room_id, f"of {user.user_id}")
            user.sync_until(lambda user=user, room_id=room_id: len(user.bodies(room_id)) == 1)
            assert user.bodies(room_id) == [f"of {user.user_id}"]
        # What one server gave out means nothing to the other.
        for user, other in ((users[0], two), (users[1], one)):
            stranger = other.welcome(user)
            assert stranger.ask("GET", f"{V3}/account/whoami").errcode == "M_UNKNOWN_TOKEN"
        refused = users[0].act(rooms[0], "invite", user_id="@alice:two.test")
        # Neither has a certificate, or a place in the DNS: they do not find each other.
        assert (refused.status, refused.errcode) == (502, "M_UNKNOWN")
