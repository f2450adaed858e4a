"""Queues that trigger functions: batches, partial failures, and the queue's own visibility timeout for what failed."""

import logging
import threading
import time
from typing import Any

from local.emulator import Emulator
from local.invoke import Functions
from local.resources import QueueSource
from local.template import ACCOUNT, REGION

log = logging.getLogger("local")
_IDLE = 60.0  # seconds: a message that arrives wakes the poller before


class QueueMapping:
    """One function that reads one queue, one batch at a time."""

    def __init__(self, source: QueueSource, emulator: Emulator, functions: Functions) -> None:
        self.source = source
        self._emulator = emulator
        self._functions = functions
        self._url = f"http://localhost:4566/{ACCOUNT}/{source.queue_arn.rsplit(':', 1)[-1]}"
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"queue-{source.function}", daemon=True)

    def start(self) -> None:
        """Begin to read. On AWS the reading is done with the function's own rights."""
        if self._emulator.recorder is not None:
            for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes"):
                name = self.source.queue_arn.rsplit(":", 1)[-1]
                self._emulator.recorder.add(f"sqs:{action}", name, function=self.source.function)
        self._emulator.on_message.append(self._wake.set)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Let the running batch end."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._wake.clear()
                if not self.deliver_batch():
                    self._wake.wait(self._next_visible())
            except Exception:  # a handler's failure is handled in _deliver; this keeps the thread alive
                log.exception("the queue %s stumbled", self._url)
                time.sleep(1)

    def deliver_batch(self) -> bool:
        """Give the function one batch of what can be read; whether there was any."""
        with self._emulator.lock:
            messages = self._emulator.sqs._receive_messages_for_esm(self._url, self.source.batch_size)
        if messages:
            self._deliver(messages)
        return bool(messages)

    def _next_visible(self) -> float:
        """Seconds until a message that is in flight or delayed can be read."""
        with self._emulator.lock:
            times = [message["visible_at"] for message in self._emulator.sqs._get_q(self._url)["messages"]]
        return min(_IDLE, max(0.01, min(times) - time.time())) if times else _IDLE

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
