"""Executions of the login state machine (infra/login.asl.json): Step Functions, named by the template in LOGIN_MACHINE.

An execution has the session's ID for its name and knows nothing else of the session than how far it is.
"""

import json
import os
from typing import Literal

from botocore.exceptions import ClientError

from homeserver.adapters import aws

# What a token is answered with whose task is done, timed out, or was never: which of them differs from time to time.
_GONE = {"TaskDoesNotExist", "InvalidToken", "TaskTimedOut"}
_DEAD = {"ABORTED", "FAILED", "TIMED_OUT"}


def start(session_id: str, done: int = 0) -> None:
    """Begin to wait for the next stage of a session, of which `done` are done; nothing if that was begun before.

    A wrong `done` is found out, and costs three transitions. Raises ClientError, and KeyError if LOGIN_MACHINE is not
    set.
    """
    try:
        aws.client("stepfunctions").start_execution(
            stateMachineArn=os.environ["LOGIN_MACHINE"],
            name=session_id,
            input=json.dumps({"session": session_id, "done": str(done)}),
        )
    except ClientError as error:
        if _code(error) != "ExecutionAlreadyExists":
            raise


def stage_done(session_id: str, task_token: str, done: int, status: Literal["active", "complete"]) -> bool:
    """Tell the machine that the stage it waits for is done, `done` stages in all.

    False if it does not wait with this token any more: it then learns from the item how far the session is. Raises
    ClientError.
    """
    output = {"session": session_id, "done": str(done), "status": status}
    try:
        aws.client("stepfunctions").send_task_success(taskToken=task_token, output=json.dumps(output))
    except ClientError as error:
        if _code(error) not in _GONE:
            raise
        return False
    return True


def session_failed(task_token: str) -> None:
    """Tell the machine that the session is over without success; nothing if it does not wait. Raises ClientError."""
    try:
        aws.client("stepfunctions").send_task_failure(taskToken=task_token, error="Session.Failed")
    except ClientError as error:
        if _code(error) not in _GONE:
            raise


def is_dead(session_id: str) -> bool:
    """Whether a session's execution was stopped or broke, or does not exist. Raises ClientError.

    One that began a moment ago may not be found yet: AWS answers what was true some time before.
    """
    arn = f"{os.environ['LOGIN_MACHINE'].replace(':stateMachine:', ':execution:', 1)}:{session_id}"
    try:
        status = aws.client("stepfunctions").describe_execution(executionArn=arn)["status"]
    except ClientError as error:
        if _code(error) != "ExecutionDoesNotExist":
            raise
        return True
    return status in _DEAD


def _code(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])
