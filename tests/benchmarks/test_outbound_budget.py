"""The budget of a message into a room of 3,000 servers: under $0.003, and no write for any of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COSTS = Path(__file__).with_name("outbound_costs.py")
SERVERS = 3000
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    command = [sys.executable, str(COSTS), str(SERVERS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (counted,) = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(counted, dict)
    return counted


def test_a_message_into_a_room_of_three_thousand_servers_costs_less_than_a_third_of_a_cent(
    bill: dict[str, Any],
) -> None:
    assert bill["dollars"] < 0.003


def test_it_takes_one_request_and_one_batch_for_each_ten_servers(bill: dict[str, Any]) -> None:
    assert bill["sends"] == bill["batches"] == SERVERS / 10


def test_it_writes_the_cursor_and_nothing_for_any_server(bill: dict[str, Any]) -> None:
    assert bill["wru"] == 1


def test_it_reads_what_is_known_of_each_server_and_the_event_once_a_batch(bill: dict[str, Any]) -> None:
    # And of the router: head and cursor, the event, the list of the dead; the servers, forty or so to a unit.
    assert bill["rru"] <= SERVERS + SERVERS / 10 + 3 + SERVERS / 30
