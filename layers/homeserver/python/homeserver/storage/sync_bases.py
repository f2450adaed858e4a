"""Bases of long sync tokens: the vectors of positions that a device's tokens only amend.

A token of more than about 400 rooms would be longer than 1 KB. It then names a *base*, a vector that the server keeps,
and carries only what changed since. One item a device: `INBOX`, partition the user, key `base/<device>`, with the last
two bases in attributes `b<number>` (a client may use the token before its newest one once more) and the newest number
in `n`. A vector is a varint per slot from 0 on, 0 where nothing was told.

A number names one vector for ever: the write is conditioned on its being higher than every number before.

Requests and items are DynamoDB's own JSON, for PynamoDB's connection and for the slim client alike: this module
imports neither.
"""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from homeserver.matrix.varint import encode_varint, read_varint
from homeserver.settings import table_name

KEPT_BASES = 2
_NEWEST = "n"


def _key(user_id: str, device_id: str) -> dict[str, Any]:
    return {"user": {"S": user_id}, "k": {"S": f"base/{device_id}"}}


def base_request(user_id: str, device_id: str) -> dict[str, Any]:
    """The GetItem that reads a device's bases. Consistent: the token that names one may be milliseconds old."""
    return {"TableName": table_name("INBOX"), "Key": _key(user_id, device_id), "ConsistentRead": True}


def parse_bases(item: Mapping[str, Any] | None) -> dict[int, dict[int, int]]:
    """Number -> slot -> position of the bases that an item holds; empty for no item."""
    return _vectors(item, "b")


def parse_ephemeral(item: Mapping[str, Any] | None) -> dict[int, dict[int, int]]:
    """Number -> slot -> ephemeral number of the bases that an item holds; only those that have any."""
    return _vectors(item, "e")


def _vectors(item: Mapping[str, Any] | None, letter: str) -> dict[int, dict[int, int]]:
    vectors = {}
    for name, value in (item or {}).items():
        if name[0] == letter and name[1:].isdigit():
            content = value["B"]
            vectors[int(name[1:])] = _decode(content if isinstance(content, bytes) else b64decode(content))
    return vectors


def store_base_request(
    user_id: str,
    device_id: str,
    number: int,
    positions: Mapping[int, int],
    kept: Mapping[int, Mapping[int, int]],
    *,
    ephemeral: Mapping[int, int] | None = None,
    kept_ephemeral: Mapping[int, Mapping[int, int]] | None = None,
) -> dict[str, Any]:
    """The PutItem that adds base `number` (above 0 and all before) and keeps the newest of the others, `kept`.

    `ephemeral` and `kept_ephemeral` are the ephemeral numbers of the same bases.
    It fails with a ConditionalCheckFailedException where another request stored this number or a higher one first.
    """
    if number < 1 or any(number <= other for other in kept):
        raise ValueError(f"base {number} is not newer than {sorted(kept)}")
    newest_first = sorted(kept, reverse=True)[: KEPT_BASES - 1]
    vectors = {number: positions, **{other: kept[other] for other in newest_first}}
    numbers = {number: ephemeral or {}, **{other: (kept_ephemeral or {}).get(other, {}) for other in newest_first}}
    return {
        "TableName": table_name("INBOX"),
        "Item": {
            **_key(user_id, device_id),
            _NEWEST: {"N": str(number)},
            **{f"b{n}": {"B": _encode(vector)} for n, vector in vectors.items()},
            **{f"e{n}": {"B": _encode(vector)} for n, vector in numbers.items() if any(vector.values())},
        },
        "ConditionExpression": "attribute_not_exists(#n) OR #n < :n",
        "ExpressionAttributeNames": {"#n": _NEWEST},
        "ExpressionAttributeValues": {":n": {"N": str(number)}},
    }


def _encode(positions: Mapping[int, int]) -> bytes:
    length = max((slot for slot, position in positions.items() if position), default=-1) + 1
    return b"".join(encode_varint(positions.get(slot, 0)) for slot in range(length))


def _decode(data: bytes) -> dict[int, int]:
    positions: dict[int, int] = {}
    slot = at = 0
    while at < len(data):
        position, at = read_varint(data, at)
        if position:
            positions[slot] = position
        slot += 1
    return positions
