"""The budgets of the design, held as counts: whatever the machine, an operation takes so many rounds and units."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).with_name("cost_table.py")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    figures = tmp_path_factory.mktemp("costs") / "rows.json"
    command = [sys.executable, str(BENCH), "--rooms", "10,300,1000", "--repeat", "2", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["name"]: row for row in json.loads(figures.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("warmth", ["cold", "warm"])
@pytest.mark.parametrize("rooms", [10, 300, 1000])
def test_a_message_into_a_room_of_two(rows: dict[str, dict], rooms: int, warmth: str) -> None:
    name = f"message of 1 KB into a room of two, members in {rooms} rooms, {warmth}"
    assert max(rows[name]["rounds"]) <= 3
    assert max(rows[name]["wru"]) + max(rows[f"{name}: follower"]["wru"]) <= 16


@pytest.mark.parametrize("warmth", ["cold", "warm"])
def test_a_longer_message_costs_two_units_a_kilobyte_more(rows: dict[str, dict], warmth: str) -> None:
    name = f"message of 3 KB into a room of two, {warmth}"
    assert max(rows[name]["rounds"]) <= 3
    assert max(rows[name]["wru"]) + max(rows[f"{name}: follower"]["wru"]) <= 20


@pytest.mark.parametrize(("rooms", "units"), [(10, 0.5), (300, 0.5), (1000, 1.0)])
@pytest.mark.parametrize("warmth", ["cold", "warm"])
def test_a_poll_of_a_waiting_sync(rows: dict[str, dict], rooms: int, units: float, warmth: str) -> None:
    row = rows[f"poll of a waiting sync, user in {rooms} rooms, {warmth}"]
    assert (max(row["rounds"]), max(row["rru"]), max(row["wru"])) == (1, units, 0)


@pytest.mark.parametrize("warmth", ["cold", "warm"])
@pytest.mark.parametrize("rooms", [10, 300, 1000])
def test_an_incremental_sync_with_one_changed_room(rows: dict[str, dict], rooms: int, warmth: str) -> None:
    assert max(rows[f"incremental sync, one message, user in {rooms} rooms, {warmth}"]["rounds"]) <= 3


@pytest.mark.parametrize("warmth", ["cold", "warm"])
def test_a_room_costs_the_same_however_long_its_history_is(rows: dict[str, dict], warmth: str) -> None:
    early, late = (rows[f"message of 1 KB as event {number} of a room, {warmth}"] for number in (20, 1980))
    for what in ("rounds", "calls", "rru", "wru"):
        assert max(late[what]) <= 1.1 * max(early[what]), what
        assert max(late[what]) >= 0.9 * max(early[what]), what
