"""Who asks /sync, what is answered at once, and how little the function imports; on a store in memory."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from homeserver.adapters import slim_aws
from homeserver.matrix.access_token import token_hash
from homeserver.matrix.errors import InvalidParam, MissingToken, UnknownToken
from homeserver.matrix.sync_token import SyncToken, user_tag
from homeserver.observability import metered
from homeserver.services.sync_wait import SyncAnswer, is_ahead
from homeserver.storage.inbox_shards import Inbox, SlotState
from homeserver.storage.sync_bases import store_base_request
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
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    yield from fake_store(monkeypatch)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


# ── Who asks ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("token", [None, ""])
def test_a_missing_access_token_is_told_without_asking_the_store(
    store: FakeStore, time: FakeTime, token: str | None
) -> None:
    with pytest.raises(MissingToken):
        ask(time, access_token=token)
    assert store.calls == []


def test_a_text_that_is_no_access_token_is_unknown_without_asking_the_store(store: FakeStore, time: FakeTime) -> None:
    with pytest.raises(UnknownToken):
        ask(time, access_token="syt_something_else")
    assert store.calls == []


@pytest.mark.parametrize("timeout", [0.0, 30.0])
def test_a_token_without_a_record_is_unknown(store: FakeStore, time: FakeTime, timeout: float) -> None:
    store.tables["tokens"].clear()
    with pytest.raises(UnknownToken) as caught:
        ask(time, timeout=timeout)
    assert caught.value.body() == {
        "errcode": "M_UNKNOWN_TOKEN",
        "error": "This access token is unknown or was revoked.",
    }
    assert store.built == []


def test_a_refresh_token_is_no_access_token(store: FakeStore, time: FakeTime) -> None:
    store.tables["tokens"][token_hash(TOKEN),]["kind"] = {"S": "refresh"}
    with pytest.raises(UnknownToken):
        ask(time)


def test_a_record_of_a_user_whom_the_token_does_not_name_is_not_accepted(store: FakeStore, time: FakeTime) -> None:
    # The store had another server name when it issued this token: the inbox that was read is not the record's.
    store.tables["tokens"][token_hash(TOKEN),]["user"] = {"S": "@alice:before.example.org"}
    with pytest.raises(UnknownToken):
        ask(time)


def test_an_expired_token_is_a_soft_logout(store: FakeStore, time: FakeTime) -> None:
    record = store.tables["tokens"][token_hash(TOKEN),]
    now = int((NOW + 1000) * 1000)
    record["valid_until"] = {"N": str(now)}
    with pytest.raises(UnknownToken) as caught:
        ask(time)
    assert caught.value.extra == {"soft_logout": True}
    record["valid_until"] = {"N": str(now + 1)}
    assert ask(time).status == 200


def test_the_first_use_of_a_refreshed_token_is_recorded(store: FakeStore, time: FakeTime) -> None:
    record = store.tables["tokens"][token_hash(TOKEN),]
    record["unused"] = {"BOOL": True}
    ask(time, timeout=0.0)
    assert "unused" not in record
    ask(time, timeout=0.0)
    assert store.calls.count("UpdateItem tokens") == 1


def test_a_refreshed_token_that_is_revoked_at_its_first_use_is_unknown(
    store: FakeStore, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.tables["tokens"][token_hash(TOKEN),]["unused"] = {"BOOL": True}

    def revoke_after_the_read(service: str, target: str, body: bytes) -> tuple[int, bytes]:
        answer = store(service, target, body)
        if target == "GetItem":
            store.tables["tokens"].clear()
        return answer

    monkeypatch.setattr(slim_aws, "transport", revoke_after_the_read)
    with pytest.raises(UnknownToken):
        ask(time, timeout=0.0)


def test_the_answer_is_built_for_the_user_and_device_of_the_record_with_everything_the_client_asked(
    store: FakeStore, time: FakeTime
) -> None:
    query = {"org.matrix.msc4222.use_state_after": "true"}
    ask(
        time,
        since=None,
        filter='{"room":{}}',
        full_state=True,
        set_presence="offline",
        use_state_after=True,
        query=query,
    )
    assert store.built == [
        {
            "user_id": ALICE,
            "device_id": "PHONE",
            "since": None,
            "filter": '{"room":{}}',
            "full_state": True,
            "set_presence": "offline",
            "use_state_after": True,
            "query": query,
        }
    ]


# ── At once, or not ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("changes", [{"since": None}, {"timeout": 0.0}, {"full_state": True}])
def test_first_syncs_full_state_and_no_timeout_are_answered_at_once_even_with_nothing(
    store: FakeStore, time: FakeTime, changes: dict[str, Any]
) -> None:
    store.replies = [empty(since())]
    assert ask(time, **changes) == SyncAnswer(200, json.dumps({"next_batch": since()}), True, since())
    assert store.calls == ["GetItem tokens", "Invoke"]
    assert time.sleeps == []


def test_an_answer_goes_to_the_client_as_it_came(store: FakeStore, time: FakeTime) -> None:
    store.replies = [{"status": 400, "body": '{"errcode":"M_INVALID_PARAM","error":"ä"}'}]
    answer = ask(time, since=None)
    assert (answer.status, answer.body) == (400, '{"errcode":"M_INVALID_PARAM","error":"ä"}')


@pytest.mark.parametrize(
    "text", ["", "s", "garbage", "s72594_4483_1934", "t1_0", since()[:-2], since() + "AAAA", "s" + "A" * 70_000]
)
@pytest.mark.parametrize("timeout", [0.0, 30.0])
def test_a_since_that_is_no_token_is_refused(store: FakeStore, time: FakeTime, text: str, timeout: float) -> None:
    with pytest.raises(InvalidParam):
        ask(time, since=text, timeout=timeout)
    assert store.built == []


def test_the_token_of_another_user_is_refused(store: FakeStore, time: FakeTime) -> None:
    with pytest.raises(InvalidParam):
        ask(time, since=since(user_tag=user_tag("@bob:example.org")))
    assert store.built == []


def test_a_bad_access_token_is_told_before_a_bad_since(store: FakeStore, time: FakeTime) -> None:
    store.tables["tokens"].clear()
    with pytest.raises(UnknownToken):
        ask(time, since="garbage")


@pytest.mark.parametrize(
    ("news", "told_before"),
    [
        (lambda store: store.advance(0, 6), {}),
        (lambda store: store.advance(41, 1), {}),
        (lambda store: store.advance(0, 1, kind="e"), {}),
        (lambda store: store.advance(0, 8, kind="e"), {"ephemeral": {0: 7}}),
        (lambda store: store.announce("account_data", 1), {}),
        (lambda store: store.announce("to_device", 12), {"streams": {"to_device": 11}}),
    ],
    ids=["position", "new slot", "first ephemeral", "ephemeral", "first of a stream", "stream"],
)
def test_whatever_the_inbox_is_ahead_in_is_told_at_once(
    store: FakeStore, time: FakeTime, news: Callable[[FakeStore], None], told_before: dict[str, Any]
) -> None:
    news(store)
    text = since(**told_before)
    assert ask(time, since=text).body == '{"next_batch": "s1"}'
    assert store.built[0]["since"] == text
    assert time.sleeps == []
    assert "UpdateItem limits" not in store.calls


def test_token_inbox_and_epoch_are_read_in_one_round(store: FakeStore, time: FakeTime) -> None:
    store.advance(0, 6)
    with metered() as meter:
        ask(time)
    assert sorted(store.calls) == ["GetItem server", "GetItem tokens", "Invoke", "Query inbox"]
    assert (meter.rounds, meter.calls, meter.rru) == (1, 3, 2.0)  # token 1, inbox and epoch one half each


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
def test_a_token_of_another_epoch_is_answered_at_once(store: FakeStore, time: FakeTime, epoch: int) -> None:
    text = since(epoch=epoch)
    assert ask(time, since=text).body == '{"next_batch": "s1"}'
    assert store.built[0]["since"] == text


def test_without_a_server_identity_sync_answer_decides(store: FakeStore, time: FakeTime) -> None:
    store.tables["server"].clear()
    assert ask(time).body == '{"next_batch": "s1"}'


def test_the_epoch_is_read_once_a_minute(store: FakeStore, time: FakeTime) -> None:
    store.advance(0, 6)
    for _ in range(3):
        ask(time)
        time.seconds += 25
    assert store.calls.count("GetItem server") == 1
    time.seconds += 25
    ask(time)
    assert store.calls.count("GetItem server") == 2


def test_an_inbox_that_is_behind_the_token_is_no_news(store: FakeStore, time: FakeTime) -> None:
    text = since({0: 6, 40: 9, 70: 2}, streams={"presence": 4}, ephemeral={0: 3})
    assert next_batch(ask(time, since=text)) == text
    assert store.built == []


def test_being_ahead_is_decided_for_each_component() -> None:
    token = SyncToken(EPOCH, user_tag(ALICE), {0: 5}, {0: 2}, {"invites": 1})
    assert not is_ahead(Inbox({0: SlotState(5, 2)}, {"invites": 1}), token)
    assert not is_ahead(Inbox({0: SlotState(0, 0, 99)}, {}), token)
    assert is_ahead(Inbox({0: SlotState(4, 3)}, {"invites": 0}), token)
    assert is_ahead(Inbox({0: SlotState(4, 1)}, {"invites": 2}), token)


def test_that_somebody_stopped_typing_is_news_by_the_time() -> None:
    token = SyncToken(EPOCH, user_tag(ALICE), {0: 5}, typing={0: 9_000})
    assert not is_ahead(Inbox({0: SlotState(5)}), token, now=8.9)
    assert is_ahead(Inbox({0: SlotState(5)}), token, now=9.0)


# ── Long tokens ──────────────────────────────────────────────────────────────────────────────────────────


def keep_base(store: FakeStore, number: int, positions: dict[int, int]) -> None:
    item = store_base_request(ALICE, "PHONE", number, positions, {})["Item"]
    store.put("inbox", json.loads(slim_aws._encode(item)))


def test_a_token_on_a_base_is_read_with_its_base(store: FakeStore, time: FakeTime) -> None:
    keep_base(store, 4, {0: 5, 40: 8})
    text = since({40: 9}, base=4)
    assert next_batch(ask(time, since=text)) == text
    assert store.calls.count("GetItem inbox") == 1
    store.advance(40, 10)
    assert ask(time, since=text).body == '{"next_batch": "s1"}'
    assert store.built[0]["since"] == text


def test_a_token_on_an_unknown_base_is_answered_at_once(store: FakeStore, time: FakeTime) -> None:
    keep_base(store, 5, {0: 5, 40: 9})
    text = since({}, base=4)
    assert ask(time, since=text).body == '{"next_batch": "s1"}'
    assert store.built[0]["since"] == text
    assert time.sleeps == []


def test_a_wait_goes_on_from_an_empty_answer_with_a_new_base(store: FakeStore, time: FakeTime) -> None:
    keep_base(store, 1, {0: 6, 40: 9})
    store.advance(0, 6)
    store.replies = [empty(since({}, base=1))]
    assert next_batch(ask(time)) == since({}, base=1)
    assert len(store.built) == 1


# ── Small enough for the smallest function ───────────────────────────────────────────────────────────────

_MEASURE = """
import sys, time
started = time.process_time()
import client_sync.app
cpu = time.process_time() - started
import json, pathlib
status = pathlib.Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = [line.split()[1] for line in lines if line.startswith("VmHWM")]
print(json.dumps([sorted(sys.modules), cpu, int(peak[0]) if peak else 0]))
"""


def test_the_function_imports_no_web_framework_and_no_aws_library_and_stays_small() -> None:
    path = f"{ROOT / 'layers/homeserver/python'}:{ROOT / 'functions'}"
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE], env={"PYTHONPATH": path}, capture_output=True, check=True, text=True
    )
    modules, cpu_seconds, peak_kb = json.loads(ran.stdout)
    heavy = {"boto3", "botocore", "fastapi", "mangum", "orjson", "pydantic", "pynamodb", "starlette", "asyncio"}
    assert heavy.intersection(modules) == set()
    assert "homeserver.services.sync_wait" in modules
    assert peak_kb < 40_000  # about 22 MB; a function with 128 MB has some 100 of its own
    assert cpu_seconds < 1.0  # about 70 ms; wide, as the machine may be busy
