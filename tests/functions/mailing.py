"""What tests of mailed codes and links have in common: linked addresses, and the draft's login with them."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from functions.harness import Answer, call
from homeserver.adapters import aws
from homeserver.observability import log
from homeserver.settings import table_name
from homeserver.storage import threepids
from homeserver.storage.connection import Transaction
from homeserver.storage.sessions import Session

LOGIN = "/_matrix/client/api/v1/login"
REGISTER = "/_matrix/client/api/v1/register"
CODE, URL = "m.login.email.code", "m.login.email.url"
ADDRESS = "alice@mail.example"
DEVICE = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}


def link_address(user_id: str, address: str) -> None:
    """Let an address belong to a user, as if they had validated it."""
    transaction = Transaction()
    threepids.add(transaction, user_id, "email", address, validated_at=1, added_at=1)
    transaction.commit()


def unlink_address(user_id: str, address: str) -> None:
    """Take it from the user."""
    transaction = Transaction()
    threepids.remove(transaction, user_id, "email", address)
    transaction.commit()


def log_in(body: dict[str, Any], **more: Any) -> Answer:
    """POST /login of the draft."""
    return call("client_login", "POST", LOGIN, body, headers=DEVICE, **more)


def begun(stage_type: str, user: str = "alice", address: str = ADDRESS) -> str:
    """A session that waits for what was mailed."""
    answer = log_in({"type": stage_type, "user": user, "email": address})
    assert answer.status == 200, answer.json
    assert answer.json == {"type": stage_type, "session": answer.json["session"]}
    return str(answer.json["session"])


def pending(session_id: str, stage_type: str = CODE) -> dict[str, Any]:
    """What the stage left in the session's item."""
    session = Session.fetch(session_id)
    assert session is not None
    left: dict[str, Any] = session.pending[stage_type]
    return left


def change_pending(session_id: str, stage_type: str = CODE, **changes: Any) -> None:
    """Let the item be as it was or will be at another time."""
    session = Session.fetch(session_id)
    assert session is not None
    left = {**session.pending, stage_type: {**session.pending[stage_type], **changes}}
    session.update([Session.pending.set(left)])


def everything_stored() -> str:
    """All items of the tables of sessions and limits, as text to be searched."""
    client = aws.client("dynamodb")
    tables = [client.scan(TableName=table_name(noun))["Items"] for noun in ("SESSIONS", "LIMITS")]
    return json.dumps(tables, default=str)


@contextmanager
def logged() -> Iterator[list[str]]:
    """The lines that the homeserver logs inside, of every level."""
    lines: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    keeper, level = Keeper(), log.level
    log.addHandler(keeper)
    log.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        log.removeHandler(keeper)
        log.setLevel(level)


@contextmanager
def recorded_calls() -> Iterator[list[tuple[str, str]]]:
    """The calls of AWS made inside, in their order: (operation, table or function)."""
    calls: list[tuple[str, str]] = []

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        target = params["body"].decode() if isinstance(params["body"], bytes) else str(params["body"])
        named = json.loads(target).get("TableName", "") if target.startswith("{") else ""
        calls.append((model.name, named or params["url_path"]))

    clients = [aws.client(service) for service in ("dynamodb", "lambda", "sesv2")]
    for client in clients:
        client.meta.events.register("before-call.*.*", note)
    try:
        yield calls
    finally:
        for client in clients:
            client.meta.events.unregister("before-call.*.*", note)
