"""The budget of a transaction of another server, held as counts, from the request to the inboxes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COSTS = Path(__file__).with_name("transaction_costs.py")
SIZES = (2, 300)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    command = [sys.executable, str(COSTS), *map(str, SIZES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}


def whole(rows: dict[str, dict], what: str, members: int, unit: str) -> float:
    """The most that one transaction of a kind consumed, with everything that it set off."""
    name = f"{what}, {members} remote members"
    return max(rows[name][unit]) + max(rows[f"{name}, afterwards"][unit])


@pytest.mark.parametrize("what", ["message, cold", "message, warm", "message with prev_ids"])
@pytest.mark.parametrize("members", SIZES)
def test_one_message_takes_at_most_twenty_write_units_from_the_request_to_the_inboxes(
    rows: dict[str, dict], members: int, what: str
) -> None:
    assert whole(rows, what, members, "wru") <= 20


@pytest.mark.parametrize("members", SIZES)
def test_a_request_with_one_message_is_three_rounds_and_two_items(rows: dict[str, dict], members: int) -> None:
    """Read what is known, stage the PDU, note the transaction."""
    row = rows[f"message, warm, {members} remote members"]
    assert max(row["rounds"]) == 3
    assert max(row["wru"]) <= 3
    assert max(row["rru"]) <= 6


@pytest.mark.parametrize("what", ["message, warm", "ten messages", "typing", "receipt", "message with prev_ids"])
def test_no_read_and_no_write_grows_with_the_room(rows: dict[str, dict], what: str) -> None:
    small, large = SIZES
    for unit, more in (("rru", 1), ("wru", 0), ("rounds", 1)):
        assert whole(rows, what, large, unit) <= whole(rows, what, small, unit) + more, unit


@pytest.mark.parametrize("members", SIZES)
def test_ten_messages_of_one_transaction_are_one_commit(rows: dict[str, dict], members: int) -> None:
    assert whole(rows, "ten messages", members, "wru") <= 10 * 8
    rounds = rows[f"ten messages, {members} remote members, afterwards"]["rounds"]
    assert max(rounds) <= max(rows[f"message, warm, {members} remote members, afterwards"]["rounds"])


@pytest.mark.parametrize("what", ["typing", "receipt"])
@pytest.mark.parametrize("members", SIZES)
def test_typing_and_receipts_are_one_item_a_slot_for_each_local_member_and_the_ledger(
    rows: dict[str, dict], members: int, what: str
) -> None:
    assert max(rows[f"{what}, {members} remote members"]["wru"]) <= 1 + 2 + 1
