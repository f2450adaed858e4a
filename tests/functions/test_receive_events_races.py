"""Races and crashes: whatever happens between reading a room and committing to it, nothing is lost or done twice."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from functions.harness import User
from functions.remote_server import RemoteServer, head_of, rows_of, state_of
from functions.rooms import create_room, follow, messages, post, say, set_state, texts
from homeserver import observability
from homeserver.matrix.errors import LimitExceeded
from homeserver.services import receive_events as service
from homeserver.services.receive_events import Verdict, receive_events
from homeserver.services.receive_outliers import receive_outliers
from homeserver.storage import room_lease
from homeserver.storage.room_items import EventRecord
from homeserver.storage.room_lease import take_lease

pytestmark = pytest.mark.usefixtures("set_up")
CAROL = "@carol:remote.test"


class Crash(Exception):
    """The process is gone."""


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    observability.fault_hook = None


@pytest.fixture
def remote(alice: User) -> RemoteServer:
    room_id = create_room(alice, preset="public_chat", room_version="11")
    server = RemoteServer(room_id)
    server.accepted(server.join(CAROL))
    server.accepted(server.power(alice.user_id, {CAROL: 50}))
    return server


def forked(remote: RemoteServer, alice: User) -> list[Any]:
    """A fork whose delivery resolves, changes the state beside its events, and merges."""
    tip = remote.tips()
    topic = remote.topic(CAROL, "mine", prev=tip)
    name = remote.make("m.room.name", {"name": "Tea"}, CAROL, state_key="", prev=[topic.event_id])
    demotion = remote.power(alice.user_id, {CAROL: 0}, prev=tip)
    merge = remote.say(alice.user_id, "merged", prev=[name.event_id, demotion.event_id])
    return [topic, name, demotion, merge]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("point", ["resolve.stored", "receive.before_commit", "commit.before", "commit.after"])
def test_a_crash_at_any_step_is_made_good_by_the_next_delivery(
    alice: User, remote: RemoteServer, point: str, number: int
) -> None:
    events = forked(remote, alice)
    expected = remote.after[events[-1].event_id]
    passed = 0

    def crash(name: str) -> None:
        nonlocal passed
        passed += name == point
        if passed == number:
            observability.fault_hook = None
            raise Crash

    observability.fault_hook = crash
    with suppress(Crash):
        receive_events(remote.room_id, events)
    assert observability.fault_hook is None or point == "resolve.stored"
    observability.fault_hook = None
    head = head_of(remote.room_id)
    assert head.rows_root == head.root
    assert rows_of(remote.room_id) == state_of(remote.room_id)
    verdicts = {outcome.verdict for outcome in remote.receive(*events)}
    assert verdicts <= {Verdict.KNOWN, Verdict.ACCEPTED}
    assert {outcome.verdict for outcome in remote.receive(*events)} == {Verdict.KNOWN}
    assert state_of(remote.room_id) == expected
    assert remote.tips() == [events[-1].event_id]
    follow()
    assert texts(messages(alice, remote.room_id).json["chunk"]) == ["merged"]


def test_a_local_send_that_comes_between_makes_a_fork_and_both_stay(alice: User, remote: RemoteServer) -> None:
    message = remote.say(CAROL, "theirs")

    def meddle(point: str) -> None:
        if point == "receive.before_commit":
            observability.fault_hook = None
            say(alice, remote.room_id, "ours")

    observability.fault_hook = meddle
    remote.accepted(message)
    assert texts(messages(alice, remote.room_id, dir="f").json["chunk"]) == ["ours", "theirs"]
    assert len(remote.tips()) == 2
    say(alice, remote.room_id, "both")
    assert len(remote.tips()) == 1


def test_a_ban_that_comes_between_soft_fails_what_was_about_to_be_accepted(alice: User, remote: RemoteServer) -> None:
    message = remote.say(CAROL, "theirs")

    def meddle(point: str) -> None:
        if point == "receive.before_commit":
            observability.fault_hook = None
            assert post(alice, remote.room_id, "ban", {"user_id": CAROL}).status == 200

    observability.fault_hook = meddle
    (outcome,) = remote.receive(message)
    assert outcome.verdict is Verdict.SOFT_FAILED
    assert texts(messages(alice, remote.room_id).json["chunk"]) == []


def test_who_loses_three_races_takes_a_lease_and_gets_through(alice: User, remote: RemoteServer) -> None:
    message = remote.say(CAROL, "theirs")
    races = []

    def meddle(point: str) -> None:
        if point == "receive.before_commit" and head_of(remote.room_id).lease_holder is None:
            races.append(1)
            say(alice, remote.room_id, f"ours {len(races)}")

    observability.fault_hook = meddle
    remote.accepted(message)
    assert len(races) == 3
    head = head_of(remote.room_id)
    assert (head.lease_holder, head.lease_until) == (None, None)


def test_a_local_send_waits_for_a_lease_and_no_longer_than_it_lasts(
    alice: User, remote: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_lease, "LEASE_MS", 600)
    assert take_lease(head_of(remote.room_id), "somebody")
    assert not take_lease(head_of(remote.room_id), "somebody else")
    started = time.monotonic()
    say(alice, remote.room_id, "late")
    assert 0.3 < time.monotonic() - started < 4
    assert head_of(remote.room_id).lease_holder is None


def test_what_was_prepared_before_a_lease_is_void(alice: User, remote: RemoteServer) -> None:
    message = remote.say(CAROL, "theirs")
    seen = []

    def meddle(point: str) -> None:
        if point == "receive.before_commit" and not seen:
            seen.append(1)
            head = head_of(remote.room_id)
            assert take_lease(head, "somebody")

    observability.fault_hook = meddle
    started = time.monotonic()
    remote.accepted(message)
    assert time.monotonic() - started > 1
    assert seen == [1]


def test_events_that_arrive_in_several_workers_at_once_are_each_stored_once(alice: User, remote: RemoteServer) -> None:
    events = forked(remote, alice)
    failures: list[BaseException] = []

    def work(order: list[Any]) -> None:
        try:
            for event in order:
                for _ in range(40):
                    try:
                        outcomes = receive_events(remote.room_id, [event])
                    except LimitExceeded:
                        continue  # a worker gets its message again
                    if outcomes[event.event_id].verdict is not Verdict.MISSING:
                        break
                    time.sleep(0.05)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(order,)) for order in (events, events[::-1], events)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    receive_events(remote.room_id, events)
    assert state_of(remote.room_id) == remote.after[events[-1].event_id]
    assert rows_of(remote.room_id) == state_of(remote.room_id)
    assert texts(messages(alice, remote.room_id).json["chunk"]) == ["merged"]


def test_two_events_that_continue_one_chain_get_a_chain_each(alice: User, remote: RemoteServer) -> None:
    tip = remote.tips()
    first = remote.make("m.room.member", {"membership": "join", "displayname": "1"}, CAROL, state_key=CAROL, prev=tip)
    second = remote.make("m.room.member", {"membership": "join", "displayname": "2"}, CAROL, state_key=CAROL, prev=tip)
    third = remote.power(alice.user_id, {CAROL: 40}, prev=tip)
    remote.accepted(first)
    remote.accepted(second, third)
    fourth = remote.make("m.room.member", {"membership": "join"}, CAROL, state_key=CAROL)
    remote.accepted(fourth)
    # A local event whose chain was continued by a fork that did not win.
    assert set_state(alice, remote.room_id, "m.room.member", {"membership": "join", "displayname": "A"}, alice.user_id)
    places = {}
    for event in (first, second, third, fourth):
        record = EventRecord.fetch(event.event_id)
        assert record is not None
        places[event.event_id] = bytes(record.cover)[:40]
    assert len(set(places.values())) == 4
    (tip,) = remote.tips()
    old = remote.tips()
    power = remote.power(alice.user_id, {CAROL: 30}, prev=old)
    assert set_state(alice, remote.room_id, "m.room.power_levels", dict(power.content)).status == 200
    remote.accepted(power)
    assert set_state(alice, remote.room_id, "m.room.power_levels", {**power.content, "kick": 60}).status == 200


# ── Outliers ─────────────────────────────────────────────────────────────────


def test_outliers_are_judged_and_found_their_place_later(alice: User, remote: RemoteServer) -> None:
    dave = "@dave:remote.test"
    join = remote.join(dave)
    leave = remote.member(dave, "leave", dave, prev=[join.event_id])
    refused = remote.member(CAROL, "ban", alice.user_id, prev=[join.event_id])
    outcomes = receive_outliers(remote.room_id, [refused, leave, join])
    assert [outcomes[e.event_id].verdict for e in (join, leave, refused)] == [
        Verdict.ACCEPTED,
        Verdict.ACCEPTED,
        Verdict.REJECTED,
    ]
    records = [EventRecord.fetch(event.event_id) for event in (join, leave, refused)]
    assert [(r.flags, r.position, r.state_before) for r in records if r] == [("o", None, None)] * 2 + [
        ("or", None, None)
    ]
    assert state_of(remote.room_id).get(("m.room.member", dave)) is None
    again = receive_outliers(remote.room_id, [leave])
    assert again[leave.event_id].verdict is Verdict.KNOWN
    cover = records[0].cover if records[0] else None
    (outcome,) = remote.receive(leave)
    assert (outcome.verdict, outcome.prev) == (Verdict.MISSING, (join.event_id,))
    remote.accepted(join, leave)
    (outcome,) = remote.receive(refused)
    assert outcome.verdict is Verdict.REJECTED
    placed = [EventRecord.fetch(event.event_id) for event in (join, leave, refused)]
    assert [r.flags for r in placed if r] == [None, None, "r"]
    assert placed[0] is not None
    assert placed[0].cover == cover
    assert placed[0].position is not None
    assert state_of(remote.room_id)["m.room.member", dave] == leave.event_id


def test_outliers_whose_authority_is_unknown_are_not_kept(remote: RemoteServer) -> None:
    dave = "@dave:remote.test"
    join = remote.join(dave)
    leave = remote.member(dave, "leave", dave, prev=[join.event_id])
    outcomes = receive_outliers(remote.room_id, [leave])
    assert outcomes[leave.event_id] == service.Outcome(Verdict.MISSING, auth=(join.event_id,))
    assert EventRecord.fetch(leave.event_id) is None


def test_outliers_of_a_room_that_is_not_here_are_kept_for_it(alice: User, remote: RemoteServer) -> None:
    """As when a room is joined: its whole state, more than one transaction takes, and then again."""
    users = [f"@user{number}:remote.test" for number in range(60)]
    last = remote.tips()
    joins = []
    for user in users:
        joins.append(remote.join(user, prev=last))
        last = [joins[-1].event_id]
    outcomes = receive_outliers(remote.room_id, joins)
    assert {outcome.verdict for outcome in outcomes.values()} == {Verdict.ACCEPTED}
    assert len(outcomes) == 60
    outcomes = receive_outliers(remote.room_id, joins)
    assert {outcome.verdict for outcome in outcomes.values()} == {Verdict.KNOWN}
