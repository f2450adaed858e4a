"""The login state machine in a local run of the real template: its rights, and stops while it waits."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from infrastructure.local_process import LocalProcess
from infrastructure.templates import TEMPLATE

pytestmark = pytest.mark.e2e

REGISTER = "/_matrix/client/v3/register"
TOKEN = "let-me-in"
SETTINGS = {
    "REGISTRATION": "token",
    "REGISTRATION_TOKEN": TOKEN,
    "REGISTRATION_FLOWS": json.dumps([["m.login.dummy", "m.login.registration_token"]]),
    "PASSWORD_COST": "low",
    "RECORD_PERMISSIONS": "1",
}


class Server(LocalProcess):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, template=TEMPLATE, **SETTINGS)

    def register(self, **auth: str) -> tuple[int, Any]:
        body = {"username": "alice", "password": "correct horse battery staple", "auth": auth}
        status, _, answer = self.ask("POST", REGISTER, json.dumps(body), {"Content-Type": "application/json"})
        return status, json.loads(answer)

    def begin(self) -> str:
        """Complete the first of two stages, which starts an execution; the session."""
        status, answer = self.register(type="m.login.dummy")
        assert (status, answer["completed"]) == (401, ["m.login.dummy"])
        time.sleep(0.5)  # ministack needs a sixth of a second to begin
        return str(answer["session"])


def asked(folder: Path) -> dict[str, set[tuple[str, str]]]:
    """What was asked of Step Functions, by function; and of the table of sessions."""
    found = json.loads((folder / "permissions.json").read_text())
    return {
        name: {(action, resource) for action, resource in pairs if action.startswith("states:")}
        for name, pairs in found.items()
    }


def test_a_registration_of_two_stages_goes_through_the_machine_with_rights_of_its_own(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        session = server.begin()
        status, answer = server.register(type="m.login.registration_token", token=TOKEN, session=session)
        assert (status, answer.get("user_id")) == (200, "@alice:localhost")
        assert server.stop() == 0
    machine = "arn:aws:states:us-east-1:000000000000:stateMachine:eigenserver-LoginMachine"
    found = asked(tmp_path)
    assert found.pop("eigenserver-ClientLoginFunction") == {
        ("states:StartExecution", machine),
        ("states:SendTaskSuccess", "*"),
    }
    assert set().union(*found.values()) == set()


def test_a_server_stops_at_once_while_an_execution_waits_and_after_a_restart_its_session_is_unknown(
    tmp_path: Path,
) -> None:
    with Server(tmp_path) as server:
        session = server.begin()
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 5
    with Server(tmp_path) as server:
        second = {"type": "m.login.registration_token", "token": TOKEN}
        status, answer = server.register(**second, session=session)
        assert (status, answer["errcode"], answer["completed"]) == (401, "M_UNKNOWN", [])
        assert answer["session"] != session
        # From the beginning it goes again.
        status, answer = server.register(**second, session=server.begin())
        assert (status, answer.get("user_id")) == (200, "@alice:localhost")
        assert server.stop() == 0
    describing = (
        "states:DescribeExecution",
        "arn:aws:states:us-east-1:000000000000:execution:eigenserver-LoginMachine:*",
    )
    assert describing in asked(tmp_path)["eigenserver-ClientLoginFunction"]
