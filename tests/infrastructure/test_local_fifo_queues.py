"""FIFO queues of the local run, as AWS serves them to a function: in order within a group, groups side by side."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from local.emulator import Emulator
from local.queues import QueueMapping
from local.resources import QueueSource
from local.template import ACCOUNT, REGION

NAME, LETTERS = "orders.fifo", "letters.fifo"
URL = f"http://localhost:4566/{ACCOUNT}/{NAME}"
HIDDEN_S = 1  # what failed comes back after it, unless it is brought back sooner


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("emulator"))


class Consumer:
    """A function that takes the messages of a queue; `seen` is what it has done, by group."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.seen: dict[str, list[str]] = defaultdict(list)
        self.batches: list[list[str]] = []
        self.at_once: set[str] = set()
        self.most_at_once = 0
        self.act: Callable[[str, str, dict[str, Any]], bool] = lambda *_: True
        self._lock = threading.Lock()

    def call(self, _name: str, event: dict[str, Any]) -> dict[str, Any]:
        """As a careful handler of a FIFO queue: after a failure the rest of the batch has failed too."""
        (group,) = {record["attributes"]["MessageGroupId"] for record in event["Records"]}
        with self._lock:
            assert group not in self.at_once, "two batches of a group at the same time"
            self.at_once.add(group)
            self.most_at_once = max(self.most_at_once, len(self.at_once))
            self.batches.append([record["body"] for record in event["Records"]])
        failed: list[str] = []
        try:
            for record in event["Records"]:
                if failed or not self.act(group, record["body"], record):
                    failed.append(record["messageId"])
                else:
                    self.seen[group].append(record["body"])
        finally:
            with self._lock:
                self.at_once.discard(group)
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}

    def until(self, wanted: dict[str, list[str]], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while dict(self.seen) != wanted:
            assert time.monotonic() < deadline, f"{dict(self.seen)} is not {wanted}"
            time.sleep(0.01)


@pytest.fixture
def consumer(emulator: Emulator) -> Iterator[Consumer]:
    redrive = {"deadLetterTargetArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{LETTERS}", "maxReceiveCount": 3}
    emulator.request("sqs", "CreateQueue", QueueName=LETTERS, Attributes={"FifoQueue": "true"})
    attributes = {"FifoQueue": "true", "VisibilityTimeout": str(HIDDEN_S), "RedrivePolicy": json.dumps(redrive)}
    emulator.request("sqs", "CreateQueue", QueueName=NAME, Attributes=attributes)
    consumer = Consumer(emulator)
    source = QueueSource("worker", f"arn:aws:sqs:{REGION}:{ACCOUNT}:{NAME}", 10, True)
    mapping = QueueMapping(source, emulator, SimpleNamespace(call=consumer.call))
    mapping.start()
    yield consumer
    mapping.stop(5)
    for url in (URL, URL.replace(NAME, LETTERS)):
        emulator.request("sqs", "DeleteQueue", QueueUrl=url)


def put(emulator: Emulator, group: str, *bodies: str) -> None:
    for number, body in enumerate(bodies):
        deduplication = f"{group} {body} {number} {time.monotonic_ns()}"
        emulator.request(
            "sqs",
            "SendMessage",
            QueueUrl=URL,
            MessageBody=body,
            MessageGroupId=group,
            MessageDeduplicationId=deduplication,
        )


def test_messages_of_a_group_come_in_order_and_never_two_batches_of_it_at_once(
    emulator: Emulator, consumer: Consumer
) -> None:
    def slowly(_group: str, _body: str, _record: dict[str, Any]) -> bool:
        time.sleep(0.002)
        return True

    consumer.act = slowly
    bodies = [str(number) for number in range(40)]
    for body in bodies:
        for group in ("a", "b", "c"):
            put(emulator, group, body)
    consumer.until(dict.fromkeys("abc", bodies))
    assert all(len(batch) <= 10 for batch in consumer.batches)


def test_a_slow_group_stops_no_other(emulator: Emulator, consumer: Consumer) -> None:
    go_on = threading.Event()
    consumer.act = lambda group, *_: group != "slow" or go_on.wait(10)
    put(emulator, "slow", "1")
    put(emulator, "slow", "2")
    for number in range(5):
        put(emulator, "quick", str(number))
        put(emulator, f"other{number}", "x")
    others = {f"other{number}": ["x"] for number in range(5)}
    consumer.until({"quick": list("01234"), **others})
    go_on.set()
    consumer.until({"slow": ["1", "2"], "quick": list("01234"), **others})
    assert consumer.most_at_once >= 2


def test_what_failed_comes_back_before_what_follows_it(emulator: Emulator, consumer: Consumer) -> None:
    failures = {"2": 1, "4": 1}  # a third failure would be the last

    def sometimes(_group: str, body: str, _record: dict[str, Any]) -> bool:
        failures[body] = failures.get(body, 0) - 1
        return failures[body] < 0

    consumer.act = sometimes
    put(emulator, "a", "1", "2", "3", "4", "5")
    consumer.until({"a": list("12345")})


def test_a_message_that_is_brought_back_sooner_keeps_its_place(emulator: Emulator, consumer: Consumer) -> None:
    tried: list[float] = []

    def once_more(_group: str, body: str, record: dict[str, Any]) -> bool:
        if body != "1":
            return True
        tried.append(time.monotonic())
        if len(tried) == 1:
            for message in emulator.sqs._get_q(URL)["messages"]:
                if message["visible_at"] > time.time():  # what is out of the group: this message and those behind it
                    emulator.request(
                        "sqs",
                        "ChangeMessageVisibility",
                        QueueUrl=URL,
                        ReceiptHandle=message["receipt_handle"],
                        VisibilityTimeout=0,
                    )
            return False
        return True

    consumer.act = once_more
    with emulator.lock:  # so that all are there when the first is read
        put(emulator, "a", "1", "2", "3")
    consumer.until({"a": ["1", "2", "3"]})
    assert tried[1] - tried[0] < HIDDEN_S


def test_what_always_fails_goes_to_the_dead_letters_and_its_group_goes_on(
    emulator: Emulator, consumer: Consumer
) -> None:
    consumer.act = lambda _group, body, _record: body != "poison"
    put(emulator, "a", "1", "poison")
    consumer.until({"a": ["1"]})
    time.sleep(0.1)
    put(emulator, "a", "2")
    consumer.until({"a": ["1", "2"]}, seconds=8 * HIDDEN_S)
    letters = emulator.sqs._get_q(URL.replace(NAME, LETTERS))["messages"]
    assert [message["body"] for message in letters][:1] == ["poison"]


def test_a_handler_that_breaks_gets_the_whole_batch_again(emulator: Emulator, consumer: Consumer) -> None:
    broken: list[str] = []

    def breaking(_group: str, body: str, _record: dict[str, Any]) -> bool:
        if not broken:
            broken.append(body)
            raise ValueError("on purpose")
        return True

    consumer.act = breaking
    put(emulator, "a", "1")
    consumer.until({"a": ["1"]})
    assert broken == ["1"]


def test_records_name_group_order_and_how_often_they_came(emulator: Emulator, consumer: Consumer) -> None:
    records: list[dict[str, Any]] = []

    def noted(_group: str, _body: str, record: dict[str, Any]) -> bool:
        records.append(record)
        return True

    consumer.act = noted
    put(emulator, "a", "1", "2")
    consumer.until({"a": ["1", "2"]})
    first, second = (record["attributes"] for record in records)
    assert first["MessageGroupId"] == "a"
    assert first["ApproximateReceiveCount"] == "1"
    assert first["SequenceNumber"] < second["SequenceNumber"]
    assert records[0]["eventSourceARN"].endswith(NAME)
