"""What other servers told, kept in memory for a while: so that what many ask for is asked of them once.

Only for answers that do not depend on who asks here. Each process has its own.
"""

import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class RememberedAnswers(Generic[T]):
    """Answers by question, each for some seconds; the oldest go first when all together have too many bytes."""

    def __init__(self, *, seconds: float, most_bytes: int) -> None:
        self._seconds, self._most_bytes = seconds, most_bytes
        self._lock = threading.Lock()
        self._kept: dict[object, tuple[float, int, T]] = {}
        self._bytes = 0

    def get(self, question: object) -> T | None:
        """The answer, or None if there is none any more."""
        with self._lock:
            kept = self._kept.get(question)
            return kept[2] if kept is not None and time.monotonic() < kept[0] else None

    def put(self, question: object, answer: T, size: int) -> None:
        """Remember an answer of so many bytes; one of more than a tenth of all is not remembered."""
        with self._lock:
            self._drop(question)
            if size > self._most_bytes // 10:
                return
            self._kept[question] = (time.monotonic() + self._seconds, size, answer)
            self._bytes += size
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _drop(self, question: object) -> None:
        kept = self._kept.pop(question, None)
        if kept is not None:
            self._bytes -= kept[1]
