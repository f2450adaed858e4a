"""The draft's prev_ids: transactions that never came are asked for once, and nobody else is asked for anything."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from federation_peer import Peer
from functions.ephemeral import news, typing_in
from functions.federating import LOOPBACK
from functions.harness import User
from functions.remote_server import KEY, RemoteServer
from functions.rooms import create_room, messages, texts
from functions.transactions import (
    Elsewhere,
    Federated,
    Inbound,
    cut_off,
    edu,
    line,
    pdu_of,
    points_of,
    send,
    staged_keys,
)
from homeserver.services import clock, destinations, received_contents, received_transaction, transaction_gaps
from homeserver.services.transaction_gaps import PULL, TooEarly, repair_gap
from homeserver.storage.received_transactions import Peer as Known
from homeserver.storage.received_transactions import read_ledger

MINUTE = 60_000


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK)
    with Peer(tmp_path, key=KEY) as running:
        yield running


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the modules of sending are told."""
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(destinations, "mark_capable", lambda server: told.append(("capable", server)))
    monkeypatch.setattr(destinations, "heard_from", lambda server: told.append(("heard", server)))
    return told


class Clock:
    ahead_ms = 0


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Clock:
    time = Clock()
    for module in (transaction_gaps, received_contents, received_transaction):
        monkeypatch.setattr(module, "now_ms", lambda: clock.now_ms() + time.ahead_ms)
    return time


@pytest.fixture
def room_id(alice: User, inbound: Inbound, elsewhere: Elsewhere) -> str:
    return create_room(alice, preset="public_chat", room_version="11")


@pytest.fixture
def remote(room_id: str, peer: Peer) -> RemoteServer:
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("carol")))
    return remote


def bodies(user: User, room_id: str) -> list[str | None]:
    return texts(messages(user, room_id, dir="f").json["chunk"])


def known(peer: Peer) -> Known:
    found = read_ledger(peer.name, []).peer
    assert found is not None
    return found


def pulled(peer: Peer) -> list[dict[str, list[str]]]:
    """The questions for transactions that the peer was asked, all of which must be signed."""
    asked = [(path, headers) for method, path, headers, _ in peer.asked if urlsplit(path).path == PULL]
    assert all(headers["authorization"].startswith('X-Matrix origin="example.org"') for _, headers in asked)
    return [parse_qs(urlsplit(path).query) for path, _ in asked]


def tells(peer: Peer, answer: Any, status: int = 200) -> None:
    peer.instead[PULL] = (status, json.dumps(answer).encode(), {})


# ── The gap ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_transaction_that_was_lost_is_asked_for_once_and_taken_as_if_it_had_come(
    call, fed: Federated, alice: User, later: Clock, told
) -> None:
    """LEGACY 6.7: t1, t2 (lost), t3."""
    carol = fed.remote.user("carol")
    e1, e2, e3 = line(fed.remote, carol, 3)
    assert send(call, fed.peer, "t1", [pdu_of(e1)]).status == 200
    fed.inbound.work()
    answer = send(call, fed.peer, "t3", [pdu_of(e3)], prev_ids=["t2"])
    assert (answer.status, answer.json) == (200, {"pdus": {e3.event_id: {}}})
    assert (known(fed.peer).missing, known(fed.peer).since) == (("t2",), "t1")
    assert told == [("heard", fed.peer.name), ("capable", fed.peer.name), ("heard", fed.peer.name)]
    fed.inbound.work()
    assert pulled(fed.peer) == []  # it may still be on its way
    assert bodies(alice, fed.room_id) == ["message 0"]
    assert len(fed.inbound.waits) == 1
    assert 55 <= fed.inbound.waits[0] <= 60
    later.ahead_ms = MINUTE
    typing = edu("m.typing", room_id=fed.room_id, user_id=carol, typing=True)
    answer = {"origin": fed.peer.name, "origin_server_ts": 1, "prev_ids": ["t0"], "edus": [typing]}
    tells(fed.peer, {**answer, "pdus": [pdu_of(e2), pdu_of(e3)]})
    repair_gap(fed.peer.name)
    assert pulled(fed.peer) == [{"origin": ["example.org"], "v": ["t1"]}]
    fed.inbound.work()
    assert bodies(alice, fed.room_id) == ["message 0", "message 1", "message 2"]
    assert typing_in(news(alice, fed.room_id)) == [carol]
    assert (known(fed.peer).missing, known(fed.peer).last) == ((), "t3")
    repair_gap(fed.peer.name)
    assert len(pulled(fed.peer)) == 1


