"""The stream of the 2014 draft while others write: from /initialSync to /events nothing is lost or comes twice.

Also on servers that are as unkind as AWS may be (see test_races).
"""

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from e2e.client import Client, at_once, segments
from e2e.draft_client import DRAFT_KEYS, DraftClient
from e2e.local_run import Server
from e2e.racing import race_on, servers

SENDERS = 8
MESSAGES = 8  # of each sender
_names = itertools.count(1)


@pytest.fixture(scope="session", params=servers("draft-races", {"": "a", "1": "a", "2": "b"}))
def racing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server to race on."""
    with race_on(tmp_path_factory.mktemp("draft-racing"), request.param) as server:
        yield server


@pytest.fixture
def register(racing: Server) -> Callable[[str], Client]:
    return lambda name: racing.register(f"{name}{next(_names)}")


def test_from_snapshot_to_stream_nothing_is_lost_or_told_twice_under_eight_senders(
    register: Callable[[str], Client],
) -> None:
    users = [register("sender") for _ in range(SENDERS)]
    owner = users[0]
    room_id = owner.create_room(preset="public_chat")
    at_once(*(partial(user.join, room_id) for user in users[1:]))
    expected = {f"{user.user_id} {number}" for user in users for number in range(MESSAGES)}

    def talk(user: Client) -> list[str]:
        return [user.send(room_id, f"{user.user_id} {number}") for number in range(MESSAGES)]

    def talk_as_in_2014(user: Client) -> list[str]:
        client = DraftClient(user)
        return [client.send(room_id, f"{user.user_id} {number}") for number in range(MESSAGES)]

    def watch(user: Client, *, after: float, limit: int) -> list[str]:
        client = DraftClient(user)
        time.sleep(after)  # so that the snapshot is taken while others write
        client.start()
        client.listen_until(lambda: set(client.bodies(room_id)) >= expected, seconds=60, limit=limit)
        assert not client.listen()
        return client.ids(room_id)

    watchers = [partial(watch, users[n].twin(), after=n * 0.15, limit=limit) for n, limit in enumerate((100, 3, 20, 1))]
    senders = [partial(talk if n % 2 else talk_as_in_2014, user) for n, user in enumerate(users)]
    results = at_once(*senders, *watchers)
    sent = [event_id for ids in results[:SENDERS] for event_id in ids]
    history = owner.history(room_id)
    order = [event["event_id"] for event in history]
    assert sorted(event["event_id"] for event in history if event["type"] == "m.room.message") == sorted(sent)
    for told in results[SENDERS:]:
        start = order.index(told[0])
        assert told == order[start:]  # each event once, in the room's order, up to the last


def test_two_dialects_share_a_room_and_each_sees_its_own_shapes(register: Callable[[str], Client]) -> None:
    alice, bob = register("alice"), register("bob")
    old = DraftClient(bob)
    room_id = alice.create_room(preset="public_chat", name="Tea", room_version="11")
    bob.join(room_id)
    old.start()
    alice.sync()
    first = alice.send(room_id, "from today")
    second = old.send(room_id, "from 2014")
    alice.set_state(room_id, "m.room.topic", {"topic": "green"})
    alice.set_state(room_id, "m.room.topic", {"topic": "black"})
    levels = alice.state(room_id)["m.room.power_levels", ""]["content"]
    alice.set_state(room_id, "m.room.power_levels", {**levels, "ban": 60})
    old.listen_until(lambda: len(old.ids(room_id)) and old.seen[room_id][-1]["type"] == "m.room.power_levels")
    alice.sync_until(lambda: alice.seen[room_id][-1]["type"] == "m.room.power_levels")
    history = alice.history(room_id)
    # The same history, told by both streams and read by both.
    order = [event["event_id"] for event in history]
    assert {first, second} <= set(order)
    assert old.ids(room_id) == order[order.index(old.ids(room_id)[0]) :]
    pages = old.ok("GET", "rooms", room_id, "messages", dir="f", limit=100)["chunk"]
    assert [event["event_id"] for event in pages] == order
    for event in [*history, *alice.seen[room_id], *alice.state(room_id).values()]:
        assert not DRAFT_KEYS & set(event)
    modern = {event["event_id"]: event for event in history}
    for event in [*pages, *old.seen[room_id]]:
        of_today = modern[event["event_id"]]
        assert event["user_id"] == event["sender"] == of_today["sender"]
        assert event["age"] >= 0
        assert event["origin_server_ts"] == of_today["origin_server_ts"]
        if event["type"] != "m.room.power_levels":
            assert event["content"] == of_today["content"]
        assert ("required_power_level" in event) is ("state_key" in event)
    topic = [event for event in pages if event["type"] == "m.room.topic"][-1]
    assert topic["prev_content"] == {"topic": "green"}
    assert modern[topic["event_id"]]["unsigned"]["prev_content"] == {"topic": "green"}
    changed = pages[-1]
    assert changed["content"] == {alice.user_id: 100, "default": 0}
    assert modern[changed["event_id"]]["content"]["ban"] == 60
    # What the draft knows beside the state of today is there under its paths alone.
    assert old.ok("GET", "rooms", room_id, "state", "m.room.ops_levels")["ban_level"] == 60
    where = segments("rooms", room_id, "state", "m.room.ops_levels")
    assert alice.ask("GET", where).errcode == "M_NOT_FOUND"
    types = {event["type"] for event in alice.state(room_id).values()}
    assert not {"m.room.config", "m.room.aliases", "m.room.ops_levels", "m.room.add_state_level"} & types
