"""Templates as the local run reads them."""

from pathlib import Path

import pytest

from local.resources import Route, environment_of, read_resources, seconds_of
from local.template import Stack, TemplateError, parameters_of, snake

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests/fixtures/local/template.yaml"


def stack_of(tmp_path: Path, text: str, **parameters: str) -> Stack:
    path = tmp_path / "template.yaml"
    path.write_text(text)
    return Stack(path, parameters)


def test_a_parameter_has_its_name_in_upper_snake_case():
    assert [snake(name) for name in ("ServerName", "SyncPollMs", "Registration", "SESRegion")] == [
        "SERVER_NAME",
        "SYNC_POLL_MS",
        "REGISTRATION",
        "SES_REGION",
    ]


def test_the_environment_overrides_local_defaults_and_these_the_template():
    given = parameters_of(FIXTURE, {"SERVER_NAME": "a.example", "OTHER": "x"}, {"ServerName": "localhost", "Nope": "y"})
    assert given == {"ServerName": "a.example"}
    assert parameters_of(FIXTURE, {}, {"ServerName": "localhost"}) == {"ServerName": "localhost"}


def test_intrinsic_functions_are_carried_out(tmp_path):
    stack = stack_of(
        tmp_path,
        """
Parameters: {Name: {Type: String, Default: n}, Many: {Type: CommaDelimitedList, Default: "a, b"}}
Mappings: {Sizes: {big: {memory: 9}}}
Conditions: {Is: !Equals [!Ref Name, n], Isnt: !Not [!Condition Is], Both: !And [!Condition Is, !Condition Isnt]}
Resources: {T: {Type: AWS::DynamoDB::Table, Properties: {}}, F: {Type: AWS::SQS::Queue, Properties: {FifoQueue: true}}}
""",
    )
    arn = "arn:aws:dynamodb:us-east-1:000000000000:table/eigenserver-T"
    assert stack.resolve({"Fn::Sub": "${T.Arn}/x/${Name}/${!Literal}/${AWS::StackName}"}) == (
        f"{arn}/x/n/${{Literal}}/eigenserver"
    )
    assert stack.resolve({"Fn::Sub": ["${a}-${Name}", {"a": {"Ref": "T"}}]}) == "eigenserver-T-n"
    assert stack.resolve({"Fn::If": ["Is", "yes", "no"]}) == "yes"
    assert stack.resolve({"Fn::If": ["Both", "yes", "no"]}) == "no"
    assert stack.resolve({"Fn::Join": ["+", {"Ref": "Many"}]}) == "a+b"
    assert stack.resolve({"Fn::Select": [1, {"Fn::Split": [":", "a:b"]}]}) == "b"
    assert stack.resolve({"Fn::FindInMap": ["Sizes", "big", "memory"]}) == 9
    assert stack.resolve({"Ref": "F"}) == "http://localhost:4566/000000000000/eigenserver-F.fifo"
    assert stack.resolve([1, {"Ref": "AWS::NoValue"}, {"a": {"Ref": "AWS::NoValue"}, "b": 2}]) == [1, {"b": 2}]


def test_what_only_aws_knows_fails_where_it_is_used(tmp_path):
    stack = stack_of(tmp_path, "Resources: {T: {Type: AWS::KMS::Key, Properties: {}}}")
    with pytest.raises(TemplateError, match=r"does not know T\.Rotation"):
        stack.resolve({"Fn::GetAtt": ["T", "Rotation"]})
    with pytest.raises(TemplateError, match="nothing is called Gone"):
        stack.resolve({"Ref": "Gone"})
    with pytest.raises(TemplateError, match=r"Fn::GetAZs is not known here"):
        stack.resolve({"Fn::GetAZs": ""})


def test_a_parameter_outside_its_bounds_is_refused_by_its_environment_name(tmp_path):
    declared = """
Parameters:
  LogLevel: {Type: String, AllowedValues: [INFO, DEBUG]}
  Size: {Type: Number, Default: 5, MinValue: 2, MaxValue: 9}
  Name: {Type: String, Default: "", AllowedPattern: "[a-z]*"}
Resources: {}
"""
    with pytest.raises(TemplateError, match="LOG_LEVEL is 'no'; it must be one of INFO, DEBUG"):
        stack_of(tmp_path, declared, LogLevel="no")
    with pytest.raises(TemplateError, match=r"LogLevel \(LOG_LEVEL\) has no value"):
        stack_of(tmp_path, declared)
    with pytest.raises(TemplateError, match="SIZE is 10; its MaxValue is 9"):
        stack_of(tmp_path, declared, LogLevel="INFO", Size="10")
    with pytest.raises(TemplateError, match="NAME is 'A'"):
        stack_of(tmp_path, declared, LogLevel="INFO", Name="A")


