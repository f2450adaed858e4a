"""Queues that trigger functions: batches, partial failures, and the queue's own visibility timeout for what failed.

Of a FIFO queue several batches run at a time, and never two of one message group: the emulator hands out no message of
a group of which one is out. So a slow group holds up nobody else, and what failed comes back before what follows it.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from local.emulator import Emulator
from local.invoke import Functions
from local.resources import QueueSource
from local.template import ACCOUNT, REGION

log = logging.getLogger("local")
_IDLE = 60.0  # seconds: a message that arrives wakes the poller before
_GROUPS_AT_ONCE = 8


class QueueMapping:
    """One function that reads one queue: one batch at a time, or of a FIFO queue one batch of each group."""

    def __init__(self, source: QueueSource, emulator: Emulator, functions: Functions) -> None:
        self.source = source
        self._emulator = emulator
        self._functions = functions
        self._url = f"http://localhost:4566/{ACCOUNT}/{source.queue_arn.rsplit(':', 1)[-1]}"
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"queue-{source.function}", daemon=True)
        self._is_fifo = source.queue_arn.endswith(".fifo")
        self._groups = ThreadPoolExecutor(_GROUPS_AT_ONCE, f"queue-{source.function}") if self._is_fifo else None
        self._free = threading.Semaphore(_GROUPS_AT_ONCE)

    def start(self) -> None:
        """Begin to read. On AWS the reading is done with the function's own rights."""
        if self._emulator.recorder is not None:
            for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes"):
                name = self.source.queue_arn.rsplit(":", 1)[-1]
                self._emulator.recorder.add(f"sqs:{action}", name, function=self.source.function)
        self._emulator.on_message.append(self._wake.set)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Let what runs end."""
        end = time.monotonic() + timeout
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if self._groups is not None:
            self._groups.shutdown(wait=False, cancel_futures=True)
            for _ in range(_GROUPS_AT_ONCE):
                self._free.acquire(timeout=max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._wake.clear()
                if not (self._hand_out() if self._is_fifo else self.deliver_batch()):
                    self._wake.wait(self._next_visible())
            except Exception:  # a handler's failure is handled in _deliver; this keeps the thread alive
                log.exception("the queue %s stumbled", self._url)
                time.sleep(1)

    def deliver_batch(self) -> bool:
        """Give the function one batch of what can be read; whether there was any."""
        messages = self._receive()
        if messages:
            self._deliver(messages)
        return bool(messages)

    def _receive(self) -> list[dict[str, Any]]:
        with self._emulator.lock:
            messages: list[dict[str, Any]] = self._emulator.sqs._receive_messages_for_esm(
                self._url, self.source.batch_size
            )
        return messages

    def _hand_out(self) -> bool:
        """Give each group that has messages, as far as there are threads for them, to one; whether there was any.

        AWS may put several groups into one batch. Here each has its own, or one would wait for the slowest of them.
        """
        self._free.acquire()
        messages = self._receive() if not self._stopping else []
        groups: dict[str, list[dict[str, Any]]] = {}
        for message in messages:
            groups.setdefault(message["group_id"], []).append(message)
        self._free.release()
        for batch in groups.values():
            self._free.acquire()
            assert self._groups is not None
            self._groups.submit(self._deliver_group, batch)
        return bool(messages)

    def _deliver_group(self, messages: list[dict[str, Any]]) -> None:
        try:
            self._deliver(messages)
        except Exception:
            log.exception("a batch of %s was lost sight of", self._url)
        finally:
            self._free.release()
            self._wake.set()  # what came for the group meanwhile can be read now

    def _next_visible(self) -> float:
        """Seconds until a message that is in flight or delayed can be read."""
        now = time.time()
        with self._emulator.lock:
            messages = self._emulator.sqs._get_q(self._url)["messages"]
            out = {m["group_id"] for m in messages if m["visible_at"] > now and m["receive_count"] and m["group_id"]}
            # What waits for its group is read when that is done, which wakes.
            times = [m["visible_at"] for m in messages if m["visible_at"] > now or m["group_id"] not in out]
        return min(_IDLE, max(0.01, min(times) - now)) if times else _IDLE

    def _deliver(self, messages: list[dict[str, Any]]) -> None:
        records = [self._record(message) for message in messages]
        failed: set[str] = set()
        try:
            result = self._functions.call(self.source.function, {"Records": records})
            if self.source.partial_failures and result:
                failed = {entry.get("itemIdentifier", "") for entry in result.get("batchItemFailures", ())}
        except Exception:  # any failure of a handler means: the batch comes again
            log.exception("%s failed on %d messages", self.source.function, len(messages))
            return
        if failed - {record["messageId"] for record in records}:
            return  # AWS takes an unknown identifier as a failure of the whole batch
        done = {record["receiptHandle"] for record in records if record["messageId"] not in failed}
        with self._emulator.lock:
            self._emulator.other_changes += 1
            self._emulator.sqs._delete_messages_for_esm(self._url, done)

    def _record(self, message: dict[str, Any]) -> dict[str, Any]:
        attributes = {
            "ApproximateReceiveCount": str(message["receive_count"]),
            "SentTimestamp": str(int(message["sent_at"] * 1000)),
            "SenderId": ACCOUNT,
            "ApproximateFirstReceiveTimestamp": str(int((message.get("first_receive_at") or time.time()) * 1000)),
        }
        for name, key in (
            ("SequenceNumber", "seq"),
            ("MessageGroupId", "group_id"),
            ("MessageDeduplicationId", "dedup_id"),
        ):
            if message.get(key):
                attributes[name] = message[key]
        return {
            "messageId": message["id"],
            "receiptHandle": message["receipt_handle"],
            "body": message["body"],
            "attributes": attributes,
            "messageAttributes": {
                name: {key[0].lower() + key[1:]: value for key, value in attribute.items()}
                for name, attribute in (message.get("message_attributes") or {}).items()
            },
            "md5OfBody": message["md5_body"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self.source.queue_arn,
            "awsRegion": REGION,
        }
