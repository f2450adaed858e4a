"""A server in this process whose operations can be measured one by one: rounds, calls, units, CPU, milliseconds.

Handlers run as the gateway runs them, on the embedded emulator; the stream is not started, so that what a follower
consumes is counted by itself. The emulator bills writes as DynamoDB does; read units are computed from sizes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from functions.harness import Answer, http_event
from homeserver.observability import metered
from local.server import LocalRun

ROOT = Path(__file__).resolve().parents[2]
V3 = "/_matrix/client/v3"


@dataclass(slots=True)
class Row:
    """What one operation consumed, each time it was measured."""

    name: str
    rounds: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    rru: list[float] = field(default_factory=list)
    wru: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)

    def median(self, what: str) -> float:
        values = sorted(getattr(self, what))
        return float(values[len(values) // 2])

    def p95(self, what: str) -> float:
        values = sorted(getattr(self, what))
        return float(values[min(len(values) - 1, round(len(values) * 0.95))])


@dataclass(slots=True)
class Person:
    user_id: str
    device_id: str
    token: str


class MeasuredServer:
    """The local run without its HTTP server and its streams."""

    def __init__(self, directory: Path, **environment: str) -> None:
        environ = {
            "DATA_DIR": str(directory),
            "PORT": "0",
            "SERVER_NAME": "example.org",
            "REGISTRATION": "open",
            "PASSWORD_COST": "low",
            "RATE_LIMITS": "on",
            **environment,
        }
        self.run = LocalRun(ROOT / "template.yaml", environ, lambda _text: None)
        self.rows: dict[str, Row] = {}
        # The limit is asked, as it costs a write; only what it allows is more than anybody needs.
        from homeserver.services import rate_limits  # the server had to set the environment first

        rate_limits.SENDING_PER_USER = replace(rate_limits.SENDING_PER_USER, per_second=1_000, burst=1_000_000)

    def call(self, function: str, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """One request through a function's handler; raises AssertionError unless it is answered 200."""
        event = http_event(method, path, body, **more)
        answer = self.run.functions.call(self._name(function), event)
        parsed = orjson.loads(answer.get("body") or "null")
        assert answer["statusCode"] == 200, (method, path, answer)
        return Answer(200, parsed, dict(answer.get("headers") or {}))

    def _name(self, function: str) -> str:
        logical = "".join(word.title() for word in function.split("_"))
        return next(name for name in self.run.functions.names() if name.endswith(f"{logical}Function"))

    def measure(self, name: str, work: Callable[[], Any]) -> Any:
        """Do the work once and count what it consumes under this name."""
        row = self.rows.setdefault(name, Row(name))
        started = time.perf_counter()
        with metered() as meter:
            result = work()
            row.cpu_ms.append(meter.cpu_ms)
        row.wall_ms.append((time.perf_counter() - started) * 1000)
        row.rounds.append(meter.rounds)
        row.calls.append(meter.calls)
        row.rru.append(meter.rru)
        row.wru.append(meter.wru)
        return result

    def follow(self, name: str | None = None) -> None:
        """Deliver what stream and queues hold, measured under a name if one is given (the last look finds nothing)."""
        for mapping in self.run.streams:
            records = list(mapping.drain())
            if records:
                event = {"Records": records}
                deliver = lambda event=event, mapping=mapping: self.run.functions.call(mapping.source.function, event)  # noqa: E731
                self.measure(name, deliver) if name else deliver()
        for queue in self.run.queues:
            work = queue.deliver_batch
            while self.measure(name, work) if name else work():
                pass

    def person(self, localpart: str) -> Person:
        body = {"username": localpart, "password": "a-long-password", "auth": {"type": "m.login.dummy"}}
        answer = self.call("client_login", "POST", f"{V3}/register", body).json
        return Person(answer["user_id"], answer["device_id"], answer["access_token"])

    def room(self, person: Person, **body: Any) -> str:
        answer = self.call("client_rooms", "POST", f"{V3}/createRoom", body, token=person.token)
        self.follow()
        return str(answer.json["room_id"])

    def join(self, person: Person, room_id: str) -> None:
        self.call("client_rooms", "POST", f"{V3}/rooms/{room_id}/join", {}, token=person.token)
        self.follow()

    def send(self, person: Person, room_id: str, txn: str, body: str) -> Answer:
        content: Mapping[str, Any] = {"msgtype": "m.text", "body": body}
        path = f"{V3}/rooms/{room_id}/send/m.room.message/{txn}"
        return self.call("client_events", "PUT", path, content, token=person.token)

    def sync(self, person: Person, since: str | None = None) -> dict[str, Any]:
        query = {"timeout": "0", **({"since": since} if since else {})}
        answer: dict[str, Any] = self.call("client_sync", "GET", f"{V3}/sync", token=person.token, query=query).json
        return answer

    def told(self, person: Person, since: str) -> Any:
        """What a token says was delivered, with the positions of its stored base."""
        from homeserver.adapters.slim_aws import dynamodb  # as above
        from homeserver.matrix.sync_token import SyncToken
        from homeserver.storage.sync_bases import base_request, parse_bases

        token = SyncToken.decode(since, user_id=person.user_id)
        if not token.base:
            return token
        item = dynamodb("GetItem", base_request(person.user_id, person.device_id)).get("Item")
        return token.with_base(parse_bases(item)[token.base])

    def poll(self, person: Person, told: Any) -> None:
        """One look of the waiting loop, which must find nothing."""
        from homeserver.services.sync_wait import CLOCK, PollingWaiter  # as above

        assert not PollingWaiter(CLOCK).news(person.user_id, told, seconds=0.001)

    def close(self) -> None:
        self.run.stop()
