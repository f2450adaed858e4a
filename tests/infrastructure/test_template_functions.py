"""The functions of template.yaml: what they run on, what they are told, and what they may do."""

import json
import os
import re
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from samtranslator.translator.transform import transform

from infrastructure.templates import FUNCTIONS, NESTED, ROOT, STACK, TEMPLATE, as_list
from local.template import load

SECRETS = {"REGISTRATION_TOKEN", "REGISTRATION_SHARED_SECRET"}
MANAGED = "arn:aws:iam::aws:policy/service-role/"


@cache
def translated() -> dict[str, Any]:
    """The template as SAM hands it to CloudFormation, code and nested templates replaced by addresses."""
    template = load(TEMPLATE)
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/code"
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::LayerVersion":
            resource["Properties"]["ContentUri"] = "s3://bucket/layer"
        if resource["Type"] == "AWS::Serverless::StateMachine":
            resource["Properties"]["DefinitionUri"] = "s3://bucket/definition"
        if resource["Type"] == "AWS::Serverless::Application":
            resource["Properties"]["Location"] = "https://bucket.s3.amazonaws.com/template"

    class ManagedPolicies:
        def load(self) -> dict[str, str]:
            return {}

    defaults = {name: str(declared["Default"]) for name, declared in template["Parameters"].items()}
    with patch.dict(os.environ, {"AWS_DEFAULT_REGION": "us-east-1"}):
        result: dict[str, Any] = transform(template, defaults, ManagedPolicies())
    return result


def translated_resources(kind: str) -> dict[str, Any]:
    return {i: r["Properties"] for i, r in translated()["Resources"].items() if r["Type"] == kind}


def mappings(node: yaml.Node) -> list[dict[str, yaml.Node]]:
    """Every mapping under a YAML node."""
    found: list[dict[str, yaml.Node]] = []
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        found.append({key.value: value for key, value in node.value})
        children = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    for child in children:
        found += mappings(child)
    return found


def scalars(node: yaml.Node) -> list[str]:
    if isinstance(node, yaml.ScalarNode):
        return [str(node.value)]
    return [text for child in node.value for text in scalars(child)] if isinstance(node, yaml.SequenceNode) else []


def unexplained_wildcards(text: str) -> list[str]:
    """The Sids of statements with `*` in actions or resources and no comment "# why:" right above them."""
    lines = text.splitlines()
    found = []
    for statement in mappings(yaml.compose(text, yaml.SafeLoader)):
        if "Effect" not in statement or not {"Action", "Resource"} <= set(statement):
            continue
        if any("*" in value for key in ("Action", "Resource") for value in scalars(statement[key])):
            above = lines[statement["Sid"].start_mark.line - 1].strip()
            if not re.match(r"# why: \S.{20}", above):
                found.append(statement["Sid"].value)
    return found


def test_a_function_is_named_after_the_folder_of_its_handler() -> None:
    names = {f.logical_id: f.properties["Handler"] for f in FUNCTIONS.values()}
    expected = {
        "".join(word.title() for word in folder.split("_")) + "Function": f"{folder}.app.lambda_handler"
        for folder in FUNCTIONS
    }
    assert names == expected


def test_the_architecture_page_lists_the_functions_of_the_template() -> None:
    page = (
        (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Functions")[1].split("## Tables")[0]
    )
    assert re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE) == list(FUNCTIONS)


def test_every_function_has_a_folder_and_every_folder_a_function() -> None:
    assert {path.parent.name for path in (ROOT / "functions").glob("*/app.py")} == set(FUNCTIONS)


@pytest.mark.parametrize("folder", FUNCTIONS)
def test_a_function_runs_on_arm_with_both_layers_and_only_its_own_code(folder: str) -> None:
    function = FUNCTIONS[folder]
    assert function.properties["Runtime"] == "python3.13"
    assert function.properties["Architectures"] == ["arm64"]
    layers = [{"Ref": "DependenciesLayer"}, {"Ref": "HomeserverLayer"}]
    if folder == "mail_worker":  # the operator's templates of mails, where there are any
        layers = {"Fn::If": ["HasMailTemplatesLayer", [*layers, {"Ref": "MailTemplatesLayer"}], layers]}
    assert function.raw["Layers"] == layers
    assert function.properties["CodeUri"] == "functions"
    assert STACK.template["Resources"][function.logical_id]["Metadata"] == {"BuildMethod": "makefile"}
    assert function.environment["POWERTOOLS_SERVICE_NAME"] == folder


