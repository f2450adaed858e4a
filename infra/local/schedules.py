"""Functions that run by the clock: once when the local run starts, which repairs what it missed, then at their rate."""

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

from local.invoke import Functions
from local.resources import ScheduleSource
from local.template import ACCOUNT, REGION

log = logging.getLogger("local")


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
        due = {source: time.monotonic() + source.seconds for source in self._sources}
        while not self._stop.wait(max(0.0, min(due.values()) - time.monotonic())):
            now = time.monotonic()
            for source, at in due.items():
                if at <= now:
                    due[source] = now + source.seconds
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
