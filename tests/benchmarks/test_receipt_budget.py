"""The budget of receipts, held as counts: at most two write units, and one for each local member who is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COSTS = Path(__file__).with_name("receipt_costs.py")
SIZES = (2, 12, 50)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    command = [sys.executable, str(COSTS), *map(str, SIZES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("members", SIZES)
@pytest.mark.parametrize("kind", ["receipt", "threaded receipt"])
def test_a_receipt_takes_two_units_and_one_a_member(rows: dict[str, dict], members: int, kind: str) -> None:
    wru = rows[f"{kind}, {members} members"]["wru"]
    assert 1 + members <= min(wru) <= max(wru) <= 2 + members
    # In a small room no receipt has to leave the item: then it is one unit.
    assert members > 2 or max(wru) == 1 + members


@pytest.mark.parametrize("members", SIZES)
def test_a_private_receipt_is_announced_to_one(rows: dict[str, dict], members: int) -> None:
    assert max(rows[f"private receipt, {members} members"]["wru"]) <= 3


@pytest.mark.parametrize("members", SIZES)
def test_a_repeated_receipt_writes_nothing(rows: dict[str, dict], members: int) -> None:
    row = rows[f"receipt again, {members} members"]
    # token, room, own inbox
    assert (max(row["wru"]), max(row["rounds"])) == (0, 3)


@pytest.mark.parametrize("members", SIZES)
def test_a_receipt_takes_few_rounds(rows: dict[str, dict], members: int) -> None:
    # token; room; row of another receipt, read and written; item; members; inboxes of the others; of the author
    assert max(rows[f"receipt, {members} members"]["rounds"]) <= 8


@pytest.mark.parametrize("members", SIZES)
@pytest.mark.parametrize("kind", ["typing", "stopped typing"])
def test_typing_takes_the_item_the_rate_limit_and_one_a_member(rows: dict[str, dict], members: int, kind: str) -> None:
    assert set(rows[f"{kind}, {members} members"]["wru"]) == {2 + members}
    assert set(rows[f"{kind} again, {members} members"]["wru"]) == {0}
