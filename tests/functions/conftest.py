"""Function tests: every test has empty tables on moto, and the environment of a small open server."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from moto import mock_aws
from moto.dynamodb.responses import DynamoHandler

from benchmarks.caches import forget_everything
from contract_check import check
from federation_peer import Peer
from functions import harness, login_machine
from functions.harness import Answer, User
from functions.login_machine import LoginMachine
from functions.mailbox import Mailbox, opened_mailbox
from functions.remote_server import RemoteServer
from functions.transactions import Elsewhere, Federated, Inbound, make_elsewhere, make_inbound
from homeserver.adapters import aws
from homeserver.services import login_flows
from homeserver.settings import settings
from homeserver.web import routing

ENVIRONMENT = {
    "AWS_REGION": "us-east-1",
    "SERVER_NAME": harness.SERVER_NAME,
    "REGISTRATION": "open",
    "PASSWORD_COST": "low",
    "RATE_LIMITS": "off",
}


@pytest.fixture(scope="session")
def _event_loop() -> Iterator[None]:
    yield
    # The loop that the handlers made for this thread.
    loop = getattr(routing._loops, "loop", None)
    if loop is not None:
        del routing._loops.loop
        asyncio.set_event_loop(None)
        loop.close()


@pytest.fixture(scope="session", autouse=True)
def _one_request_at_a_time() -> Iterator[None]:
    """moto's tables are no place for threads: a read breaks off at a write. DynamoDB's requests are atomic."""
    lock, call_action = threading.RLock(), DynamoHandler.call_action

    def alone(handler: DynamoHandler) -> Any:
        with lock:
            return call_action(handler)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DynamoHandler, "call_action", alone)
        yield


@pytest.fixture(scope="module")
def _aws(_event_loop: None) -> Iterator[mock_aws]:
    # moto answers the clients of sessions that are made after it was imported: forget what others may have made.
    aws.session.cache_clear()
    aws.client.cache_clear()
    mock = mock_aws()
    before = os.environ.get("AWS_REGION")
    os.environ["AWS_REGION"] = ENVIRONMENT["AWS_REGION"]
    mock.start()
    try:
        yield mock
    finally:
        mock.stop()
        aws.session.cache_clear()
        aws.client.cache_clear()
        if before is None:
            del os.environ["AWS_REGION"]
        else:
            os.environ["AWS_REGION"] = before


@pytest.fixture(autouse=True)
def server(_aws: mock_aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Empty tables and the default settings; `server(REGISTRATION="closed")` changes settings inside a test."""

    def configure(**environment: str) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        _forget_settings()

    for name in ("REGISTRATION_TOKEN", "REGISTRATION_SHARED_SECRET", "QUERY_TOKENS", "COST_METER", "PUBLIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    configure(**ENVIRONMENT)
    _aws.reset()
    forget_everything()
    harness.create_tables()
    yield configure
    _forget_settings()


def _forget_settings() -> None:
    settings.cache_clear()
    login_flows.login_flows.cache_clear()
    login_flows.registration_flows.cache_clear()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> LoginMachine:
    """The login state machine, in this process."""
    return login_machine.install(monkeypatch)


@pytest.fixture
def call() -> Callable[..., Answer]:
    """`call(function, method, path, body=None, token=None, query=None, headers=None)` -> Answer."""
    return harness.call


@pytest.fixture
def checked() -> Callable[..., Answer]:
    """Like `call`, and the answer must be what the specification documents, strictly."""

    def call_and_check(function: str, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        answer = harness.call(function, method, path, body, **more)
        check(method, path, answer.status, answer.json)
        return answer

    return call_and_check


@pytest.fixture
def alice() -> User:
    return harness.register("alice")


@pytest.fixture
def bob() -> User:
    return harness.register("bob")


@pytest.fixture(autouse=True)
def signing_key_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that `server_setup` would have made."""
    from homeserver.adapters import signing_key as adapter
    from homeserver.matrix.signing import SigningKey

    monkeypatch.setenv("SIGNING_KEY_PARAMETER", "/eigenserver/test/signing-key")
    settings.cache_clear()
    adapter.forget_signing_keys()
    adapter.keep_signing_key(SigningKey.generate("test", bytes(range(32))))


@pytest.fixture
def set_up(server: Callable[..., None]) -> None:
    """The identity that `server_setup` would have written: epoch 1."""
    from homeserver.storage.server import Identity, replace_identity

    assert replace_identity(None, Identity(harness.SERVER_NAME, 1, 1))


@pytest.fixture
def mailbox(server: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """What the server mails in this test, which without it can send none (mailbox.py)."""
    with opened_mailbox(monkeypatch, server) as box:
        yield box


# ── What other servers send: the test brings `peer`, `room_id` and `remote` ─────────────────────────


@pytest.fixture
def inbound(server, monkeypatch: pytest.MonkeyPatch) -> Inbound:
    return make_inbound(monkeypatch)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    return make_elsewhere(monkeypatch)


@pytest.fixture
def fed(peer: Peer, room_id: str, remote: RemoteServer, inbound: Inbound, elsewhere: Elsewhere) -> Federated:
    return Federated(peer, room_id, remote, inbound, elsewhere)
