"""Memberships that take longer than a request: who waits for them, who is told what, and what is done twice."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from functions.federating import LOOPBACK
from functions.foreign_room import ForeignRoom
from functions.harness import Answer, User
from functions.membership_work import Worker
from functions.resident_peer import Refusal, ResidentPeer
from functions.rooms import membership, path, post, request
from homeserver.adapters.federation_http import close_connections
from homeserver.matrix.errors import BadJson, LimitExceeded, MatrixError, TooLarge
from homeserver.observability import metered
from homeserver.services import inbound_wakes, membership_requests
from homeserver.services.access_tokens import Requester
from homeserver.services.clock import now_ms
from homeserver.services.inbound_wakes import inbound_group, wake_room
from homeserver.services.membership import join_room
from homeserver.services.membership_jobs import run_job
from homeserver.services.membership_requests import Elsewhere, have_done
from homeserver.services.stub_rooms import record_out_of_band
from homeserver.storage.membership_jobs import (
    GIVEN_UP_MS,
    MembershipJob,
    begin,
    begin_unseen,
    finish,
    load,
    miss,
    new_job,
)
from homeserver.storage.room_items import LocalMember

pytestmark = pytest.mark.usefixtures("set_up")
ROOM, ALICE = "!far:remote.test", "@alice:example.org"
KEY = f"job/{ALICE}/join"
FAILED = {"status": 403, "errcode": "M_FORBIDDEN", "error": "no", "extra": {}}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker()
    monkeypatch.setattr(inbound_wakes, "send_fifo", worker.take)
    return worker


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None], worker: Worker) -> Iterator[ResidentPeer]:
    server(**LOOPBACK)
    with ResidentPeer(tmp_path) as peer:
        yield peer
        close_connections()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for a moment only."""
    monkeypatch.setattr(membership_requests, "WAIT_S", 0.2)


@pytest.fixture
def room(peer: ResidentPeer) -> ForeignRoom:
    return peer.room(join_rule="public", version="12")


def join(user: User, room: ForeignRoom, *via: str) -> Answer:
    return request(
        "client_rooms", "POST", path("join", room.id), {}, token=user.token, query={"via": via or [room.server]}
    )


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def job(kind: str = "join", now: int | None = None) -> MembershipJob:
    return new_job(ROOM, ALICE, kind, {"membership": kind}, ["remote.test"], now=now_ms() if now is None else now)


# ── Requests and the worker ──────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("short")
def test_a_request_that_waited_too_long_says_so_and_the_join_goes_on(
    alice: User, room: ForeignRoom, worker: Worker
) -> None:
    worker.held = True
    answer = join(alice, room)
    assert refusal(answer) == (504, "M_UNKNOWN")
    assert "to repeat the request is safe" in answer.json["error"]
    worker.work()
    assert membership(alice, room.id, alice) == "join"
    assert join(alice, room).json == {"room_id": room.id}


@pytest.mark.usefixtures("short")
def test_a_repeated_request_attaches_to_what_is_under_way(
    alice: User, room: ForeignRoom, peer: ResidentPeer, worker: Worker
) -> None:
    worker.held = True
    assert [join(alice, room).status for _ in range(3)] == [504, 504, 504]
    assert len(worker.messages) == 3
    worker.work()
    assert len(peer.sent["send_join"]) == 1
    assert membership(alice, room.id, alice) == "join"


def test_a_request_waits_for_a_worker_that_is_slow(
    alice: User, room: ForeignRoom, peer: ResidentPeer, worker: Worker
) -> None:
    peer.slow["send_join"] = 1.0
    worker.held = True
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(join_room, Requester(alice.user_id, "", ""), room.id, elsewhere=Elsewhere([peer.name]))
        while not worker.messages:
            time.sleep(0.01)
        worker.work()
        assert call.result() is None
    assert membership(alice, room.id, alice) == "join"


@pytest.mark.usefixtures("short")
def test_a_failure_that_nobody_heard_is_told_once_to_who_asks_again(
    alice: User, room: ForeignRoom, peer: ResidentPeer, worker: Worker
) -> None:
    worker.held = True
    peer.refuse["make_join"] = Refusal(403, "M_FORBIDDEN")
    assert join(alice, room).status == 504
    worker.work()
    peer.refuse.clear()
    assert refusal(join(alice, room)) == (403, "M_FORBIDDEN")
    worker.held = False
    assert join(alice, room).json == {"room_id": room.id}


def test_a_failure_that_was_heard_is_not_told_again(alice: User, room: ForeignRoom, peer: ResidentPeer) -> None:
    peer.refuse["make_join"] = Refusal(403, "M_FORBIDDEN")
    assert refusal(join(alice, room)) == (403, "M_FORBIDDEN")
    peer.refuse.clear()
    assert join(alice, room).json == {"room_id": room.id}


@pytest.mark.usefixtures("short")
def test_a_join_that_nobody_heard_of_is_made_again_after_the_user_left(
    alice: User, room: ForeignRoom, peer: ResidentPeer, worker: Worker
) -> None:
    worker.held = True
    assert join(alice, room).status == 504
    worker.held = False
    worker.work()
    assert post(alice, room.id, "leave").json == {}
    assert join(alice, room).json == {"room_id": room.id}
    assert membership(alice, room.id, alice) == "join"


def test_a_message_that_comes_twice_does_nothing(alice: User, room: ForeignRoom, peer: ResidentPeer) -> None:
    join(alice, room)
    asked = len(peer.asked)
    run_job(room.id, f"job/{alice.user_id}/join")
    run_job(room.id, f"job/{alice.user_id}/knock")  # which there is none of
    assert len(peer.asked) == asked


