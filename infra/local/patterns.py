"""EventBridge patterns, which filter what an event source passes on: the operators that filters of streams use."""

from collections.abc import Mapping
from typing import Any


def matches(pattern: Mapping[str, Any], event: Any) -> bool:
    """Whether the event has all that the pattern names. Raises ValueError for an operator that is not known here."""
    if not isinstance(event, Mapping):
        return False
    for key, wanted in pattern.items():
        if key == "$or":
            if not any(matches(choice, event) for choice in wanted):
                return False
        elif isinstance(wanted, Mapping):
            if not matches(wanted, event.get(key)):
                return False
        elif not any(_accepts(choice, key in event, event.get(key)) for choice in wanted):
            return False
    return True


def _accepts(choice: Any, present: bool, value: Any) -> bool:
    if not isinstance(choice, Mapping):
        return present and (choice in value if isinstance(value, list) else choice == value)
    ((operator, argument),) = choice.items()
    match operator:
        case "exists":
            return present is argument
        case "prefix":
            return isinstance(value, str) and value.startswith(argument)
        case "suffix":
            return isinstance(value, str) and value.endswith(argument)
        case "anything-but":
            refused = argument if isinstance(argument, list) else [argument]
            return present and value not in refused
        case _:
            raise ValueError(f"the local run does not know the filter operator {operator}")
