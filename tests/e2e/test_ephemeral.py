"""Receipts and typing between devices that wait in /sync, on a kind server and on one as unkind as AWS may be."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from e2e.client import Client, at_once, segments
from e2e.local_run import Server

READERS = 16
_names = itertools.count(1)


@pytest.fixture(scope="module", params=["", "1"], ids=["kind", "unkind"])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    unkindness = {"UNKIND_SEED": request.param} if request.param else {}
    with Server(tmp_path_factory.mktemp("ephemeral"), **unkindness) as server:
        yield server
        server.stop()
        assert "Traceback" not in server.log, server.log


@pytest.fixture
def register(crowded: Server) -> Callable[[str], Client]:
    return lambda name: crowded.register(f"{name}{next(_names)}")


@dataclass(slots=True)
class Watcher:
    """A device's picture of one room's receipts and typing users, from nothing but what it was told."""

    user: Client
    room_id: str
    receipts: dict[str, str] = field(default_factory=dict)
    typing: list[str] = field(default_factory=list)

    def look(self, seconds: float = 0.0) -> None:
        """One sync, which waits so long for news."""
        body = self.user.sync(timeout=seconds)
        room = body.get("rooms", {}).get("join", {}).get(self.room_id, {})
        for event in room.get("ephemeral", {}).get("events", []):
            if event["type"] == "m.typing":
                self.typing = event["content"]["user_ids"]
                continue
            for event_id, kinds in event["content"].items():
                self.receipts |= dict.fromkeys(kinds.get("m.read", {}), event_id)

    def look_until(self, done: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, (self.receipts, self.typing)
            self.look(2.0)


def read(user: Client, room_id: str, event_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = user.ok("POST", segments("rooms", room_id, "receipt", "m.read", event_id), {})
    return answer


def type_in(user: Client, room_id: str, *, typing: bool = True, timeout: int = 30_000) -> None:
    where = segments("rooms", room_id, "typing", user.user_id)
    user.ok("PUT", where, {"typing": typing, "timeout": timeout})


def test_of_sixteen_receipts_at_once_every_device_is_told_all(register: Callable[[str], Client]) -> None:
    users = [register("reader") for _ in range(READERS)]
    room_id = users[0].create_room(preset="public_chat")
    at_once(*(partial(user.join, room_id) for user in users[1:]))
    first, second = (users[0].send(room_id, text) for text in ("one", "two"))
    watchers = [Watcher(user.twin(), room_id) for user in users[:3]]
    for watcher in watchers:
        watcher.look()
    for event_id in (first, second):
        at_once(*(partial(read, user, room_id, event_id) for user in users))
        expected = {user.user_id: event_id for user in users}
        for watcher in watchers:
            watcher.look_until(lambda w=watcher, e=expected: w.receipts == e)


def test_a_device_that_waits_sees_typing_begin_and_end(register: Callable[[str], Client]) -> None:
    alice, bob = register("alice"), register("bob")
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)
    watcher = Watcher(alice.twin(), room_id)
    watcher.look_until(lambda: room_id in watcher.user.seen)
    type_in(bob, room_id)
    watcher.look_until(lambda: watcher.typing == [bob.user_id])
    type_in(bob, room_id, typing=False)
    watcher.look_until(lambda: watcher.typing == [])
    started = time.monotonic()
    type_in(bob, room_id, timeout=1_500)
    watcher.look_until(lambda: watcher.typing == [bob.user_id])
    watcher.look_until(lambda: watcher.typing == [], seconds=10.0)  # bob's client is gone: nobody writes
    assert time.monotonic() - started >= 1.5
