"""The waiting loop of `client_sync` with moto and the real `sync_answer` behind it, in a time that only sleeping moves.

A test module that uses the fixture imports it from here: `backend`.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module

import pytest
from botocore.awsrequest import AWSRequest

from client_sync import routes
from functions.harness import LambdaContext
from homeserver.adapters import aws, slim_aws
from homeserver.services import sync_wait
from homeserver.services.room_wait import wait_in_room
from homeserver.services.sync_wait import Clock, wait_for_news


class Backend:
    """Time that only sleeping moves; moto and the real `sync_answer` behind the loop."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.while_asleep: list[Callable[[], object]] = []

    def sleep(self, seconds: float) -> None:
        self.elapsed += seconds
        if self.while_asleep:
            self.while_asleep.pop(0)()

    def clock(self) -> Clock:
        return Clock(lambda: self.elapsed, lambda: 1_800_000_000 + self.elapsed, self.sleep)

    def transport(self, service: str, target: str, body: bytes) -> tuple[int, bytes]:
        if service == "lambda":
            answer = import_module("sync_answer.app").lambda_handler(json.loads(body), LambdaContext())
            return 200, json.dumps(answer).encode()
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"DynamoDB_20120810.{target}"}
        credentials = slim_aws.Credentials("AKID", "secret")
        headers |= slim_aws.signature(service, "/", headers, body, credentials=credentials, at="20260310T051623Z")
        request = AWSRequest("POST", "https://dynamodb.us-east-1.amazonaws.com/", headers, body).prepare()
        events = aws.client("dynamodb").meta.events  # where moto takes requests off the wire
        _, response = events.emit_until_response(f"before-send.dynamodb.{target}", request=request)
        return response.status_code, response.content


@pytest.fixture
def backend(server: Callable[..., None], set_up: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    backend = Backend()
    server(SYNC_ANSWER_FUNCTION="sync-answer", SYNC_POLL_MS="500", RATE_LIMITS="off")
    monkeypatch.setattr(slim_aws, "transport", backend.transport)
    monkeypatch.setattr(routes, "wait_for_news", partial(wait_for_news, clock=backend.clock()))
    monkeypatch.setattr(routes, "wait_in_room", partial(wait_in_room, clock=backend.clock()))
    sync_wait.forget_epoch()
    yield backend
    sync_wait.forget_epoch()


__all__ = ["Backend", "backend"]
