"""Forks converge: whatever the order in which events arrive, the room's state is what its branches resolve to."""

import random
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.caches import forget_everything
from functions.harness import User, table_definitions
from functions.remote_server import RemoteServer, State, head_of, rows_of, state_of
from functions.rooms import create_room
from homeserver.adapters import aws
from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.services.receive_events import receive_events
from homeserver.storage.connection import query_range
from homeserver.storage.room_items import AUTHORISING
from homeserver.storage.room_items import RemoteServer as ServerRow

pytestmark = pytest.mark.usefixtures("set_up")
CAROL, DAVE, ERIN = "@carol:remote.test", "@dave:remote.test", "@erin:elsewhere.test"


class Store:
    """All tables as they are now, to come back to: moto's reset would take the users with it."""

    def __init__(self) -> None:
        self._client = aws.client("dynamodb")
        self._tables = {d["TableName"]: self._items(d["TableName"]) for d in table_definitions()}
        self._keys = {d["TableName"]: [k["AttributeName"] for k in d["KeySchema"]] for d in table_definitions()}

    def _items(self, table: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self._client.scan(TableName=table)["Items"]
        return items

    def restore(self) -> None:
        for table, kept in self._tables.items():
            for item in self._items(table):
                if item not in kept:
                    self._client.delete_item(TableName=table, Key={name: item[name] for name in self._keys[table]})
            now = self._items(table)
            for item in kept:
                if item not in now:
                    self._client.put_item(TableName=table, Item=item)
        forget_everything()


def a_room(alice: User, version: str) -> RemoteServer:
    """Alice with 100, Carol with 50, Dave and Erin with 0."""
    room_id = create_room(alice, preset="public_chat", room_version=version)
    remote = RemoteServer(room_id)
    remote.accepted(remote.join(CAROL))
    remote.accepted(remote.join(DAVE))
    remote.accepted(remote.join(ERIN))
    remote.accepted(remote.power(alice.user_id, {CAROL: 50}))
    return remote


def check_room(room_id: str, expected: State) -> None:
    """Root, rows and servers of the room are those of this state."""
    head = head_of(room_id)
    assert state_of(room_id) == expected
    assert head.root == state_tree.build(expected).root
    assert rows_of(room_id) == expected
    assert head.rows_root == head.root
    named = {letter: expected[key] for letter, key in AUTHORISING.items() if key in expected}
    assert head.authorising == named


def check_servers(remote: RemoteServer, expected: State) -> None:
    joined: dict[str, int] = {}
    for key, event_id in expected.items():
        if key[0] == "m.room.member" and remote.events[event_id].content["membership"] == "join":
            server = key[1].partition(":")[2]
            joined[server] = joined.get(server, 0) + 1
    joined.pop("example.org")
    rows = query_range(ServerRow, remote.room_id, "server/", consistent=True)
    assert {row.k.removeprefix("server/"): int(row.members) for row in rows if row.members} == joined
    assert head_of(remote.room_id).remote_servers == len(joined)


def topological_orders(events: list[Event], seed: int) -> Iterator[list[Event]]:
    """Random orders in which each event comes after those before it; endless."""
    rng = random.Random(seed)
    ids = {event.event_id for event in events}
    while True:
        left, order, done = list(events), [], set()
        while left:
            ready = [event for event in left if all(i in done or i not in ids for i in event.prev_event_ids)]
            event = rng.choice(ready)
            left.remove(event)
            order.append(event)
            done.add(event.event_id)
        yield order


@pytest.mark.parametrize("version", ["1", "2", "6", "11", "12"])
def test_topic_power_and_ban_at_the_same_time_end_the_same_in_every_order(alice: User, version: str) -> None:
    remote = a_room(alice, version)
    tip = remote.tips()
    topic = remote.topic(CAROL, "by Carol", prev=tip)
    demotion = remote.power(alice.user_id, {CAROL: 0}, prev=tip)
    ban = remote.member(alice.user_id, "ban", DAVE, prev=tip)
    rename = remote.make("m.room.member", {"membership": "join", "displayname": "D"}, DAVE, state_key=DAVE, prev=tip)
    forks = [topic, demotion, ban, rename]
    merge = remote.say(alice.user_id, "merged", prev=[event.event_id for event in forks])
    expected = remote.after[merge.event_id]
    assert expected["m.room.member", DAVE] == ban.event_id
    assert expected["m.room.power_levels", ""] == demotion.event_id
    store = Store()
    for number, order in enumerate(permutations(forks)):
        if number % 3:
            continue
        store.restore()
        for event in order:
            receive_events(remote.room_id, [event])
        receive_events(remote.room_id, [merge])
        check_room(remote.room_id, expected)
        check_servers(remote, expected)
        assert remote.tips() == [merge.event_id]


def test_without_a_refusal_the_state_is_the_same_before_anybody_merges(alice: User) -> None:
    remote = a_room(alice, "11")
    tip = remote.tips()
    first = remote.topic(CAROL, "one", prev=tip)
    second = remote.topic(CAROL, "two", prev=[remote.say(CAROL, "a word", prev=tip).event_id])
    third = remote.make("m.room.name", {"name": "Tea"}, CAROL, state_key="", prev=[first.event_id])
    events = [first, second, third, next(e for e in remote.events.values() if e.content.get("body") == "a word")]
    expected = remote.resolved([remote.after[second.event_id], remote.after[third.event_id]])
    store = Store()
    orders = topological_orders(events, 7)
    for _ in range(6):
        store.restore()
        for event in next(orders):
            receive_events(remote.room_id, [event])
            assert rows_of(remote.room_id) == state_of(remote.room_id)
        check_room(remote.room_id, expected)
        assert set(remote.tips()) == {second.event_id, third.event_id}


Step = tuple[int, int, tuple[int, ...]]
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 7), st.lists(st.integers(0, 9), min_size=1, max_size=2).map(tuple)),
    min_size=2,
    max_size=7,
)


