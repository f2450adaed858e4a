"""A store in memory, a scripted `sync_answer`, a clock that only sleeping moves: for tests of the waiting loop."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from homeserver.adapters import slim_aws
from homeserver.matrix.access_token import ACCESS, format_token, token_hash
from homeserver.matrix.sync_token import SyncToken, user_tag
from homeserver.observability import log
from homeserver.services import sync_wait
from homeserver.services.sync_wait import Clock, SyncAnswer, SyncRequest, wait_for_news
from homeserver.settings import settings
from homeserver.storage.inbox_shards import COUNTERS, SLOTS_PER_SHARD, STREAMS, shard_key

ALICE = "@alice:example.org"
TOKEN = format_token(ACCESS, "alice", bytes(32))
EPOCH = 3
NOW = 1_800_000_000.0


@dataclass(slots=True)
class FakeTime:
    """A clock that stands still but for sleeping; `at` makes something happen while somebody sleeps."""

    seconds: float = 1000.0
    sleeps: list[float] = field(default_factory=list)
    events: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        return self.seconds - 1000

    def at(self, elapsed: float, happen: Callable[[], None]) -> None:
        self.events.append((1000 + elapsed, happen))
        self.events.sort(key=lambda event: event[0])

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.sleeps.append(seconds)
        self.seconds += seconds
        while self.events and self.events[0][0] <= self.seconds:
            self.events.pop(0)[1]()

    def clock(self) -> Clock:
        return Clock(lambda: self.seconds, lambda: NOW + self.seconds, self.sleep)


@dataclass(slots=True)
class FakeStore:
    """What the loop's requests need of DynamoDB, and a `sync_answer` that plays a list of replies."""

    tables: dict[str, dict[tuple[str, ...], dict[str, Any]]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    built: list[dict[str, Any]] = field(default_factory=list)
    replies: list[Any] = field(default_factory=list)
    stale: list[list[dict[str, Any]]] = field(default_factory=list)  # what the next Queries see instead

    def put(self, table: str, item: dict[str, Any]) -> None:
        self.tables.setdefault(table, {})[self._key(table, item)] = item

    @staticmethod
    def _key(table: str, item: Mapping[str, Any]) -> tuple[str, ...]:
        names = {"tokens": ("hash",), "server": ("k",), "limits": ("bucket",), "inbox": ("user", "k")}
        return tuple(item[name]["S"] for name in names[table])

    def inbox_items(self) -> list[dict[str, Any]]:
        rows = self.tables.get("inbox", {})
        return [dict(rows[key]) for key in sorted(rows) if key[0] == ALICE and key[1].startswith("i")]

    def advance(self, slot: int, position: int, *, kind: str = "p") -> None:
        key = {"user": {"S": ALICE}, "k": {"S": shard_key(slot)}}
        item = self.tables.setdefault("inbox", {}).setdefault(self._key("inbox", key), dict(key))
        name = str(slot % SLOTS_PER_SHARD)
        # A position shares its number with the time of the last event, here none.
        item[name if kind == "p" else kind + name] = {"N": str(position * 100_000 if kind == "p" else position)}

    def announce(self, stream: str, number: int) -> None:
        key = {"user": {"S": ALICE}, "k": {"S": COUNTERS}}
        item = self.tables.setdefault("inbox", {}).setdefault(self._key("inbox", key), dict(key))
        item[STREAMS[stream]] = {"N": str(number)}

    def __call__(self, service: str, target: str, body: bytes) -> tuple[int, bytes]:
        request = json.loads(body)
        if service == "lambda":
            assert target == "the-answer-function"
            self.calls.append("Invoke")
            self.built.append(request)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            if isinstance(reply, Exception):
                raise reply
            return 200, json.dumps(reply(request) if callable(reply) else reply).encode()
        table = request["TableName"]
        self.calls.append(f"{target} {table}")
        rows = self.tables.setdefault(table, {})
        if target == "Query":
            assert request["ExpressionAttributeValues"] == {":u": {"S": ALICE}, ":i": {"S": "i"}}
            assert request["ConsistentRead"] is False
            return self._answer({"Items": self.stale.pop(0) if self.stale else self.inbox_items()})
        key = self._key(table, request["Key"])
        if target == "GetItem":
            return self._answer({"Item": rows[key]} if key in rows else {})
        assert target == "UpdateItem"
        return self._update(rows, key, request)

    def _update(
        self, rows: dict[tuple[str, ...], dict[str, Any]], key: tuple[str, ...], request: Mapping[str, Any]
    ) -> tuple[int, bytes]:
        names = request["ExpressionAttributeNames"]
        if request.get("ConditionExpression") == "attribute_exists(#hash)" and key not in rows:
            return 400, b'{"__type":"x#ConditionalCheckFailedException","message":"The condition failed"}'
        item = rows.setdefault(key, dict(request["Key"]))
        verb, _, rest = request["UpdateExpression"].partition(" ")
        for part in rest.split(", "):
            name, _, value = part.partition(" = ")
            if verb == "SET":
                item[names[name]] = request["ExpressionAttributeValues"][value]
            else:
                assert verb == "REMOVE"
                item.pop(names[name], None)
        return self._answer({"Attributes": item} if request.get("ReturnValues") == "ALL_NEW" else {})

    @staticmethod
    def _answer(value: Any) -> tuple[int, bytes]:
        return 200, json.dumps(value).encode()

    @property
    def leases(self) -> list[str]:
        item = self.tables.get("limits", {}).get((f"wait/{ALICE}",), {})
        return [name for name in item if name.startswith("w")]


def fake_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    """A store in the place of the network, with a token of ALICE and an inbox of two rooms; fixtures yield from it."""
    for noun in ("TOKENS", "SERVER", "LIMITS", "INBOX"):
        monkeypatch.setenv(f"{noun}_TABLE", noun.lower())
    monkeypatch.setenv("SYNC_ANSWER_FUNCTION", "the-answer-function")
    monkeypatch.setenv("SERVER_NAME", "example.org")
    monkeypatch.setenv("SYNC_POLL_MS", "500")
    monkeypatch.setenv("RATE_LIMITS", "on")
    settings.cache_clear()
    sync_wait.forget_epoch()
    store = FakeStore(replies=[told(1)])
    store.put(
        "tokens",
        {
            "hash": {"S": token_hash(TOKEN)},
            "kind": {"S": "access"},
            "user": {"S": ALICE},
            "device": {"S": "PHONE"},
        },
    )
    store.put("server", {"k": {"S": "identity"}, "epoch": {"N": str(EPOCH)}})
    store.advance(0, 5)
    store.advance(40, 9)
    monkeypatch.setattr(slim_aws, "transport", store)
    monkeypatch.setattr(log, "propagate", True)  # a handler that was imported has logged elsewhere: caplog needs it
    yield store
    settings.cache_clear()
    sync_wait.forget_epoch()


def since(positions: dict[int, int] | None = None, **changes: Any) -> str:
    """A token of ALICE that was told everything in the store of the tests, unless changed."""
    token = SyncToken(EPOCH, user_tag(ALICE), positions if positions is not None else {0: 5, 40: 9})
    return replace(token, **changes).encode()


def told(number: int) -> dict[str, Any]:
    return {"status": 200, "body": json.dumps({"next_batch": f"s{number}"}), "empty": False, "next_batch": f"s{number}"}


def empty(next_batch: str) -> dict[str, Any]:
    return {"status": 200, "body": json.dumps({"next_batch": next_batch}), "empty": True, "next_batch": next_batch}


def ask(time: FakeTime, *, remaining: float = 29.0, **changes: Any) -> SyncAnswer:
    request = SyncRequest(**{"access_token": TOKEN, "since": since(), "timeout": 30.0, **changes})
    return wait_for_news(request, remaining=remaining, clock=time.clock())


def next_batch(answer: SyncAnswer) -> str:
    body = json.loads(answer.body)
    assert list(body) == ["next_batch"]
    return str(body["next_batch"])
