"""What a login by e-mail and a registration cost beside their requests: prints what was counted, as JSON.

Each is done once over the local run's handlers with the flow [m.login.email.code, m.login.password], and once begun and
left alone. Counted are the executions of the state machine, the states that they enter, and the units of what they ask
of the table. AWS counts transitions: taken as the states entered, and one each for start and end. Its tokens are longer
than the emulator's: 1,024 characters are assumed, of which it allows 2,048.
"""

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "infra", "functions", "layers/homeserver/python"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.measured import MeasuredServer  # noqa: E402 - the paths above come first
from local import state_machines  # noqa: E402 - as above
from local.template import load  # noqa: E402 - as above

# List prices in us-east-1, without any free tier, as in docs/costs.md.
TRANSITION = 0.025e-3
READ_UNIT, WRITE_UNIT = 0.125e-6, 0.625e-6
# Assumed
START_AND_END = 2
# What a stranger can make of a stage who is quicker than the machine: AwaitStage, Look, Found, and TakeUp or Done.
MOST_OF_A_STAGE = 4
TOKEN_LENGTH = 1024

L = "/_matrix/client/api/v1"
CODE, PASSWORD = "m.login.email.code", "m.login.password"
SECRET = "correct horse battery staple"
SECONDS = 20
T = TypeVar("T")


class Machine:
    """The state machine of a local run, watched."""

    def __init__(self, server: MeasuredServer) -> None:
        self.emulator = server.run.emulator
        self.rru = self.wru = 0.0
        self._call_dynamodb = self.emulator.call_dynamodb
        self.emulator.call_dynamodb = self._counted  # type: ignore[method-assign]  # every request comes through here
        server.run.state_machines.make()
        self.module = self.emulator.step_functions
        self.module.new_uuid = lambda new=self.module.new_uuid: str(new()).ljust(TOKEN_LENGTH, "x")

    def _counted(self, target: str, body: bytes) -> Any:
        if not state_machines.running_execution.get():
            return self._call_dynamodb(target, body)
        request = json.loads(body) | {"ReturnConsumedCapacity": "TOTAL"}
        answer = self._call_dynamodb(target, json.dumps(request).encode())
        consumed = json.loads(answer[2]).get("ConsumedCapacity", {}).get("CapacityUnits", 0.0)
        if target.endswith(".GetItem"):
            self.rru += consumed
        else:
            self.wru += consumed
        return answer

    def executions(self) -> list[dict[str, Any]]:
        """All of them that have ended, as the emulator keeps them."""
        return [found for found in self.module._executions.values() if found["status"] != "RUNNING"]

    def bill(self, work: Callable[[], None]) -> dict[str, Any]:
        """What one execution costs that this work starts and brings to its end."""
        self.rru = self.wru = 0.0
        before = len(self.executions())
        work()
        ended = until(lambda: found if len(found := self.executions()) > before else None)
        assert len(ended) == before + 1
        path = [
            event["stateEnteredEventDetails"]["name"] for event in ended[-1]["events"] if "Entered" in event["type"]
        ]
        transitions = len(path) + START_AND_END
        dollars = transitions * TRANSITION + self.rru * READ_UNIT + self.wru * WRITE_UNIT
        counts = {"transitions": transitions, "rru": self.rru, "wru": self.wru}
        return {"path": path, **counts, "dollars": dollars}


def until(look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + SECONDS
    while (found := look()) is None:
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)
    return found


class Person:
    """Goes through the flow, in the dialect of 2014."""

    def __init__(self, server: MeasuredServer, endpoint: str, name: str, address: str) -> None:
        self.server, self.endpoint, self.name, self.address = server, endpoint, name, address
        self.mails = len(server.run.mail.mails()) if server.run.mail else 0

    def post(self, **body: Any) -> dict[str, Any]:
        answer = self.server.call("client_login", "POST", f"{L}/{self.endpoint}", body)
        assert isinstance(answer.json, dict)
        return answer.json

    def begin(self) -> str:
        named = {} if self.endpoint == "register" else {"user": self.name}
        return str(self.post(type=CODE, email=self.address, **named)["session"])

    def finish(self) -> None:
        session = self.begin()
        self._wait_for_the_machine(session)
        assert self.post(type=CODE, session=session, code=self.code())["next"] == PASSWORD
        self._wait_for_the_machine(session)
        done = self.post(type=PASSWORD, session=session, user=self.name, password=SECRET)
        assert done["access_token"]

    def _wait_for_the_machine(self, session: str) -> None:
        """People are slower than the machine, which takes a sixth of a second to begin."""
        from homeserver.storage.sessions import Session  # the server had to set the environment first

        def is_waiting() -> bool | None:
            item = Session.fetch(session)
            assert item is not None
            return True if item.task_stage == str(int(item.done)) else None

        until(is_waiting)

    def code(self) -> str:
        capture = self.server.run.mail
        assert capture is not None
        mail = until(lambda: capture.mails()[0] if len(capture.mails()) > self.mails else None)
        found = re.search(r"^\s*([0-9][0-9 ]{4,12}[0-9])\s*$", mail.text, re.MULTILINE)
        assert found is not None, mail.text
        return found[1]


def left_alone(machine: Machine, begin: Callable[[], str]) -> Callable[[], None]:
    """Begin, and let the time of the stage be over at once."""

    def work() -> None:
        session = begin()
        (token,) = until(lambda: list(machine.module._task_tokens) or None)
        machine.module._task_tokens[token]["error"] = {"Error": "States.Timeout", "Cause": session}
        machine.module._task_tokens[token]["event"].set()

    return work


def sessions_per_day() -> int:
    """The template's bound, and the share of it that can be used at once on top."""
    from homeserver.services.rate_limits import _EXECUTIONS_AT_ONCE  # as above

    a_day = int(load(ROOT / "template.yaml")["Parameters"]["LoginSessionsPerDay"]["Default"])
    return round(a_day * (1 + _EXECUTIONS_AT_ONCE))


def measure(folder: Path) -> dict[str, Any]:
    flows = {"LOGIN_FLOWS": json.dumps([[CODE, PASSWORD]]), "REGISTRATION_FLOWS": json.dumps([[CODE]])}
    server = MeasuredServer(folder, MAIL_FROM="chat@example.org", **flows)
    try:
        machine = Machine(server)
        rows = {"registration": machine.bill(Person(server, "register", "alice", "alice@mail.test").finish)}
        login = Person(server, "login", "alice", "alice@mail.test")
        rows["login"] = machine.bill(login.finish)
        rows["left alone"] = machine.bill(left_alone(machine, Person(server, "login", "alice", "b@mail.test").begin))
        executions = sessions_per_day()
        units = max(row["rru"] * READ_UNIT + row["wru"] * WRITE_UNIT for row in rows.values())
        most = {stages: MOST_OF_A_STAGE * stages + START_AND_END for stages in (2, 5)}
        bound = {stages: executions * (count * TRANSITION + units * stages) for stages, count in most.items()}
        return {**rows, "a day": {"executions": executions, "dollars": bound}}
    finally:
        server.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder))))


if __name__ == "__main__":
    main()
