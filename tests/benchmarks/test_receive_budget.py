"""The budget of events of other servers, held as counts: no read and no write of a message grows with its room."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COSTS = Path(__file__).with_name("receive_costs.py")
SIZES = (2, 300)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    command = [sys.executable, str(COSTS), *map(str, SIZES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("warmth", ["cold", "warm"])
@pytest.mark.parametrize("members", SIZES)
def test_a_message_takes_at_most_twenty_write_units_with_followers(
    rows: dict[str, dict], members: int, warmth: str
) -> None:
    name = f"message, {members} remote members, {warmth}"
    assert max(rows[name]["wru"]) + max(rows[f"{name}: follower"]["wru"]) <= 20
    # Head, timeline entry, event record: two units each, and two a further KB of the entry.
    assert max(rows[name]["wru"]) <= 8


@pytest.mark.parametrize("members", SIZES)
def test_a_warm_message_is_one_round_and_the_commit(rows: dict[str, dict], members: int) -> None:
    row = rows[f"message, {members} remote members, warm"]
    assert max(row["rounds"]) == 2
    assert max(row["rru"]) <= 6


@pytest.mark.parametrize("warmth", ["cold", "warm"])
def test_a_message_costs_the_same_whatever_the_size_of_the_room(rows: dict[str, dict], warmth: str) -> None:
    small, large = (rows[f"message, {members} remote members, {warmth}"] for members in SIZES)
    # The tree of a larger state is one level deeper: a read more of a cold process.
    assert max(large["rounds"]) <= max(small["rounds"]) + (warmth == "cold")
    assert max(large["rru"]) <= max(small["rru"]) + (warmth == "cold")
    assert max(large["wru"]) <= max(small["wru"])


@pytest.mark.parametrize("members", SIZES)
def test_ten_messages_of_one_delivery_are_one_commit(rows: dict[str, dict], members: int) -> None:
    name = f"ten messages, {members} remote members"
    assert max(rows[name]["rounds"]) == 2
    assert max(rows[name]["wru"]) + max(rows[f"{name}: follower"]["wru"]) <= 10 * 8


def test_a_further_fork_costs_what_differs(rows: dict[str, dict]) -> None:
    small, large = (rows[f"a further fork, {members} remote members"] for members in SIZES)
    # What the leaves reach was worked out, from the record of every member, for the first one.
    assert max(large["rru"]) <= max(small["rru"]) + 2 <= rows["the first fork, 300 remote members"]["rru"][0] / 10
    assert max(large["rounds"]) <= max(small["rounds"]) + 1
    assert max(large["wru"]) <= max(small["wru"]) + 4
