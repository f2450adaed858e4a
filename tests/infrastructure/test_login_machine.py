"""The login state machine, infra/login.asl.json, on moto's Step Functions and the local run's: all its transitions.

PATHS says which states an execution of each test enters; a test compares them with the execution's history, and another
one that together they use every transition of the definition. What neither shows is AWS itself.
"""

import copy
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from moto import mock_aws
from moto.core.exceptions import JsonRESTError
from moto.dynamodb.responses import DynamoHandler

from functions import harness
from homeserver.adapters import aws, executions
from homeserver.settings import table_name
from infrastructure.templates import ROOT, STACK
from local.emulator import Emulator
from local.hooks import hook_session
from local.resources import StateMachine, read_resources
from local.state_machines import StateMachines

TABLE = table_name("SESSIONS")
DEFINITION = json.loads((ROOT / "infra" / "login.asl.json").read_text(encoding="utf-8"))
SECRETS = {
    "claim": "claim-5f1c",
    "facts": '{"email": "alice@example.org-77aa"}',
    "pending": '{"m.login.email.code": {"hash": "code-hash-90ab"}}',
    "user": "@alice-31cd:example.org",
    "lease": "lease-12ef",
}
SECONDS = 30  # for anything to happen

WAIT, CHOICE, LOOK, EXPIRE = ["AwaitStage"], ["StageDone"], ["Look", "Found"], ["Expire"]
PATHS = {
    "test_stage_after_stage_is_waited_for_until_the_last": [*WAIT, *CHOICE, *WAIT, *CHOICE, "Done"],
    "test_a_stage_that_was_done_before_the_machine_came_is_not_waited_for": [
        *WAIT, *LOOK, "TakeUp", *WAIT, *CHOICE, "Done",
    ],
    "test_a_session_that_was_complete_before_the_machine_came_is_done": [*WAIT, *LOOK, "Done"],
    "test_a_session_whose_login_was_issued_before_the_machine_came_is_done": [*WAIT, *LOOK, "Done"],
    "test_a_session_that_failed_before_the_machine_came_has_failed": [*WAIT, *LOOK, "Failed"],
    "test_a_session_that_had_expired_before_the_machine_came_is_expired": [*WAIT, *LOOK, "Expired"],
    "test_an_unknown_session_is_expired_and_does_not_come_into_being": [*WAIT, *LOOK, "Expired"],
    "test_a_stage_that_nobody_completes_in_time_expires_its_session": [*WAIT, *EXPIRE, "Expired"],
    "test_a_stage_that_was_completed_without_the_token_is_found_when_its_time_is_over": [
        *WAIT, *EXPIRE, *LOOK, "TakeUp", *WAIT, *CHOICE, "Done",
    ],
    "test_an_execution_can_begin_with_a_later_stage": [*WAIT, *CHOICE, "Done"],
    "test_a_failed_session_ends_its_execution": [*WAIT, "Failed"],
    "test_a_status_that_nobody_knows_breaks_the_execution": [*WAIT, *CHOICE, "Broken"],
    "test_an_item_with_a_status_that_nobody_knows_breaks_the_execution": [*WAIT, *LOOK, "Broken"],
    "test_a_store_that_refuses_the_wait_breaks_the_execution": [*WAIT, "Broken"],
    "test_a_store_that_refuses_the_expiry_breaks_the_execution": [*WAIT, *EXPIRE, "Broken"],
    "test_a_store_that_refuses_the_look_breaks_the_execution": [*WAIT, "Look", "Broken"],
    "test_a_write_that_is_throttled_is_tried_again": [*WAIT, *CHOICE, "Done"],
}  # fmt: skip
_numbers = itertools.count(1)
T = TypeVar("T")


