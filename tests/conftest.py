"""What every kind of test may ask for, and a record of which answers passing tests compared with the specification."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import contract_check

# Read by infra/spec_coverage.py: one file for each process that ran tests.
RECORDS = Path(__file__).resolve().parents[1] / ".tools" / "compared-answers"
_compared: set[tuple[str, str, int]] = set()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin with an empty record; only the process that all others belong to clears it."""
    if not hasattr(session.config, "workerinput") and not _is_nested(session) and RECORDS.is_dir():
        for record in RECORDS.iterdir():
            record.unlink()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """What a test compared counts if the test passed."""
    report = yield
    if call.when == "call":
        if call.excinfo is None:
            _compared.update(contract_check.compared)
        contract_check.compared.clear()
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the record of this process."""
    if _compared and not _is_nested(session):
        RECORDS.mkdir(parents=True, exist_ok=True)
        name = os.environ.get("PYTEST_XDIST_WORKER", "main")
        (RECORDS / f"{name}.json").write_text(json.dumps(sorted(_compared)), encoding="utf-8")


def _is_nested(session: pytest.Session) -> bool:
    """Whether a test of another run started this one, as the mutations of the rules do: it keeps out of the record."""
    return not hasattr(session.config, "workerinput") and "PYTEST_XDIST_WORKER" in os.environ


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder `shared` beside the checkout, with the specification's data and vectors."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder `shared` beside the checkout (specification data)")
    return folder
