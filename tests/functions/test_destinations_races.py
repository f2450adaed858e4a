"""Router and senders cut off at each step, and at work at the same time: nothing is lost, and order is kept."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from functions.federating import LOOPBACK
from functions.harness import User
from functions.rooms import follow, say
from functions.sending import (
    Crash,
    Outbox,
    Receiver,
    between,
    invoke_sender,
    is_well,
    record_of,
    shared_room,
    speak,
    stored_head,
)
from homeserver import observability
from homeserver.services import destinations
from homeserver.storage.destinations import dead_servers, read_behind, read_destination

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture
def outbox(server: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Outbox:
    server(**LOOPBACK)
    return Outbox(monkeypatch)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path) as running:
        yield running


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path) as running:
        yield running


# ── Cut off, everywhere ─────────────────────────────────────────────────────────────────────────────

DEATH = [
    "sender.before_request",
    "sender.failed",
    "destination.scheduled",
    "destination.failed",
    "destination.listed",
    "destination.dead",
    "destination.row",
]


@pytest.mark.parametrize("point", DEATH)
def test_a_sender_that_is_cut_off_while_a_server_fails_loses_nothing(
    outbox: Outbox, alice: User, peer: Receiver, point: str
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    second, _ = shared_room(outbox, alice, peer)
    peer.fails()
    say(alice, room_id, "one")
    say(alice, second, "a")
    outbox.route(room_id, second)
    assert outbox.crashing(outbox.send_some, point)
    say(alice, room_id, "two")
    outbox.flow()
    assert read_destination(peer.name).is_dead
    assert set(dead_servers()) == {peer.name}
    assert {row.room_id for row in read_behind(peer.name)} == {room_id, second}
    peer.fails(None)
    outbox.fire(peer.name)
    outbox.send()
    assert [body for body in peer.bodies() if body != "a"] == ["one", "two"]
    assert "a" in peer.bodies()
    assert is_well(peer)


@pytest.mark.parametrize("point", ["sender.before_request", "sender.after_request", "sender.sent"])
def test_a_sender_that_is_cut_off_while_all_is_well_sends_the_same_transaction_again(
    outbox: Outbox, alice: User, peer: Receiver, point: str
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    say(alice, room_id, "one", "two")
    outbox.route(room_id)
    assert outbox.crashing(outbox.send_some, point)
    outbox.send()
    assert peer.bodies() == ["one", "two"]
    assert len(peer.transactions()) == 1
    assert peer.tries == (1 if point == "sender.before_request" else 2)
    assert is_well(peer)


REVIVAL = [
    "sender.before_request",
    "sender.after_request",
    "catch_up.tried",
    "destination.unlisted",
    "destination.alive",
    "destination.answered",
    "catch_up.sent",
    "catch_up.dropped",
    "catch_up.done",
]


@pytest.mark.parametrize("point", REVIVAL)
def test_a_sender_that_is_cut_off_while_a_server_catches_up_loses_nothing(
    outbox: Outbox, alice: User, peer: Receiver, point: str
) -> None:
    rooms = [shared_room(outbox, alice, peer)[0] for _ in range(2)]
    peer.fails()
    for room_id in rooms:
        for number in range(60):
            speak(alice, room_id, f"{rooms.index(room_id)}/{number}")
    outbox.flow()
    peer.fails(None)
    outbox.fire(peer.name)
    assert outbox.crashing(outbox.send_some, point)
    for room_id in rooms:
        speak(alice, room_id, f"{rooms.index(room_id)}/60")
    outbox.flow()
    for number in range(2):
        mine = [body for body in peer.bodies() if body.startswith(f"{number}/")]
        assert mine == [f"{number}/{n}" for n in range(61)]
    assert is_well(peer)


# ── The router and the senders at the same time ─────────────────────────────────────────────────────


MISSED = [f"missed {number}" for number in range(52)]  # more than one transaction holds


def dead_peer(outbox: Outbox, alice: User, peer: Receiver) -> tuple[str, str]:
    """Two rooms with a server that is dead; only of the first it has missed something."""
    first, _ = shared_room(outbox, alice, peer)
    second, _ = shared_room(outbox, alice, peer)
    peer.fails()
    for text in MISSED:
        speak(alice, first, text)
    outbox.flow()
    assert [row.room_id for row in read_behind(peer.name)] == [first]
    return first, second


@pytest.mark.parametrize("point", ["outbound.dead_read", "outbound.rows", "outbound.before_messages"])
@pytest.mark.parametrize("with_row", [False, True])
def test_a_server_that_comes_alive_while_the_router_leaves_it_out_misses_nothing(
    outbox: Outbox, alice: User, peer: Receiver, point: str, with_row: bool
) -> None:
    first, second = dead_peer(outbox, alice, peer)
    room_id = first if with_row else second
    if with_row and point == "outbound.rows":
        destinations.forget_destinations()  # the router does not know of the row
    speak(alice, room_id, "new")

    def revive() -> None:
        peer.fails(None)
        outbox.fire(peer.name)
        outbox.send()

    with between(point, revive):
        outbox.route(room_id)
    outbox.send()
    speak(alice, room_id, "newer")
    outbox.flow()
    missed = [body for body in peer.bodies() if body in MISSED]
    assert (missed, peer.bodies()[-1]) == (MISSED, "newer")
    assert sorted(peer.bodies()) == sorted([*MISSED, "new", "newer"])
    if with_row:
        assert peer.bodies()[-2] == "new"
    assert is_well(peer)


@pytest.mark.parametrize("point", REVIVAL)
@pytest.mark.parametrize("with_row", [False, True])
def test_a_router_that_works_while_a_server_comes_alive_loses_nothing_of_it(
    outbox: Outbox, alice: User, peer: Receiver, point: str, with_row: bool
) -> None:
    first, second = dead_peer(outbox, alice, peer)
    room_id = first if with_row else second
    peer.fails(None)
    outbox.fire(peer.name)

    def route() -> None:
        speak(alice, room_id, "new")
        outbox.route(room_id)

    with between(point, route):
        outbox.send_some()
    outbox.send()
    speak(alice, room_id, "newer")
    outbox.flow()
    missed = [body for body in peer.bodies() if body in MISSED]
    assert (missed, peer.bodies()[-1]) == (MISSED, "newer")
    assert sorted(peer.bodies()) == sorted([*MISSED, "new", "newer"])
    if with_row:
        assert peer.bodies()[-2] == "new"
    assert is_well(peer)


@pytest.mark.parametrize("point", DEATH)
def test_a_router_that_works_while_a_server_dies_loses_nothing_of_it(
    outbox: Outbox, alice: User, peer: Receiver, point: str
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    peer.fails()
    speak(alice, room_id, "one")
    outbox.route(room_id)

    def route() -> None:
        speak(alice, room_id, "two")
        outbox.route(room_id)

    with between(point, route):
        outbox.send_some()
    outbox.send()
    peer.fails(None)
    outbox.fire(peer.name)
    outbox.send()
    assert peer.bodies() == ["one", "two"]
    assert is_well(peer)


@pytest.mark.parametrize("point", ["outbound.dead_read", "outbound.rows", "outbound.before_messages"])
def test_a_router_that_is_cut_off_while_a_server_comes_alive_loses_nothing(
    outbox: Outbox, alice: User, peer: Receiver, point: str
) -> None:
    _, second = dead_peer(outbox, alice, peer)
    speak(alice, second, "new")
    assert outbox.crashing(partial(outbox.route, second), point)
    peer.fails(None)
    outbox.fire(peer.name)
    outbox.send()
    outbox.flow()
    assert [body for body in peer.bodies() if body != "new"] == MISSED
    assert sorted(peer.bodies()) == sorted([*MISSED, "new"])
    assert is_well(peer)


def test_a_row_that_a_router_left_behind_when_it_was_cut_off_is_found_by_the_sweep(
    outbox: Outbox, alice: User, peer: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = dead_peer(outbox, alice, peer)
    speak(alice, second, "new")

    def hook(name: str) -> None:
        if name == "outbound.dead_read":
            monkeypatch.setattr(observability, "fault_hook", crash)
            peer.fails(None)
            outbox.fire(peer.name)
            outbox.send()

    def crash(name: str) -> None:
        if name == "outbound.rows":
            raise Crash(name)

    with suppress(Crash):
        monkeypatch.setattr(observability, "fault_hook", hook)
        outbox.route(second)
    monkeypatch.setattr(observability, "fault_hook", None)
    assert [row.room_id for row in read_behind(peer.name)] == [second]
    follow()
    outbox.send()
    assert [body for body in peer.bodies() if body != "new"] == MISSED
    assert sorted(peer.bodies()) == sorted([*MISSED, "new"])
    assert is_well(peer)


# ── Two senders, where the lock of the queue does not hold ──────────────────────────────────────────


@pytest.mark.parametrize("point", [*DEATH, "nothing"])
def test_a_second_sender_that_succeeds_while_the_first_fails_loses_nothing(
    outbox: Outbox, alice: User, peer: Receiver, point: str
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    second, _ = shared_room(outbox, alice, peer)
    peer.fails()
    speak(alice, room_id, "one")
    outbox.route(room_id)
    speak(alice, second, "a")
    position = int(stored_head(second))
    message = {"server": peer.name, "room": second, "at": position, "ranges": [[position, position]]}

    def send_other() -> None:
        invoke_sender([record_of(message, peer.name)])

    if point == "nothing":
        outbox.send_some()
        send_other()
    else:
        with between(point, send_other):
            outbox.send_some()
    outbox.send()
    peer.fails(None)
    outbox.fire(peer.name)
    outbox.send()
    assert sorted(peer.bodies()) == ["a", "one"]
    assert is_well(peer)


def test_a_sender_that_puts_off_what_another_has_just_made_possible_has_it_sent(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    first, second = dead_peer(outbox, alice, peer)
    speak(alice, second, "new")
    position = stored_head(second)
    message = {"server": peer.name, "room": second, "at": position, "ranges": [[position, position]]}

    def revive() -> None:
        peer.fails(None)
        invoke_sender([record_of({"retry": peer.name, "at": 1}, peer.name)])

    with between("destination.row", revive):
        invoke_sender([record_of(message, peer.name)])
    outbox.send()
    assert [body for body in peer.bodies() if body != "new"] == MISSED
    assert sorted(peer.bodies()) == sorted([*MISSED, "new"])
    assert is_well(peer)
    assert first != second