def test_an_empty_transaction_counts_and_says_what_is_missing(
    call, peer: Peer, inbound: Inbound, elsewhere: Elsewhere, later: Clock
) -> None:
    assert send(call, peer, "t1", prev_ids=[]).json == {"pdus": {}}
    assert send(call, peer, "t2", prev_ids=["t1"]).json == {"pdus": {}}
    assert (known(peer).last, known(peer).missing) == ("t2", ())
    assert send(call, peer, "t4", prev_ids=["t3"]).json == {"pdus": {}}
    assert (known(peer).missing, known(peer).since) == (("t3",), "t2")


def test_transactions_out_of_order_within_a_minute_are_no_gap(
    call, peer: Peer, inbound: Inbound, elsewhere: Elsewhere, later: Clock
) -> None:
    send(call, peer, "t1", prev_ids=[])
    send(call, peer, "t3", prev_ids=["t2"])
    send(call, peer, "t2", prev_ids=["t1"])
    assert inbound.work() == 1
    assert inbound.waits == []
    assert known(peer).missing == ()
    later.ahead_ms = 2 * MINUTE
    repair_gap(peer.name)
    assert pulled(peer) == []


def test_first_contact_is_no_gap(call, peer: Peer, inbound: Inbound, elsewhere: Elsewhere, told) -> None:
    send(call, peer, "t9", prev_ids=["t8", "t7"])
    assert (known(peer).last, known(peer).missing) == ("t9", ())
    assert inbound.work() == 0
    assert told == [("capable", peer.name), ("heard", peer.name)]


def test_a_server_that_names_no_transactions_leaves_no_trace_of_order(
    call, peer: Peer, inbound: Inbound, elsewhere: Elsewhere, told
) -> None:
    send(call, peer, "t1")
    assert read_ledger(peer.name, ["t1"]).peer is None
    assert told == [("heard", peer.name)]


def test_what_is_missing_is_asked_for_from_before_the_first_of_it_whatever_came_since(
    call, peer: Peer, inbound: Inbound, elsewhere: Elsewhere, later: Clock
) -> None:
    send(call, peer, "t1", prev_ids=[])
    send(call, peer, "t3", prev_ids=["t2"])
    send(call, peer, "t5", prev_ids=["t4"])
    send(call, peer, "t6", prev_ids=["t5"])
    assert known(peer).missing == ("t2", "t4")
    later.ahead_ms = MINUTE
    tells(peer, {"pdus": []})
    repair_gap(peer.name)
    assert pulled(peer) == [{"origin": ["example.org"], "v": ["t1"]}]


# ── How often, and whom ─────────────────────────────────────────────────────────────────────────────


def test_a_server_that_does_not_answer_is_asked_again_after_a_backoff_that_doubles(
    call, peer: Peer, inbound: Inbound, elsewhere: Elsewhere, later: Clock
) -> None:
    send(call, peer, "t1", prev_ids=[])
    send(call, peer, "t3", prev_ids=["t2"])
    tells(peer, {"errcode": "M_UNKNOWN"}, 500)
    later.ahead_ms = MINUTE
    repair_gap(peer.name)
    assert len(pulled(peer)) == 1
    for tries, minutes in enumerate((1, 2, 4), 2):
        later.ahead_ms += minutes * MINUTE - 5_000
        with pytest.raises(TooEarly):
            repair_gap(peer.name)
        assert len(pulled(peer)) == tries - 1
        later.ahead_ms += 6_000
        send(call, peer, f"more{tries}", prev_ids=[])
        inbound.work()
        assert len(pulled(peer)) == tries
    assert known(peer).failures == 4
    assert known(peer).missing == ("t2",)


@pytest.mark.parametrize(
    ("status", "errcode"), [(404, "M_UNRECOGNIZED"), (404, "M_NOT_FOUND"), (400, "M_BAD_JSON"), (405, "M_UNRECOGNIZED")]
)
def test_a_server_that_does_not_know_the_question_is_not_asked_again(
    call, fed: Federated, later: Clock, status: int, errcode: str
) -> None:
    send(call, fed.peer, "t1", prev_ids=[])
    send(call, fed.peer, "t3", prev_ids=["t2"])
    later.ahead_ms = MINUTE
    tells(fed.peer, {"errcode": errcode}, status)
    repair_gap(fed.peer.name)
    later.ahead_ms = 24 * 60 * MINUTE
    send(call, fed.peer, "t5", prev_ids=["t4"])
    later.ahead_ms += MINUTE
    send(call, fed.peer, "t6", prev_ids=["t5"])
    fed.inbound.work()
    repair_gap(fed.peer.name)
    assert len(pulled(fed.peer)) == 1


