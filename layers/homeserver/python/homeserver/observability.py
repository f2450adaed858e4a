"""Logs, the cost meter, and the points at which tests inject faults.

The meter counts what one invocation consumes: sequential DynamoDB rounds, calls, read and write request units
and CPU milliseconds. It is always there; with `COST_METER=on` each answer reports it in `Server-Timing`.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

log = logging.getLogger("eigenserver")


@dataclass(slots=True)
class Meter:
    """What one invocation consumed so far. Units are DynamoDB request units."""

    rounds: int = 0
    calls: int = 0
    rru: float = 0.0
    wru: float = 0.0
    cpu_started: float = field(default_factory=time.thread_time)
    in_round: bool = False

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of this thread since the meter started."""
        return (time.thread_time() - self.cpu_started) * 1000

    def add_parallel(self, others: Sequence["Meter"]) -> None:
        """Take up what calls consumed that ran at the same time: as many rounds as the longest of them had."""
        self.rounds += 0 if self.in_round else max((other.rounds for other in others), default=0)
        self.calls += sum(other.calls for other in others)
        self.rru += sum(other.rru for other in others)
        self.wru += sum(other.wru for other in others)

    def server_timing(self) -> str:
        """The value of the `Server-Timing` header."""
        return (
            f"rounds;desc={self.rounds}, calls;desc={self.calls}, rru;desc={self.rru:g}, "
            f"wru;desc={self.wru:g}, cpu;dur={self.cpu_ms:.2f}"
        )


_meter: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered() -> Iterator[Meter]:
    """Count everything that is consumed inside the block."""
    meter = Meter()
    token = _meter.set(meter)
    try:
        yield meter
    finally:
        _meter.reset(token)


@contextmanager
def counting_on(meter: Meter) -> Iterator[None]:
    """Count what is consumed inside the block on this meter instead of the current one."""
    token = _meter.set(meter)
    try:
        yield
    finally:
        _meter.reset(token)


@contextmanager
def cost_metered(function: str, *, enabled: bool) -> Iterator[Meter | None]:
    """Count what the block consumes and report it as metrics of this function; None and no work where not enabled.

    The metrics are a line of CloudWatch's embedded metric format in the function's log: three for each function, which
    CloudWatch bills; without CloudWatch nobody reads the line, so it is written on Lambda only.
    """
    if not enabled:
        yield None
        return
    with metered() as meter:
        yield meter
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        print(_embedded_metrics(function, meter), flush=True)  # noqa: T201 - standard output is where Lambda reads it


def _embedded_metrics(function: str, meter: Meter) -> str:
    names = {"ReadUnits": meter.rru, "WriteUnits": meter.wru, "Cpu": meter.cpu_ms}
    units = {"Cpu": "Milliseconds"}
    metrics = [{"Name": name, "Unit": units.get(name, "Count")} for name in names]
    directive = {"Namespace": "Eigenserver", "Dimensions": [["Function"]], "Metrics": metrics}
    header = {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]}
    return json.dumps({"_aws": header, "Function": function, "Rounds": meter.rounds, "Calls": meter.calls, **names})


def current_meter() -> Meter | None:
    return _meter.get()


@contextmanager
def one_round() -> Iterator[None]:
    """Calls inside run at the same time: together they count as one sequential round, and as none if there is none."""
    meter = _meter.get()
    if meter is None or meter.in_round:
        yield
        return
    calls = meter.calls
    meter.in_round = True
    try:
        yield
    finally:
        meter.in_round = False
        if meter.calls > calls:
            meter.rounds += 1


def count_call(*, rru: float = 0.0, wru: float = 0.0) -> None:
    """Count one call to the store and what it consumed."""
    meter = _meter.get()
    if meter is None:
        return
    meter.calls += 1
    meter.rru += rru
    meter.wru += wru
    if not meter.in_round:
        meter.rounds += 1


fault_hook: Callable[[str], None] | None = None


def fault_point(name: str) -> None:
    """A named step at which a test may stop the process. Does nothing unless a test set `fault_hook`."""
    if fault_hook is not None:
        fault_hook(name)


def configure_logging(level: str) -> None:
    """One line a record on standard error; Lambda forwards it to CloudWatch."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(level)
