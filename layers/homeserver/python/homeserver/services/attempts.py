"""Trying again after a lost race: how often, how long, and how to wait."""

import random
import time
from collections.abc import Iterator

from homeserver.matrix.errors import LimitExceeded

ATTEMPT_SECONDS = 8.0
_FIRST_WAIT = 0.2


def attempts(what: str) -> Iterator[int]:
    """Numbers from 0, one for each try, with a wait before every further one; bound by time, not by tries.

    The wait shrinks from try to try: with growing waits newcomers overtake for ever and the first one starves. The
    caller reads the room again *after* the wait. Raises LimitExceeded when the time is over.
    """
    end = time.monotonic() + ATTEMPT_SECONDS
    number = 0
    while time.monotonic() < end:
        yield number
        number += 1
        time.sleep(random.uniform(0, _FIRST_WAIT / number))  # noqa: S311 - jitter, not a secret
    raise LimitExceeded(f"{what} is too busy at the moment.", retry_after_ms=1000)
