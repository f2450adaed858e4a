"""What a login by e-mail costs beside its requests: seven transitions; and what strangers can spend in a day."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COSTS = Path(__file__).with_name("login_costs.py")


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(COSTS)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    counted = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(counted, dict)
    return counted


@pytest.mark.parametrize("what", ["login", "registration"])
def test_two_stages_take_seven_transitions_and_two_writes(bill: dict[str, Any], what: str) -> None:
    assert bill[what]["path"] == ["AwaitStage", "StageDone", "AwaitStage", "StageDone", "Done"]
    assert bill[what]["transitions"] == 7
    # Two units each, because of the token in the item.
    assert (bill[what]["rru"], bill[what]["wru"]) == (0, 4)
    assert bill[what]["dollars"] == pytest.approx(0.000178, abs=1e-6)


def test_one_that_is_begun_and_left_alone_takes_five(bill: dict[str, Any]) -> None:
    assert bill["left alone"]["path"] == ["AwaitStage", "Expire", "Expired"]
    assert bill["left alone"]["dollars"] == pytest.approx(0.000128, abs=1e-6)


def test_what_strangers_can_spend_in_a_day_is_little_over_a_dollar(bill: dict[str, Any]) -> None:
    assert bill["a day"]["executions"] == 5100
    assert bill["a day"]["dollars"] == pytest.approx({"2": 1.30, "5": 2.87}, abs=0.01)
