"""The templates of the project as the tests of this folder look at them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.template import Stack

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "template.yaml"
NESTED = sorted((ROOT / "infra").glob("*.yaml"))

STACK = Stack(TEMPLATE, {})
"""The root stack with every parameter at its default."""

DATA = STACK.child("DataStack")
QUEUES = STACK.child("QueuesStack")
LOGS = STACK.child("LogsStack")
ALARMS = STACK.child("ObservabilityStack")


@dataclass(frozen=True, slots=True)
class FunctionInTemplate:
    """A function with the template's Globals merged in, unresolved and resolved."""

    logical_id: str
    folder: str
    raw: dict[str, Any]
    properties: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.properties["Environment"]["Variables"])

    @property
    def statements(self) -> list[dict[str, Any]]:
        return [statement for policy in self.properties["Policies"] for statement in policy["Statement"]]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The properties of its events of one kind."""
        events = self.properties.get("Events", {}).values()
        return [event.get("Properties", {}) for event in events if event["Type"] == kind]


def _merged(common: Any, own: Any) -> Any:
    if isinstance(common, dict) and isinstance(own, dict):
        return {key: _merged(common.get(key), own.get(key, common.get(key))) for key in {**common, **own}}
    return own


def _function(logical_id: str, resource: dict[str, Any]) -> FunctionInTemplate:
    raw = _merged(STACK.template["Globals"]["Function"], resource["Properties"])
    properties = STACK.resolve(raw)
    return FunctionInTemplate(logical_id, properties["Handler"].split(".")[0], raw, properties)


FUNCTIONS = {f.folder: f for f in (_function(*found) for found in STACK.resources("AWS::Serverless::Function"))}
"""By folder."""


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
