"""Crashes on demand, for tests: `CRASH_AT=name[:n]` ends the process the n-th time it comes by that fault point."""

import os
import sys
import threading
from collections.abc import Callable, Mapping

from homeserver import observability


def install_crash(environ: Mapping[str, str], save: Callable[[], object]) -> None:
    """Watch for the fault point that CRASH_AT names, if any.

    With CRASH_SAVES=1 the store is saved just before, so that what was committed outlives the crash; without it the
    process ends as by kill -9.
    """
    wanted = environ.get("CRASH_AT", "")
    if not wanted:
        return
    name, _, count = wanted.rpartition(":") if wanted.rpartition(":")[2].isdigit() else (wanted, "", "1")
    saves = environ.get("CRASH_SAVES") == "1"
    left = int(count)
    lock = threading.Lock()

    def crash(point: str) -> None:
        nonlocal left
        if point != name:
            return
        with lock:
            left -= 1
            if left != 0:
                return
            if saves:
                save()
            print(f"crashed at {point}", file=sys.stderr, flush=True)
            os._exit(137)

    observability.fault_hook = crash
