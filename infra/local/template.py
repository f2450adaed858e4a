"""CloudFormation templates as data: the YAML tags, parameters, conditions, references and nested stacks.

Only what the local run asks for is resolved, so a reference that AWS alone can answer fails when it is used,
not when it is read.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ACCOUNT = "000000000000"
REGION = "us-east-1"
NO_VALUE = object()
_SUB = re.compile(r"\$\{(!?)([^}]*)\}")
_STACK_TYPES = {"AWS::CloudFormation::Stack": "TemplateURL", "AWS::Serverless::Application": "Location"}
_SERVICES = {  # the service part of an ARN, and what stands before the name in it
    "AWS::DynamoDB::Table": ("dynamodb", "table/"),
    "AWS::SQS::Queue": ("sqs", ""),
    "AWS::Serverless::Function": ("lambda", "function:"),
    "AWS::Lambda::Function": ("lambda", "function:"),
    "AWS::Serverless::LayerVersion": ("lambda", "layer:"),
    "AWS::IAM::Role": ("iam", "role/"),
    "AWS::S3::Bucket": ("s3", ""),
    "AWS::SSM::Parameter": ("ssm", "parameter"),
    "AWS::SNS::Topic": ("sns", ""),
    "AWS::SecretsManager::Secret": ("secretsmanager", "secret:"),
    "AWS::Serverless::StateMachine": ("states", "stateMachine:"),
    "AWS::Logs::LogGroup": ("logs", "log-group:"),
    "AWS::KMS::Key": ("kms", "key/"),
}


class TemplateError(Exception):
    """The template says something that the local run cannot carry out; the message names the place."""


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short tags turned into their long form."""


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = str(value).split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]  # the third kind of node is a mapping
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _tagged)
# "2010-09-09" stays text, as CloudFormation reads it.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(path: Path) -> dict[str, Any]:
    """The template in this file. Raises TemplateError when it is not one."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, yaml.YAMLError) as error:
        raise TemplateError(f"{path}: {error}") from error
    if not isinstance(document, dict) or "Resources" not in document:
        raise TemplateError(f"{path}: no Resources")
    return document


def snake(name: str) -> str:
    """A parameter's environment variable: ServerName -> SERVER_NAME."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).upper()


