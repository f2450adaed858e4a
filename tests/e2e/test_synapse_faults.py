"""Servers that go away and come back: nothing is lost, nothing comes twice, and all end with one state."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.client import Client
from e2e.gate import Gate
from e2e.servers import (
    HomeServer,
    eigenserver,
    eventually,
    join,
    membership,
    needs_synapse,
    server_of,
    state_content,
    state_ids,
    texts,
)
from e2e.synapse_peer import Synapse
from federation_peer import free_port

pytestmark = needs_synapse
MANY = 200


class Three:
    """Two Eigenservers and a Synapse, each behind a gate."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.gates = [stack.enter_context(Gate(free_port())) for _ in range(3)]
        first, second, third = self.gates
        self.synapse = stack.enter_context(Synapse(folder / "synapse", third))
        self.one = stack.enter_context(eigenserver(folder / "one", first))
        self.two = stack.enter_context(eigenserver(folder / "two", second))

    @property
    def servers(self) -> list[HomeServer]:
        return [self.one, self.two, self.synapse]

    def part(self) -> None:
        """Nobody reaches anybody."""
        for gate in self.gates:
            gate.shut()

    def meet(self) -> None:
        """Everybody reaches everybody."""
        for gate in self.gates:
            gate.open()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    with ExitStack() as stack:
        yield Three(tmp_path_factory.mktemp("three"), stack)


def shared_by_all(three: Three, name: str, **body: object) -> tuple[str, list[Client]]:
    """A room with a user of each server; the first made it."""
    people = [server.register(f"{name}{number}") for number, server in enumerate(three.servers)]
    for person in people:
        person.meets_others = True
    room_id = people[0].create_room(**{"preset": "public_chat"} | body)
    for guest in people[1:]:
        assert join(guest, room_id, server_of(people[0])).status == 200
    for user in people:
        for other in people:
            eventually(lambda u=user, o=other: membership(u, room_id, o) == "join", "all are there for everybody")
    return room_id, people


@pytest.mark.parametrize("down", ["eigenserver", "synapse"])
def test_a_server_that_was_away_for_200_messages_gets_all_in_order_and_once(three: Three, down: str) -> None:
    room_id, (anna, *others) = shared_by_all(three, f"away-{down}-")
    absent = others[0] if down == "eigenserver" else others[1]
    present = others[1] if down == "eigenserver" else others[0]
    gate = three.gates[1] if down == "eigenserver" else three.gates[2]
    absent.sync()
    gate.shut()
    said = [f"while you were away {number}" for number in range(MANY)]
    for body in said:
        anna.send(room_id, body)
    eventually(lambda: texts(present, room_id) == said, "the others are not held up")
    gate.open()
    absent_speaks = absent.send(room_id, "I am back")  # a sign of life
    eventually(lambda: [t for t in texts(absent, room_id) if t in set(said)] == said, "everything arrives", 120)
    if down == "eigenserver":
        absent.sync_until(lambda: set(said) <= set(absent.bodies(room_id)), 60)
    ids = [event["event_id"] for event in absent.messages(room_id, "b")]
    assert len(ids) == len(set(ids))
    assert absent_speaks in ids


def test_what_three_parted_servers_decided_heals_to_one_state(three: Three) -> None:
    """Each side sets power levels, bans and topics that contradict those of the others."""
    levels = {"events": {"m.room.power_levels": 50}}
    room_id, people = shared_by_all(three, "parted", power_level_content_override=levels)
    anna, bert, carl = people
    victim = three.one.register("victim")
    assert join(victim, room_id).status == 200
    power = state_content(anna, room_id, "m.room.power_levels")
    power["users"] = {**power.get("users", {}), bert.user_id: 90, carl.user_id: 90}
    anna.set_state(room_id, "m.room.power_levels", power)
    for user in people:
        eventually(
            lambda u=user: (
                (state_content(u, room_id, "m.room.power_levels") or {}).get("users", {}).get(carl.user_id) == 90
            ),
            "everybody knows the power levels",
        )
        eventually(lambda u=user: membership(u, room_id, victim) == "join", "everybody knows the victim")

    three.part()
    for number, user in enumerate(people):
        user.set_state(room_id, "m.room.topic", {"topic": f"by {number}"})
        user.send(room_id, f"alone {number}")
    anna.set_state(room_id, "m.room.power_levels", power | {"users": power["users"] | {bert.user_id: 0}})
    bert.set_state(room_id, "m.room.power_levels", power | {"users": power["users"] | {victim.user_id: 10}})
    assert carl.act(room_id, "ban", user_id=victim.user_id).status == 200
    assert bert.act(room_id, "kick", user_id=victim.user_id).status == 200
    victim.send(room_id, "I am still here")
    three.meet()

    for number, user in enumerate(people):
        user.send(room_id, f"together {number}")

    def agree() -> bool:
        states = [state_ids(user, room_id) for user in people]
        return states[0] == states[1] == states[2]

    def speak_until_agreed() -> bool:
        for user in people:
            user.try_send(room_id, "are we one?")
        return agree()

    eventually(speak_until_agreed, "one state everywhere", 120)
    for user in people:
        eventually(
            lambda u=user: {f"together {number}" for number in range(3)} <= set(texts(u, room_id)),
            f"{user.user_id} has what was said",
            60,
        )
    assert membership(anna, room_id, victim) == "ban"
    assert state_content(carl, room_id, "m.room.power_levels")["users"].get(bert.user_id, 0) == 0
