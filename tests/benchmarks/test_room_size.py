"""A large room costs the same rounds as a small one. The full size is measured, and held, by `make bench`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.room_size import HELD, MORE_ROUNDS

BENCH = Path(__file__).with_name("room_size.py")
FANOUT_LIMIT = 500  # of inbox writes; beyond it a room is not fanned out
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[1, 16], ids=["as it is", "as if it had 16 times as many members"])
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict]]:
    figures = tmp_path_factory.mktemp("sizes") / "rows.json"
    command = [sys.executable, str(BENCH), "--members", "200", "--events", "1000", "--json", str(figures)]
    command += ["--scale", str(request.param)]
    subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert figures.exists()
    return json.loads(figures.read_text(encoding="utf-8"))


@pytest.mark.parametrize("operation", HELD)
def test_rounds_do_not_follow_the_size_of_the_room(rows: dict[str, dict[str, dict]], operation: str) -> None:
    small, large = rows["small"][operation]["rounds"][0], rows["large"][operation]["rounds"][0]
    assert abs(large - small) <= MORE_ROUNDS


def test_the_reads_of_a_send_grow_neither_with_members_nor_with_history(rows: dict[str, dict[str, dict]]) -> None:
    small, large = rows["small"]["send"], rows["large"]["send"]
    for what in ("rounds", "calls", "rru", "wru"):
        assert large[what] == small[what], what


def test_the_fan_out_of_a_send_stays_below_its_limit(rows: dict[str, dict[str, dict]]) -> None:
    # One unit for each member's slot and one for the cursor; a part of it may be in the queue's workers.
    assert sum(rows["large"]["send: follower"]["wru"]) <= FANOUT_LIMIT + 1
