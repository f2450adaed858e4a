"""What the template asks for, as the local run needs it: functions with their events, tables, queues, parameters."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.template import Stack, TemplateError

_TABLE_KEYS = (
    "AttributeDefinitions",
    "KeySchema",
    "BillingMode",
    "GlobalSecondaryIndexes",
    "LocalSecondaryIndexes",
    "ProvisionedThroughput",
)
_QUEUE_KEYS = (
    "VisibilityTimeout",
    "MessageRetentionPeriod",
    "DelaySeconds",
    "ReceiveMessageWaitTimeSeconds",
    "FifoQueue",
    "ContentBasedDeduplication",
    "DeduplicationScope",
    "FifoThroughputLimit",
    "RedrivePolicy",
)


@dataclass(frozen=True, slots=True)
class Function:
    """One Lambda function; timeout in seconds, memory in megabytes."""

    logical_id: str
    name: str
    handler: str
    code: Path
    environment: Mapping[str, str]
    timeout: int
    memory: int
    retries: int = 2  # of an asynchronous invocation that fails


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the HTTP API; method is upper case or ANY, path is `$default` for the last resort."""

    method: str
    path: str
    function: str


@dataclass(frozen=True, slots=True)
class StreamSource:
    """A DynamoDB stream that triggers a function; a record passes if any of the filters matches it."""

    function: str
    table: str
    filters: tuple[Mapping[str, Any], ...]
    batch_size: int
    bisect: bool
    partial_failures: bool
    retries: int  # -1: for ever
    on_failure: str | None  # ARN of a queue
    parallel: int  # batches at once; one partition key is always in the same lane


@dataclass(frozen=True, slots=True)
class QueueSource:
    """A queue that triggers a function."""

    function: str
    queue_arn: str
    batch_size: int
    partial_failures: bool


@dataclass(frozen=True, slots=True)
class ScheduleSource:
    """A function that runs every so many seconds; `payload` None means the scheduled event that AWS sends."""

    function: str
    name: str
    seconds: int
    payload: Any


@dataclass(frozen=True, slots=True)
class StateMachine:
    """A state machine of Step Functions; its definition is JSON with the template's values in their places."""

    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class CustomResource:
    """A resource that a function of ours makes."""

    logical_id: str
    kind: str
    function: str
    properties: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cors:
    """CorsConfiguration of an HTTP API."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    expose: tuple[str, ...]
    max_age: int | None
    credentials: bool


@dataclass(slots=True)
class Resources:
    """Everything the local run makes, in the words of the AWS APIs that make it."""

    functions: list[Function] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    streams: list[StreamSource] = field(default_factory=list)
    queue_sources: list[QueueSource] = field(default_factory=list)
    schedules: list[ScheduleSource] = field(default_factory=list)
    custom: list[CustomResource] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)  # CreateTable requests
    ttl: dict[str, str] = field(default_factory=dict)  # table -> attribute
    queues: list[dict[str, Any]] = field(default_factory=list)  # CreateQueue requests
    parameters: list[dict[str, Any]] = field(default_factory=list)  # PutParameter requests
    schedule_groups: list[str] = field(default_factory=list)  # of schedules that functions make
    state_machines: list[StateMachine] = field(default_factory=list)
    cors: Cors | None = None


def read_resources(root: Stack) -> Resources:
    """Collect the resources of a stack and of all nested in it. Raises TemplateError with the name of what is wrong."""
    found = Resources()
    for stack in root.stacks():
        for logical_id, resource in stack.resources():
            try:
                _add(found, stack, logical_id, resource)
            except (KeyError, TypeError, ValueError, OSError) as error:
                raise TemplateError(f"{stack.path.name}: {logical_id}: {error!r}") from error
    found.queues = _targets_first(found.queues)
    return found


def _targets_first(queues: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The queues in an order in which each comes after the one that takes what it gives up."""
    waiting = {queue["QueueName"]: queue for queue in queues}
    ordered: list[dict[str, Any]] = []

    def place(queue: dict[str, Any]) -> None:
        if waiting.pop(queue["QueueName"], None) is None:
            return
        policy = json.loads(queue["Attributes"].get("RedrivePolicy", "{}"))
        target = str(policy.get("deadLetterTargetArn", "")).rsplit(":", 1)[-1]
        if target in waiting:
            place(waiting[target])
        ordered.append(queue)

    for queue in queues:
        place(queue)
    return ordered


