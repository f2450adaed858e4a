"""The login state machine in this process: what infra/login.asl.json does to a session's item, at once.

The real one is tested in test_login_machine.py; function tests are about the functions. `late` keeps the machine from
leaving its token, as if a submission came first; `catch_up()` then lets it go on.
"""

from dataclasses import dataclass, field
from itertools import count

import pytest
from pynamodb.exceptions import UpdateError

from homeserver.adapters import executions
from homeserver.storage.sessions import Session


@dataclass(slots=True)
class LoginMachine:
    """Executions by session: RUNNING, DONE, EXPIRED, FAILED or ABORTED."""

    executions: dict[str, str] = field(default_factory=dict)
    late: bool = False
    _tokens: dict[str, tuple[str, int]] = field(default_factory=dict)
    _waits: dict[str, int] = field(default_factory=dict)
    _numbers: count = field(default_factory=lambda: count(1))

    def start(self, session_id: str, done: int = 0) -> None:
        if session_id not in self.executions:
            self.executions[session_id] = "RUNNING"
            self._await_stage(session_id, done)

    def stage_done(self, session_id: str, task_token: str, done: int, status: str) -> bool:
        session, _ = self._tokens.pop(task_token, (None, 0))
        if session is None or self.executions[session] != "RUNNING":
            return False
        assert session == session_id
        if status == "complete":
            self.executions[session_id] = "DONE"
        else:
            self._await_stage(session_id, done)
        return True

    def session_failed(self, task_token: str) -> None:
        session, _ = self._tokens.pop(task_token, (None, 0))
        if session is not None:
            self.executions[session] = "FAILED"

    def is_dead(self, session_id: str) -> bool:
        return self.executions.get(session_id, "ABORTED") == "ABORTED"

    def abort(self, session_id: str) -> None:
        """What StopExecution does."""
        self.executions[session_id] = "ABORTED"

    def time_out(self, session_id: str) -> None:
        """What happens 15 minutes after the machine began to wait for a stage."""
        token, (_, done) = next((token, waits) for token, waits in self._tokens.items() if waits[0] == session_id)
        del self._tokens[token]
        try:
            Session(session_id).update([Session.status.set("expired")], _at(done))
        except UpdateError:
            self._look(session_id)
        else:
            self.executions[session_id] = "EXPIRED"

    def catch_up(self) -> None:
        """Let the machine do what it was late with."""
        self.late = False
        waits, self._waits = self._waits, {}
        for session_id, done in waits.items():
            self._await_stage(session_id, done)

    def _await_stage(self, session_id: str, done: int) -> None:
        if self.late:
            self._waits[session_id] = done
            return
        token = f"token-{next(self._numbers)}"
        try:
            Session(session_id).update(
                [Session.task_token.set(token), Session.task_stage.set(str(done))],
                _at(done),
            )
        except UpdateError:
            self._look(session_id)
        else:
            self._tokens[token] = (session_id, done)

    def _look(self, session_id: str) -> None:
        session = Session.fetch(session_id)
        if session is not None and session.status == "active":
            self._await_stage(session_id, int(session.done))
            return
        ends = {"complete": "DONE", "issued": "DONE", "failed": "FAILED", "expired": "EXPIRED"}
        self.executions[session_id] = "EXPIRED" if session is None else ends[session.status]


def _at(done: int):
    return (Session.status == "active") & (Session.done == done)


def install(monkeypatch: pytest.MonkeyPatch) -> LoginMachine:
    """Put one in the place of the adapter's calls."""
    machine = LoginMachine()
    for name in ("start", "stage_done", "session_failed", "is_dead"):
        monkeypatch.setattr(executions, name, getattr(machine, name))
    return machine
