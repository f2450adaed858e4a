"""What function tests of sending do again and again: peers that take transactions, the queue, the clock.

outbox = Outbox(monkeypatch)                      the queue, the schedules, and the functions between them
outbox.flow()                                     route every room that changed, and send until nothing waits
peer.bodies()                                     what a peer was sent, in order
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from federation_peer import Instead, Peer
from functions.harness import LambdaContext, User
from functions.remote_server import RemoteServer
from functions.rooms import create_room
from homeserver import observability
from homeserver.adapters import aws
from homeserver.matrix.event_builder import EventDraft
from homeserver.services.access_tokens import Requester
from homeserver.services.outbound_messages import digest
from homeserver.services.send_event import send_message_event
from homeserver.services.sweep import unrouted_rooms
from homeserver.storage.destinations import dead_servers, read_behind, read_destination

SEND = "/_matrix/federation/v1/send/"
VERSION = "/_matrix/federation/v1/version"
OK: Instead = (200, b'{"pdus": {}}', {})


class Crash(BaseException):
    """The process is gone: nothing catches this."""


@contextmanager
def crash_at(point: str, *, time: int = 1) -> Iterator[list[str]]:
    """Stop at a fault point when it is reached for the so-many-th time; yields the points that were reached."""
    reached: list[str] = []

    def hook(name: str) -> None:
        reached.append(name)
        if name == point and reached.count(name) == time:
            raise Crash(point)

    observability.fault_hook = hook
    try:
        yield reached
    finally:
        observability.fault_hook = None


@contextmanager
def between(point: str, act: Callable[[], object]) -> Iterator[None]:
    """Do something, once, when a fault point is reached."""
    todo = [act]

    def hook(name: str) -> None:
        if name == point and todo:
            todo.pop()()

    observability.fault_hook = hook
    try:
        yield
    finally:
        observability.fault_hook = None
    assert todo == [], f"{point} was not reached"


class _Scripts(dict[str, Instead]):
    """Answers by path; `sending` is for all transactions."""

    sending: Instead | None = None

    def get(self, path: str, default: Any = None) -> Any:
        if self.sending is not None and path.startswith(SEND):
            return self.sending
        return super().get(path, default)


class Receiver(Peer):
    """A peer that takes transactions. `refuses`: errors by event ID. `software`: what it says that it is."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self.instead = self.scripts = _Scripts()
        self.taken: dict[str, dict[str, Any]] = {}  # transactions by ID, as a server's ledger has them
        self.refuses: dict[str, str] = {}
        self.software: str | None = "Synapse"

    def answer(self, method: str, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if method == "PUT" and path.startswith(SEND):
            body = next(body for _, asked, _, body in reversed(self.asked) if asked == path)
            self.taken.setdefault(unquote(path.removeprefix(SEND)), json.loads(body))
            return 200, {"pdus": {event_id: {"error": why} for event_id, why in self.refuses.items()}}
        if path == VERSION and self.software is not None:
            return 200, {"server": {"name": self.software, "version": "1"}}
        return super().answer(method, path, query)

    def fails(self, instead: Instead | None = (500, b"{}", {})) -> None:
        """Answer every transaction so from now on; None: as it should."""
        self.scripts.sending = instead

    @property
    def tries(self) -> int:
        """How many transactions it was sent, taken or not."""
        return sum(path.startswith(SEND) for _, path, _, _ in self.asked)

    def transactions(self) -> list[dict[str, Any]]:
        """The transactions it took, in order, each once."""
        return list(self.taken.values())

    def pdus(self) -> list[dict[str, Any]]:
        """The events it took, in the order in which it first had them."""
        seen: list[dict[str, Any]] = []
        for transaction in self.transactions():
            seen += [pdu for pdu in transaction["pdus"] if pdu not in seen]
        return seen

    def bodies(self) -> list[str]:
        """The texts of the messages it took, in the order in which it first had them."""
        return [pdu["content"]["body"] for pdu in self.pdus() if "body" in pdu["content"]]

    def edus(self, edu_type: str) -> list[dict[str, Any]]:
        """The contents of the EDUs of a type that it took."""
        return [e["content"] for t in self.transactions() for e in t.get("edus", ()) if e["edu_type"] == edu_type]


def half_a_body(handler: BaseHTTPRequestHandler) -> None:
    """Promise a hundred bytes, send ten, and hang up."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"pdus": {}')
    handler.close_connection = True


def nothing(handler: BaseHTTPRequestHandler) -> None:
    """Hang up without a word."""
    handler.close_connection = True


class Outbox:
    """The queue of outbound messages, the schedules, and the functions, on moto."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sqs, self.scheduler = aws.client("sqs"), aws.client("scheduler")
        attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true", "VisibilityTimeout": "360"}
        self.url = self.sqs.create_queue(QueueName="outbound.fifo", Attributes=attributes)["QueueUrl"]
        self.failed_url = self.sqs.create_queue(QueueName="failed")["QueueUrl"]
        self.scheduler.create_schedule_group(Name="retries")
        self.batches = 0
        for name, value in {
            "FEDERATION_OUTBOUND_QUEUE": self.url,
            "FEDERATION_OUTBOUND_QUEUE_ARN": "arn:aws:sqs:us-east-1:123456789012:outbound.fifo",
            "FEDERATION_SCHEDULES": "retries",
            "FEDERATION_SCHEDULES_ROLE": "arn:aws:iam::123456789012:role/retries",
            "FAILED_RECORDS_QUEUE": self.failed_url,
        }.items():
            monkeypatch.setenv(name, value)

    # ── The router ───────────────────────────────────────────────────────────

    def route(self, *room_ids: str) -> dict[str, Any]:
        """One batch of the stream with a record for each room."""
        records = [
            {"dynamodb": {"Keys": {"room": {"S": room_id}, "k": {"S": "head"}}, "SequenceNumber": str(number)}}
            for number, room_id in enumerate(room_ids)
        ]
        answer = import_module("outbound_router.app").lambda_handler({"Records": records}, LambdaContext())
        assert isinstance(answer, dict)
        return answer

    # ── The senders ──────────────────────────────────────────────────────────

    def receive(self) -> list[dict[str, Any]]:
        """One batch of messages, as the function is handed them."""
        answer = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10, AttributeNames=["All"])
        return [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message["Attributes"],
            }
            for message in answer.get("Messages", ())
        ]

    def waiting(self) -> list[dict[str, Any]]:
        """What the messages say that wait in the queue; they stay."""
        records = self.receive()
        for record in records:
            self.give_back(record)
        return [json.loads(record["body"]) for record in records]

    def give_back(self, record: Mapping[str, Any]) -> None:
        self.sqs.change_message_visibility(
            QueueUrl=self.url, ReceiptHandle=record["receiptHandle"], VisibilityTimeout=0
        )

    def send_some(self) -> bool:
        """One batch through the sender; messages that failed are in the queue again. Whether there was any."""
        records = self.receive()
        if not records:
            return False
        self.batches += 1
        failed = {record["messageId"] for record in records}
        try:
            answer = invoke_sender(records)
            failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
        finally:
            for record in records:
                if record["messageId"] in failed:
                    self.give_back(record)
                else:
                    self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=record["receiptHandle"])
        return True

    def send(self) -> None:
        """The senders work until the queue is empty."""
        for _ in range(300):
            if not self.send_some():
                return
        raise AssertionError("the queue does not get empty")

    def flow(self) -> None:
        """Whatever happened in rooms goes to the other servers, as far as they answer."""
        self.route(*unrouted_rooms())
        self.send()

    def crashing(self, act: Callable[[], object], point: str, *, time: int = 1) -> bool:
        """Do something that is cut off at a fault point; whether the point was reached."""
        with crash_at(point, time=time) as reached, suppress(Crash):
            act()
        return reached.count(point) >= time

    # ── The clock ────────────────────────────────────────────────────────────

    def schedules(self) -> dict[str, dict[str, Any]]:
        """The schedules there are, by the server that they are for."""
        found = {}
        for listed in self.scheduler.list_schedules(GroupName="retries")["Schedules"]:
            schedule = self.scheduler.get_schedule(Name=listed["Name"], GroupName="retries")
            found[json.loads(schedule["Target"]["Input"])["retry"]] = schedule
        return found

    def fire(self, server: str) -> None:
        """The time of a server's schedule has come."""
        schedule = self.schedules()[server]
        target = schedule["Target"]
        self.sqs.send_message(
            QueueUrl=self.url,
            MessageBody=target["Input"],
            MessageGroupId=target["SqsParameters"]["MessageGroupId"],
        )
        assert target["SqsParameters"]["MessageGroupId"] == digest(server)
        self.scheduler.delete_schedule(Name=schedule["Name"], GroupName="retries")


