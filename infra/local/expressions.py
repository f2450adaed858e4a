"""The emulator's expressions, parsed once instead of once per item.

A Query looks at every item of a partition; parsing its key condition each time was most of what a Query cost here. What
an expression means is still the emulator's business: it evaluates each one first, and the forms that are not known here
always.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

_EXPRESSIONS = 4096  # distinct texts remembered
_COMPARISONS = {"EQ": "=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">="}

Clause = tuple[str, str, tuple[str, ...]]  # attribute reference, operator, value references


def speed_up(module: Any) -> None:
    """Replace the pure parsing functions of the emulator's DynamoDB module by remembered ones."""
    tokenize = lru_cache(_EXPRESSIONS)(module._tokenize)
    module._tokenize = lambda expression: list(tokenize(expression))
    module._condition_syntax_error = lru_cache(_EXPRESSIONS)(module._condition_syntax_error)
    evaluate = module._evaluate_condition
    compare: Callable[[Any, str, Any], bool] = module._compare_ddb
    known: dict[str, tuple[Clause, ...] | None] = {}

    def evaluate_condition(
        expression: str, item: Any, values: Any, names: Any, slot: str = "ConditionExpression"
    ) -> Any:
        if slot != "KeyConditionExpression":
            return evaluate(expression, item, values, names, slot)
        clauses = known.get(expression)
        if clauses is None:
            result = evaluate(expression, item, values, names, slot)
            if expression not in known and len(known) < _EXPRESSIONS:
                known[expression] = key_clauses(tokenize(expression))
            return result
        try:
            return all(_holds(clause, item, values, names, compare) for clause in clauses)
        except KeyError:
            return evaluate(expression, item, values, names, slot)

    module._evaluate_condition = evaluate_condition


def _holds(clause: Clause, item: Any, values: Any, names: Any, compare: Callable[[Any, str, Any], bool]) -> bool:
    name, operator, references = clause
    left = item.get(names[name] if name[0] == "#" else name)
    right = values[references[0]]
    if operator == "=" and "S" in right:
        return bool(left == right)
    if operator == "BETWEEN":
        return compare(left, ">=", right) and compare(left, "<=", values[references[1]])
    if operator == "begins_with":
        if "S" not in right or left is None:
            raise KeyError(operator)  # the emulator decides about other types
        return bool(left["S"].startswith(right["S"]))
    return compare(left, operator, right)


def key_clauses(tokens: list[tuple[str, str]]) -> tuple[Clause, ...] | None:
    """The conditions of a key condition expression, or None for a form that is not known here."""
    rest = [token for token in tokens if token[0] not in {"LPAREN", "RPAREN", "COMMA", "EOF"}]
    clauses: list[Clause] = []
    while rest:
        word = rest[0][1]
        if word == "begins_with" and _kinds(rest[1:3]) == ["NAME", "VALUE_REF"]:
            clauses.append((rest[1][1], word, (rest[2][1],)))
            rest = rest[3:]
        elif len(rest) >= 3 and rest[1][0] in _COMPARISONS and _kinds([rest[0], rest[2]]) == ["NAME", "VALUE_REF"]:
            clauses.append((word, _COMPARISONS[rest[1][0]], (rest[2][1],)))
            rest = rest[3:]
        elif len(rest) >= 5 and rest[1][1].upper() == "BETWEEN" and rest[3][1].upper() == "AND":
            clauses.append((word, "BETWEEN", (rest[2][1], rest[4][1])))
            rest = rest[5:]
        else:
            return None
        if rest:
            if rest[0][1].upper() != "AND" or len(rest) == 1:
                return None
            rest = rest[1:]
    return tuple(clauses)


def _kinds(tokens: list[tuple[str, str]]) -> list[str]:
    return ["NAME" if kind in {"IDENT", "NAME_REF"} else kind for kind, _ in tokens]
