"""State machines: Step Functions as the emulator has them, made from the template at each start.

An execution is a thread that waits. It does not outlive the process, and nothing of it is saved: after a restart it
does not exist, and neither does what it waited for. What ministack lacks is put in its place here; the names are its
private ones, its version is pinned.
"""

import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from local.emulator import Emulator
from local.permissions import running_function
from local.resources import StateMachine

_MOST_ENDED = 1000  # executions that are kept to be looked at after their end

# The execution that this thread, or what it asks for, belongs to.
running_execution: ContextVar[str] = ContextVar("running_execution", default="")


class StateMachines:
    """The template's state machines. They are made when something first asks for one: most runs never do."""

    def __init__(self, machines: Sequence[StateMachine], emulator: Emulator) -> None:
        self._machines = machines
        self._emulator = emulator
        self._making = threading.RLock()
        self._made = False
        self._waiting: dict[str, str] = {}  # execution -> token of the task that it waits for
        self._ended: list[str] = []
        emulator.prepare["states"] = self.make

    def make(self) -> None:
        """Make them, once. Raises RuntimeError with the emulator's answer for one that it refuses."""
        with self._making:
            if self._made:
                return
            self._made = True
            module = self._emulator.step_functions
            self._wrap(module)
            for machine in self._machines:
                status, _, body = module._create_state_machine({"name": machine.name, "definition": machine.definition})
                if status != 200:
                    raise RuntimeError(f"CreateStateMachine: {body.decode()}")

    def _wrap(self, module: Any) -> None:
        run, callback, stop, fail = (
            getattr(module, f"_{name}")
            for name in ("run_execution", "invoke_with_callback", "stop_execution", "fail_execution")
        )

        def run_execution(arn: str) -> None:
            # The thread has the context of the request that started it: what the machine asks for is its own doing.
            running_function.set("")
            running_execution.set(arn)
            try:
                run(arn)
            finally:
                self._forget_old(module._executions, arn)

        def invoke_with_callback(resource: str, parameters: Any, token: str, state: dict[str, Any]) -> Any:
            arn = running_execution.get()
            self._waiting[arn] = token
            try:
                return callback(resource, parameters, token, state)
            finally:
                self._waiting.pop(arn, None)

        def stop_execution(request: dict[str, Any]) -> Any:
            answer = stop(request)
            token = self._waiting.get(request.get("executionArn", ""))
            if answer[0] == 200 and token is not None:
                # The thread ends now, and its token with it.
                module._send_task_failure({"taskToken": token, "error": "States.Aborted"})
            return answer

        def fail_execution(execution: dict[str, Any], error: str, cause: str) -> None:
            if execution["status"] == "RUNNING":  # not one that was stopped meanwhile
                fail(execution, error, cause)

        module._run_execution = run_execution
        module._invoke_with_callback = invoke_with_callback
        module._stop_execution = stop_execution
        module._fail_execution = fail_execution
        module._emit_execution_status_event = _told_nobody

    def _forget_old(self, executions: Any, arn: str) -> None:
        with self._making:
            self._ended.append(arn)
            while len(self._ended) > _MOST_ENDED:
                executions.pop(self._ended.pop(0), None)


def _told_nobody(_: dict[str, Any]) -> None:
    """Stands for the events about executions: the template has no rule that they would match."""