def invoke_sender(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The sender's handler on a batch."""
    answer = import_module("federation_sender_worker.app").lambda_handler({"Records": records}, LambdaContext())
    assert isinstance(answer, dict)
    return answer


def shared_room(outbox: Outbox, owner: User, *peers: Peer, **body: Any) -> tuple[str, dict[str, RemoteServer]]:
    """A room with a user `carol` of each peer; the room, and the peers as they make events, by name. All is sent."""
    room_id = create_room(owner, **{"preset": "public_chat", **body})
    remotes = {}
    for peer in peers:
        remote = remotes[peer.name] = RemoteServer(room_id, peer.name)
        remote.accepted(remote.join(remote.user("carol")))
    outbox.flow()
    return room_id, remotes


_texts = itertools.count()


def speak(user: User, room_id: str, text: str) -> str:
    """A message of a user, without the handler: from whatever thread. Its event ID."""
    requester = Requester(user.user_id, user.device_id, "")
    draft = EventDraft("m.room.message", {"msgtype": "m.text", "body": text})
    return send_message_event(requester, room_id, draft, f"speak{next(_texts)}")


def is_well(peer: Receiver) -> bool:
    """Whether nothing is left of a failure."""
    known = read_destination(peer.name)
    return not known.is_behind and known.failures == 0 and not read_behind(peer.name) and not dead_servers()


def sleepy(handler: Any) -> None:
    """Say nothing for longer than anybody waits."""
    time.sleep(1.5)
    nothing(handler)


def record_of(body: dict[str, Any], server: str) -> dict[str, Any]:
    attributes = {"MessageGroupId": digest(server), "SentTimestamp": str(time.time_ns() // 1_000_000)}
    return {"messageId": "m", "body": json.dumps(body), "attributes": attributes}


def stored_head(room_id: str) -> int:
    from functions.remote_server import head_of

    return int(head_of(room_id).position)
