"""How /sync waits: looks, deadlines, answers that tell nothing, places; on a store in memory and without real time."""

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from homeserver.adapters import slim_aws
from homeserver.matrix.errors import LimitExceeded, MatrixError
from homeserver.matrix.sync_token import SyncToken, user_tag
from homeserver.observability import metered
from homeserver.services.sync_wait import PollingWaiter, SyncRequest, wait_for_news
from homeserver.settings import settings
from homeserver.storage.inbox_shards import advance_request
from unit.services.sync_wait_fakes import (
    ALICE,
    EPOCH,
    NOW,
    TOKEN,
    FakeStore,
    FakeTime,
    ask,
    empty,
    fake_store,
    next_batch,
    since,
    told,
)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    yield from fake_store(monkeypatch)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


# ── Waiting ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("timeout", "remaining", "waited"),
    [(30.0, 29.0, 25.0), (7.0, 29.0, 7.0), (30.0, 12.0, 8.0), (0.2, 29.0, 0.2), (1e15, 29.0, 25.0)],
)
def test_without_news_the_wait_ends_at_the_shortest_of_timeout_25_seconds_and_the_invocation_less_4(
    store: FakeStore, time: FakeTime, timeout: float, remaining: float, waited: float
) -> None:
    answer = ask(time, timeout=timeout, remaining=remaining)
    assert answer.status == 200
    assert next_batch(answer) == since()
    assert time.elapsed == pytest.approx(waited)
    assert store.built == []


def test_an_invocation_that_has_no_time_to_wait_says_so_at_once(store: FakeStore, time: FakeTime) -> None:
    assert next_batch(ask(time, remaining=3.0)) == since()
    assert time.sleeps == []


def test_the_inbox_is_looked_at_each_half_second_with_some_jitter(store: FakeStore, time: FakeTime) -> None:
    ask(time, timeout=25.0)
    assert 25 / 0.55 - 1 <= len(time.sleeps) <= 25 / 0.45 + 1
    assert all(0.45 <= pause <= 0.55 for pause in time.sleeps[:-1])
    assert len(set(time.sleeps)) > 10
    assert store.calls.count("Query inbox") == 1 + len(time.sleeps)