def _add(found: Resources, stack: Stack, logical_id: str, resource: dict[str, Any]) -> None:
    kind = resource["Type"]
    properties = resource.get("Properties", {})
    if kind == "AWS::Serverless::Function":
        _add_function(found, stack, logical_id, properties)
    elif kind == "AWS::Lambda::EventSourceMapping":
        mapping = stack.resolve(properties)
        _add_mapping(found, str(mapping["FunctionName"]).rsplit(":", 1)[-1], mapping)
    elif kind == "AWS::Serverless::HttpApi":
        found.cors = _cors(stack.resolve(properties.get("CorsConfiguration"))) or found.cors
    elif kind == "AWS::DynamoDB::Table":
        _add_table(found, stack.physical_name(logical_id), stack.resolve(properties))
    elif kind == "AWS::SQS::Queue":
        resolved = stack.resolve(properties)
        attributes = {key: _text(resolved[key]) for key in _QUEUE_KEYS if key in resolved}
        found.queues.append({"QueueName": stack.physical_name(logical_id), "Attributes": attributes})
    elif kind == "AWS::Scheduler::ScheduleGroup":
        found.schedule_groups.append(stack.physical_name(logical_id))
    elif kind == "AWS::Serverless::StateMachine":
        found.state_machines.append(
            StateMachine(stack.physical_name(logical_id), _definition(stack, stack.resolve(properties)))
        )
    elif kind == "AWS::SSM::Parameter":
        resolved = stack.resolve(properties)
        found.parameters.append(
            {"Name": stack.physical_name(logical_id), "Value": str(resolved["Value"]), "Type": resolved["Type"]}
        )
    elif kind.startswith("Custom::") or kind == "AWS::CloudFormation::CustomResource":
        resolved = stack.resolve(properties)
        function = str(resolved["ServiceToken"]).rsplit(":", 1)[-1]
        found.custom.append(CustomResource(logical_id, kind, function, resolved))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _definition(stack: Stack, properties: dict[str, Any]) -> str:
    """A state machine's definition with its substitutions carried out. Raises ValueError for one that is not JSON."""
    text: str = (stack.path.parent / properties["DefinitionUri"]).read_text(encoding="utf-8")
    for name, value in properties.get("DefinitionSubstitutions", {}).items():
        text = text.replace(f"${{{name}}}", str(value))
    json.loads(text)
    return text


def _add_table(found: Resources, name: str, properties: dict[str, Any]) -> None:
    request = {key: properties[key] for key in _TABLE_KEYS if key in properties}
    for index in request.get("GlobalSecondaryIndexes", ()):
        index.pop("OnDemandThroughput", None)
        index.pop("ContributorInsightsSpecification", None)
    if "StreamSpecification" in properties:
        request["StreamSpecification"] = {"StreamEnabled": True} | properties["StreamSpecification"]
    found.tables.append({"TableName": name} | request)
    ttl = properties.get("TimeToLiveSpecification", {})
    if str(ttl.get("Enabled", "false")).lower() == "true":
        found.ttl[name] = ttl["AttributeName"]


def _add_function(found: Resources, stack: Stack, logical_id: str, properties: dict[str, Any]) -> None:
    common = stack.template.get("Globals", {}).get("Function", {})
    own = common | properties
    name = stack.physical_name(logical_id)
    environment: dict[str, str] = {}
    for source in (common, properties):
        variables = stack.resolve(source.get("Environment", {}).get("Variables", {}))
        environment |= {key: _text(value) for key, value in variables.items()}
    found.functions.append(
        Function(
            logical_id,
            name,
            stack.resolve(own["Handler"]),
            (stack.path.parent / stack.resolve(own.get("CodeUri", "."))).resolve(),
            environment,
            int(stack.resolve(own.get("Timeout", 3))),
            int(stack.resolve(own.get("MemorySize", 128))),
            int(stack.resolve(own.get("EventInvokeConfig", {})).get("MaximumRetryAttempts", 2)),
        )
    )
    for event_name, event in properties.get("Events", {}).items():
        _add_event(found, name, event_name, event["Type"], stack.resolve(event.get("Properties", {})))