@pytest.mark.parametrize("folder", [name for name, f in FUNCTIONS.items() if f.events("HttpApi")])
def test_a_function_behind_the_api_gives_up_before_the_api_does(folder: str) -> None:
    assert FUNCTIONS[folder].properties["Timeout"] == 29


def test_none_but_workers_that_wait_for_others_take_longer_than_thirty_seconds() -> None:
    longer = {name: f.properties["Timeout"] for name, f in FUNCTIONS.items() if f.properties["Timeout"] > 30}
    assert longer == {"room_sweep_worker": 300, "federation_inbound_worker": 300, "federation_sender_worker": 60}


def test_memory_follows_the_work_and_is_a_parameter_for_all() -> None:
    assert all(set(f.raw["MemorySize"]) == {"Ref"} for f in FUNCTIONS.values())
    memory = {name: int(f.properties["MemorySize"]) for name, f in FUNCTIONS.items()}
    special = {"client_sync": 128, "client_login": 1769, "federation_inbound_worker": 512}
    special |= {"outbound_router": 512, "federation_sender_worker": 256, "mail_worker": 512}
    assert memory == {name: special.get(name, 1024) for name in FUNCTIONS}


def test_the_waiting_loop_reserves_concurrency_only_when_asked_to() -> None:
    assert "ReservedConcurrentExecutions" not in FUNCTIONS["client_sync"].properties
    raw = FUNCTIONS["client_sync"].raw["ReservedConcurrentExecutions"]
    assert raw == {"Fn::If": ["HasSyncConcurrency", {"Ref": "SyncConcurrency"}, {"Ref": "AWS::NoValue"}]}
    assert all("ReservedConcurrentExecutions" not in f.raw for name, f in FUNCTIONS.items() if name != "client_sync")


def test_secrets_are_hidden_parameters_that_only_the_functions_of_login_are_told() -> None:
    told = {name for name, f in FUNCTIONS.items() if SECRETS & set(f.environment)}
    assert told == {"client_login", "client_login_pages"}
    for parameter in ("RegistrationToken", "RegistrationSharedSecret"):
        assert STACK.template["Parameters"][parameter]["NoEcho"] is True


def test_only_those_who_sign_know_where_the_signing_key_is() -> None:
    told = {name for name, f in FUNCTIONS.items() if "SIGNING_KEY_PARAMETER" in f.environment}
    allowed = {
        name for name, f in FUNCTIONS.items() for s in f.statements if "ssm:GetParameter" in as_list(s["Action"])
    }
    # A profile change and a deactivation write membership events; the keys that are published are signed.
    assert (
        told
        == allowed
        == {
            "federation_keys",
            "federation_rooms",
            "federation_inbound_worker",
            "federation_sender_worker",
            "client_account",
            "client_user",
            "client_rooms",
            "client_events",
            "client_history",
            "client_legacy_events",
            "client_legacy_rooms",
            "client_directory",
            "server_admin",
            "server_setup",
        }
    )
    writers = {
        name for name, f in FUNCTIONS.items() for s in f.statements if "ssm:PutParameter" in as_list(s["Action"])
    }
    assert writers == {"server_setup"}


def test_every_parameter_is_explained_and_has_a_default() -> None:
    for name, declared in STACK.template["Parameters"].items():
        assert len(declared["Description"]) > 20, name
        assert "Default" in declared, name


# ── Rights ──────────────────────────────────────────────────────────────────────────────────────────


def test_no_statement_has_a_wildcard_without_a_reason_above_it() -> None:
    found = {path.name: unexplained_wildcards(path.read_text(encoding="utf-8")) for path in [TEMPLATE, *NESTED]}
    assert {name: sids for name, sids in found.items() if sids} == {}


