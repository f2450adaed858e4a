"""Transactions of another server, for function tests: sent, and worked off as the queue would have it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from federation_peer import Peer
from functions.federating import signed
from functions.harness import Answer, LambdaContext
from functions.remote_server import RemoteServer
from homeserver import observability
from homeserver.adapters import aws
from homeserver.matrix.event import Event
from homeserver.services.receive_events import Outcome, receive_events
from homeserver.storage.staging import StagedItem

FUNCTION = "federation_transactions"
WORKER = "federation_inbound_worker"
SEND = "/_matrix/federation/v1/send"
Pdu = dict[str, Any]


class Crash(BaseException):
    """The process is gone: nothing catches this."""


def cut_off(point: str, work: Callable[[], object], passes: int = 0) -> None:
    """Do something that is stopped at a point, after so many times that it passes it."""
    left = [passes]

    def hook(name: str) -> None:
        if name == point:
            left[0] -= 1
            if left[0] < 0:
                raise Crash

    observability.fault_hook = hook
    try:
        with suppress(Crash):  # what serves requests makes 500 of it
            work()
    finally:
        observability.fault_hook = None
    assert left[0] < 0, f"{point} was not come to"


def points_of(work: Callable[[], object]) -> list[str]:
    """The points at which something can be stopped, in the order in which it comes to them."""
    seen: list[str] = []
    observability.fault_hook = seen.append
    try:
        work()
    finally:
        observability.fault_hook = None
    return seen


class WorkerContext(LambdaContext):
    """The context of a worker that has so many milliseconds left."""

    def __init__(self, left_ms: int) -> None:
        self._left_ms = left_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._left_ms


class Inbound:
    """The queue and its worker. `waits`: seconds after which messages that failed were to come back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.waits: list[int] = []
        self.left_ms = 300_000  # what the worker is told that it has left

    def waiting(self) -> list[str]:
        """The bodies of the messages that can be read, which then are not for a second."""
        messages = self._receive(visibility=0)
        return [message["Body"] for message in messages]

    def _receive(self, visibility: int) -> list[dict[str, Any]]:
        answer = aws.client("sqs").receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, AttributeNames=["All"], VisibilityTimeout=visibility
        )
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        return messages

    def work(self) -> int:
        """Let the worker read until there is nothing to read; returns how many messages it has done."""
        done = 0
        while messages := self._receive(visibility=600):
            failed = self.handle(messages)
            for message in messages:
                if message["MessageId"] not in failed:
                    aws.client("sqs").delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
                    done += 1
        return done

    def handle(self, messages: Sequence[Mapping[str, Any]]) -> set[str]:
        """One batch; the IDs of the messages that failed."""
        records = [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message["Attributes"],
            }
            for message in messages
        ]
        answer = import_module(f"{WORKER}.app").lambda_handler({"Records": records}, WorkerContext(self.left_ms))
        return {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}


def make_inbound(monkeypatch: pytest.MonkeyPatch) -> Inbound:
    """The FIFO queue, empty, where the functions look for it."""
    attributes = {"FifoQueue": "true", "VisibilityTimeout": "600"}
    url = aws.client("sqs").create_queue(QueueName="inbound.fifo", Attributes=attributes)["QueueUrl"]
    monkeypatch.setenv("FEDERATION_INBOUND_QUEUE", url)
    inbound = Inbound(url)

    def bring_back(variable: str, seconds: Mapping[str, int]) -> None:
        assert variable == "FEDERATION_INBOUND_QUEUE"
        inbound.waits += seconds.values()

    monkeypatch.setattr(import_module(f"{WORKER}.app"), "bring_back", bring_back)
    return inbound


class Elsewhere:
    """What other servers would tell of missing events: `told` by ID; `asked` is what was asked, of whom."""

    def __init__(self) -> None:
        self.told: dict[str, Event] = {}
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def receive_with_missing(
        self, room_id: str, events: Sequence[Event], origin: str, *, seconds: float = 60
    ) -> dict[str, Outcome]:
        self.asked.append((origin, tuple(event.event_id for event in events)))
        outcomes = receive_events(room_id, events)
        while wanted := {i for o in outcomes.values() for i in (*o.prev, *o.auth) if i in self.told}:
            found = [self.told[event_id] for event_id in wanted]
            before = dict(outcomes)
            outcomes |= receive_events(room_id, [*found, *events])
            if outcomes == before:
                break
        return {event.event_id: outcomes[event.event_id] for event in events}


def make_elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    elsewhere = Elsewhere()
    module = ModuleType("homeserver.services.missing_events")
    module.receive_with_missing = elsewhere.receive_with_missing  # type: ignore[attr-defined]  # a module of the test's
    monkeypatch.setitem(sys.modules, module.__name__, module)
    services = import_module("homeserver.services")
    monkeypatch.setattr(services, "missing_events", module, raising=False)
    return elsewhere


def send(
    call: Callable[..., Answer],
    peer: Peer,
    txn: str,
    pdus: Sequence[Any] = (),
    edus: Sequence[Any] = (),
    **more: Any,
) -> Answer:
    """PUT /send; `more` are further keys of the body."""
    body = {"origin": peer.name, "origin_server_ts": 1_700_000_000_000, "pdus": list(pdus), "edus": list(edus), **more}
    return signed(call, peer, FUNCTION, "PUT", f"{SEND}/{txn}", body=body)


def pdu_of(event: Event) -> Pdu:
    return dict(event.pdu)


def edu(edu_type: str, **content: Any) -> dict[str, Any]:
    return {"edu_type": edu_type, "content": content}


def staged_keys(room_id: str) -> list[str]:
    """What is staged for a room: the kinds of its keys, in order."""
    rows = StagedItem.query(room_id, consistent_read=True)
    return [row.k.partition("/")[0] for row in rows]


def line(remote: RemoteServer, user: str, count: int, *, after: Sequence[str] | None = None) -> list[Event]:
    """Messages that follow one upon the other."""
    events: list[Event] = []
    for number in range(count):
        prev = [events[-1].event_id] if events else after
        events.append(remote.say(user, f"message {number}", prev=prev))
    return events


@dataclass(frozen=True, slots=True)
class Federated:
    """A room of alice's in which a peer's users are, with everything between the two servers."""

    peer: Peer
    room_id: str
    remote: RemoteServer
    inbound: Inbound
    elsewhere: Elsewhere
