"""Stored bases of long sync tokens: what is written is what is read, two at a time, and a number is used once."""

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.storage.sync_bases import base_request, parse_bases, store_base_request

ALICE = "@alice:example.org"
VECTORS = st.dictionaries(st.integers(0, 700), st.integers(1, 2**40), max_size=60)


def stored(number: int, positions: dict[int, int], kept: dict[int, dict[int, int]]) -> dict[str, Any]:
    item: dict[str, Any] = store_base_request(ALICE, "PHONE", number, positions, kept)["Item"]
    return item


@given(VECTORS, VECTORS)
def test_bases_are_read_as_they_were_written(first: dict[int, int], second: dict[int, int]) -> None:
    item = stored(8, second, {7: first})
    assert parse_bases(item) == {7: first, 8: second}


def test_a_vector_is_one_varint_a_slot_with_zero_for_holes() -> None:
    assert stored(1, {0: 5, 3: 300}, {})["b1"] == {"B": bytes([5, 0, 0, 0xAC, 0x02])}


def test_positions_of_zero_are_not_kept() -> None:
    assert parse_bases(stored(1, {0: 5, 9: 0}, {})) == {1: {0: 5}}


def test_binaries_are_read_as_bytes_and_as_base64() -> None:
    item = stored(1, {2: 7}, {})
    encoded = {**item, "b1": {"B": b64encode(item["b1"]["B"]).decode()}}
    assert parse_bases(item) == parse_bases(encoded) == {1: {2: 7}}


def test_the_newest_two_are_kept() -> None:
    assert parse_bases(stored(9, {0: 3}, {8: {0: 2}, 7: {0: 1}})) == {9: {0: 3}, 8: {0: 2}}


def test_an_absent_item_has_no_bases() -> None:
    assert parse_bases(None) == {}


def test_reader_and_writer_name_the_same_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INBOX_TABLE", "inbox")
    request = base_request(ALICE, "a/b")
    written = store_base_request(ALICE, "a/b", 1, {}, {})
    assert request == {
        "TableName": "inbox",
        "Key": {"user": {"S": ALICE}, "k": {"S": "base/a/b"}},
        "ConsistentRead": True,
    }
    assert {name: written["Item"][name] for name in ("user", "k")} == request["Key"]


def test_a_number_that_was_given_already_cannot_be_stored_again() -> None:
    request = store_base_request(ALICE, "PHONE", 4, {}, {})
    assert request["ConditionExpression"] == "attribute_not_exists(#n) OR #n < :n"
    assert (request["ExpressionAttributeNames"], request["ExpressionAttributeValues"]) == (
        {"#n": "n"},
        {":n": {"N": "4"}},
    )


@pytest.mark.parametrize(("number", "kept"), [(0, {}), (4, {4: {}}), (4, {5: {}})])
def test_a_number_that_is_not_the_highest_is_refused(number: int, kept: dict[int, dict[int, int]]) -> None:
    with pytest.raises(ValueError, match="not newer"):
        store_base_request(ALICE, "PHONE", number, {}, kept)
