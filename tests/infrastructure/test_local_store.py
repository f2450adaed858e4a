"""The embedded store: one lock for all ways in, whole snapshots, and the mode that is as unkind as AWS."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEEDS = [1, 7]


def probe(name: str, *arguments: int) -> Any:
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests/fixtures/local/store_probe.py"), name, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'infra'}:{ROOT / 'layers/homeserver/python'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_increments_by_every_way_into_the_store_are_all_counted():
    assert probe("counter") == 1100


def test_a_query_that_is_asked_again_sees_every_kind_of_write():
    after_each_write = [[1], [1], [2], [2, 3], [2, 3, 4], [3, 4]]
    assert probe("repeated") == [[], *(found for found in after_each_write for _ in range(2))]


def test_of_conditional_puts_at_once_exactly_one_wins():
    assert probe("winners") == 20


def test_a_transaction_that_is_sent_again_with_its_token_is_not_done_again():
    assert probe("replay") == ["1", "IdempotentParameterMismatchException"]


def test_a_snapshot_writes_what_changed_and_brings_all_of_it_back():
    found = probe("snapshot", 3000)
    assert found["saves"] == [True, False, True]
    assert found["found"] == {"room": {"S": "new"}, "k": {"S": "k"}, "n": {"N": "1"}}
    assert found["count"] == 3001


def test_a_stream_is_delivered_once_and_in_order_and_leaves_nothing_behind():
    found = probe("stream")
    assert found == {"complete": True, "gaps": 0, "repeats": 0, "sizes": found["sizes"], "kept": 0}
    assert set(found["sizes"]) <= set(range(1, 11))


def test_reads_are_current_and_whole_without_the_unkind_mode():
    assert probe("stale") == {"eventual": 0, "consistent": 0, "query": 0, "later": 199}
    assert probe("torn") == {"batch": 0, "query": 0, "transaction": 0}
    assert probe("conflicts") == {"cancelled": 0, "reasons": [], "written": 600}


@pytest.mark.parametrize("seed", SEEDS)
def test_unkind_eventual_reads_may_be_old_but_never_for_long_and_never_consistent_ones(seed):
    found = probe("stale", seed)
    assert found["eventual"] > 10
    assert found["query"] > 10
    assert (found["consistent"], found["later"]) == (0, 199)


@pytest.mark.parametrize("seed", SEEDS)
def test_unkind_consistent_reads_may_see_a_part_of_a_transaction_but_transactions_do_not(seed):
    found = probe("torn", seed)
    assert found["batch"] > 0
    assert found["query"] > 0
    assert found["transaction"] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_unkind_transactions_are_sometimes_cancelled_by_a_conflict_and_then_write_nothing(seed):
    found = probe("conflicts", seed)
    assert 1 <= found["cancelled"] <= 40
    assert found["reasons"] == ["None", "TransactionConflict"]
    assert found["written"] == 600 - 2 * found["cancelled"]


@pytest.mark.parametrize("seed", SEEDS)
def test_unkind_streams_repeat_and_split_but_keep_the_order_of_each_room(seed):
    found = probe("stream", seed)
    assert (found["complete"], found["gaps"]) == (True, 0)
    assert found["repeats"] > 0
    assert len(found["sizes"]) > 2