def test_who_joins_and_leaves_at_once_has_left(alice: User, peer: ResidentPeer, worker: Worker) -> None:
    """The jobs of a room are run in order: the leave finds a room that the server is in, and leaves it here."""
    room = peer.room(join_rule="invite", version="10")
    record_out_of_band(room.invite(alice.user_id), room.stripped(), invite_from=peer.name)
    worker.held = True
    requester = Requester(alice.user_id, "", "")
    with ThreadPoolExecutor(2) as threads:
        until = time.monotonic() + 10
        content = {"membership": "join"}
        first = threads.submit(have_done, room.id, alice.user_id, "join", content, [peer.name], until=until)
        while len(worker.messages) < 1:
            time.sleep(0.01)
        content = {"membership": "leave"}
        second = threads.submit(have_done, room.id, alice.user_id, "leave", content, [peer.name], until=until)
        while len(worker.messages) < 2:
            time.sleep(0.01)
        worker.work()
        assert first.result() == room.state["m.room.member", alice.user_id].event_id
        assert second.result().startswith("$")
    row = LocalMember.fetch(room.id, f"local/{requester.user_id}")
    assert row is not None
    assert row.membership == "leave"
    assert "send_leave" not in peer.sent


def test_a_job_that_is_found_too_late_is_given_up(alice: User, room: ForeignRoom, peer: ResidentPeer) -> None:
    old = new_job(
        room.id,
        alice.user_id,
        "join",
        {"membership": "join"},
        [peer.name],
        now=now_ms() - GIVEN_UP_MS - 1000,
    )
    assert begin_unseen(old)
    run_job(room.id, old.k)
    ended = load(room.id, old.k)
    assert ended is not None
    assert (ended.outcome["status"], ended.outcome["errcode"]) == (504, "M_UNKNOWN")
    assert peer.asked == []


def test_what_is_too_long_for_an_event_is_refused_before_anybody_is_asked(worker: Worker) -> None:
    long = {"membership": "join", "reason": "x" * 49_152}
    with pytest.raises(TooLarge):
        have_done(ROOM, ALICE, "join", long, ["remote.test"], until=time.monotonic())
    with pytest.raises(BadJson):
        have_done(ROOM, ALICE, "leave", {"membership": "leave", "x": 1e999}, [], until=time.monotonic())
    assert worker.messages == []
    assert load(ROOM, KEY) is None


def test_a_user_asks_other_servers_only_so_often(worker: Worker, server: Callable[..., None]) -> None:
    server(RATE_LIMITS="on")
    worker.held = True
    content = {"membership": "join"}
    for number in range(20):
        with pytest.raises(MatrixError) as waited:
            have_done(f"!r{number}:remote.test", ALICE, "join", content, ["remote.test"], until=time.monotonic())
        assert waited.value.status == 504
    with pytest.raises(LimitExceeded):
        have_done("!more:remote.test", ALICE, "join", content, ["remote.test"], until=time.monotonic())


def test_a_request_costs_a_write_and_a_read_each_time_it_looks(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.held = True
    asked: list[float] = []
    monkeypatch.setattr(membership_requests.time, "sleep", asked.append)
    clock = iter(range(10_000))
    monkeypatch.setattr(membership_requests.time, "monotonic", lambda: sum(asked) + next(clock) * 1e-6)
    with metered() as meter, pytest.raises(MatrixError):
        have_done(ROOM, ALICE, "join", {"membership": "join"}, ["remote.test"], until=25.0)
    assert sum(asked) == pytest.approx(25, abs=0.01)
    assert len(asked) <= 26
    assert meter.rru <= 26
    assert 0 < meter.wru <= 2  # the job, and that nobody waits any more


# ── The item ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_is_begun_once() -> None:
    first, second = job(), job()
    assert begin(first).number == first.number
    assert begin(second).number == first.number
    assert begin(job("knock")).number not in {first.number, second.number}


def test_a_job_ends_once() -> None:
    first = job()
    begin(first)
    assert finish(first, {"event_id": "$a"}, now=1)
    assert not finish(first, {"event_id": "$b"}, now=2)
    assert not miss(first)
    ended = load(ROOM, KEY)
    assert ended is not None
    assert ended.outcome == {"event_id": "$a"}


def test_another_job_takes_the_place_of_one_that_ended() -> None:
    first, second = job(), job()
    begin(first)
    finish(first, FAILED, now=now_ms())
    assert begin(second).number == second.number
    assert not finish(first, {"event_id": "$late"}, now=now_ms())
    running = load(ROOM, KEY)
    assert running is not None
    assert running.outcome is None


def test_a_failure_that_was_missed_is_forgotten_after_a_while() -> None:
    first = job()
    begin(first)
    assert miss(first)
    finish(first, FAILED, now=now_ms() - 301_000)
    second = job()
    assert begin(second).number == second.number


def test_a_job_that_never_ended_is_replaced_after_an_hour() -> None:
    first = job(now=now_ms() - GIVEN_UP_MS - 1)
    assert begin_unseen(first)
    second = job()
    assert begin(second).number == second.number


def test_a_job_is_kept_for_a_week() -> None:
    first = job(now=1_000_000)
    assert first.expires == 1000 + 7 * 24 * 3600


# ── Wakes ────────────────────────────────────────────────────────────────────────────────────────────


def test_every_wake_of_a_room_is_a_message_of_its_group(worker: Worker) -> None:
    worker.held = True
    long = "!" + "r" * 240 + ":remote.test"
    for room_id in (ROOM, ROOM, long):
        wake_room(room_id)
    first, second, other = worker.messages
    assert first.group == second.group == inbound_group(ROOM) != other.group
    assert len({message.deduplication for message in worker.messages}) == 3
    assert all(len(message.group) == len(message.deduplication) == 32 for message in worker.messages)
    assert other.body == {"room": long}
