"""DynamoDB streams that trigger functions: filtered, in batches, in order for each partition key, at least once."""

import logging
import threading
import time
import uuid
import zlib
from collections import deque
from itertools import islice
from typing import Any

import orjson

from local.emulator import Emulator
from local.invoke import Functions
from local.patterns import matches
from local.resources import StreamSource
from local.template import ACCOUNT, REGION

log = logging.getLogger("local")
_UNKIND_LANES = 3
_LONGEST_PAUSE = 2.0  # seconds between two tries of a failing batch


class _Lane:
    """Records of some partition keys, waiting in order. Changed under the store lock only."""

    __slots__ = ("limit", "pending", "tries", "wake")

    def __init__(self, limit: int) -> None:
        self.pending: deque[dict[str, Any]] = deque()
        self.wake = threading.Event()
        self.limit = limit
        self.tries = 0


class StreamMapping:
    """One function that follows one table's stream.

    A record stays pending until the function has handled it or given it up, so a snapshot of the pending records is the
    mapping's position.
    """

    def __init__(self, source: StreamSource, emulator: Emulator, functions: Functions) -> None:
        self.source = source
        self.key = f"{source.table} > {source.function}"
        self._emulator = emulator
        self._functions = functions
        self._unkind = emulator.unkind
        lanes = max(source.parallel, _UNKIND_LANES) if self._unkind else source.parallel
        self._lanes = [_Lane(source.batch_size) for _ in range(lanes)]
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def accept(self, record: dict[str, Any]) -> None:
        """Take a record of the table if a filter lets it pass. Called under the store lock."""
        filters = self.source.filters
        if filters and not any(matches(pattern, record) for pattern in filters):
            return
        keys = record["dynamodb"]["Keys"]
        lane = self._lanes[0]
        if len(self._lanes) > 1:
            partition = orjson.dumps(next(iter(keys.values())))
            lane = self._lanes[zlib.crc32(partition) % len(self._lanes)]
        lane.pending.append(record)
        if not lane.wake.is_set():
            lane.wake.set()

    def pending(self) -> list[dict[str, Any]]:
        """What is not handled yet, in order. Called under the store lock."""
        found = [record for lane in self._lanes for record in lane.pending]
        return sorted(found, key=lambda record: str(record["dynamodb"]["SequenceNumber"]))

    def drain(self) -> list[dict[str, Any]]:
        """Take everything that is pending out of the mapping: whoever measures delivers it alone."""
        with self._emulator.lock:
            records = self.pending()
            for lane in self._lanes:
                lane.pending.clear()
        return records

    def start(self) -> None:
        """Begin to deliver. On AWS the stream is read with the function's own rights."""
        if self._emulator.recorder is not None:
            for action in ("GetRecords", "GetShardIterator", "DescribeStream", "ListStreams"):
                stream = f"{self.source.table}/stream"
                self._emulator.recorder.add(f"dynamodb:{action}", stream, function=self.source.function)
            if self.source.on_failure is not None:
                queue = self.source.on_failure.rsplit(":", 1)[-1]
                self._emulator.recorder.add("sqs:SendMessage", queue, function=self.source.function)
        for number, lane in enumerate(self._lanes):
            thread = threading.Thread(
                target=self._run, args=(lane,), name=f"stream-{self.source.function}-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self, timeout: float) -> None:
        """Let the running batches end; what is pending stays so."""
        self._stopping = True
        for lane in self._lanes:
            lane.wake.set()
        for thread in self._threads:
            thread.join(timeout)

    def _run(self, lane: _Lane) -> None:
        while not self._stopping:
            lane.wake.wait()
            lane.wake.clear()
            while lane.pending and not self._stopping:
                try:
                    self._deliver(lane)
                except Exception:  # the follower's own failures are handled in _deliver; this keeps the thread alive
                    log.exception("the stream of %s stumbled", self.key)
                    time.sleep(1)

    def _deliver(self, lane: _Lane) -> None:
        size = lane.limit
        if self._unkind is not None:
            self._unkind.pause()
            size = self._unkind.batch_size(size)
        with self._emulator.lock:
            batch = list(islice(lane.pending, size))
        failed_at = self._invoke(batch)
        if failed_at is None:
            again = self._unkind.redeliver(len(batch)) if self._unkind else 0
            self._handled(lane, len(batch) - again)
            return
        self._handled(lane, failed_at)
        rest = len(batch) - failed_at
        if rest > 1 and self.source.bisect:
            # A split is no try of its own.
            lane.limit = rest // 2
            return
        lane.tries += 1
        if 0 <= self.source.retries < lane.tries:
            self._give_up(batch[failed_at:])
            self._handled(lane, rest)
            return
        self._pause(lane.tries)

    def _handled(self, lane: _Lane, count: int) -> None:
        with self._emulator.lock:
            for _ in range(count):
                lane.pending.popleft()
        if count:
            lane.tries = 0
            lane.limit = self.source.batch_size

    def _invoke(self, batch: list[dict[str, Any]]) -> int | None:
        """Call the function; the index of the first record that failed, or None."""
        event = orjson.loads(orjson.dumps({"Records": batch}))
        try:
            result = self._functions.call(self.source.function, event)
        except Exception:  # any failure of a handler means: try the batch again
            log.exception("%s failed on %d records", self.source.function, len(batch))
            return 0
        if not self.source.partial_failures or not result or not result.get("batchItemFailures"):
            return None
        failed = {entry.get("itemIdentifier") for entry in result["batchItemFailures"]}
        numbers = [record["dynamodb"]["SequenceNumber"] for record in batch]
        return next((at for at, number in enumerate(numbers) if number in failed), 0)

    def _pause(self, tries: int) -> None:
        until = time.monotonic() + min(_LONGEST_PAUSE, 0.05 * 2**tries)
        while not self._stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _give_up(self, batch: list[dict[str, Any]]) -> None:
        """Tell the failure queue which records were given up, in the shape that AWS sends."""
        log.error("%s gave up %d records", self.source.function, len(batch))
        if self.source.on_failure is None:
            return
        numbers = [record["dynamodb"]["SequenceNumber"] for record in batch]
        times = [_instant(record["dynamodb"]["ApproximateCreationDateTime"]) for record in batch]
        message = {
            "requestContext": {
                "requestId": str(uuid.uuid4()),
                "functionArn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.source.function}",
                "condition": "RetryAttemptsExhausted",
                "approximateInvokeCount": self.source.retries + 1,
            },
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
            "version": "1.0",
            "timestamp": _instant(time.time()),
            "DDBStreamBatchInfo": {
                "shardId": "shardId-00000000000000000000-00000000",
                "startSequenceNumber": numbers[0],
                "endSequenceNumber": numbers[-1],
                "approximateArrivalOfFirstRecord": times[0],
                "approximateArrivalOfLastRecord": times[-1],
                "batchSize": len(batch),
                "streamArn": batch[0]["eventSourceARN"],
            },
        }
        name = self.source.on_failure.rsplit(":", 1)[-1]
        self._emulator.request(
            "sqs",
            "SendMessage",
            QueueUrl=f"http://localhost:4566/{ACCOUNT}/{name}",
            MessageBody=orjson.dumps(message).decode(),
        )


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + ".000Z"