def _add_event(found: Resources, function: str, name: str, kind: str, properties: dict[str, Any]) -> None:
    if str(properties.get("Enabled", "true")).lower() == "false" or properties.get("State") == "DISABLED":
        return
    match kind:
        case "HttpApi":
            path = properties.get("Path", "$default")
            found.routes.append(Route(str(properties.get("Method", "ANY")).upper(), path, function))
        case "DynamoDB":
            _add_mapping(found, function, properties | {"EventSourceArn": properties["Stream"]})
        case "SQS":
            _add_mapping(found, function, properties | {"EventSourceArn": properties["Queue"]})
        case "Schedule" | "ScheduleV2":
            expression = properties.get("Schedule") or properties["ScheduleExpression"]
            payload = json.loads(properties["Input"]) if "Input" in properties else None
            found.schedules.append(ScheduleSource(function, name, seconds_of(expression), payload))
        case _:
            raise ValueError(f"the local run has no {kind} events")


def _add_mapping(found: Resources, function: str, mapping: dict[str, Any]) -> None:
    arn = str(mapping["EventSourceArn"])
    partial = "ReportBatchItemFailures" in mapping.get("FunctionResponseTypes", ())
    if ":sqs:" in arn:
        found.queue_sources.append(QueueSource(function, arn, int(mapping.get("BatchSize", 10)), partial))
        return
    filters = [json.loads(entry["Pattern"]) for entry in mapping.get("FilterCriteria", {}).get("Filters", ())]
    on_failure = mapping.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
    found.streams.append(
        StreamSource(
            function,
            arn.split(":table/", 1)[1].split("/", 1)[0],
            tuple(filters),
            int(mapping.get("BatchSize", 100)),
            str(mapping.get("BisectBatchOnFunctionError", "false")).lower() == "true",
            partial,
            int(mapping.get("MaximumRetryAttempts", -1)),
            on_failure,
            int(mapping.get("ParallelizationFactor", 1)),
        )
    )


def seconds_of(expression: str) -> int:
    """The period of `rate(5 minutes)`. Raises ValueError for anything else, cron included."""
    words = expression.strip().removeprefix("rate(").removesuffix(")").split()
    units = {"minute": 60, "hour": 3600, "day": 86400}
    if not expression.startswith("rate(") or len(words) != 2 or words[1].rstrip("s") not in units:
        raise ValueError(f"the local run knows rate(n minutes|hours|days), not {expression!r}")
    return int(words[0]) * units[words[1].rstrip("s")]


def _cors(configuration: dict[str, Any] | bool | None) -> Cors | None:
    if not configuration:
        return None
    if configuration is True:
        return Cors(("*",), (), (), (), None, False)
    return Cors(
        tuple(configuration.get("AllowOrigins", ())),
        tuple(configuration.get("AllowMethods", ())),
        tuple(configuration.get("AllowHeaders", ())),
        tuple(configuration.get("ExposeHeaders", ())),
        int(configuration["MaxAge"]) if "MaxAge" in configuration else None,
        str(configuration.get("AllowCredentials", "false")).lower() == "true",
    )


_OF_THE_FUNCTION = {"POWERTOOLS_SERVICE_NAME"}  # says which function speaks, so it differs by nature


def environment_of(functions: list[Function]) -> dict[str, str]:
    """The one environment that all functions share here.

    Raises TemplateError when two functions give one variable different values: in one process that cannot hold.
    """
    merged: dict[str, str] = {}
    owner: dict[str, str] = {}
    for function in functions:
        for key, value in function.environment.items():
            if key in _OF_THE_FUNCTION:
                continue
            if merged.setdefault(key, value) != value:
                raise TemplateError(
                    f"{owner[key]} sets {key} to {merged[key]!r} and {function.logical_id} to {value!r}: "
                    "one process has one environment"
                )
            owner.setdefault(key, function.logical_id)
    return merged


def handlers(functions: list[Function]) -> Iterator[tuple[Function, str, str]]:
    """Each function with the module and the attribute of its handler."""
    for function in functions:
        module, _, attribute = function.handler.rpartition(".")
        yield function, module, attribute