@pytest.mark.parametrize(
    ("action", "resource", "comment", "expected"),
    [
        ("dynamodb:GetItem", "arn:one", "", []),
        ("dynamodb:*", "arn:one", "", ["Read"]),
        ("[dynamodb:GetItem, 's3:*']", "arn:one", "", ["Read"]),
        ("dynamodb:GetItem", "'*'", "", ["Read"]),
        ("dynamodb:GetItem", "'*'", "# why:", ["Read"]),
        ("dynamodb:GetItem", "'*'", "# why: this action knows no resources at all", []),
        ("dynamodb:GetItem", "!Sub '${Table}/index/*'", "", ["Read"]),
    ],
)
def test_the_wildcard_check_finds_wildcards(action: str, resource: str, comment: str, expected: list[str]) -> None:
    text = (
        f"Statement:\n  {comment}\n  - Sid: Read\n    Effect: Allow\n    Action: {action}\n    Resource: {resource}\n"
    )
    assert unexplained_wildcards(text) == expected


@pytest.mark.parametrize("folder", FUNCTIONS)
def test_rights_are_written_as_named_statements_that_allow_named_actions(folder: str) -> None:
    policies = FUNCTIONS[folder].properties["Policies"]
    assert all(isinstance(policy, dict) and set(policy) == {"Version", "Statement"} for policy in policies)
    statements = FUNCTIONS[folder].statements
    sids = [statement["Sid"] for statement in statements]
    assert len(sids) == len(set(sids))
    for statement in statements:
        assert set(statement) == {"Sid", "Effect", "Action", "Resource"}
        assert statement["Effect"] == "Allow"
        actions = as_list(statement["Action"])
        assert len(actions) == len(set(actions))
        assert all(
            re.fullmatch(r"(dynamodb|sqs|ssm|lambda|scheduler|iam|ses|states):[A-Z][A-Za-z]+", action)
            for action in actions
        )


def test_only_the_sweep_scans_and_nobody_may_change_a_table_itself() -> None:
    actions = {name: {a for s in f.statements for a in as_list(s["Action"])} for name, f in FUNCTIONS.items()}
    assert {name for name, found in actions.items() if "dynamodb:Scan" in found} == {"room_sweep_worker"}
    about_tables = {a for found in actions.values() for a in found if a.startswith("dynamodb:")}
    items = {f"dynamodb:{verb}Item" for verb in ("Get", "BatchGet", "Put", "Update", "Delete", "BatchWrite")}
    stream = {f"dynamodb:{verb}" for verb in ("GetRecords", "GetShardIterator", "DescribeStream", "ListStreams")}
    assert about_tables <= items | stream | {"dynamodb:Query", "dynamodb:Scan", "dynamodb:ConditionCheckItem"}


WRITING = re.compile(r"dynamodb:(Put|Update|Delete|BatchWrite)")


def test_the_function_that_answers_unknown_requests_may_not_write() -> None:
    actions = [a for s in FUNCTIONS["server_discovery"].statements for a in as_list(s["Action"])]
    assert [action for action in actions if WRITING.match(action)] == []


def test_who_reads_history_writes_only_what_it_fetched_from_other_servers() -> None:
    data = STACK.child("DataStack")
    tables = ("Tokens", "State", "Rooms", "Timeline", "Events", "Search", "ServerKeys")
    known = {data.output(f"{table}TableArn") for table in tables}
    writing = [s for s in FUNCTIONS["client_history"].statements if any(map(WRITING.match, as_list(s["Action"])))]
    assert {resource for s in writing for resource in as_list(s["Resource"])} == known
    # Whoever is shown a new access token notes that it is in use; what it fetches moves the head, and makes no room.
    on_rooms = [a for s in writing for a in as_list(s["Action"]) if s["Resource"] == data.output("RoomsTableArn")]
    assert "dynamodb:PutItem" not in on_rooms
    assert "dynamodb:DeleteItem" not in on_rooms