def grow(remote: RemoteServer, alice: User, steps: list[Step]) -> list[Event]:
    """A graph by random steps: who, what, after which of the events before. Some of it breaks the rules."""
    made: list[str] = remote.tips()
    events: list[Event] = []
    users = (alice.user_id, CAROL, DAVE, ERIN)
    for who, what, after in steps:
        sender = users[who]
        prev = list(dict.fromkeys(made[index % len(made)] for index in after))
        match what:
            case 0:
                event = remote.say(sender, f"{len(events)}", prev=prev)
            case 1 | 2:
                event = remote.topic(sender, f"{len(events)}", prev=prev)
            case 3:
                event = remote.power(sender, {DAVE: 50}, prev=prev)
            case 4:
                event = remote.power(sender, {CAROL: 0}, prev=prev)
            case 5:
                event = remote.member(sender, "ban", DAVE, prev=prev)
            case 6:
                event = remote.member(sender, "leave", ERIN, prev=prev)
            case _:
                event = remote.join(sender, prev=prev)
        events.append(event)
        made.append(event.event_id)
    leaves = set(made) - {event_id for event in events for event_id in event.prev_event_ids}
    ordered = [event_id for event_id in made if event_id in leaves]
    return [*events, remote.say(alice.user_id, "merged", prev=ordered)]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["11", "2"])
def test_any_small_graph_ends_the_same_in_every_order(alice: User, version: str) -> None:
    base = a_room(alice, version)
    store = Store()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(STEPS, st.integers(0, 1000), st.booleans())
    def holds(steps: list[Step], seed: int, in_batches: bool) -> None:
        store.restore()
        remote = RemoteServer(base.room_id)
        events = grow(remote, alice, steps)
        expected = remote.after[events[-1].event_id]
        orders = topological_orders(events, seed)
        for _ in range(2):
            store.restore()
            order = next(orders)
            for batch in [order] if in_batches else [[event] for event in order]:
                receive_events(remote.room_id, batch)
                head = head_of(remote.room_id)
                assert head.rows_root == head.root
            check_room(remote.room_id, expected)
            check_servers(remote, expected)
            assert remote.tips() == [events[-1].event_id]

    holds()
