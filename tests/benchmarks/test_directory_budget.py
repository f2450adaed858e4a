"""The budget of the directories of rooms and users, held as counts of the emulator that bills as DynamoDB does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COSTS = Path(__file__).with_name("directory_costs.py")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    done = subprocess.run([sys.executable, str(COSTS)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    ("change", "rounds", "units"),
    [
        ("three words", 2, 8),  # bob, robert, smith and the record, each twice one unit
        ("the same name", 1, 0),
        ("one word of three", 2, 10),  # bob, robert, jones and the record, and smith that goes
        ("forget three words", 2, 8),
    ],
)
def test_a_profile_costs_two_units_a_word_and_two_more(
    rows: dict[str, dict], change: str, rounds: int, units: int
) -> None:
    row = rows[f"index: {change}"]
    assert (row["rounds"], row["rru"], row["wru"]) == ([rounds], [1], [units])


@pytest.mark.parametrize(
    ("work", "units"),
    [
        ("new room", 1),
        ("new open room", 4),  # preview, and the list of open rooms, in a transaction
        ("new published room", 8),  # and the entry, and the number of all
        ("name of a published room", 4),  # preview and entry
        ("count that is due", 6),  # and the entry as it was
        ("count that is not due", 0),
    ],
)
def test_a_room_costs_what_differs(rows: dict[str, dict], work: str, units: int) -> None:
    assert rows[work]["wru"] == [units]
    # Head, state and preview in one round; the state that authorises is remembered by who made the room.
    assert max(rows[work]["rru"]) <= 11
    assert max(rows[work]["rounds"]) <= 2