def test_passwords_and_tokens_are_out_of_reach_of_all_but_the_functions_of_accounts() -> None:
    accounts = STACK.child("DataStack").output("AccountsTableArn")
    reach = {n for n, f in FUNCTIONS.items() for s in f.statements if accounts in as_list(s["Resource"])}
    # Who asks for a notice must be an administrator, and the server's own account is made with the first one. The
    # worker of mails looks up whose an address is.
    assert reach == {"client_login", "client_login_pages", "client_account", "server_admin", "mail_worker"}


def test_only_the_sender_makes_schedules_and_they_may_only_send_to_its_queue() -> None:
    queues = STACK.child("QueuesStack")
    actions = {name: {a for s in f.statements for a in as_list(s["Action"])} for name, f in FUNCTIONS.items()}
    makers = {n for n, found in actions.items() if any(a.startswith(("scheduler:", "iam:")) for a in found)}
    assert makers == {"federation_sender_worker"}
    assert actions["federation_sender_worker"] >= {
        "scheduler:CreateSchedule",
        "scheduler:DeleteSchedule",
        "iam:PassRole",
    }
    (passed,) = [s for s in FUNCTIONS["federation_sender_worker"].statements if s["Action"] == "iam:PassRole"]
    assert passed["Resource"] == queues.output("FederationSchedulesRoleArn")
    ((_, role),) = queues.resources("AWS::IAM::Role")
    role = queues.resolve(role["Properties"])
    (statement,) = [s for policy in role["Policies"] for s in policy["PolicyDocument"]["Statement"]]
    assert (statement["Action"], statement["Resource"]) == (
        "sqs:SendMessage",
        queues.output("FederationOutboundQueueArn"),
    )
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "000000000000"}}


def test_sam_adds_no_rights_but_logging_and_reading_sources() -> None:
    basic = f"{MANAGED}AWSLambdaBasicExecutionRole"
    extra = {
        "InboxFollowerFunctionRole": [f"{MANAGED}AWSLambdaDynamoDBExecutionRole"],
        "InboxFanoutWorkerFunctionRole": [f"{MANAGED}AWSLambdaSQSQueueExecutionRole"],
        "RoomSweepWorkerFunctionRole": [f"{MANAGED}AWSLambdaSQSQueueExecutionRole"],
        "FederationInboundWorkerFunctionRole": [f"{MANAGED}AWSLambdaSQSQueueExecutionRole"],
        "OutboundRouterFunctionRole": [f"{MANAGED}AWSLambdaDynamoDBExecutionRole"],
        "FederationSenderWorkerFunctionRole": [f"{MANAGED}AWSLambdaSQSQueueExecutionRole"],
    }
    roles = translated_resources("AWS::IAM::Role")
    assert roles.pop("LoginMachineRole")["ManagedPolicyArns"] == []
    assert {name: role["ManagedPolicyArns"] for name, role in roles.items()} == {
        f"{f.logical_id}Role": [basic, *extra.get(f"{f.logical_id}Role", [])] for f in FUNCTIONS.values()
    }
    own = {f"{f.logical_id}Role": len(f.statements) for f in FUNCTIONS.values()}
    assert {name: sum(len(p["PolicyDocument"]["Statement"]) for p in r["Policies"]) for name, r in roles.items()} == own


# ── Limits of AWS ───────────────────────────────────────────────────────────────────────────────────


def test_the_stack_stays_far_below_five_hundred_resources() -> None:
    assert len(translated()["Resources"]) <= 250


def test_no_function_has_more_than_forty_routes_because_each_adds_to_one_policy() -> None:
    assert {name: len(f.events("HttpApi")) for name, f in FUNCTIONS.items() if len(f.events("HttpApi")) > 40} == {}


def test_the_policies_of_functions_and_roles_fit_their_limits() -> None:
    calls: dict[str, int] = {}
    for permission in translated_resources("AWS::Lambda::Permission").values():
        # A statement as Lambda keeps it is some 200 characters longer than what the template says.
        name = permission["FunctionName"]["Ref"]
        calls[name] = calls.get(name, 0) + len(json.dumps(permission)) + 200
    assert max(calls.values()) < 20_480
    for role in translated_resources("AWS::IAM::Role").values():
        assert sum(len(json.dumps(STACK.resolve(p["PolicyDocument"]))) for p in role["Policies"]) < 10_240
