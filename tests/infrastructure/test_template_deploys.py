"""The built template, deployed by `infra/deploy.py` to the emulator's CloudFormation.

What the emulator cannot show: it leaves out the routes of an HTTP API and point-in-time recovery, enforces no IAM, and
runs functions with its own interpreter on this machine's processor, for which the arm64 packages give way to its own.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import urllib3

from infrastructure.templates import DATA, FUNCTIONS, ROOT

pytestmark = pytest.mark.slow
NAME = "deployed"
SERVER_NAME = "deployed.example.org"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that leads AWS clients to an emulator of its own, which ends with the tests of this module."""
    folder = tmp_path_factory.mktemp("emulator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    own = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": port, "MINISTACK_HOST": "127.0.0.1"}
    own |= {
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "STATE_DIR": str(folder),
        "S3_DATA_DIR": str(folder),
        "TMPDIR": str(folder),
    }
    aws = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    aws |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "SAM_CLI_TELEMETRY": "0"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            env=environment | own,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib3.request("GET", f"{aws['AWS_ENDPOINT_URL']}/_ministack/health", retries=False, timeout=2)
                break
            except urllib3.exceptions.HTTPError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "the emulator does not start"
                time.sleep(0.2)
        yield environment | aws
    finally:
        # The emulator starts a process for each function it runs; they share its group.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def deployed(emulator: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The stack, deployed under its server name."""
    build = tmp_path_factory.mktemp("build")
    made = subprocess.run(
        ["make", "-f", "infra/build.mk", "build", f"BUILD={build}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    packages = build / "DependenciesLayer" / "python"
    shutil.rmtree(packages)
    packages.mkdir()
    (packages / "README").write_text("The emulator has the packages already.")
    for module in build.rglob("*.py"):
        compiled = module.parent / "__pycache__" / f"{module.stem}.cpython-313.pyc"
        assert compiled.is_file(), "this test deploys, and nothing is deployed without bytecode: Python 3.13 is missing"
    environment = emulator | {"PYTHONPATH": str(ROOT / "infra"), "SAM": str(ROOT / ".tools" / "bin" / "sam")}
    command = [
        sys.executable,
        "infra/deploy.py",
        "--stack",
        NAME,
        "--region",
        "us-east-1",
        "--yes",
        "--build",
        str(build),
    ]
    return subprocess.run(
        [*command, f"ServerName={SERVER_NAME}", "LogLevel=DEBUG"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def aws(emulator: dict[str, str], deployed: subprocess.CompletedProcess[str]) -> Any:
    """Makes clients for the emulator that the stack is on."""
    assert deployed.returncode == 0, deployed.stdout[-4000:] + deployed.stderr[-4000:]

    def client(service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=emulator["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    return client


def resources(aws: Any, stack: str) -> dict[str, str]:
    """Logical to physical ID of a stack's resources."""
    found = aws("cloudformation").describe_stack_resources(StackName=stack)["StackResources"]
    return {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in found}


def test_the_stack_is_complete_and_the_deployment_says_where_it_is(aws: Any, deployed: Any) -> None:
    (stack,) = aws("cloudformation").describe_stacks(StackName=NAME)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    assert outputs["ServerName"] == SERVER_NAME
    assert outputs["SigningKeyParameter"] == f"/eigenserver/{NAME}/signing-key"
    assert f"ApiUrl                 {outputs['ApiUrl']}" in deployed.stdout
    assert "The server has no name yet" not in deployed.stdout


def test_every_function_has_its_handler_layers_log_group_and_tables(aws: Any) -> None:
    physical = resources(aws, NAME)
    data = resources(aws, physical["DataStack"])
    for folder, function in FUNCTIONS.items():
        made = aws("lambda").get_function_configuration(FunctionName=physical[function.logical_id])
        assert made["Handler"] == f"{folder}.app.lambda_handler"
        assert made["Architectures"] == ["arm64"]
        assert len(made["Layers"]) == 2
        assert made["LoggingConfig"]["LogGroup"] == f"/eigenserver/{NAME}/{folder}"
        told = made["Environment"]["Variables"]
        assert told["ROOMS_TABLE"] == data["RoomsTable"]
        assert (told["SERVER_NAME"], told["LOG_LEVEL"]) == (SERVER_NAME, "DEBUG")


def test_the_tables_are_there_and_protected_from_deletion(aws: Any) -> None:
    data = resources(aws, resources(aws, NAME)["DataStack"])
    assert data.keys() == {logical_id for logical_id, _ in DATA.resources("AWS::DynamoDB::Table")}
    for physical in data.values():
        table = aws("dynamodb").describe_table(TableName=physical)["Table"]
        assert (table["TableStatus"], table["DeletionProtectionEnabled"]) == ("ACTIVE", True)


def test_stream_and_queues_wake_their_readers(aws: Any) -> None:
    physical = resources(aws, NAME)
    mappings = aws("lambda").list_event_source_mappings()["EventSourceMappings"]
    readers = {mapping["FunctionArn"].split(":function:")[1].split(":")[0]: mapping for mapping in mappings}
    names = ("InboxFollower", "OutboundRouter", "InboxFanoutWorker", "RoomSweepWorker")
    names += ("FederationInboundWorker", "FederationSenderWorker")
    assert set(readers) == {physical[f"{name}Function"] for name in names}
    follower = readers[physical["InboxFollowerFunction"]]
    assert ":table/" in follower["EventSourceArn"]
    assert json.loads(follower["FilterCriteria"]["Filters"][0]["Pattern"]) == {
        "dynamodb": {"Keys": {"k": {"S": ["head"]}}}
    }


def test_the_login_machine_follows_the_table_of_sessions_and_functions_are_told_of_it(aws: Any) -> None:
    physical = resources(aws, NAME)
    machine = aws("stepfunctions").describe_state_machine(stateMachineArn=physical["LoginMachine"])
    assert machine["type"] == "STANDARD"
    tables = re.findall(r'"TableName": "([^"]*)"', machine["definition"])
    assert tables == [resources(aws, physical["DataStack"])["SessionsTable"]] * 3
    assert "${" not in machine["definition"]
    starting = [f for f in FUNCTIONS.values() if any(s["Action"] == "states:StartExecution" for s in f.statements)]
    assert starting
    for function in starting:
        made = aws("lambda").get_function_configuration(FunctionName=physical[function.logical_id])
        assert made["Environment"]["Variables"]["LOGIN_MACHINE"] == machine["stateMachineArn"]


def test_setup_made_the_servers_signing_key(aws: Any) -> None:
    parameter = aws("ssm").get_parameter(Name=f"/eigenserver/{NAME}/signing-key", WithDecryption=True)["Parameter"]
    assert parameter["Type"] == "SecureString"
    assert len(parameter["Value"]) >= 32
