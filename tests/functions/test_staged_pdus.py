"""What is staged goes into its room: in order, each once, and what cannot go in yet waits."""

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

from federation_peer import Peer
from functions.federating import LOOPBACK
from functions.harness import LambdaContext, User, payload
from functions.remote_server import KEY, RemoteServer
from functions.rooms import create_room, messages, post, texts
from functions.transactions import (
    Elsewhere,
    Federated,
    Inbound,
    cut_off,
    line,
    pdu_of,
    points_of,
    send,
    staged_keys,
)
from homeserver.adapters import aws
from homeserver.matrix.errors import LimitExceeded
from homeserver.services import clock, received_contents, staged_pdus, staged_sweep
from homeserver.services.inbound_wakes import inbound_group, wake_job, wake_room, wake_rooms
from homeserver.services.staged_pdus import BACKOFF_S, process_room
from homeserver.storage.staging import StagedItem, parked_pdus


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK)
    with Peer(tmp_path, key=KEY) as running:
        yield running


@pytest.fixture
def room_id(alice: User, inbound: Inbound, elsewhere: Elsewhere) -> str:
    return create_room(alice, preset="public_chat", room_version="11")


@pytest.fixture
def remote(room_id: str, peer: Peer) -> RemoteServer:
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("carol")))
    return remote


