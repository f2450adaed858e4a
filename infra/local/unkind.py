"""A test mode that makes the emulator as unkind as AWS may be, with a seed.

- Eventually consistent reads (GetItem, Query, BatchGetItem, every index) may return items as they were up to a second
  ago, each item with a lag of its own.
- Consistent Query and BatchGetItem are read-committed and no snapshot: beside a transaction they may see some of its
  items before and others after.
- A write transaction may be cancelled with TransactionConflict, which carries no item.
- Streams are redelivered, split and interleaved: `streams.py` asks here.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import orjson

STALENESS = 1.0  # seconds: how far back an eventually consistent read may look
_STALE_CHANCE = 0.5
_TORN_CHANCE = 0.4
_TORN_PAUSE = 0.006  # seconds: the longest time between the parts of a torn read
_CONFLICT_CHANCE = 0.04
_KEPT = 4096  # overwritten items remembered, all tables together

Answer = tuple[int, dict[str, str], bytes]
Operation = Callable[[dict[str, Any]], Answer]


class Items(Protocol):
    """How the emulator's items are put back and forth; both leave no trace in streams."""

    def put(self, table: str, pk: str, sk: str, item: dict[str, Any] | None) -> None:
        """Make this the item under the key; None removes it."""
        ...

    def get(self, table: str, pk: str, sk: str) -> dict[str, Any] | None:
        """The item under the key now."""
        ...


class Unkind:
    """The unkindness of one process. Everything but the pauses happens under the store lock."""

    def __init__(self, seed: int, lock: "threading.RLock | Any", items: Items) -> None:
        self.random = random.Random(seed)
        self._lock = lock
        self._items = items
        self._history: deque[tuple[float, str, str, str, dict[str, Any] | None]] = deque(maxlen=_KEPT)

    def overwritten(self, table: str, pk: str, sk: str, old: dict[str, Any] | None) -> None:
        """Remember what an item was before it was written. Called under the store lock."""
        self._history.append((time.monotonic(), table, pk, sk, old))

    def call(self, action: str, operation: Operation, request: dict[str, Any]) -> Answer:
        """Carry out one request, unkindly."""
        if action == "TransactWriteItems":
            with self._lock:
                if self.random.random() < _CONFLICT_CHANCE:
                    return self._conflict(request)
                return operation(request)
        tables = list(_read_tables(action, request))
        if not tables:
            with self._lock:
                return operation(request)
        with self._lock:
            chance, pause = self.random.random(), self.random.random() * _TORN_PAUSE
        started = time.monotonic()
        consistent = all(wanted for _, wanted in tables)
        if consistent and (action == "GetItem" or chance >= _TORN_CHANCE):
            with self._lock:
                return operation(request)
        if consistent:
            # The call takes its time, without the lock: what is committed meanwhile may be seen in part.
            time.sleep(pause)
        with self._lock:
            stale = started - STALENESS if chance < _STALE_CHANCE else started
            since = {table: started if wanted else stale for table, wanted in tables}
            current = self._rewind(since)
            try:
                return operation(request)
            finally:
                for (table, pk, sk), item in current.items():
                    self._items.put(table, pk, sk, item)

    def _rewind(self, since: dict[str, float]) -> dict[tuple[str, str, str], dict[str, Any] | None]:
        """Set items back, each to a moment of its own between `since` and now; returns what they are in truth."""
        moments: dict[tuple[str, str, str], float] = {}
        current: dict[tuple[str, str, str], dict[str, Any] | None] = {}
        now = time.monotonic()
        for at, table, pk, sk, old in self._history:
            if table not in since or at < since[table]:
                continue
            key = (table, pk, sk)
            if key not in moments:
                moments[key] = now if self.random.random() < 0.5 else self.random.uniform(since[table], now)
            if at > moments[key] and key not in current:
                current[key] = self._items.get(table, pk, sk)
                self._items.put(table, pk, sk, old)
        return current

    def _conflict(self, request: dict[str, Any]) -> Answer:
        reasons: list[dict[str, str]] = [{"Code": "None"} for _ in request.get("TransactItems", ())]
        if reasons:
            reasons[self.random.randrange(len(reasons))] = {
                "Code": "TransactionConflict",
                "Message": "Transaction is ongoing for the item",
            }
        codes = ", ".join(reason["Code"] for reason in reasons)
        body = {
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "message": f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]",
            "CancellationReasons": reasons,
        }
        return 400, {"Content-Type": "application/x-amz-json-1.0"}, orjson.dumps(body)

    # ── streams ────────────────────────────────────────────────────────────────────────────────────

    def batch_size(self, limit: int) -> int:
        """How many records the next batch may have."""
        with self._lock:
            return self.random.randint(1, limit) if limit > 1 and self.random.random() < 0.5 else limit

    def redeliver(self, count: int) -> int:
        """How many of the `count` records that were just handled come again, from the end of the batch."""
        with self._lock:
            return self.random.randint(1, count) if count and self.random.random() < 0.2 else 0

    def pause(self) -> None:
        """Wait as long as a poll of a stream might."""
        with self._lock:
            seconds = self.random.choice((0.0, 0.0, 0.01, 0.05))
        time.sleep(seconds)


def _read_tables(action: str, request: dict[str, Any]) -> Iterable[tuple[str, bool]]:
    """The tables that a read names, each with whether it is read consistently."""
    if action in {"GetItem", "Query", "Scan"}:
        return [(request.get("TableName", ""), bool(request.get("ConsistentRead")))]
    if action == "BatchGetItem":
        return [(name, bool(part.get("ConsistentRead"))) for name, part in request.get("RequestItems", {}).items()]
    return []