@pytest.mark.parametrize("answer", [[], "text", {}, {"pdus": "x", "edus": 5}, {"pdus": [5, None, []], "edus": ["x"]}])
def test_an_answer_that_is_none_ends_the_gap_and_harms_nobody(call, fed: Federated, later: Clock, answer: Any) -> None:
    send(call, fed.peer, "t1", prev_ids=[])
    send(call, fed.peer, "t3", prev_ids=["t2"])
    later.ahead_ms = MINUTE
    tells(fed.peer, answer)
    repair_gap(fed.peer.name)
    assert known(fed.peer).missing == ()
    assert fed.inbound.waiting() == [json.dumps({"origin": fed.peer.name, "pull": "t3"})]


def test_of_an_answer_with_more_than_five_hundred_pdus_five_hundred_are_taken(
    call, fed: Federated, later: Clock, monkeypatch
) -> None:
    monkeypatch.setattr(transaction_gaps, "MOST_PULLED_PDUS", 60)
    send(call, fed.peer, "t1", prev_ids=[])
    send(call, fed.peer, "t3", prev_ids=["t2"])
    later.ahead_ms = MINUTE
    tells(fed.peer, {"pdus": [pdu_of(event) for event in line(fed.remote, fed.remote.user("carol"), 70)]})
    repair_gap(fed.peer.name)
    assert staged_keys(fed.room_id) == ["pdu"] * 60


def test_what_is_asked_for_and_what_it_brings_is_judged_as_if_it_had_come_by_itself(
    call, fed: Federated, alice: User, later: Clock
) -> None:
    send(call, fed.peer, "t1", prev_ids=[])
    send(call, fed.peer, "t3", prev_ids=["t2"])
    later.ahead_ms = MINUTE
    forged = pdu_of(fed.remote.say(alice.user_id, "forged"))
    unknown = {**pdu_of(fed.remote.say(fed.remote.user("carol"), "where")), "room_id": "!nowhere:example.org"}
    stranger = edu("m.typing", room_id=fed.room_id, user_id=alice.user_id, typing=True)
    tells(fed.peer, {"pdus": [forged, unknown], "edus": [stranger]})
    repair_gap(fed.peer.name)
    fed.inbound.work()
    assert bodies(alice, fed.room_id) == []
    assert news(alice, fed.room_id).events == []


def test_who_comes_too_early_is_told_how_long_to_wait(
    call, peer: Peer, inbound: Inbound, elsewhere: Elsewhere, later: Clock
) -> None:
    send(call, peer, "t1", prev_ids=[])
    send(call, peer, "t3", prev_ids=["t2"])
    later.ahead_ms = 20_000
    with pytest.raises(TooEarly) as raised:
        repair_gap(peer.name)
    assert 35 <= raised.value.seconds <= 40


# ── Crashes ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_gap_is_noted_wherever_the_receiver_is_stopped(
    call, peer: Peer, inbound: Inbound, elsewhere: Elsewhere, later: Clock
) -> None:
    send(call, peer, "t0", prev_ids=[])
    points = points_of(lambda: send(call, peer, "probe", prev_ids=["t0"]))
    assert "gaps.noted" in points
    before = "probe"
    for number, point in enumerate(dict.fromkeys(points)):
        lost, txn = f"lost{number}", f"t{number}x"
        cut_off(point, lambda txn=txn, lost=lost: send(call, peer, txn, prev_ids=[lost]))
        assert send(call, peer, txn, prev_ids=[lost]).status == 200
        assert (known(peer).missing, known(peer).since) == ((lost,), before), point
        wake = {"origin": peer.name, "pull": txn}
        assert wake in [json.loads(body) for body in inbound.waiting()], point
        later.ahead_ms += 3 * MINUTE
        tells(peer, {"pdus": []})
        inbound.work()
        assert known(peer).missing == ()
        before = txn


def test_a_gap_is_closed_wherever_the_worker_is_stopped(call, fed: Federated, alice: User, later: Clock) -> None:
    carol = fed.remote.user("carol")
    send(call, fed.peer, "t0", prev_ids=[])
    said: list[str] = []
    points: list[str] = ["gaps.pulled"]
    for number in range(50):
        if number >= len(points):
            break
        event = fed.remote.say(carol, f"{number}", prev=fed.remote.tips())
        send(call, fed.peer, f"t{number + 1}", prev_ids=[f"lost{number}"])
        later.ahead_ms += 3 * MINUTE
        tells(fed.peer, {"pdus": [pdu_of(event)]})
        if number == 0:
            points += [point for point in points_of(lambda: repair_gap(fed.peer.name)) if point not in points]
        else:
            cut_off(points[number], lambda: repair_gap(fed.peer.name))
            repair_gap(fed.peer.name)
        fed.inbound.work()
        said.append(f"{number}")
        assert bodies(alice, fed.room_id) == said, points[number]
        assert known(fed.peer).missing == ()
    assert {"gaps.pulled", "pdus.staged", "gaps.taken"} <= set(points)
