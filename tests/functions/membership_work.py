"""The worker of memberships elsewhere, for function tests: at once, later, or broken off on the way."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from homeserver import observability
from homeserver.adapters.queues import FifoMessage
from homeserver.services import inbound_wakes


class Worker:
    """Takes what is sent to the queue. `held`: it waits until `work` is called."""

    def __init__(self) -> None:
        self.held = False
        self.messages: list[FifoMessage] = []

    def take(self, variable: str, messages: list[FifoMessage]) -> None:
        assert variable == inbound_wakes.INBOUND_QUEUE
        self.messages += messages
        if not self.held:
            self.work()

    def work(self) -> None:
        """Run the jobs that it was woken for, in order."""
        from homeserver.services.membership_jobs import run_job

        while self.messages:
            body = self.messages[0].body
            run_job(body["room"], body["job"])
            self.messages.pop(0)


class Crash(Exception):
    """The process ends here."""


@contextmanager
def crash(point: str) -> Iterator[None]:
    """The first time that a fault point is reached inside the block, everything ends there; it must be reached.

    A handler answers with 500 then, as Lambda does for it.
    """
    reached = []

    def hook(name: str) -> None:
        if name == point:
            observability.fault_hook = None
            reached.append(name)
            raise Crash(name)

    observability.fault_hook = hook
    try:
        with suppress(Crash):
            yield
    finally:
        observability.fault_hook = None
    assert reached == [point]
