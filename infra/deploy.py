"""`make deploy`: put the built stack on AWS, after checks that would otherwise fail half-way or, worse, succeed.

    make deploy DEPLOY="--stack eigenserver --region eu-central-1 ServerName=example.org Registration=token"

Parameters of the template are given as Name=Value; those of an earlier deployment that are not given stay as they were.
A value of "-" is asked for, so that a secret does not stay in the shell's history. docs/deployment.md is the guide.
"""

from __future__ import annotations

import argparse
import getpass
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from local.template import load

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / ".aws-sam" / "build"
UNRESERVED = 100
"""Executions that Lambda insists on leaving unreserved in an account."""


class Refused(Exception):
    """A deployment that would not do what its author wants; the message says why and what to do."""


def check_bytecode(build: Path) -> None:
    """Raise Refused for a build without bytecode beside every module: its cold starts take three times as long."""
    modules = [path for path in build.rglob("*.py") if path.is_file()]
    if not modules:
        raise Refused(f"{build} holds no build; run `make build`")
    without = [p for p in modules if not (p.parent / "__pycache__" / f"{p.stem}.cpython-313.pyc").is_file()]
    if without:
        raise Refused(
            f"{len(without)} of {len(modules)} modules have no Python 3.13 bytecode, such as "
            f"{without[0].relative_to(build)}: cold starts would take three times as long. Install Python 3.13 "
            "(for example `uv python install 3.13`) and build again."
        )


def given_parameters(words: Sequence[str], declared: Mapping[str, Any]) -> dict[str, str]:
    """Name=Value words as a dict. Raises Refused for a name or value the template does not know."""
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in declared:
            raise Refused(f"{word!r} is no parameter of the template; these are: {', '.join(declared)}")
        if value == "-":
            value = getpass.getpass(f"{name}: ")
        allowed = [str(choice) for choice in declared[name].get("AllowedValues", ())]
        if allowed and value not in allowed:
            raise Refused(f"{name} must be one of {', '.join(allowed)}")
        given[name] = value
    return given


def check_server_name(given: Mapping[str, str], existing: Mapping[str, str]) -> None:
    """Raise Refused for a change of the server name, which would orphan every user and room of the store."""
    before = existing.get("ServerName", "")
    if before and given.get("ServerName", before) != before:
        raise Refused(f"this stack's server name is {before}; it cannot change, because every user and room carries it")


def check_concurrency(wanted: int, limit: int) -> None:
    """Raise Refused when the account cannot reserve so many executions and keep what Lambda insists on."""
    if wanted and wanted > limit - UNRESERVED:
        raise Refused(
            f"SyncConcurrency={wanted} does not fit: the account has {limit} executions at once and must keep "
            f"{UNRESERVED} unreserved. Ask AWS for more (Service Quotas, Lambda, Concurrent executions) or deploy with "
            "SyncConcurrency=0."
        )


def describe(cloudformation: Any, stack: str) -> dict[str, Any] | None:
    """The stack as CloudFormation describes it, or None where there is none."""
    try:
        found: dict[str, Any] = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return found


def deploy(arguments: argparse.Namespace) -> None:
    declared = load(ROOT / "template.yaml")["Parameters"]
    check_bytecode(arguments.build)
    given = given_parameters(arguments.parameters, declared)
    session = boto3.Session(region_name=arguments.region)
    account = session.client("sts").get_caller_identity()["Account"]
    cloudformation = session.client("cloudformation")
    stack = describe(cloudformation, arguments.stack)
    existing = {p["ParameterKey"]: p["ParameterValue"] for p in (stack or {}).get("Parameters", ())}
    check_server_name(given, existing)
    if concurrency := int(given.get("SyncConcurrency", 0)):
        limit = session.client("lambda").get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
        check_concurrency(concurrency, limit)
    print(f"{'Updating' if stack else 'Creating'} {arguments.stack} in {session.region_name}, account {account}")
    command = [os.environ.get("SAM", "sam"), "deploy", "--template-file", str(arguments.build / "template.yaml")]
    # sam looks for its configuration beside the template it deploys.
    command += ["--config-file", str(ROOT / "samconfig.toml")]
    command += ["--stack-name", arguments.stack, "--region", session.region_name]
    if arguments.yes:
        command.append("--no-confirm-changeset")
    if given:
        command += ["--parameter-overrides", *(f'{name}="{value}"' for name, value in given.items())]
    subprocess.run(command, cwd=ROOT, check=True)
    stack = describe(cloudformation, arguments.stack)
    outputs = {o["OutputKey"]: o["OutputValue"] for o in (stack or {}).get("Outputs", ())}
    for name, value in sorted(outputs.items()):
        print(f"{name:22} {value}")
    if not outputs.get("ServerName"):
        print(
            "\nThe server has no name yet. For a server that lives on the bare API URL, deploy once more:\n"
            f'  make deploy DEPLOY="--stack {arguments.stack} --region {session.region_name} '
            f'ServerName={outputs.get("ApiHost", "")}"'
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Put the built stack on AWS.")
    parser.add_argument("--stack", default="eigenserver", help="name of the stack (default: eigenserver)")
    parser.add_argument(
        "--region", default=os.environ.get("AWS_REGION"), help="AWS region (default: the one of your profile)"
    )
    parser.add_argument("--build", type=Path, default=BUILD, help="folder of the build (default: .aws-sam/build)")
    parser.add_argument("--yes", action="store_true", help="do not ask before the change set is carried out")
    parser.add_argument("parameters", nargs="*", metavar="Name=Value", help="parameters of the template")
    try:
        deploy(parser.parse_args())
    except (Refused, ClientError, BotoCoreError) as error:
        sys.exit(f"not deployed: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)


if __name__ == "__main__":
    main()
