"""What /sync may cost, in sequential rounds and read units: warm, and in a process that was just started."""

from collections.abc import Callable

import pytest

from benchmarks.caches import forget_everything
from functions.harness import User, register
from functions.rooms import create_room, follow, say, set_state
from functions.syncing import Device, ask
from homeserver.observability import metered
from homeserver.storage.room_items import HEAD, Head

pytestmark = pytest.mark.usefixtures("set_up")
CLIENT_SYNC = 1  # round of client_sync: the token of the device, and beside it the first look into the inbox


@pytest.fixture
def phone(alice: User, bob: User) -> Device:
    for _ in range(5):
        create_room(alice, bob)
    follow()
    device = Device(bob)
    device.sync()
    return device


@pytest.fixture
def carol() -> User:
    return register("carol")


@pytest.mark.parametrize("warm", [True, False])
def test_one_message_in_one_room_takes_three_rounds(phone: Device, alice: User, warm: bool) -> None:
    room_id = min(phone.joined)
    say(alice, room_id, "hello")
    follow()
    if not warm:
        forget_everything()
    with metered() as meter:
        body = phone.sync()
    assert list(body["rooms"]["join"]) == [room_id]
    assert CLIENT_SYNC + meter.rounds <= 3
    # warm: the inbox (0.5), head and row (2), timeline (1); cold also the slots (0.5) and the identity (1)
    assert meter.rru == (3.5 if warm else 5)
    assert meter.wru == 0


def test_eight_rooms_that_moved_take_as_many_rounds_as_one(phone: Device, alice: User) -> None:
    for room_id in phone.joined:
        say(alice, room_id, f"to {room_id}")
    follow()
    with metered() as meter:
        assert len(phone.sync()["rooms"]["join"]) == 5
    assert CLIENT_SYNC + meter.rounds <= 3


@pytest.mark.parametrize("rooms", [3, 9])
def test_each_room_of_a_cold_initial_sync_costs_one_call_for_its_timeline(carol: User, rooms: int) -> None:
    for _ in range(rooms):
        create_room(carol)
    follow()
    forget_everything()
    with metered() as meter:
        assert len(Device(carol).sync()["rooms"]["join"]) == rooms
    # the inbox, the identity, slots, account data, invitations; heads with rows; ephemeral items, and who is ignored;
    # roots of all states
    assert meter.calls == rooms + 9


def test_no_news_takes_one_round_and_half_a_unit(phone: Device) -> None:
    with metered() as meter:
        phone.sync()
    assert (meter.rounds, meter.calls, meter.rru) == (1, 1, 0.5)


def test_a_state_event_that_the_timeline_shows_takes_no_more(phone: Device, alice: User) -> None:
    set_state(alice, min(phone.joined), "m.room.name", {"name": "Tea"})
    follow()
    with metered() as meter:
        phone.sync()
    assert CLIENT_SYNC + meter.rounds <= 3


def test_the_hundred_and_fiftieth_event_costs_what_the_twentieth_does(phone: Device, alice: User) -> None:
    """It lies in the second partition of the timeline."""
    room_id = min(phone.joined)
    costs = []
    for texts in ([f"early {n}" for n in range(12)], [f"late {n}" for n in range(130)]):
        say(alice, room_id, *texts)
        follow()
        phone.sync_until_quiet()
        say(alice, room_id, f"after {texts[0]}")
        follow()
        with metered() as meter:
            phone.sync()
        costs.append((meter.rounds, meter.calls, meter.rru))
    assert costs[0] == costs[1]


@pytest.mark.parametrize("before", [93, 95, 100, 105])
def test_a_timeline_that_lies_in_two_partitions_takes_as_many_rounds_as_in_one(
    phone: Device, alice: User, before: int
) -> None:
    room_id = min(phone.joined)
    head = Head.fetch(room_id, HEAD)
    assert head is not None
    say(alice, room_id, *[f"text {n}" for n in range(before - int(head.position))])
    follow()
    phone.sync_until_quiet()
    sent = say(alice, room_id, *[f"more {n}" for n in range(8)])
    follow()
    forget_everything()
    with metered() as meter:
        timeline = phone.sync()["rooms"]["join"][room_id]["timeline"]
    assert ([event["event_id"] for event in timeline["events"]], timeline["limited"]) == (sent, False)
    assert CLIENT_SYNC + meter.rounds <= 3


def test_the_answer_says_what_it_cost_when_it_is_asked_to(
    phone: Device, alice: User, server: Callable[..., None]
) -> None:
    server(COST_METER="on")
    say(alice, min(phone.joined), "hello")
    follow()
    meter = ask(phone.user, phone.since)["meter"]
    assert meter["rounds"] == 2
    assert set(meter) >= {"rounds", "calls", "rru", "wru"}
