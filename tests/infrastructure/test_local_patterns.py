"""Filters of event sources."""

import pytest

from local.patterns import matches

HEAD = {"dynamodb": {"Keys": {"k": {"S": ["head"]}}}}


def record(k, **rest):
    return {"eventName": "INSERT", "dynamodb": {"Keys": {"room": {"S": "!a"}, "k": {"S": k}}, **rest}}


def test_a_filter_keeps_heads_only():
    assert matches(HEAD, record("head"))
    assert not matches(HEAD, record("local/@a:b"))
    assert not matches(HEAD, {"dynamodb": {"Keys": {}}})


@pytest.mark.parametrize(
    ("pattern", "passes"),
    [
        ({"eventName": ["INSERT", "MODIFY"]}, True),
        ({"eventName": ["REMOVE"]}, False),
        ({"eventName": [{"anything-but": ["INSERT"]}]}, False),
        ({"eventName": [{"anything-but": "REMOVE"}]}, True),
        ({"dynamodb": {"Keys": {"k": {"S": [{"prefix": "he"}]}}}}, True),
        ({"dynamodb": {"Keys": {"k": {"S": [{"suffix": "he"}]}}}}, False),
        ({"dynamodb": {"NewImage": {"v": {"S": [{"exists": False}]}}}}, False),
        ({"dynamodb": {"OldImage": [{"exists": False}]}}, True),
        # A leaf that is not there does not exist, wherever the path to it ends.
        ({"dynamodb": {"NewImage": {"fs": {"N": [{"exists": True}]}}}}, False),
        ({"$or": [{"eventName": ["REMOVE"]}, {"eventName": ["INSERT"]}]}, True),
    ],
)
def test_operators_of_patterns(pattern, passes):
    assert matches(pattern, record("head")) is passes


def test_an_unknown_operator_is_refused_rather_than_guessed():
    with pytest.raises(ValueError, match="numeric"):
        matches({"eventName": [{"numeric": ["=", 1]}]}, record("head"))
