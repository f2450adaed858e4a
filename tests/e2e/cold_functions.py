"""The local run with functions that start cold at every call: `python -m e2e.cold_functions`.

The local run's functions share one process, so what one has read another need not read. On AWS each has a process of
its own: only with nothing remembered does each ask for all that it needs.
"""

import sys
from typing import Any

from benchmarks.caches import forget_everything
from homeserver.adapters.signing_key import forget_signing_keys
from local.__main__ import main
from local.invoke import Functions

_call = Functions.call


def _call_cold(functions: Functions, name: str, event: Any, request_id: str | None = None) -> Any:
    forget_everything()
    forget_signing_keys()
    return _call(functions, name, event, request_id)


if __name__ == "__main__":
    Functions.call = _call_cold  # type: ignore[method-assign]  # the one place through which every function runs
    sys.exit(main())
