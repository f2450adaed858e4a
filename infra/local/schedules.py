"""What happens by the clock.

Functions with a rate run once when the local run starts, which repairs what it missed, then at their rate. Schedules
that functions make (EventBridge Scheduler, `at(...)`) send their message to a queue at their time; what
was missed, at the next start.
"""

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from local.emulator import Emulator
from local.invoke import Functions
from local.resources import ScheduleSource
from local.template import ACCOUNT, REGION

log = logging.getLogger("local")
_LOOK_SECONDS = 0.5


class Schedules:
    """All schedules, served by one thread."""

    def __init__(self, sources: Sequence[ScheduleSource], functions: Functions) -> None:
        self._sources = sources
        self._functions = functions
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schedules", daemon=True)

    def run_all(self) -> None:
        """Run each scheduled function now."""
        for source in self._sources:
            self._invoke(source)

    def start(self) -> None:
        """Run the functions at their rates from now on."""
        if self._sources:
            self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop; a function that runs may end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        due = [time.monotonic() + source.seconds for source in self._sources]
        while not self._stop.wait(max(0.0, min(due) - time.monotonic())):
            now = time.monotonic()
            for number, source in enumerate(self._sources):
                if due[number] <= now:
                    due[number] = now + source.seconds
                    self._invoke(source)

    def _invoke(self, source: ScheduleSource) -> None:
        try:
            self._functions.call(source.function, scheduled_event(source))
        except Exception:  # the schedule goes on
            log.exception("%s failed", source.function)


def scheduled_event(source: ScheduleSource) -> Any:
    """What EventBridge sends to the function of a schedule, or the schedule's own input."""
    if source.payload is not None:
        return source.payload
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "region": REGION,
        "resources": [f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{source.function}-{source.name}"],
        "detail": {},
    }


class OneShotSchedules:
    """The schedules that functions made in the template's groups. The emulator keeps them, over restarts too."""

    def __init__(self, groups: Sequence[str], emulator: Emulator) -> None:
        self._groups = groups
        self._emulator = emulator
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="one-shot schedules", daemon=True)

    def make_groups(self) -> None:
        """Make the groups that are not there yet."""
        for group in self._groups:
            status, _, body = self._emulator.call("scheduler", "POST", f"/schedule-groups/{group}", {}, b"{}")
            if status not in {200, 409}:
                raise RuntimeError(f"CreateScheduleGroup: {body.decode()}")

    def start(self) -> None:
        """Look, twice a second, for schedules whose time has come."""
        if self._groups:
            self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            try:
                self.fire(time.time())
            except Exception:  # the other schedules go on
                log.exception("a schedule stumbled")

    def fire(self, now: float) -> None:
        """Send the messages of the schedules whose time has come by a time in seconds, and remove these."""
        with self._emulator.lock:
            kept = self._emulator.schedules()
            due = [key for key, schedule in kept.items() if time_of(schedule["ScheduleExpression"]) <= now]
            due = [key for key in due if kept[key]["GroupName"] in self._groups]
        for key in due:
            schedule = kept[key]
            target = schedule["Target"]
            name = target["Arn"].rsplit(":", 1)[-1]
            group = target.get("SqsParameters", {}).get("MessageGroupId")
            self._emulator.request(
                "sqs",
                "SendMessage",
                QueueUrl=f"http://localhost:4566/{ACCOUNT}/{name}",
                MessageBody=target.get("Input", "{}"),
                **({"MessageGroupId": group} if group else {}),
            )
            with self._emulator.lock:
                # Unless somebody has made it anew meanwhile.
                if self._emulator.schedules().get(key) is schedule:
                    self._emulator.schedules().pop(key)
                    self._emulator.other_changes += 1


def time_of(expression: str) -> float:
    """Seconds since 1970 of `at(2026-01-31T12:00:00)`, in UTC. Raises ValueError for anything else."""
    if not expression.startswith("at(") or not expression.endswith(")"):
        raise ValueError(f"the local run knows at(...) for schedules that functions make, not {expression!r}")
    return datetime.fromisoformat(expression[3:-1]).replace(tzinfo=UTC).timestamp()