def parameters_of(path: Path, environ: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The values of a root template's parameters that the environment or the local defaults give."""
    declared = load(path).get("Parameters", {})
    given = {name: environ[snake(name)] for name in declared if snake(name) in environ}
    return {name: value for name, value in defaults.items() if name in declared} | given


class Stack:
    """One template with its parameters; nested stacks are its children.

    `attributes` holds what only the running process knows: (resource type, attribute) -> value.
    """

    def __init__(
        self,
        path: Path,
        parameters: Mapping[str, Any],
        *,
        name: str = "eigenserver",
        attributes: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.template = load(path)
        self.attributes = dict(attributes or {})
        self.parameters = self._parameter_values(parameters)
        self._conditions: dict[str, bool] = {}
        self._children: dict[str, Stack] = {}

    def _parameter_values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, declared in self.template.get("Parameters", {}).items():
            if name in given:
                value = given[name]
            elif "Default" in declared:
                value = declared["Default"]
            else:
                raise TemplateError(f"{self.path.name}: the parameter {name} ({snake(name)}) has no value")
            value = value if isinstance(value, list) else str(value)
            allowed = [str(choice) for choice in declared.get("AllowedValues", ())]
            if allowed and value not in allowed:
                raise TemplateError(f"{snake(name)} is {value!r}; it must be one of {', '.join(allowed)}")
            if declared.get("Type") == "Number" and not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", str(value)):
                raise TemplateError(f"{snake(name)} is {value!r}; it must be a number")
            pattern = declared.get("AllowedPattern")
            if pattern and isinstance(value, str) and not re.fullmatch(pattern, value):
                why = declared.get("ConstraintDescription", f"must match {pattern}")
                raise TemplateError(f"{snake(name)} is {value!r}: {why}")
            for bound, outside in (("MinValue", float.__lt__), ("MaxValue", float.__gt__)):
                if bound in declared and isinstance(value, str) and outside(float(value), float(declared[bound])):
                    raise TemplateError(f"{snake(name)} is {value}; its {bound} is {declared[bound]}")
            if str(declared.get("Type", "")).startswith(("List<", "CommaDelimitedList")) and isinstance(value, str):
                value = [part.strip() for part in value.split(",")]
            values[name] = value
        return values

    # ── what is in it ──────────────────────────────────────────────────────────────────────────────

    def resources(self, *types: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The resources of these types whose condition holds, as (logical ID, resource, unresolved)."""
        for logical_id, resource in self.template["Resources"].items():
            if (not types or resource["Type"] in types) and self._holds(resource.get("Condition")):
                yield logical_id, resource

    def child(self, logical_id: str) -> "Stack":
        """One nested stack, read when it is first asked for: stacks may refer to each other's outputs in any order."""
        if logical_id not in self._children:
            resource = self._resource(logical_id)
            properties = resource["Properties"]
            location = self.resolve(properties[_STACK_TYPES[resource["Type"]]])
            if not isinstance(location, str) or "://" in location:
                raise TemplateError(f"{self.path.name}: {logical_id} is not a template in this project")
            self._children[logical_id] = Stack(
                (self.path.parent / location).resolve(),
                self.resolve(properties.get("Parameters", {})),
                name=f"{self.name}-{logical_id}",
                attributes=self.attributes,
            )
        return self._children[logical_id]

    def stacks(self) -> "Iterator[Stack]":
        """The stack and all under it."""
        yield self
        for logical_id, _ in self.resources(*_STACK_TYPES):
            yield from self.child(logical_id).stacks()

    def output(self, name: str) -> Any:
        """The value of one of this stack's outputs."""
        outputs = self.template.get("Outputs", {})
        if name not in outputs or not self._holds(outputs[name].get("Condition")):
            raise TemplateError(f"{self.path.name} has no output {name}")
        return self.resolve(outputs[name]["Value"])

    # ── values ─────────────────────────────────────────────────────────────────────────────────────

    def resolve(self, value: Any) -> Any:
        """The value with every intrinsic function carried out. Raises TemplateError for an unknown one."""
        result = self._resolve(value)
        return None if result is NO_VALUE else result

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            return [item for item in (self._resolve(item) for item in value) if item is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((key, argument),) = value.items()
            if key == "Ref":
                return self._ref(argument)
            if key.startswith("Fn::"):
                return self._function(key[4:], argument)
            if key == "Condition" and isinstance(argument, str):
                return self._holds(argument)
        resolved = {key: self._resolve(item) for key, item in value.items()}
        return {key: item for key, item in resolved.items() if item is not NO_VALUE}

    def _holds(self, condition: str | None) -> bool:
        if condition is None:
            return True
        if condition not in self._conditions:
            try:
                expression = self.template["Conditions"][condition]
            except KeyError:
                raise TemplateError(f"{self.path.name}: no condition {condition}") from None
            self._conditions[condition] = bool(self._resolve(expression))
        return self._conditions[condition]

    def _function(self, name: str, argument: Any) -> Any:
        match name:
            case "GetAtt":
                logical_id, attribute = argument if isinstance(argument, list) else argument.split(".", 1)
                return self._attribute(logical_id, self._resolve(attribute))
            case "Sub":
                text, names = argument if isinstance(argument, list) else (argument, {})
                return _SUB.sub(lambda match: self._substitute(match, names), text)
            case "Join":
                separator, parts = argument
                return separator.join(str(part) for part in self._resolve(parts))
            case "If":
                condition, when_true, when_false = argument
                return self._resolve(when_true if self._holds(condition) else when_false)
            case "Equals":
                left, right = self._resolve(argument)
                return str(left) == str(right)
            case "And":
                return all(self._resolve(argument))
            case "Or":
                return any(self._resolve(argument))
            case "Not":
                return not self._resolve(argument)[0]
            case "Select":
                index, items = self._resolve(argument)
                return items[int(index)]
            case "Split":
                separator, text = self._resolve(argument)
                return text.split(separator)
            case "FindInMap":
                mapping, first, second = self._resolve(argument)[:3]
                return self.template["Mappings"][mapping][first][second]
            case _:
                raise TemplateError(f"{self.path.name}: Fn::{name} is not known here")

    def _substitute(self, match: re.Match[str], names: Mapping[str, Any]) -> str:
        literal, name = match.groups()
        if literal:
            return f"${{{name}}}"
        if name in names:
            return str(self._resolve(names[name]))
        if "." in name:
            return str(self._attribute(*name.split(".", 1)))
        return str(self._ref(name))

    def _ref(self, name: str) -> Any:
        if name.startswith("AWS::"):
            return self._pseudo(name)
        if name in self.parameters:
            return self.parameters[name]
        resource = self._resource(name)
        if resource["Type"] == "AWS::SQS::Queue":
            return f"http://localhost:4566/{ACCOUNT}/{self.physical_name(name)}"
        if resource["Type"] == "AWS::Serverless::StateMachine":
            return self._attribute(name, "Arn")
        return self.attributes.get((resource["Type"], "Ref"), self.physical_name(name))

    def _pseudo(self, name: str) -> Any:
        values = {
            "AWS::Region": REGION,
            "AWS::AccountId": ACCOUNT,
            "AWS::Partition": "aws",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::StackName": self.name,
            "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{self.name}/local",
            "AWS::NoValue": NO_VALUE,
        }
        if name not in values:
            raise TemplateError(f"{self.path.name}: {name} is not known here")
        return values[name]

    def _resource(self, logical_id: str) -> dict[str, Any]:
        resources: dict[str, Any] = self.template["Resources"]
        if logical_id == "ServerlessHttpApi" and logical_id not in resources:  # SAM makes it for routes without an API
            return {"Type": "AWS::Serverless::HttpApi", "Properties": {}}
        if logical_id not in resources:
            raise TemplateError(f"{self.path.name}: nothing is called {logical_id}")
        found: dict[str, Any] = resources[logical_id]
        return found

    def physical_name(self, logical_id: str) -> str:
        """The name AWS would know this resource by; without a random part here."""
        resource = self._resource(logical_id)
        kind = resource["Type"].rsplit("::", 1)[-1]
        properties = resource.get("Properties", {})
        keys = {f"{kind}Name", "Name"} if kind in {"Parameter", "Secret", "StateMachine"} else {f"{kind}Name"}
        for key in sorted(keys):
            if key in properties and (name := self._resolve(properties[key])) is not NO_VALUE:
                return str(name)
        fifo = kind == "Queue" and str(self._resolve(properties.get("FifoQueue"))).lower() == "true"
        return f"{self.name}-{logical_id}" + (".fifo" if fifo else "")

    def _attribute(self, logical_id: str, attribute: str) -> Any:
        resource = self._resource(logical_id)
        kind = resource["Type"]
        if kind in _STACK_TYPES and attribute.startswith("Outputs."):
            return self.child(logical_id).output(attribute.removeprefix("Outputs."))
        if (kind, attribute) in self.attributes:
            return self.attributes[kind, attribute]
        name = self.physical_name(logical_id)
        if attribute == "Arn" and kind in _SERVICES:
            service, before = _SERVICES[kind]
            place = {"s3": "::", "iam": f":{ACCOUNT}"}.get(service, f"{REGION}:{ACCOUNT}")
            return f"arn:aws:{service}:{place}:{before}{name}"
        if attribute == "StreamArn":
            return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}/stream/local"
        if attribute in {"QueueName", "TopicName", "FunctionName"} or (
            attribute == "Name" and kind.endswith("::StateMachine")
        ):
            return name
        if attribute == "QueueUrl":
            return self._ref(logical_id)
        raise TemplateError(f"{self.path.name}: the local run does not know {logical_id}.{attribute}")
