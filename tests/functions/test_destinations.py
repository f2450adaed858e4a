"""Servers that do not answer: nothing is lost, nothing is sent to them meanwhile, and they catch up in order."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from federation_peer import Instead
from functions.federating import LOOPBACK
from functions.harness import User, payload
from functions.rooms import follow, say
from functions.sending import (
    OK,
    Outbox,
    Receiver,
    half_a_body,
    invoke_sender,
    is_well,
    nothing,
    record_of,
    shared_room,
    sleepy,
    speak,
    stored_head,
)
from homeserver.observability import metered
from homeserver.services import destinations, federation_sender, outgoing_transactions
from homeserver.services.destinations import backoff_ms, heard_from
from homeserver.storage import destinations as stored
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


# ── What counts as not answering ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "instead",
    [
        (500, b"{}", {}),
        (502, b"<html>Bad gateway</html>", {}),
        (429, b'{"errcode": "M_LIMIT_EXCEEDED"}', {}),
        (403, b'{"errcode": "M_FORBIDDEN"}', {}),
        (404, b"{}", {}),
        (200, b"<html>Welcome</html>", {}),
        (200, b"[]", {}),
        (200, b'{"pdus": 5}', {}),
        (200, b"{}", {}),
        (200, b"", {}),
        half_a_body,
        nothing,
        sleepy,
    ],
)
def test_whatever_is_no_answer_puts_a_server_behind_and_others_get_theirs_at_once(
    outbox: Outbox,
    alice: User,
    peer: Receiver,
    other: Receiver,
    *,
    instead: Instead,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outgoing_transactions, "TIMEOUT_S", 1.0)
    room_id, _ = shared_room(outbox, alice, peer, other)
    peer.fails(instead)
    say(alice, room_id, "one")
    outbox.flow()
    assert other.bodies() == ["one"]
    assert outbox.waiting() == []
    known = read_destination(peer.name)
    assert (known.is_dead, known.failures) == (True, 1)
    assert set(dead_servers()) == set(outbox.schedules()) == {peer.name}
    (behind,) = read_behind(peer.name)
    assert behind.room_id == room_id
    say(alice, room_id, "two")
    outbox.flow()
    assert other.bodies() == ["one", "two"]
    peer.fails(None)
    outbox.fire(peer.name)
    outbox.send()
    assert peer.bodies() == ["one", "two"]
    assert is_well(peer)
    assert outbox.schedules() == {}


def test_errors_about_single_events_are_logged_and_done(
    outbox: Outbox, alice: User, peer: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.observability.log.propagate", True)
    room_id, _ = shared_room(outbox, alice, peer)
    (event_id,) = say(alice, room_id, "one")
    peer.refuses[event_id] = "no such room"
    outbox.flow()
    assert f"{peer.name} refused {event_id}: no such room" in caplog.text
    assert is_well(peer)
    assert peer.tries == 1


def test_a_transaction_that_is_refused_as_a_whole_is_sent_in_parts_until_what_is_wrong_is_alone(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)

    def refuse_bad(handler: Any) -> None:
        body = json.loads(peer.asked[-1][3])
        if any(pdu["content"].get("body") == "bad" for pdu in body["pdus"]):
            data, status = b'{"errcode": "M_BAD_JSON"}', 400
        else:
            peer.answer("PUT", peer.asked[-1][1], {})
            data, status = b'{"pdus": {}}', 200
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    peer.fails(refuse_bad)
    say(alice, room_id, "a", "b", "bad", "c", "d")
    outbox.flow()
    assert peer.bodies() == ["a", "b", "c", "d"]
    assert is_well(peer)


# ── When it is tried again ──────────────────────────────────────────────────────────────────────────


def test_a_server_is_left_alone_for_twice_as_long_each_time_up_to_a_day() -> None:
    assert [backoff_ms(failures) // 60_000 for failures in range(1, 14)] == [
        *(2**n for n in range(11)),
        1440,
        1440,
    ]
    assert backoff_ms(10_000) == 24 * 3600 * 1000


def schedule_time(outbox: Outbox, peer: Receiver) -> float:
    """Seconds until the schedule of a server."""
    expression = outbox.schedules()[peer.name]["ScheduleExpression"]
    at = time.strptime(expression, "at(%Y-%m-%dT%H:%M:%S)")
    import calendar

    return calendar.timegm(at) - time.time()


def test_each_failure_makes_the_schedule_anew_and_further_events_cost_a_dead_server_nothing(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    peer.fails()
    say(alice, room_id, "one")
    outbox.flow()
    assert 55 < schedule_time(outbox, peer) < 62
    since = dead_servers()[peer.name]
    outbox.fire(peer.name)
    outbox.send()
    assert 115 < schedule_time(outbox, peer) < 122
    assert read_destination(peer.name).failures == 2
    assert dead_servers()[peer.name] == since
    say(alice, room_id, "two")
    outbox.route(room_id)  # looks once whether there is a row
    tries = peer.tries
    say(alice, room_id, "three")
    with metered() as meter:
        outbox.route(room_id)
    # Head and cursor, positions, servers, version of the list; the cursor.
    assert meter.calls == 5
    assert outbox.waiting() == []
    assert peer.tries == tries


@pytest.mark.parametrize("answer", [(b"{}", {"Retry-After": "7200"}), (b'{"retry_after_ms": 7200000}', {})])
def test_a_server_that_says_how_long_it_wants_to_be_left_alone_is(
    outbox: Outbox, alice: User, peer: Receiver, answer: tuple[bytes, dict[str, str]]
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    peer.fails((429, answer[0], answer[1]))
    say(alice, room_id, "one")
    outbox.flow()
    assert 7190 < schedule_time(outbox, peer) < 7202
    destinations.forget_destinations()
    heard_from(peer.name)
    assert outbox.waiting() == []


def test_a_sign_of_life_tries_again_at_once_and_takes_the_schedule_away(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    peer.fails()
    say(alice, room_id, "one")
    outbox.flow()
    peer.fails(None)
    destinations.forget_destinations()  # it is another function that hears
    heard_from(peer.name)
    heard_from(peer.name)
    assert len(outbox.waiting()) == 1
    outbox.send()
    assert peer.bodies() == ["one"]
    assert outbox.schedules() == {}
    assert is_well(peer)


def test_a_server_that_sends_but_does_not_answer_is_not_tried_for_each_of_its_signs_of_life(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    peer.fails()
    say(alice, room_id, "one")
    outbox.flow()
    destinations.forget_destinations()
    for _ in range(10):
        heard_from(peer.name)
        outbox.send()
    assert peer.tries == 2


def test_a_sign_of_life_of_a_healthy_server_costs_one_small_read_in_ten_seconds(outbox: Outbox, peer: Receiver) -> None:
    destinations.forget_destinations()
    with metered() as first:
        heard_from(peer.name)
    with metered() as second:
        heard_from(peer.name)
        heard_from("another.test")
    assert (first.calls, first.wru, second.calls) == (1, 0, 0)


def test_a_sign_of_life_never_fails_whoever_heard_it(outbox: Outbox, alice: User, peer: Receiver, monkeypatch) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    peer.fails()
    say(alice, room_id, "one")
    outbox.flow()
    destinations.forget_destinations()
    monkeypatch.delenv("FEDERATION_OUTBOUND_QUEUE")
    heard_from(peer.name)


def test_a_healthy_server_costs_no_write(outbox: Outbox, alice: User, peer: Receiver, other: Receiver) -> None:
    room_id, _ = shared_room(outbox, alice, peer, other)
    say(alice, room_id, "one")
    outbox.flow()
    say(alice, room_id, "two")
    outbox.route(room_id)
    with metered() as meter:
        assert outbox.send_some()
    assert (peer.bodies(), other.bodies()) == (["one", "two"], ["one", "two"])
    assert meter.wru == 0
    assert meter.calls == 2  # what is known of both, and the event


# ── Down for long ───────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_was_down_for_two_hundred_messages_gets_all_in_order_and_once(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    second, _ = shared_room(outbox, alice, peer)
    peer.fails()
    for number in range(4):
        for start in range(50):
            speak(alice, room_id, f"{number * 50 + start}")
        speak(alice, second, f"second {number}")
        outbox.flow()
    peer.fails(None)
    outbox.fire(peer.name)
    outbox.send()
    first = [body for body in peer.bodies() if not body.startswith("second")]
    assert first == [str(number) for number in range(200)]
    assert [body for body in peer.bodies() if body.startswith("second")] == [f"second {n}" for n in range(4)]
    sent = [pdu for transaction in peer.transactions() for pdu in transaction["pdus"]]
    assert len(sent) == 204
    assert max(len(transaction["pdus"]) for transaction in peer.transactions()) == 50
    assert is_well(peer)
    speak(alice, room_id, "live again")
    outbox.flow()
    assert peer.bodies()[-1] == "live again"


def test_what_takes_longer_than_a_batch_has_is_gone_on_with_and_what_comes_meanwhile_waits_for_it(
    outbox: Outbox, alice: User, peer: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    second, _ = shared_room(outbox, alice, peer)
    peer.fails()
    for number in range(120):
        speak(alice, room_id, str(number))
    speak(alice, second, "a")
    outbox.flow()
    peer.fails(None)
    outbox.fire(peer.name)
    from importlib import import_module

    monkeypatch.setattr(import_module("federation_sender_worker.app"), "SECONDS", -1.0)
    assert outbox.send_some()
    known = read_destination(peer.name)
    assert (known.is_dead, known.is_behind) == (False, True)
    speak(alice, room_id, "new")
    speak(alice, second, "b")
    outbox.route(room_id, second)
    outbox.send()
    bodies = peer.bodies()
    assert [body for body in bodies if body not in {"a", "b"}] == [*(str(n) for n in range(120)), "new"]
    assert [body for body in bodies if body in {"a", "b"}] == ["a", "b"]
    assert is_well(peer)


def test_a_batch_without_time_keeps_what_it_could_not_send_to_a_healthy_server(
    outbox: Outbox, alice: User, peer: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    room_id, _ = shared_room(outbox, alice, peer)
    for number in range(60):
        speak(alice, room_id, str(number))
    outbox.route(room_id)
    monkeypatch.setattr(import_module("federation_sender_worker.app"), "SECONDS", -1.0)
    assert outbox.send_some()
    assert peer.tries == 0
    speak(alice, room_id, "60")
    outbox.route(room_id)
    outbox.send()
    assert peer.bodies() == [str(number) for number in range(61)]
    assert is_well(peer)


# ── What nobody would try again ─────────────────────────────────────────────────────────────────────


def test_the_sweep_tries_servers_whose_schedule_was_lost(
    outbox: Outbox, alice: User, peer: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ClientError({"Error": {"Code": "ThrottlingException"}}, "CreateSchedule")

    room_id, _ = shared_room(outbox, alice, peer)
    peer.fails()
    with monkeypatch.context() as patch:
        patch.setattr(destinations, "schedule_message", refuse)
        speak(alice, room_id, "one")
        outbox.flow()
    assert outbox.schedules() == {}
    assert read_destination(peer.name).is_dead
    peer.fails(None)
    follow()
    assert outbox.waiting() == []  # its time has not come
    monkeypatch.setattr(destinations, "_OVERDUE_MS", -3_600_000)
    follow()
    outbox.send()
    assert peer.bodies() == ["one"]
    assert is_well(peer)


@pytest.mark.parametrize("what", ["catching up", "listed", "row"])
def test_the_sweep_finds_every_trace_of_a_server_that_answers(
    outbox: Outbox, alice: User, peer: Receiver, what: str
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    match what:
        case "catching up":
            stored.note_catching_up(peer.name, 1)
        case "listed":
            stored.put_dead(peer.name, 1)
            stored.dead_list_changed()
        case "row":
            stored.put_behind(peer.name, room_id, 1)
    follow()
    outbox.send()
    assert is_well(peer)


def test_a_schedule_that_fires_for_a_server_that_answers_does_nothing(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    shared_room(outbox, alice, peer)
    assert invoke_sender([record_of({"retry": peer.name, "at": 1}, peer.name)]) == {"batchItemFailures": []}
    assert peer.asked == []
    assert is_well(peer)


# ── Many ────────────────────────────────────────────────────────────────────────────────────────────


def test_of_fifty_servers_ten_of_which_are_dead_the_living_get_a_message_within_seconds(
    outbox: Outbox, alice: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import ExitStack

    monkeypatch.setattr(outgoing_transactions, "TIMEOUT_S", 1.0)
    with ExitStack() as stack:
        peers = [stack.enter_context(Receiver(tmp_path)) for _ in range(50)]
        room_id, _ = shared_room(outbox, alice, *peers)
        dead, living = peers[::5], [peer for number, peer in enumerate(peers) if number % 5]
        for peer in dead:
            peer.fails(sleepy)
        speak(alice, room_id, "who is there?")
        outbox.flow()
        assert [peer.bodies() for peer in living] == [["who is there?"]] * 40
        assert set(dead_servers()) == {peer.name for peer in dead} == set(outbox.schedules())
        speak(alice, room_id, "is nobody else?")
        outbox.flow()  # the router looks once whether there are rows
        tries = [peer.tries for peer in dead]
        before = outbox.batches
        speak(alice, room_id, "hello")
        began = time.monotonic()
        with metered() as meter:
            outbox.route(room_id)
            outbox.send()
        assert time.monotonic() - began < 10
        assert [peer.bodies()[-1] for peer in living] == ["hello"] * 40
        assert [peer.tries for peer in dead] == tries
        assert outbox.batches - before == 4  # forty messages, ten in a batch
        # Of the router: head and cursor, positions, servers, list; the cursor. Of each batch: destinations, the event.
        assert meter.calls == 5 + 4 * 2
        for peer in dead:
            peer.fails(None)
            outbox.fire(peer.name)
        outbox.send()
        assert [peer.bodies() for peer in dead] == [["who is there?", "is nobody else?", "hello"]] * 10
        assert not dead_servers()


def test_the_recorded_messages_are_understood(outbox: Outbox, alice: User, peer: Receiver) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    speak(alice, room_id, "one")
    speak(alice, room_id, "two")
    last = stored_head(room_id)
    for name in ("federation_sender_worker", "federation_sender_worker_retry"):
        (record,) = payload(name)["Records"]
        body = json.loads(record["body"])
        if "ranges" in body:
            body |= {"server": peer.name, "room": room_id, "at": last, "ranges": [[last - 1, last]]}
        else:
            body |= {"retry": peer.name}
        assert invoke_sender([{**record, "body": json.dumps(body)}]) == {"batchItemFailures": []}
    assert peer.bodies() == ["one", "two"]


def test_a_message_that_makes_no_sense_comes_again_alone_and_the_others_are_done(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    speak(alice, room_id, "one")
    outbox.route(room_id)
    good = outbox.receive()
    for number, body in enumerate(({"room": "!r"}, {"server": "x.test", "room": "!r", "at": "?"})):
        bad = record_of(body, f"{number}") | {"messageId": f"bad{number}"}
        answer = invoke_sender([bad, *good])
        assert answer == {"batchItemFailures": [{"itemIdentifier": f"bad{number}"}]}
    assert peer.bodies() == ["one"]
    assert OK[0] == 200
    assert federation_sender.send_batch([], seconds=1) == []
