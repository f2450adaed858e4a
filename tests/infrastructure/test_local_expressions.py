"""Key conditions that are parsed once mean what the emulator says they mean."""

import itertools
import types

import pytest
from ministack.services import dynamodb

from local.expressions import key_clauses, speed_up

NAMES = {"#r": "room", "#k": "k"}
VALUES = {
    ":r": {"S": "a"},
    ":x": {"S": "b"},
    ":y": {"S": "c/é"},
    ":n": {"N": "5"},
    ":m": {"N": "10"},
    ":b": {"B": "AQ=="},
}
CONDITIONS = [  # with the type of the sort key, which a table has only one of
    ("#r = :r", "S"),
    ("room = :r AND k > :x", "S"),
    ("(#r = :r AND #k >= :x)", "S"),
    ("#r = :r AND begins_with(#k, :x)", "S"),
    ("(room = :r) AND (k BETWEEN :x AND :y)", "S"),
    ("room = :r AND k < :n", "N"),
    ("room = :r AND k BETWEEN :n AND :m", "N"),
    ("room = :r AND k <= :b", "B"),
]
SORT_KEYS = [
    {"S": "b"},
    {"S": "b1"},
    {"S": "a"},
    {"S": "c/é"},
    {"N": "2"},
    {"N": "10.0"},
    {"N": "9"},
    {"B": "AQ=="},
    {"B": "AA=="},
    {"B": "Ag=="},
]


@pytest.fixture(scope="module")
def quick():
    module = types.SimpleNamespace(**vars(dynamodb))
    speed_up(module)
    return module


@pytest.mark.parametrize(("condition", "kind"), CONDITIONS)
def test_a_condition_that_is_remembered_accepts_what_the_emulator_accepts(quick, condition, kind):
    keys = [key for key in SORT_KEYS if kind in key]
    accepted = 0
    for room, key in itertools.product(("a", "b"), keys):
        item = {"room": {"S": room}, "k": key}
        wanted = dynamodb._evaluate_condition(condition, item, VALUES, NAMES, "KeyConditionExpression")
        for _ in range(2):
            found = quick._evaluate_condition(condition, item, VALUES, NAMES, "KeyConditionExpression")
            assert found == wanted, item
        accepted += wanted
    assert 0 < accepted < 2 * len(keys)


def test_the_forms_of_key_conditions_are_known():
    for condition, _ in CONDITIONS:
        assert key_clauses(dynamodb._tokenize(condition)) is not None, condition
    assert key_clauses(dynamodb._tokenize("room = :r AND begins_with(#k, :x)")) == (
        ("room", "=", (":r",)),
        ("#k", "begins_with", (":x",)),
    )


@pytest.mark.parametrize(
    "condition", ["room = :r OR k = :x", "NOT room = :r", "room = k", "size(k) = :n", "room = :r AND"]
)
def test_other_forms_are_left_to_the_emulator(condition):
    assert key_clauses(dynamodb._tokenize(condition)) is None


def test_an_invalid_expression_is_refused_each_time(quick):
    for _ in range(2):
        with pytest.raises(ValueError, match="Invalid KeyConditionExpression"):
            quick._evaluate_condition("room = = :r", {}, VALUES, NAMES, "KeyConditionExpression")