def test_the_poll_interval_is_the_setting(store: FakeStore, time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_POLL_MS", "50")
    settings.cache_clear()
    ask(time, timeout=5.0)
    assert all(0.045 <= pause <= 0.055 for pause in time.sleeps[:-1])


def test_news_that_come_while_waiting_are_answered_at_the_next_look(store: FakeStore, time: FakeTime) -> None:
    time.at(7.0, lambda: store.advance(40, 10))
    assert ask(time).body == '{"next_batch": "s1"}'
    assert 7.0 <= time.elapsed <= 7.55
    assert store.calls[-2:] == ["Invoke", "UpdateItem limits"]


def test_the_last_look_is_at_the_end_of_the_time(store: FakeStore, time: FakeTime) -> None:
    time.at(24.999, lambda: store.advance(40, 10))
    assert ask(time).body == '{"next_batch": "s1"}'
    assert time.elapsed == pytest.approx(25.0)


def test_one_poll_is_one_query_and_nothing_else(store: FakeStore, time: FakeTime) -> None:
    told_everything = SyncToken.decode(since(), user_id=ALICE)
    with metered() as meter:
        assert not PollingWaiter(time.clock()).news(ALICE, told_everything, seconds=0.4)
    assert store.calls == ["Query inbox"]
    assert (meter.rounds, meter.calls, meter.rru, meter.wru) == (1, 1, 0.5, 0.0)


def full_inbox(store: FakeStore, rooms: int) -> dict[int, int]:
    """An inbox as followers write it; the positions in it."""
    chance = random.Random(500)
    store.tables["inbox"].clear()
    positions = {}
    for slot in range(rooms):
        position = max(1, int(chance.lognormvariate(6.2, 1.0)))  # the median room has some 500 events
        arrived = 1_790_000_000_000 + chance.randrange(10**9)
        request = advance_request(ALICE, slot, position, arrived)
        key = FakeStore._key("inbox", request["Key"])
        item = store.tables["inbox"].setdefault(key, dict(request["Key"]))
        for name, attribute in request["ExpressionAttributeNames"].items():
            value = request["ExpressionAttributeValues"].get(f":{name[1:]}")
            if value is not None:
                item[attribute] = value
        positions[slot] = position
    return positions


@pytest.mark.parametrize(("rooms", "units"), [(30, 0.5), (150, 0.5), (500, 0.5), (1000, 1.0)])
def test_what_a_poll_costs(store: FakeStore, time: FakeTime, rooms: int, units: float) -> None:
    token = SyncToken(EPOCH, user_tag(ALICE), full_inbox(store, rooms))
    with metered() as meter:
        assert not PollingWaiter(time.clock()).news(ALICE, token, seconds=0.4)
    assert store.calls == ["Query inbox"]
    assert meter.rru == units


def test_an_inbox_of_several_pages_is_read_to_its_end(
    store: FakeStore, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [
        {
            "Items": [{"user": {"S": ALICE}, "k": {"S": "i00"}, "0": {"N": "500000"}}],
            "LastEvaluatedKey": {"k": {"S": "i00"}},
        },
        {"Items": [{"user": {"S": ALICE}, "k": {"S": "i01"}, "8": {"N": "1000000"}}]},
    ]
    starts = []

    def paged(service: str, target: str, body: bytes) -> tuple[int, bytes]:
        if target != "Query":
            return store(service, target, body)
        starts.append(json.loads(body).get("ExclusiveStartKey"))
        return 200, json.dumps(pages[len(starts) - 1]).encode()

    monkeypatch.setattr(slim_aws, "transport", paged)
    assert ask(time).body == '{"next_batch": "s1"}'
    assert starts == [None, {"k": {"S": "i00"}}]


def test_a_resident_waiter_can_take_the_place_of_the_polls(store: FakeStore, time: FakeTime) -> None:
    asked = []

    class Resident:
        def news(self, user_id: str, told: SyncToken, *, seconds: float) -> bool:
            asked.append((user_id, told.positions, seconds))
            return True

    request = SyncRequest(TOKEN, since=since(), timeout=10.0)
    answer = wait_for_news(request, remaining=29.0, waiter=Resident(), clock=time.clock())
    assert answer.body == '{"next_batch": "s1"}'
    assert asked == [(ALICE, {0: 5, 40: 9}, pytest.approx(10.0))]
    assert store.calls.count("Query inbox") == 1


# ── Answers that tell nothing ────────────────────────────────────────────────────────────────────────────


def test_after_an_empty_answer_the_wait_goes_on_from_its_token_and_ends_with_it(
    store: FakeStore, time: FakeTime
) -> None:
    filtered = since({0: 6, 40: 9})
    store.advance(0, 6)
    store.replies = [empty(filtered)]
    assert next_batch(ask(time)) == filtered
    assert time.elapsed == pytest.approx(25.0)
    assert [request["since"] for request in store.built] == [since()]


def test_what_follows_an_empty_answer_is_asked_from_its_token(store: FakeStore, time: FakeTime) -> None:
    filtered, later = since({0: 6, 40: 9}), since({0: 7, 40: 9})
    time.at(2.0, lambda: store.advance(0, 6))
    time.at(5.0, lambda: store.advance(0, 7))
    time.at(9.0, lambda: store.advance(40, 10))
    store.replies = [empty(filtered), empty(later), told(8)]
    assert ask(time).body == '{"next_batch": "s8"}'
    assert [request["since"] for request in store.built] == [since(), filtered, later]
    assert 9.0 <= time.elapsed <= 9.55


def test_news_that_sync_answer_does_not_see_yet_are_asked_for_in_growing_pauses(
    store: FakeStore, time: FakeTime
) -> None:
    times: list[float] = []
    store.advance(0, 6)

    def blind(request: dict[str, Any]) -> dict[str, Any]:
        times.append(time.elapsed)
        return empty(request["since"])

    store.replies = [blind]
    assert next_batch(ask(time)) == since()
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert 5 <= len(times) <= 10
    assert gaps[0] <= 0.56
    assert all(later > earlier for earlier, later in itertools.pairwise(gaps[:4]))
    assert max(gaps) <= 5.6


def test_an_inbox_that_goes_backwards_between_looks_hides_and_repeats_nothing(store: FakeStore, time: FakeTime) -> None:
    old = store.inbox_items()
    time.at(0.3, lambda: store.advance(0, 6))
    store.stale = [old, old, old]  # eventual reads: three looks still see what was before
    store.replies = [empty(since({0: 6, 40: 9})), told(2)]
    time.at(4.0, lambda: store.stale.extend([old, old]))
    assert next_batch(ask(time)) == since({0: 6, 40: 9})
    assert len(store.built) == 1


def test_an_error_while_waiting_ends_the_wait(store: FakeStore, time: FakeTime) -> None:
    time.at(1.0, lambda: store.advance(0, 6))
    store.replies = [{"status": 500, "body": '{"errcode":"M_UNKNOWN","error":"no"}', "empty": False}]
    answer = ask(time)
    assert (answer.status, answer.body) == (500, '{"errcode":"M_UNKNOWN","error":"no"}')


@pytest.mark.parametrize(
    "failure", [slim_aws.FunctionFailed("boom"), {"errorMessage": "boom", "errorType": "KeyError"}, None]
)
def test_a_sync_answer_that_fails_is_an_error_of_the_server(
    store: FakeStore, time: FakeTime, failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store.replies = [failure]
    with pytest.raises(MatrixError) as caught:
        ask(time, since=None)
    assert (caught.value.status, caught.value.errcode) == (500, "M_UNKNOWN")
    assert "boom" not in caught.value.message
    assert "sync_answer gave no answer" in caplog.text


def test_news_too_late_to_be_answered_are_left_to_the_next_request(store: FakeStore, time: FakeTime) -> None:
    time.at(24.0, lambda: store.advance(0, 6))
    store.replies = [TimeoutError()]
    assert next_batch(ask(time)) == since()


def test_what_building_consumed_is_counted_where_it_is_told(store: FakeStore, time: FakeTime) -> None:
    consumed = {"rounds": 2, "calls": 3, "rru": 1.5, "wru": 1.0, "cpu": 4.2}
    store.replies = [{**told(1), "meter": consumed}]
    with metered() as meter:
        ask(time, since=None)
    assert (meter.rounds, meter.calls, meter.rru, meter.wru) == (3, 4, 2.5, 1.0)


# ── How many may wait ────────────────────────────────────────────────────────────────────────────────────


def test_a_place_is_taken_while_waiting_and_given_back(store: FakeStore, time: FakeTime) -> None:
    seen: list[int] = []
    time.at(1.0, lambda: seen.append(len(store.leases)))
    ask(time)
    assert seen == [1]
    assert store.leases == []
    assert store.calls.count("UpdateItem limits") == 2


def test_a_place_is_given_back_when_the_answer_fails(store: FakeStore, time: FakeTime) -> None:
    time.at(1.0, lambda: store.advance(0, 6))
    store.replies = [slim_aws.FunctionFailed("boom")]
    with pytest.raises(MatrixError):
        ask(time)
    assert store.leases == []


def occupy(store: FakeStore, count: int, until: float) -> None:
    leases = {f"w{number:012x}": {"N": str(int(until))} for number in range(count)}
    store.put("limits", {"bucket": {"S": f"wait/{ALICE}"}, **leases})


def test_the_twentieth_wait_of_a_user_is_let_in_and_the_next_one_refused(store: FakeStore, time: FakeTime) -> None:
    occupy(store, 19, NOW + 1000 + 50)
    assert next_batch(ask(time, timeout=1.0)) == since()
    occupy(store, 20, NOW + 1000 + 50)
    with pytest.raises(LimitExceeded) as caught:
        ask(time, timeout=1.0)
    assert caught.value.extra == {"retry_after_ms": 5000}
    assert len(store.leases) == 20


def test_news_are_told_to_a_user_all_of_whose_places_are_taken(store: FakeStore, time: FakeTime) -> None:
    occupy(store, 20, NOW + 1000 + 50)
    store.advance(0, 6)
    assert ask(time).body == '{"next_batch": "s1"}'
    assert ask(time, timeout=0.0).body == '{"next_batch": "s1"}'


def test_places_that_crashes_left_behind_free_themselves_after_a_minute(store: FakeStore, time: FakeTime) -> None:
    occupy(store, 20, NOW + 1000)
    assert next_batch(ask(time, timeout=1.0)) == since()
    assert store.leases == []
    item = store.tables["limits"][f"wait/{ALICE}",]
    assert item["expires"] == {"N": str(int(NOW + 1000 + 60))}


def test_without_rate_limits_nobody_counts(store: FakeStore, time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMITS", "off")
    settings.cache_clear()
    occupy(store, 20, NOW + 1000 + 50)
    assert next_batch(ask(time, timeout=1.0)) == since()
    assert "UpdateItem limits" not in store.calls


def test_a_place_that_cannot_be_given_back_does_not_spoil_the_answer(
    store: FakeStore, time: FakeTime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(service: str, target: str, body: bytes) -> tuple[int, bytes]:
        if target == "UpdateItem" and b"REMOVE" in body:
            return 400, b'{"__type":"x#ResourceNotFoundException"}'
        return store(service, target, body)

    monkeypatch.setattr(slim_aws, "transport", broken)
    assert next_batch(ask(time, timeout=1.0)) == since()
    assert "frees itself" in caplog.text
