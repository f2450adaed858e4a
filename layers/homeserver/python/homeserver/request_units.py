"""What DynamoDB bills for a request, by its published rules.

Writes come from the answer's `ConsumedCapacity`; reads are computed from sizes, because emulators report none.
"""

from collections.abc import Mapping
from typing import Any

_UNIT_BYTES = 4096
_WRITES = {"PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "BatchWriteItem"}


def read_units(operation: str, request: Mapping[str, Any], answer: Mapping[str, Any]) -> float:
    """Read request units: one for 4 KB and part thereof, half of it if eventually consistent.

    A Query or Scan rounds the sum of its items, a BatchGetItem each item, and a missing item counts as the smallest.
    """
    if operation == "BatchGetItem":
        units = 0.0
        for table, wanted in request["RequestItems"].items():
            rows = answer.get("Responses", {}).get(table, [])
            missing = max(0, len(wanted["Keys"]) - len(rows))
            units += _factor(wanted) * (sum(_rounded(item_bytes(row)) for row in rows) + missing)
        return units
    if operation in {"Query", "Scan"}:
        return _factor(request) * _rounded(sum(item_bytes(row) for row in answer["Items"]))
    if operation == "GetItem":
        return _factor(request) * _rounded(item_bytes(answer.get("Item") or {}))
    return 0.0


def _factor(request: Mapping[str, Any]) -> float:
    return 1.0 if request.get("ConsistentRead") else 0.5


def _rounded(size: int) -> int:
    return max(1, -(-size // _UNIT_BYTES))


def write_units(operation: str, answer: Mapping[str, Any]) -> float:
    """Write request units that the answer reports; one for a write whose answer does not say."""
    if operation not in _WRITES:
        return 0.0
    consumed = answer.get("ConsumedCapacity")
    if consumed is None:
        return 1.0
    entries = consumed if isinstance(consumed, list) else [consumed]
    return float(sum(entry.get("CapacityUnits", 0) for entry in entries))


def item_bytes(item: Mapping[str, Any]) -> int:
    """The size of an item as DynamoDB bills it: names and values in bytes, binaries as `bytes` or base64."""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            return (len(content) + 1) // 2 + 1
        case "B":
            return len(content) if isinstance(content, bytes) else len(content.rstrip("=")) * 3 // 4
        case "SS" | "NS" | "BS":
            return sum(_value_bytes({kind[0]: entry}) for entry in content)
        case "M":
            return 3 + sum(len(name.encode()) + 1 + _value_bytes(entry) for name, entry in content.items())
        case "L":
            return 3 + sum(1 + _value_bytes(entry) for entry in content)
        case _:
            return 1