class Cloud:
    """Step Functions and the table of sessions, and the machine under test. Sessions have IDs of their own."""

    def __init__(self, throttle: Callable[[pytest.MonkeyPatch], None], *, is_moto: bool = False) -> None:
        self.throttle = throttle  # lets the next UpdateItem be refused, once
        self.is_moto = is_moto
        self.dynamodb, self.steps = aws.client("dynamodb"), aws.client("stepfunctions")
        self.session = f"session-{next(_numbers)}"

    def machine(self, monkeypatch: pytest.MonkeyPatch, definition: dict[str, Any]) -> None:
        """Let this be LOGIN_MACHINE."""
        text = json.dumps(definition).replace("${Partition}", "aws").replace("${SessionsTable}", TABLE)
        made = self.steps.create_state_machine(
            name=f"login-{next(_numbers)}", definition=text, roleArn="arn:aws:iam::123456789012:role/login"
        )
        monkeypatch.setenv("LOGIN_MACHINE", made["stateMachineArn"])
        self.arn = f"{made['stateMachineArn'].replace(':stateMachine:', ':execution:')}:{self.session}"

    def begin(self, done: int = 0, status: str = "active") -> None:
        """Store a session that is so far, full of secrets, and start its execution."""
        self.put(done, status)
        executions.start(self.session)

    def put(self, done: int, status: str) -> None:
        own = {"session": {"S": self.session}, "status": {"S": status}, "done": {"N": str(done)}, "rev": {"N": "1"}}
        self.dynamodb.put_item(TableName=TABLE, Item={name: {"S": value} for name, value in SECRETS.items()} | own)

    def item(self) -> dict[str, str]:
        found = self.dynamodb.get_item(TableName=TABLE, Key={"session": {"S": self.session}}, ConsistentRead=True)
        return {name: next(iter(value.values())) for name, value in found.get("Item", {}).items()}

    def submitted(self, done: int, status: str = "active") -> None:
        """What a submission writes."""
        self.dynamodb.update_item(
            TableName=TABLE,
            Key={"session": {"S": self.session}},
            UpdateExpression="SET done = :d, #s = :s ADD rev :one",
            ExpressionAttributeNames={"#s": "status"},
            ExpressionAttributeValues={":d": {"N": str(done)}, ":s": {"S": status}, ":one": {"N": "1"}},
        )

    def token(self, stage: int) -> str:
        """The token that the machine leaves for a stage, once it has."""

        def left() -> str | None:
            item = self.item()
            return item.get("task_token") if item.get("task_stage") == str(stage) else None

        return until(left)

    def complete(self, done: int, status: str = "active") -> str:
        """Complete the next stage as the engine does: write the item, then send the token that was in it."""
        token = self.token(done - 1)
        self.submitted(done, status)
        assert executions.stage_done(self.session, token, done, status) is True
        return token

    def end(self) -> dict[str, Any]:
        """The execution once it has ended."""
        return until(lambda: found if (found := self.execution())["status"] != "RUNNING" else None)

    def execution(self) -> dict[str, Any]:
        found: dict[str, Any] = self.steps.describe_execution(executionArn=self.arn)
        return found

    def history(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.steps.get_execution_history(executionArn=self.arn, maxResults=1000)[
            "events"
        ]
        return events

    def path(self) -> list[str]:
        """The states that the execution entered."""
        return [event["stateEnteredEventDetails"]["name"] for event in self.history() if "Entered" in event["type"]]


def until(look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + SECONDS
    while (found := look()) is None:
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)
    return found


def with_shorter_wait(seconds: int = 1) -> dict[str, Any]:
    definition = copy.deepcopy(DEFINITION)
    assert definition["States"]["AwaitStage"]["TimeoutSeconds"] == 900
    definition["States"]["AwaitStage"]["TimeoutSeconds"] = seconds
    return definition


def without_table(state: str) -> dict[str, Any]:
    definition = with_shorter_wait()
    definition["States"][state]["Parameters"]["TableName"] = "nowhere"
    return definition


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """The local run's store, with its state machines and a table of sessions."""
    made = Emulator(tmp_path_factory.mktemp("emulator"))
    StateMachines([], made)
    made.request("dynamodb", "CreateTable", **sessions_table())
    return made


def sessions_table() -> dict[str, Any]:
    (definition,) = (table for table in harness.table_definitions() if table["TableName"] == TABLE)
    return definition


@pytest.fixture
def fresh_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"REGION": "us-east-1", "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    aws.session.cache_clear()
    aws.client.cache_clear()
    yield
    aws.session.cache_clear()
    aws.client.cache_clear()


@pytest.fixture
def local(fresh_clients: None, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    hook_session(aws.session(), emulator)

    def throttle(patch: pytest.MonkeyPatch) -> None:
        update, asked = emulator._operations["UpdateItem"], itertools.count(1)

        def once(request: dict[str, Any]) -> Any:
            return throttled() if next(asked) == 1 else update(request)

        def throttled() -> Any:
            return 400, {}, json.dumps({"__type": "ProvisionedThroughputExceededException", "message": "slow"}).encode()

        patch.setitem(emulator._operations, "UpdateItem", once)

    cloud = Cloud(throttle)
    cloud.machine(monkeypatch, DEFINITION)
    return cloud


def throttle_moto(patch: pytest.MonkeyPatch) -> None:
    update, asked = DynamoHandler.update_item, itertools.count(1)

    def once(handler: DynamoHandler) -> Any:
        if next(asked) == 1:
            raise JsonRESTError("ProvisionedThroughputExceededException", "slow")
        return update(handler)

    patch.setattr(DynamoHandler, "update_item", once)


@pytest.fixture(params=["moto", "local"])
def cloud(request: pytest.FixtureRequest, fresh_clients: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    if request.param == "local":
        yield request.getfixturevalue("local")
        return
    with mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
        aws.client("dynamodb").create_table(**sessions_table())
        made = Cloud(throttle_moto, is_moto=True)
        made.machine(monkeypatch, DEFINITION)
        yield made


@pytest.fixture
def goes(request: pytest.FixtureRequest, cloud: Cloud) -> Callable[..., None]:
    """Compares the states that the execution entered, and its end, with what they have to be."""

    def check(end: str | None) -> None:
        ended = cloud.end()
        assert cloud.path() == PATHS[request.node.originalname]
        if end is None:
            assert (ended["status"], ended["error"]) == ("FAILED", "Login.Broken")
        else:
            assert ended["status"] == "SUCCEEDED"
            assert json.loads(ended["output"]) == {"session": cloud.session, "end": end}

    return check


# ── Stages that are waited for ──────────────────────────────────────────────────────────────────────


def test_stage_after_stage_is_waited_for_until_the_last(cloud: Cloud, goes: Callable[..., None]) -> None:
    cloud.begin()
    first = cloud.complete(1)
    second = cloud.complete(2, "complete")
    assert first != second
    goes("done")
    assert executions.is_dead(cloud.session) is False
    # It writes its token and that token's stage, and nothing else.
    after = cloud.item()
    assert {name: value for name, value in after.items() if not name.startswith("task_")} == SECRETS | {
        "session": cloud.session,
        "status": "complete",
        "done": "2",
        "rev": "3",
    }
    assert (after["task_token"], after["task_stage"]) == (second, "1")


def test_a_failed_session_ends_its_execution(cloud: Cloud, goes: Callable[..., None]) -> None:
    cloud.begin()
    token = cloud.token(0)
    cloud.submitted(0, "failed")
    executions.session_failed(token)
    goes("failed")
    assert cloud.item()["status"] == "failed"


def test_a_token_counts_once_and_one_that_was_never_given_not_at_all(cloud: Cloud) -> None:
    cloud.begin()
    token = cloud.complete(1)
    cloud.token(1)
    again = executions.stage_done(cloud.session, token, 2, "complete")
    assert again is cloud.is_moto  # which forgets no token, but heeds none
    assert executions.stage_done(cloud.session, "never", 2, "complete") is False
    executions.session_failed(token)
    executions.session_failed("never")
    assert cloud.execution()["status"] == "RUNNING"
    cloud.complete(2, "complete")
    assert json.loads(cloud.end()["output"]) == {"session": cloud.session, "end": "done"}


def test_an_execution_can_begin_with_a_later_stage(cloud: Cloud, goes: Callable[..., None]) -> None:
    cloud.put(1, "active")
    executions.start(cloud.session, 1)
    cloud.complete(2, "complete")
    goes("done")


def test_an_execution_is_started_once_however_often_it_is_asked_for(cloud: Cloud) -> None:
    cloud.begin()
    executions.start(cloud.session)
    token = cloud.token(0)
    executions.start(cloud.session)
    cloud.submitted(1, "complete")
    assert executions.stage_done(cloud.session, token, 1, "complete") is True
    cloud.end()
    executions.start(cloud.session)
    assert cloud.execution()["status"] == "SUCCEEDED"
    found = cloud.steps.list_executions(stateMachineArn=cloud.execution()["stateMachineArn"])["executions"]
    assert [execution["name"] for execution in found] == [cloud.session]


# ── Who came first ──────────────────────────────────────────────────────────────────────────────────


def test_a_stage_that_was_done_before_the_machine_came_is_not_waited_for(
    cloud: Cloud, goes: Callable[..., None]
) -> None:
    cloud.begin(done=1)
    cloud.complete(2, "complete")
    goes("done")


def test_a_session_that_was_complete_before_the_machine_came_is_done(cloud: Cloud, goes: Callable[..., None]) -> None:
    cloud.begin(2, "complete")
    goes("done")
    assert "task_token" not in cloud.item()


def test_a_session_whose_login_was_issued_before_the_machine_came_is_done(
    cloud: Cloud, goes: Callable[..., None]
) -> None:
    cloud.begin(2, "issued")
    goes("done")


def test_a_session_that_failed_before_the_machine_came_has_failed(cloud: Cloud, goes: Callable[..., None]) -> None:
    cloud.begin(0, "failed")
    goes("failed")


def test_a_session_that_had_expired_before_the_machine_came_is_expired(cloud: Cloud, goes: Callable[..., None]) -> None:
    cloud.begin(0, "expired")
    goes("expired")


def test_an_unknown_session_is_expired_and_does_not_come_into_being(cloud: Cloud, goes: Callable[..., None]) -> None:
    executions.start(cloud.session)
    goes("expired")
    assert cloud.item() == {}


# ── Time ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stage_that_nobody_completes_in_time_expires_its_session(
    cloud: Cloud, goes: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.machine(monkeypatch, with_shorter_wait())
    cloud.begin()
    token = cloud.token(0)
    goes("expired")
    item = cloud.item()
    assert (item["status"], item["done"], item["rev"]) == ("expired", "0", "1")
    assert executions.stage_done(cloud.session, token, 1, "active") is False
    assert executions.is_dead(cloud.session) is False


def test_a_stage_that_was_completed_without_the_token_is_found_when_its_time_is_over(
    cloud: Cloud, goes: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function that completed it died before it could send the token."""
    cloud.machine(monkeypatch, with_shorter_wait(4))
    cloud.begin()
    cloud.token(0)
    cloud.submitted(1)
    cloud.complete(2, "complete")
    goes("done")


# ── What goes wrong ─────────────────────────────────────────────────────────────────────────────────


def test_a_status_that_nobody_knows_breaks_the_execution(cloud: Cloud, goes: Callable[..., None]) -> None:
    cloud.begin()
    cloud.complete(1, "odd")
    goes(None)
    assert executions.is_dead(cloud.session) is True


def test_an_item_with_a_status_that_nobody_knows_breaks_the_execution(cloud: Cloud, goes: Callable[..., None]) -> None:
    cloud.begin(0, "odd")
    goes(None)


def test_a_store_that_refuses_the_wait_breaks_the_execution(
    cloud: Cloud, goes: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.machine(monkeypatch, without_table("AwaitStage"))
    cloud.begin()
    goes(None)


def test_a_store_that_refuses_the_expiry_breaks_the_execution(
    cloud: Cloud, goes: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.machine(monkeypatch, without_table("Expire"))
    cloud.begin()
    goes(None)


def test_a_store_that_refuses_the_look_breaks_the_execution(
    cloud: Cloud, goes: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.machine(monkeypatch, without_table("Look"))
    cloud.begin(0, "complete")
    goes(None)


def test_a_write_that_is_throttled_is_tried_again(
    cloud: Cloud, goes: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.put(0, "active")
    cloud.throttle(monkeypatch)
    executions.start(cloud.session)
    cloud.complete(1, "complete")
    goes("done")
    failed = [event["taskFailedEventDetails"]["error"] for event in cloud.history() if event["type"] == "TaskFailed"]
    assert failed == ["DynamoDb.ProvisionedThroughputExceededException"]


def test_an_execution_that_is_not_there_is_dead(cloud: Cloud) -> None:
    assert executions.is_dead("never-begun") is True


def test_other_errors_are_not_hidden(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGIN_MACHINE", "arn:aws:states:us-east-1:123456789012:stateMachine:none")
    with pytest.raises(cloud.steps.exceptions.StateMachineDoesNotExist):
        executions.start(cloud.session)


# ── Secrets ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_execution_tells_nothing_of_its_session_but_the_id(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once past every read and write: waiting, time over, look, take up, waiting, done."""
    cloud.machine(monkeypatch, with_shorter_wait(4))
    cloud.begin()
    tokens = [cloud.token(0)]
    cloud.submitted(1)
    tokens.append(cloud.complete(2, "complete"))
    cloud.end()
    told = json.dumps([cloud.history(), cloud.execution()], default=str)
    assert cloud.session in told
    assert [secret for secret in SECRETS.values() if secret in told or json.dumps(secret)[1:-1] in told] == []
    # What moves from state to state, exactly: no token of a task either.
    moved = [json.loads(text) for text in payloads(cloud.history())]
    assert {key for value in moved for key in value} == {"session", "done", "status", "end", "found"}
    assert next(value["found"] for value in moved if "found" in value) == {
        "Item": {"status": {"S": "active"}, "done": {"N": "1"}}
    }
    assert not any(token in text for token in tokens for text in payloads(cloud.history()))


def payloads(history: list[dict[str, Any]]) -> list[str]:
    """Input and output of states and of the execution."""
    details = [value for event in history for key, value in event.items() if key.startswith(("state", "execution"))]
    return [detail[name] for detail in details for name in ("input", "output") if detail.get(name)]


# ── The definition ──────────────────────────────────────────────────────────────────────────────────


def edges(definition: dict[str, Any]) -> set[tuple[str, str]]:
    """Each transition as (from, to)."""
    found = set()
    for name, state in definition["States"].items():
        targets = [state.get("Next"), state.get("Default")]
        targets += [rule["Next"] for kind in ("Choices", "Catch") for rule in state.get(kind, ())]
        found |= {(name, target) for target in targets if target}
    return found


def test_every_transition_and_every_end_has_a_test_that_goes_that_way() -> None:
    assert {name for name in PATHS if not callable(globals().get(name))} == set()
    gone = {pair for path in PATHS.values() for pair in itertools.pairwise(path)}
    assert gone == edges(DEFINITION)
    ends = {name for name, state in DEFINITION["States"].items() if state.get("End") or state["Type"] == "Fail"}
    assert {path[-1] for path in PATHS.values()} == ends
    assert {path[0] for path in PATHS.values()} == {DEFINITION["StartAt"]}


def test_each_choice_is_taken_for_each_of_its_values() -> None:
    """The transitions say where a choice leads, not why: these are the values, each with a test above."""
    rules = {name: DEFINITION["States"][name]["Choices"] for name in ("StageDone", "Found")}
    flat = [
        (name, one.get("StringEquals"), rule["Next"])
        for name, choices in rules.items()
        for rule in choices
        for one in rule.get("Or", [rule])
    ]
    assert flat == [
        ("StageDone", "active", "AwaitStage"),
        ("StageDone", "complete", "Done"),
        ("Found", None, "Expired"),
        ("Found", "active", "TakeUp"),
        ("Found", "complete", "Done"),
        ("Found", "issued", "Done"),
        ("Found", "failed", "Failed"),
        ("Found", "expired", "Expired"),
    ]


def test_every_task_is_tried_again_when_the_store_is_busy_and_leaves_no_error_uncaught() -> None:
    tasks = [state for state in DEFINITION["States"].values() if state["Type"] == "Task"]
    assert len(tasks) == 3
    for task in tasks:
        assert task["Retry"] == tasks[0]["Retry"]
        assert task["Catch"][-1] == {"ErrorEquals": ["States.ALL"], "ResultPath": None, "Next": "Broken"}
        assert task["Resource"].startswith("arn:${Partition}:states:::aws-sdk:dynamodb:")
    # What is waited for or over is not tried again.
    retried = set(tasks[0]["Retry"][0]["ErrorEquals"])
    assert all(name.startswith("DynamoDb.") for name in retried)
    assert "DynamoDb.ConditionalCheckFailedException" not in retried


def test_the_template_hands_the_machine_its_table_and_rights_to_two_actions_on_it() -> None:
    (machine,) = read_resources(STACK).state_machines
    definition = json.loads(machine.definition)
    assert "${" not in machine.definition
    tasks = [state for state in definition["States"].values() if state["Type"] == "Task"]
    assert {task["Parameters"]["TableName"] for task in tasks} == {STACK.child("DataStack").output("SessionsTable")}
    properties = STACK.resolve(STACK.template["Resources"]["LoginMachine"]["Properties"])
    assert properties["Type"] == "STANDARD"
    assert properties["Logging"] == {"Level": "OFF", "IncludeExecutionData": False}
    assert "Tracing" not in properties
    asked = {task["Resource"].split(":dynamodb:")[1].split(".")[0] for task in tasks}
    (policy,) = properties["Policies"]
    (statement,) = policy["Statement"]
    assert {action.removeprefix("dynamodb:").lower() for action in statement["Action"]} == {a.lower() for a in asked}
    assert statement["Resource"] == STACK.child("DataStack").output("SessionsTableArn")


# ── The local run ───────────────────────────────────────────────────────────────────────────────────


def test_a_stopped_execution_lets_go_of_its_thread_and_token_at_once(local: Cloud) -> None:
    local.begin()
    token = local.token(0)
    waiting = threading.active_count()
    local.steps.stop_execution(executionArn=local.arn, error="Operator", cause="a test")
    until(lambda: threading.active_count() < waiting or None)
    assert local.execution()["status"] == "ABORTED"
    assert executions.stage_done(local.session, token, 1, "active") is False
    assert executions.is_dead(local.session) is True
    assert local.path() == ["AwaitStage"]
    assert local.item()["status"] == "active"


def test_executions_leave_no_thread_behind_when_they_end(local: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    local.begin()
    local.complete(1, "complete")
    local.end()
    settled = threading.active_count()
    for _ in range(10):
        local.session = f"session-{next(_numbers)}"
        local.begin(1, "complete")
    local.machine(monkeypatch, with_shorter_wait())
    for _ in range(10):
        local.session = f"session-{next(_numbers)}"
        local.begin()
    until(lambda: threading.active_count() <= settled or None)


def test_increments_beside_a_running_machine_are_all_counted(local: Cloud) -> None:
    """The machine's threads come into the store by the one lock."""
    for number in range(20):
        local.session = f"session-{next(_numbers)}"
        local.begin(number % 2)
    update = {
        "TableName": TABLE,
        "Key": {"session": {"S": "counter"}},
        "UpdateExpression": "ADD n :one",
        "ExpressionAttributeValues": {":one": {"N": "1"}},
    }
    for _ in range(300):
        local.dynamodb.update_item(**update)
    found = local.dynamodb.get_item(TableName=TABLE, Key={"session": {"S": "counter"}})["Item"]
    assert found["n"] == {"N": "300"}


def test_machines_are_made_when_something_first_asks_for_one(tmp_path: Path) -> None:
    asked: list[str] = []

    class Asked(Emulator):
        @property
        def step_functions(self) -> Any:
            asked.append("made")
            return super().step_functions

    emulator = Asked(tmp_path)
    machine = StateMachine(f"lazy-{next(_numbers)}", json.dumps(DEFINITION))
    StateMachines([machine], emulator)
    emulator.request("sqs", "ListQueues")
    assert asked == []
    status, _, body = emulator.call(
        "states", "POST", "/", {"x-amz-target": "AWSStepFunctions.ListStateMachines"}, b"{}"
    )
    assert (status, asked) == (200, ["made"])
    assert machine.name in [found["name"] for found in json.loads(body)["stateMachines"]]
