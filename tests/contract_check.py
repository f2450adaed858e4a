"""The specification's own schemas as a second opinion on answers: `check(method, path, status, body)`.

The checker and its data lie in a folder `shared` beside the checkout. Where that is absent the check is skipped
with one note a run, and everything else that a test asserts still runs.
"""

import re
import sys
import warnings
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any

# (method, path, status) of the answers that the running test has compared with the specification; tests/conftest.py
# takes them over when the test has passed.
compared: set[tuple[str, str, int]] = set()

_SPECIFICATION = Path(__file__).resolve().parents[2] / "shared" / "spec"
_DATA = _SPECIFICATION / "matrix-spec-data.tar.gz"


@cache
def contract() -> Any:
    """The checker, or None (said once) where the folder is absent."""
    program = _SPECIFICATION / "contract.py"
    if not program.is_file() or not _DATA.is_file():
        print(f"\nno contract checks: {_SPECIFICATION} is absent", file=sys.stderr)
        return None
    found = util.spec_from_file_location("matrix_contract", program)
    assert found is not None
    assert found.loader is not None
    module = util.module_from_spec(found)
    sys.modules["matrix_contract"] = module  # dataclasses look their own module up
    writing, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder is not ours
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its warnings are not about this project
            found.loader.exec_module(module)
            return module.Contract.load(_DATA)
    finally:
        sys.dont_write_bytecode = writing


def check(method: str, path: str, status: int, body: Any, *, foreign_contents: bool = False) -> None:
    """Fail unless the answer is what the specification documents, unknown keys included.

    foreign_contents: what stands in the contents of events was made by another server, and is passed on as it is.

    What it permits in prose is let through: an error status that an operation does not list, and the keys of the
    standard error response where an operation's schema knows only the flows of User-Interactive Authentication.
    """
    specification = contract()
    if specification is None:
        return
    report = specification.check_response(method, path, status, body)
    unexpected = [str(w) for w in report.warnings if not _is_known_from_prose(str(w), status, path)]
    violations = [str(v) for v in report.violations if not (foreign_contents and "/content/" in str(v))]
    assert not violations, "\n".join(violations)
    assert not unexpected, "\n".join(unexpected)
    compared.add((method, path, status))


_ERROR_KEYS = {f"/{key}: key is not in the specification" for key in ("errcode", "error", "soft_logout")}
_FEDERATION_EVENT = re.compile(
    r"(\[1\])?/event/(auth_events|depth|event_id|hashes|prev_events|room_id|signatures|unsigned|"
    r"content/(reason|third_party_invite)): key is not in the specification"
)


def _is_known_from_prose(warning: str, status: int, path: str) -> bool:
    # "The response body here describes the common event fields ... and may be missing other required fields for a PDU."
    if path.startswith("/_matrix/federation/") and _FEDERATION_EVENT.fullmatch(warning):
        return True
    # "Servers should add a redacts property to the top level of m.room.redaction events": room version 11.
    redacts = warning.endswith("/redacts: key is not in the specification")
    return redacts or (status >= 400 and _is_in_prose(warning))


def _is_in_prose(warning: str) -> bool:
    return warning.startswith("status: ") or warning in _ERROR_KEYS