class Clock:
    """The time that the worker sees: the real one and some more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_ms = 0
        for module in (staged_pdus, staged_sweep, received_contents):
            monkeypatch.setattr(module, "now_ms", lambda: clock.now_ms() + self.ahead_ms)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def bodies(user: User, room_id: str) -> list[str | None]:
    return texts(messages(user, room_id, dir="f", limit=500).json["chunk"])


# ── In order, each once ─────────────────────────────────────────────────────────────────────────────


def test_what_came_in_many_transactions_is_worked_off_by_one_wake_oldest_first(
    call, fed: Federated, alice: User
) -> None:
    events = line(fed.remote, fed.remote.user("carol"), 12)
    for number, event in enumerate(events):
        send(call, fed.peer, f"t{number}", [pdu_of(event)])
    process_room(fed.room_id)
    assert bodies(alice, fed.room_id) == [f"message {number}" for number in range(12)]
    assert staged_keys(fed.room_id) == []
    assert fed.inbound.work() == 12  # which find nothing to do


def test_a_hundred_and_more_go_in_batches(call, fed: Federated, alice: User) -> None:
    events = line(fed.remote, fed.remote.user("carol"), 130)
    for start in range(0, 130, 50):
        send(call, fed.peer, f"t{start}", [pdu_of(event) for event in events[start : start + 50]])
    process_room(fed.room_id)
    assert bodies(alice, fed.room_id) == [f"message {number}" for number in range(130)]


def test_the_same_pdu_twice_is_one_event(call, fed: Federated, alice: User) -> None:
    event = fed.remote.say(fed.remote.user("carol"), "once")
    send(call, fed.peer, "t1", [pdu_of(event)])
    send(call, fed.peer, "t2", [pdu_of(event)])
    assert staged_keys(fed.room_id) == ["pdu", "pdu"]
    process_room(fed.room_id)
    send(call, fed.peer, "t3", [pdu_of(event)])
    process_room(fed.room_id)
    assert bodies(alice, fed.room_id) == ["once"]
    assert staged_keys(fed.room_id) == []


def test_pdus_that_fail_a_check_are_dropped_and_the_others_go_in(call, fed: Federated, alice: User, caplog) -> None:
    carol = fed.remote.user("carol")
    good = fed.remote.say(carol, "good")
    forged = pdu_of(fed.remote.say(alice.user_id, "forged"))  # signed by a server that is not alice's
    unsigned = {**pdu_of(fed.remote.say(carol, "unsigned")), "signatures": {}}
    changed = pdu_of(fed.remote.say(carol, "before", prev=[good.event_id]))
    changed["content"] = {"msgtype": "m.text", "body": "after"}
    with caplog.at_level("INFO", "eigenserver"):
        answer = send(call, fed.peer, "t1", [pdu_of(good), forged, unsigned, changed])
        assert list(answer.json["pdus"].values()) == [{}] * 4
        process_room(fed.room_id)
    assert bodies(alice, fed.room_id) == ["good", None]
    assert staged_keys(fed.room_id) == []
    assert fed.elsewhere.asked == []
    assert [line for line in caplog.messages if "is dropped by check 2" in line] != []
    assert [line for line in caplog.messages if "is redacted by check 3" in line] != []


def test_an_event_that_the_rules_refuse_is_logged_with_the_rules_number(
    call, fed: Federated, alice: User, caplog
) -> None:
    event = fed.remote.topic(fed.remote.user("carol"), "mine now")
    send(call, fed.peer, "t1", [pdu_of(event)])
    with caplog.at_level("INFO", "eigenserver"):
        process_room(fed.room_id)
    assert f"event {event.event_id} is rejected by rule " in caplog.text
    assert staged_keys(fed.room_id) == []


def test_what_is_for_a_room_that_everybody_left_meanwhile_harms_nobody(
    call, peer: Peer, alice: User, room_id: str, remote: RemoteServer
) -> None:
    send(call, peer, "t1", [pdu_of(remote.say(remote.user("carol"), "bye"))])
    assert post(alice, room_id, "leave").status == 200
    process_room(room_id)
    assert staged_keys(room_id) == []


def test_what_stops_the_others_is_parked_alone(call, fed: Federated, alice: User, monkeypatch) -> None:
    events = line(fed.remote, fed.remote.user("carol"), 5)
    send(call, fed.peer, "t1", [pdu_of(event) for event in events])
    receive = staged_pdus.receive_events

    def breaking(room_id: str, some):
        if any(event.event_id == events[4].event_id for event in some):
            raise ValueError("a defect")
        return receive(fed.room_id, some)

    monkeypatch.setattr(staged_pdus, "receive_events", breaking)
    process_room(fed.room_id)
    assert bodies(alice, fed.room_id) == ["message 0", "message 1", "message 2", "message 3"]
    assert staged_keys(fed.room_id) == ["parked", "wait"]


# ── What waits ──────────────────────────────────────────────────────────────────────────────────────


def test_an_event_without_its_parent_is_asked_for_where_it_came_from_and_then_parked(
    call, fed: Federated, alice: User
) -> None:
    first, second, third = line(fed.remote, fed.remote.user("carol"), 3)
    aside = fed.remote.say(fed.remote.user("carol"), "aside", prev=fed.remote.tips())
    send(call, fed.peer, "t1", [pdu_of(second), pdu_of(third), pdu_of(aside)])
    process_room(fed.room_id)
    assert fed.elsewhere.asked == [(fed.peer.name, (second.event_id, third.event_id))]
    assert bodies(alice, fed.room_id) == ["aside"]
    assert staged_keys(fed.room_id) == ["parked", "wait", "wait"]
    assert [(pdu.tries, pdu.origin) for pdu in parked_pdus(fed.room_id, most=10)] == [(1, fed.peer.name)] * 2
    # When it comes, nobody has to wait any longer, nor to be asked.
    send(call, fed.peer, "t2", [pdu_of(first)])
    process_room(fed.room_id)
    assert sorted(map(str, bodies(alice, fed.room_id))) == ["aside", "message 0", "message 1", "message 2"]
    assert staged_keys(fed.room_id) == []
    assert len(fed.elsewhere.asked) == 1


def test_what_other_servers_tell_brings_an_event_in_at_once(call, fed: Federated, alice: User) -> None:
    first, second = line(fed.remote, fed.remote.user("carol"), 2)
    fed.elsewhere.told[first.event_id] = first
    send(call, fed.peer, "t1", [pdu_of(second)])
    process_room(fed.room_id)
    assert bodies(alice, fed.room_id) == ["message 0", "message 1"]
    assert staged_keys(fed.room_id) == []


def test_a_parked_event_is_not_looked_at_by_wakes_before_its_time_and_is_tried_after_it(
    call, fed: Federated, alice: User, later: Clock
) -> None:
    first, second = line(fed.remote, fed.remote.user("carol"), 2)
    send(call, fed.peer, "t1", [pdu_of(second)])
    process_room(fed.room_id)
    for number in range(3):
        send(
            call,
            fed.peer,
            f"more{number}",
            [pdu_of(fed.remote.say(fed.remote.user("carol"), f"{number}", prev=fed.remote.tips()))],
        )
        process_room(fed.room_id)
    assert len(fed.elsewhere.asked) == 1
    later.ahead_ms = BACKOFF_S[0] * 1000 + 1000
    fed.elsewhere.told[first.event_id] = first
    send(call, fed.peer, "t2", [pdu_of(fed.remote.say(fed.remote.user("carol"), "more", prev=fed.remote.tips()))])
    process_room(fed.room_id)
    assert len(fed.elsewhere.asked) == 2
    assert "message 1" in bodies(alice, fed.room_id)
    assert staged_keys(fed.room_id) == []


def test_what_came_for_one_parked_event_is_no_try_of_the_others(call, fed: Federated, alice: User) -> None:
    ours, theirs = line(fed.remote, fed.remote.user("carol"), 2), line(fed.remote, fed.remote.user("carol"), 2)
    send(call, fed.peer, "t1", [pdu_of(ours[1]), pdu_of(theirs[1])])
    process_room(fed.room_id)
    before = parked_pdus(fed.room_id, most=10)
    send(call, fed.peer, "t2", [pdu_of(ours[0])])
    process_room(fed.room_id)
    assert bodies(alice, fed.room_id) == ["message 0", "message 1"]
    assert parked_pdus(fed.room_id, most=10) == [
        pdu for pdu in before if pdu.pdu["prev_events"] == [theirs[0].event_id]
    ]
    assert len(fed.elsewhere.asked) == 1
    assert staged_keys(fed.room_id) == ["parked", "wait"]


def test_an_event_that_never_finds_its_parents_is_given_up_after_some_days(
    call, fed: Federated, later: Clock, caplog
) -> None:
    _, second = line(fed.remote, fed.remote.user("carol"), 2)
    send(call, fed.peer, "t1", [pdu_of(second)])
    process_room(fed.room_id)
    for tries, seconds in enumerate(BACKOFF_S, 1):
        (pdu,) = parked_pdus(fed.room_id, most=10)
        assert pdu.tries == tries
        later.ahead_ms += seconds * 1000 + 1
        process_room(fed.room_id)
    assert staged_keys(fed.room_id) == []
    assert len(fed.elsewhere.asked) == len(BACKOFF_S) + 1
    assert "gave up a PDU" in caplog.text
    assert sum(BACKOFF_S) < 7 * 24 * 3600  # before the table forgets it


def test_of_very_many_parked_events_the_oldest_are_given_up(call, fed: Federated, later: Clock, monkeypatch) -> None:
    monkeypatch.setattr(staged_pdus, "MOST_PARKED", 5)
    events = line(fed.remote, fed.remote.user("carol"), 9)[1:]
    send(call, fed.peer, "t1", [pdu_of(event) for event in events])
    process_room(fed.room_id)
    later.ahead_ms = BACKOFF_S[0] * 1000 + 1
    process_room(fed.room_id)
    kept = [pdu.pdu["content"]["body"] for pdu in parked_pdus(fed.room_id, most=100)]
    assert kept == [f"message {number}" for number in range(4, 9)]


def test_an_event_whose_signers_keys_cannot_be_had_now_is_parked(
    call, fed: Federated, tmp_path, alice: User, later: Clock
) -> None:
    other = Peer(tmp_path / "other", key=KEY)
    with other:
        away = RemoteServer(fed.room_id, other.name, start=1_700_000_100_000)
        away.accepted(away.join(away.user("dave")))
        event = away.say(away.user("dave"), "relayed")
        other.instead["/_matrix/key/v2/server"] = (500, b"{}", {})
        send(call, fed.peer, "t1", [pdu_of(event)])
        process_room(fed.room_id)
        assert bodies(alice, fed.room_id) == []
        assert staged_keys(fed.room_id) == ["parked", "wait"]


def test_the_sweep_wakes_rooms_whose_wakes_were_lost_and_parked_ones_that_are_due(
    call, fed: Federated, alice: User, later: Clock
) -> None:
    first, second, third = line(fed.remote, fed.remote.user("carol"), 3)
    send(call, fed.peer, "t1", [pdu_of(first), pdu_of(third)])
    assert sweep() == {"woken": 0}  # it has only just come
    fed.inbound.work()
    assert sweep() == {"woken": 0}  # the one that waits is not due
    later.ahead_ms = BACKOFF_S[0] * 1000 + 1
    assert sweep() == {"woken": 1}
    send(call, fed.peer, "t2", [pdu_of(second)])
    purge(fed.inbound)
    later.ahead_ms = 6 * 60 * 1000
    assert sweep() == {"woken": 1}
    assert fed.inbound.work() == 1
    assert bodies(alice, fed.room_id) == ["message 0", "message 1", "message 2"]
    assert sweep() == {"woken": 0}


def sweep() -> dict[str, int]:
    answer: dict[str, int] = import_module("room_sweep_worker.app").lambda_handler(
        payload("room_sweep_worker_staged"), LambdaContext()
    )
    return answer


def purge(inbound: Inbound) -> None:
    aws.client("sqs").purge_queue(QueueUrl=inbound.url)


# ── Crashes ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_that_is_stopped_anywhere_loses_nothing_and_does_nothing_twice(
    call, fed: Federated, alice: User, later: Clock
) -> None:
    """Each time a chain without its first event comes, which waits; then its first event."""
    carol = fed.remote.user("carol")
    txn = iter(range(1000))

    def chain(name: str) -> tuple[list[dict], dict]:
        first = fed.remote.say(carol, f"{name} first", prev=fed.remote.tips())
        rest = [fed.remote.say(carol, f"{name} second", prev=[first.event_id])]
        rest.append(fed.remote.say(carol, f"{name} third", prev=[rest[-1].event_id]))
        return [pdu_of(event) for event in rest], pdu_of(first)

    rest, first = chain("probe")
    send(call, fed.peer, f"t{next(txn)}", rest)
    parking = points_of(lambda: process_room(fed.room_id))
    send(call, fed.peer, f"t{next(txn)}", [first])
    finding = points_of(lambda: process_room(fed.room_id))
    assert {"staged.received", "staged.parked", "staged.deleted"} <= set(parking) & set(finding)
    assert "staged.noted" in parking
    said = ["probe first", "probe second", "probe third"]
    assert bodies(alice, fed.room_id) == said
    for step, points in enumerate((parking, finding)):
        for point in dict.fromkeys(points):
            name = f"{step} {point}"
            rest, first = chain(name)
            send(call, fed.peer, f"t{next(txn)}", rest)
            if step == 0:
                cut_off(point, lambda: process_room(fed.room_id))
            process_room(fed.room_id)
            assert staged_keys(fed.room_id) == ["parked", "wait", "wait"], name
            send(call, fed.peer, f"t{next(txn)}", [first])
            if step == 1:
                cut_off(point, lambda: process_room(fed.room_id))
            process_room(fed.room_id)
            later.ahead_ms += BACKOFF_S[0] * 1000 + 1
            process_room(fed.room_id)  # as the sweep would have it
            said += [f"{name} first", f"{name} second", f"{name} third"]
            assert bodies(alice, fed.room_id) == said, name
            assert staged_keys(fed.room_id) == [], name


# ── The queue's handler ─────────────────────────────────────────────────────────────────────────────


def test_after_a_failure_the_later_messages_of_the_group_fail_too_and_other_groups_are_done(
    alice: User, inbound: Inbound, elsewhere: Elsewhere, monkeypatch
) -> None:
    seen: list[str] = []

    def work(room_id: str) -> None:
        seen.append(room_id)
        if room_id == "!bad:example.org":
            raise LimitExceeded("busy", retry_after_ms=1)

    app = import_module("federation_inbound_worker.app")
    monkeypatch.setattr(app, "process_room", work)
    monkeypatch.setattr(app, "_run_job", lambda _room_id, key: seen.append(key))
    bad, good = "!bad:example.org", "!good:example.org"
    bodies = [(bad, {"room": bad}), (bad, {"room": bad, "job": "job/x/join"}), (good, {"room": good})]
    bodies += [(good, {"room": good}), (good, {"room": good, "job": "job/y/join"})]
    messages = records(bodies)
    assert inbound.handle(messages) == {"0", "1"}
    assert inbound.waits == [20, 20]
    # Two wakes for the same room are one look, as all that they are about is staged already.
    assert sorted(seen) == [bad, good, "job/y/join"]


def records(bodies: list[tuple[str, dict[str, str]]]) -> list[dict[str, Any]]:
    """Messages as they are received: groups with bodies."""
    return [
        {
            "MessageId": str(number),
            "ReceiptHandle": f"handle {number}",
            "Body": json.dumps(body),
            "Attributes": {"MessageGroupId": group, "ApproximateReceiveCount": "3"},
        }
        for number, (group, body) in enumerate(bodies)
    ]


def test_a_worker_with_little_time_left_begins_nothing_further(
    inbound: Inbound, elsewhere: Elsewhere, monkeypatch
) -> None:
    app = import_module("federation_inbound_worker.app")
    seen: list[str] = []
    monkeypatch.setattr(app, "process_room", seen.append)
    inbound.left_ms = 100_000
    one = {"room": "!a:example.org"}
    messages = records([("a", one), ("a", one), ("a", {"room": "!b:example.org"}), ("c", {"room": "!c:example.org"})])
    assert inbound.handle(messages) == {"2"}
    assert inbound.waits == [0]
    assert sorted(seen) == ["!a:example.org", "!c:example.org"]


def test_other_servers_are_not_asked_for_longer_than_the_worker_has(call, fed: Federated, monkeypatch) -> None:
    monkeypatch.setattr(staged_pdus, "_SECONDS", 1.0)
    _, second = line(fed.remote, fed.remote.user("carol"), 2)
    send(call, fed.peer, "t1", [pdu_of(second)])
    process_room(fed.room_id)
    assert fed.elsewhere.asked == []
    assert staged_keys(fed.room_id) == ["parked", "wait"]


def test_the_recorded_messages_are_worked_off(inbound: Inbound, elsewhere: Elsewhere) -> None:
    nothing = {"batchItemFailures": []}
    app = import_module("federation_inbound_worker.app")
    assert app.lambda_handler(payload("federation_inbound_worker_room"), LambdaContext()) == nothing
    assert app.lambda_handler(payload("federation_inbound_worker_gap"), LambdaContext()) == nothing


def test_every_wake_of_a_room_is_in_the_rooms_group(inbound: Inbound, alice: User) -> None:
    long = "!" + "r" * 240 + ":example.org"
    wake_room(long)
    wake_rooms([long, "!b:example.org"])
    wake_job(long, "job/@a:b/join")
    messages = inbound._receive(visibility=0)
    assert len(inbound_group(long)) == 32
    assert [json.loads(message["Body"])["room"] for message in messages].count(long) == 3
    groups = {json.loads(m["Body"])["room"]: m["Attributes"]["MessageGroupId"] for m in messages}
    assert groups == {long: inbound_group(long), "!b:example.org": inbound_group("!b:example.org")}


def test_what_is_staged_is_forgotten_after_a_week(call, peer: Peer, room_id: str, remote: RemoteServer) -> None:
    send(call, peer, "t1", [pdu_of(remote.say(remote.user("carol"), "x"))])
    (row,) = StagedItem.query(room_id)
    arrived = int(row.k.split("/")[1])
    assert row.expires == arrived // 1000 + 7 * 24 * 3600
