"""Write docs/functions.md: what each function serves, which tables it touches, its memory and timeout.

The page is made from template.yaml (`make functions-table`); a test fails while the committed page is not current.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from local.template import Stack

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "functions.md"

HEADER = """\
# Functions

Made from `template.yaml` by `infra/functions_table.py`: do not edit. Memory in MB and timeout in seconds, at the
default parameters. Tables: r reads, w writes, c checks in a transaction, s scans; `by_stream` is an
index. `{version}` is `r0`, `v1` or `v3`; `{proxy+}` takes the rest of the path.

| Function | Woken by | Tables | Calls | Memory | Timeout |
|---|---|---|---|---|---|
"""

_LETTERS = {
    "r": {"GetItem", "BatchGetItem", "Query"},
    "w": {"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"},
    "c": {"ConditionCheckItem"},
    "s": {"Scan"},
}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _noun(resource: str) -> str | None:
    """ROOMS for the ARN of RoomsTable; USER_DATA.by_stream for one of its index; None for what is no table."""
    match = re.search(r":table/[^/]*-([A-Za-z]+)Table(?:/index/(\w+))?$", resource)
    if match is None:
        return None
    noun = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", match[1]).upper()
    return f"{noun}.{match[2]}" if match[2] else noun


def _tables(statements: list[dict[str, Any]]) -> str:
    touched: dict[str, set[str]] = {}
    for statement in statements:
        actions = {action.split(":")[1] for action in _list(statement["Action"])}
        for resource in _list(statement["Resource"]):
            if noun := _noun(resource):
                letters = {letter for letter, members in _LETTERS.items() if members & actions}
                touched.setdefault(noun, set()).update(letters)
    return ", ".join(f"{noun} {''.join(x for x in _LETTERS if x in letters)}" for noun, letters in touched.items())


def _calls(statements: list[dict[str, Any]]) -> str:
    calls = {a for s in statements for a in _list(s["Action"]) if not a.startswith("dynamodb:")}
    return ", ".join(sorted(calls))


def _sources(function: str, events: dict[str, Any]) -> str:
    found = []
    for event in events.values():
        properties = event.get("Properties", {})
        match event["Type"]:
            case "HttpApi":
                found.append(f"`{properties['Method']} {properties['Path']}`" if "Path" in properties else "`$default`")
            case "DynamoDB":
                table = properties["Stream"].split("/stream/")[0]
                found.append(f"stream of {_noun(table)}")
            case "SQS":
                found.append(f"`{properties['Queue'].rsplit('-', 1)[-1]}`")
            case "Schedule":
                found.append(properties["Schedule"])
            case other:
                raise ValueError(f"{function}: {other} events have no words here")
    return "<br>".join(found)


def table(stack: Stack) -> str:
    """The page for a root stack."""
    common = stack.template["Globals"]["Function"]
    custom = {
        resource["Properties"]["ServiceToken"]["Fn::GetAtt"][0]: resource["Type"]
        for _, resource in stack.resources()
        if resource["Type"].startswith("Custom::")
    }
    rows = []
    for logical_id, resource in stack.resources("AWS::Serverless::Function"):
        own = stack.resolve(common | resource["Properties"])
        name = own["Handler"].split(".")[0]
        statements = [statement for policy in own["Policies"] for statement in policy["Statement"]]
        woken = _sources(name, own.get("Events", {})) or f"`{custom.get(logical_id, 'lambda:InvokeFunction')}`"
        cells = [f"`{name}`", woken, _tables(statements), _calls(statements), own["MemorySize"], own["Timeout"]]
        rows.append("| " + " | ".join(str(cell) for cell in cells) + " |\n")
    return HEADER + "".join(rows)


def main() -> None:
    PAGE.write_text(table(Stack(ROOT / "template.yaml", {})), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
