"""What relations cost, and that what a process remembers of timelines is not what was aggregated long ago."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest

from functions.harness import User
from functions.relating import bundle, children, edit, react, refer, reply, say
from functions.rooms import create_room, follow, messages, redact
from functions.syncing import sync


@contextmanager
def counted() -> Any:
    from homeserver.observability import metered

    with metered() as meter:
        yield meter


def cost(work: Callable[[], Any]) -> tuple[int, float, float]:
    """Rounds, read and write units."""
    with counted() as meter:
        work()
    return meter.rounds, meter.rru, meter.wru


def forget() -> None:
    from benchmarks.caches import forget_everything

    forget_everything()


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What DynamoDB bills for each transaction: moto does not say. Two units for each item of up to 1 KB."""
    from homeserver.storage.connection import Transaction

    billed: list[int] = []
    commit = Transaction.commit

    def count(transaction: Transaction) -> None:
        billed.append(2 * len(transaction))
        commit(transaction)

    monkeypatch.setattr(Transaction, "commit", count)
    return billed


def largest_item(noun: str) -> int:
    from homeserver.adapters import aws
    from homeserver.request_units import item_bytes
    from homeserver.settings import table_name

    items = aws.client("dynamodb").scan(TableName=table_name(noun))["Items"]
    return max(item_bytes(item) for item in items)


def test_a_relation_costs_few_write_units_more_and_no_round(alice: User, bob: User, units: list[int]) -> None:
    room_id = create_room(alice, bob)
    parent, edited, referred, quiet = (say(alice, room_id, str(number)) for number in range(4))
    reply(bob, room_id, parent, "the first one")

    def measured(work: Callable[[], Any]) -> tuple[int, int]:
        units.clear()
        return cost(work)[0], sum(units)

    rounds, plain = measured(lambda: say(alice, room_id, "plain"))
    costs = {
        "reaction": measured(lambda: react(alice, room_id, parent)),
        "edit": measured(lambda: edit(alice, room_id, edited, "better")),
        "reference": measured(lambda: refer(alice, room_id, referred)),
        "first reply": measured(lambda: reply(alice, room_id, quiet, "one")),
        "next reply": measured(lambda: reply(alice, room_id, parent, "two")),
    }
    assert {name: figures[0] for name, figures in costs.items()} == dict.fromkeys(costs, rounds)
    more = {name: figures[1] - plain for name, figures in costs.items()}
    assert more == {"reaction": 4, "edit": 4, "reference": 4, "first reply": 6, "next reply": 8}
    assert measured(lambda: say(alice, room_id, "plain too")) == (rounds, plain)
    assert largest_item("TIMELINE") < 1024


def test_a_process_that_does_not_know_the_parent_takes_one_round_more(alice: User) -> None:
    room_id = create_room(alice)
    parent = say(alice, room_id, "parent")
    forget()
    rounds = cost(lambda: say(alice, room_id, "plain"))[0]
    forget()
    assert cost(lambda: react(alice, room_id, parent))[0] == rounds
    forget()
    assert cost(lambda: reply(alice, room_id, parent, "reply"))[0] == rounds + 1
    assert bundle(alice, room_id, parent)["m.thread"]["count"] == 1