def test_the_resources_of_nested_stacks_are_found_with_their_events():
    found = read_resources(Stack(FIXTURE, {"ServerName": "s"}))
    assert [function.name for function in found.functions] == [
        "eigenserver-ApiFunction",
        "eigenserver-FollowerFunction",
        "eigenserver-WorkerFunction",
        "eigenserver-sweep",
        "eigenserver-SetupFunction",
    ]
    assert found.routes == [
        Route("ANY", "$default", "eigenserver-ApiFunction"),
        Route("ANY", "/notes/{proxy+}", "eigenserver-ApiFunction"),
        Route("POST", "/echo/{name}", "eigenserver-ApiFunction"),
    ]
    (stream,) = found.streams
    assert (stream.table, stream.batch_size, stream.retries, stream.bisect, stream.partial_failures) == (
        "eigenserver-notes",
        10,
        1,
        True,
        True,
    )
    assert stream.on_failure == "arn:aws:sqs:us-east-1:000000000000:eigenserver-Data-FailedQueue"
    assert [(source.function, source.batch_size) for source in found.queue_sources] == [
        ("eigenserver-WorkerFunction", 5)
    ]
    assert [(source.function, source.seconds) for source in found.schedules] == [("eigenserver-sweep", 3600)]
    assert found.ttl == {"eigenserver-notes": "expires"}
    assert [queue["QueueName"] for queue in found.queues] == [
        "eigenserver-Data-FailedQueue",
        "eigenserver-Data-WorkQueue",
    ]
    assert found.cors is not None
    assert (found.cors.origins, found.cors.max_age) == (("*",), 60)
    assert found.custom[0].properties["ServerName"] == "s"


def test_global_and_own_variables_make_one_environment():
    found = read_resources(Stack(FIXTURE, {"ServerName": "s", "Registration": "open"}))
    assert environment_of(found.functions) == {
        "SERVER_NAME": "s",
        "GREETING": "welcome to s",
        "NOTES_TABLE": "eigenserver-notes",
        "WORK_QUEUE_URL": "http://localhost:4566/000000000000/eigenserver-Data-WorkQueue",
        "FAILED_QUEUE_URL": "http://localhost:4566/000000000000/eigenserver-Data-FailedQueue",
        "WORK_QUEUE_ARN": "arn:aws:sqs:us-east-1:000000000000:eigenserver-Data-WorkQueue",
        "REMINDERS": "eigenserver-Data-Reminders",
        "REMINDERS_ROLE": "arn:aws:iam::000000000000:role/eigenserver-Data-RemindersRole",
        "SWEEP_FUNCTION": "eigenserver-sweep",
    }


def test_two_functions_that_disagree_about_a_variable_cannot_share_a_process(tmp_path):
    function = "Type: AWS::Serverless::Function, Properties: {Handler: a.b, Environment: {Variables: {MODE: %s}}}"
    stack = stack_of(tmp_path, f"Resources: {{A: {{{function % 'x'}}}, B: {{{function % 'y'}}}}}")
    with pytest.raises(TemplateError, match="A sets MODE to 'x' and B to 'y'"):
        environment_of(read_resources(stack).functions)


def test_only_rates_are_schedules_here():
    assert [seconds_of(text) for text in ("rate(1 minute)", "rate(5 minutes)", "rate(2 hours)")] == [60, 300, 7200]
    with pytest.raises(ValueError, match="cron"):
        seconds_of("cron(0 12 * * ? *)")


def test_the_projects_own_template_can_be_carried_out_here():
    template = ROOT / "template.yaml"
    defaults = {"ServerName": "localhost", "Registration": "open"}
    found = read_resources(Stack(template, parameters_of(template, {"COST_METER": "on"}, defaults)))
    environment = environment_of(found.functions)
    assert (environment["SERVER_NAME"], environment["REGISTRATION"], environment["COST_METER"]) == (
        "localhost",
        "open",
        "on",
    )
    # Each handler is a file, each table that functions are told of exists, each source has its table or queue.
    for function in found.functions:
        assert (function.code / function.handler.rsplit(".", 1)[0].replace(".", "/")).with_suffix(".py").is_file()
    tables = {table["TableName"] for table in found.tables}
    assert {value for name, value in environment.items() if name.endswith("_TABLE")} == tables
    assert {source.table for source in found.streams} <= tables
    queues = {queue["QueueName"] for queue in found.queues}
    assert {source.queue_arn.rsplit(":", 1)[-1] for source in found.queue_sources} <= queues
    assert {source.on_failure.rsplit(":", 1)[-1] for source in found.streams if source.on_failure} <= queues
