"""The budget of entering a room of another server, held as counts: what a further member of the room costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COSTS = Path(__file__).with_name("enter_costs.py")
SMALL, LARGE = 100, 500
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    command = [sys.executable, str(COSTS), str(SMALL), str(LARGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}


def for_each(rows: dict[str, dict], what: str, unit: str) -> float:
    """What each further member costs."""
    return (sum(rows[f"{what}, {LARGE}"][unit]) - sum(rows[f"{what}, {SMALL}"][unit])) / (LARGE - SMALL)


def test_a_member_is_one_record_in_a_transaction_and_looked_for_twice(rows: dict[str, dict]) -> None:
    assert for_each(rows, "entering", "wru") <= 2.5
    assert for_each(rows, "entering", "rru") <= 2.5


def test_rounds_grow_with_what_goes_in_parallel_only(rows: dict[str, dict]) -> None:
    # Eight transactions of forty events at a time.
    assert rows[f"entering, {LARGE}"]["rounds"][0] <= rows[f"entering, {SMALL}"]["rounds"][0] + (LARGE - SMALL) / 100


def test_the_keys_of_a_server_are_read_once_for_all_events(rows: dict[str, dict]) -> None:
    for members in (SMALL, LARGE):
        assert rows[f"checks, {members}"]["calls"] == [1]


def test_a_member_s_rows_follow_for_a_bounded_price(rows: dict[str, dict]) -> None:
    assert for_each(rows, "followers", "wru") <= 14
