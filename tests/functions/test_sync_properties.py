"""Whatever happens in rooms, however the followers stumble: each device is told everything once, in order."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from functions.harness import User, call, register
from functions.rooms import create_room, get, path, post, redact, say, send, set_state
from functions.syncing import Device
from homeserver import observability
from homeserver.services.inboxes import follow_room
from homeserver.services.sweep import sweep

pytestmark = pytest.mark.usefixtures("set_up")

STEPS = 90
FAULTS = (
    "follower.between_memberships",
    "follower.before_inboxes",
    "follower.between_inboxes",
    "follower.before_cursor",
    "follower.after_cursor",
)


class Crash(Exception):
    """The process is gone."""


@dataclass
class World:
    """Users, rooms, devices, and one source of chance."""

    random: random.Random
    users: list[User] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    rooms: list[str] = field(default_factory=list)
    sent: list[tuple[str, str]] = field(default_factory=list)
    number: int = 0

    def act(self) -> None:
        user, room_id = self.random.choice(self.users), self.random.choice(self.rooms)
        other = self.random.choice(self.users)
        self.number += 1
        match self.random.choices(
            ["send", "state", "join", "invite", "leave", "kick", "ban", "unban", "redact", "forget", "visibility"],
            [12, 4, 6, 4, 2, 2, 1, 2, 2, 1, 1],
        )[0]:
            case "send":
                for _ in range(self.random.choice([1, 1, 2, 6])):
                    self.number += 1
                    answer = send(user, room_id, f"text {self.number}", f"t{self.number}")
                    if answer.status == 200:
                        self.sent.append((room_id, answer.json["event_id"]))
            case "state":
                set_state(user, room_id, self.random.choice(["m.room.name", "m.room.topic"]), self._content())
            case "visibility":
                content = {"history_visibility": self.random.choice(["shared", "joined", "invited", "world_readable"])}
                set_state(user, room_id, "m.room.history_visibility", content)
            case "redact" if self.sent:
                where, event_id = self.random.choice(self.sent)
                redact(user, where, event_id, f"t{self.number}")
            case "join" | "leave" | "forget" as action:
                post(user, room_id, action)
            case "invite" | "kick" | "ban" | "unban" as action:
                post(user, room_id, action, {"user_id": other.user_id})

    def _content(self) -> dict[str, Any]:
        return {"name": f"name {self.number}", "topic": f"topic {self.number}"}

    def follow(self) -> None:
        """The followers of some rooms run, and may be cut off at any step."""
        left = self.random.randint(0, 6) if self.random.random() < 0.4 else -1
        point = self.random.choice(FAULTS)

        def crash(name: str) -> None:
            nonlocal left
            if name == point:
                left -= 1
                if left == -1:
                    raise Crash

        observability.fault_hook = crash if left >= 0 else None
        try:
            for room_id in self.random.choices(self.rooms, k=self.random.randint(1, 3)):
                follow_room(room_id)
        except Crash:
            pass
        finally:
            observability.fault_hook = None

    def sync(self) -> None:
        device = self.random.choice(self.devices)
        limit = self.random.choice([1, 2, 3, 10])
        device.sync(
            filter={"room": {"timeline": {"limit": limit}, "include_leave": self.random.random() < 0.2}},
            full_state=self.random.random() < 0.1,
        )


@pytest.fixture
def no_faults() -> Iterator[None]:
    yield
    observability.fault_hook = None


def history(user: User, room_id: str) -> list[str]:
    """Everything that the user may see of the room, oldest first; nothing for a room that is closed to them."""
    seen: list[str] = []
    at: str | None = None
    while True:
        page = get(user, "rooms", room_id, "messages", dir="f", limit=50, **({"from": at} if at else {}))
        if page.status != 200:
            return []
        seen += [event["event_id"] for event in page.json["chunk"]]
        at = page.json.get("end")
        if at is None or not page.json["chunk"]:
            return seen


@pytest.mark.parametrize("seed", range(6))
def test_each_device_is_told_everything_once_and_in_order(seed: int, no_faults: None) -> None:
    world = World(random.Random(seed))
    world.users = [register(name) for name in ("anna", "ben", "cleo")]
    # One device of each user builds its state from timelines, the other only from what `state_after` tells.
    queries: tuple[dict[str, Any], ...] = ({}, {"use_state_after": True})
    world.devices = [Device(user, query=query) for user in world.users for query in queries]
    world.rooms = [
        create_room(world.users[0], name="open", preset="public_chat"),
        create_room(world.users[1], name="closed", preset="private_chat", invite=[world.users[2].user_id]),
    ]
    for _ in range(STEPS):
        world.random.choices([world.act, world.follow, world.sync], [5, 3, 3])[0]()
    sweep()
    for device in world.devices:
        device.sync_until_quiet()
    for device in world.devices:
        answer = call("client_rooms", "GET", path("joined_rooms"), token=device.user.token)
        joined = set(answer.json["joined_rooms"])
        assert device.joined == joined
        for room_id in world.rooms:
            told = device.timelines.get(room_id, [])
            assert len(told) == len(set(told)), "an event was told twice"
            visible = history(device.user, room_id)
            if room_id in joined:
                assert told == visible
                answer = get(device.user, "rooms", room_id, "state").json
                assert device.states[room_id] == {(e["type"], e["state_key"]): e["event_id"] for e in answer}
            elif visible:
                # They left: what came after is not told, and a device that came later, or that learnt of a new
                # invitation before it learnt of the end of the stay, was not told of the end either.
                assert told == visible[: len(told)]
    assert sum(len(told) for device in world.devices for told in device.timelines.values()) > 30


def test_a_token_that_is_used_again_is_answered_with_the_same_events(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    sweep()
    device = Device(bob)
    device.sync()
    before = device.since
    sent = say(alice, room_id, "one", "two")
    sweep()
    for _ in range(2):
        device.since = before
        body = device.sync()
        assert [event["event_id"] for event in body["rooms"]["join"][room_id]["timeline"]["events"]] == sent