def test_a_page_with_aggregates_takes_one_round_more_than_one_without(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    ids = [say(alice, room_id, str(number)) for number in range(50)]
    last = messages(alice, room_id, limit=1).json["start"]
    query: dict[str, Any] = {"limit": 50, "from": last}
    plain = cost(lambda: messages(alice, room_id, **query))
    for number in range(0, 50, 5):
        relate = (edit, reply, refer)[number % 3]
        relate(alice, room_id, ids[number], f"child {number}")
    related = cost(lambda: messages(alice, room_id, **query))
    shown = messages(alice, room_id, **query).json["chunk"]
    assert sum("m.relations" in found["unsigned"] for found in shown) == 10
    assert related[0] <= plain[0] + 1
    assert related[1] <= plain[1] + 20


@pytest.mark.usefixtures("set_up")
def test_a_limited_timeline_has_what_relates_to_its_events_as_it_is_now(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    root = say(alice, room_id, "root")
    for number in range(3):
        say(alice, room_id, str(number))
    follow()
    wanted = {"room": {"timeline": {"limit": 4}, "state": {"lazy_load_members": True}}}

    def told() -> dict[str, Any]:
        timeline = sync(bob, filter=wanted)["rooms"]["join"][room_id]["timeline"]
        assert timeline["limited"]
        return {shown["event_id"]: shown["unsigned"].get("m.relations", {}) for shown in timeline["events"]}

    assert told() == {shown: {} for shown in told()}
    # What is told next was all read before, but the event that relates to it: the root is in the process's memory.
    edited = edit(alice, room_id, root, "edited")
    follow()
    wanted["room"]["timeline"]["limit"] = 5
    assert told()[root]["m.replace"]["event_id"] == edited
    assert "room_id" not in told()[root]["m.replace"]
    again = edit(alice, room_id, root, "edited again")
    follow()
    wanted["room"]["timeline"]["limit"] = 6
    assert told()[root]["m.replace"]["event_id"] == again
    redact(alice, room_id, again)
    follow()
    wanted["room"]["timeline"]["limit"] = 7
    assert told()[root]["m.replace"]["event_id"] == edited


@pytest.mark.usefixtures("set_up")
def test_remembered_aggregates_are_not_read_again_until_one_changes(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeserver.storage import timeline_cache

    room_id = create_room(alice, bob)
    root = say(alice, room_id, "root")
    reply(alice, room_id, root, "reply")
    for number in range(3):
        say(alice, room_id, str(number))
    follow()
    # As if the last commit was long ago: what was read then is certainly whole.
    monkeypatch.setattr(timeline_cache, "SETTLED_AFTER_MS", -60_000)
    wanted = {"room": {"timeline": {"limit": 5}}}

    def ask() -> dict[str, Any]:
        return sync(bob, filter=wanted)["rooms"]["join"][room_id]["timeline"]

    ask()
    warm = cost(ask)
    assert cost(ask) == warm
    reads = []
    original = timeline_cache.read_positions
    monkeypatch.setattr(timeline_cache, "read_positions", lambda *at: reads.append(at) or original(*at))
    ask()
    assert reads == []
    reply(alice, room_id, root, "second")
    follow()
    wanted["room"]["timeline"]["limit"] = 6
    shown = ask()["events"][0]
    assert shown["event_id"] == root
    assert shown["unsigned"]["m.relations"]["m.thread"]["count"] == 2
    assert reads != []


@pytest.mark.usefixtures("set_up")
def test_a_timeline_without_a_gap_comes_without_aggregations(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    follow()
    since = sync(bob)["next_batch"]
    root = say(alice, room_id, "root")
    replied = reply(alice, room_id, root, "reply")
    follow()
    timeline = sync(bob, since)["rooms"]["join"][room_id]["timeline"]
    assert timeline["limited"] is False
    assert [shown["event_id"] for shown in timeline["events"]] == [root, replied]
    assert ["m.relations" in shown["unsigned"] for shown in timeline["events"]] == [False, False]
    assert [shown["unsigned"]["membership"] for shown in timeline["events"]] == ["join", "join"]


def test_the_reads_of_a_reply_do_not_grow_with_the_thread(alice: User) -> None:
    room_id = create_room(alice)
    root = say(alice, room_id, "root")
    reply(alice, room_id, root, "0")
    early = cost(lambda: reply(alice, room_id, root, "early"))
    for number in range(30):
        reply(alice, room_id, root, str(number))
    assert cost(lambda: reply(alice, room_id, root, "late ")) == early
    assert len(children(alice, room_id, root, limit=100)) == 33
