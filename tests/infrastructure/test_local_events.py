"""Streams, queues, schedules and custom resources of a running local run."""

import json
import time

import pytest

from infrastructure.local_process import LocalProcess

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with LocalProcess(tmp_path_factory.mktemp("events"), SERVER_NAME="events.test", RECORD_PERMISSIONS="1") as process:
        yield process


def test_a_follower_gets_what_its_filter_lets_pass(server):
    server.note("followed", "7")
    assert server.until("/notes/followed", {"seen": {"N": "7"}}) == {
        "head": {"N": "7"},
        "row": {"N": "7"},
        "seen": {"N": "7"},
    }


def test_a_record_that_always_fails_is_given_up_and_named_in_the_failure_queue(server):
    for name, number in (("before", "12"), ("poisoned", "13"), ("after", "14")):
        server.note(name, number)
    server.until("/notes/before", {"seen": {"N": "12"}})
    server.until("/notes/after", {"seen": {"N": "14"}})
    assert "seen" not in server.json("GET", "/notes/poisoned")
    (message,) = [json.loads(body) for body in server.json("GET", "/notes/failed") if body.startswith("{")]
    assert message["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert message["requestContext"]["approximateInvokeCount"] == 2
    assert message["DDBStreamBatchInfo"]["batchSize"] == 1
    assert "table/eigenserver-notes/stream/" in message["DDBStreamBatchInfo"]["streamArn"]


def test_a_queue_wakes_its_function_and_failures_end_in_the_dead_letters(server):
    for body in ("worked-a", "poison", "worked-a"):
        assert server.ask("POST", "/notes/work", body, {"Content-Type": "text/plain"})[0] == 202
    server.until("/notes/worked-a", {"worked": {"N": "2"}})
    deadline = time.monotonic() + 10
    while "poison" not in server.json("GET", "/notes/failed"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_scheduled_functions_run_once_at_the_start(server):
    assert server.until("/notes/sweeps", {}) != {}


def test_a_custom_resource_is_created_once(server):
    assert server.json("GET", "/notes/setup") == {"Create": {"N": "1"}}


def test_permissions_that_functions_use_are_recorded(tmp_path):
    with LocalProcess(tmp_path / "data", RECORD_PERMISSIONS="1") as server:
        server.note("a", "1")
        server.until("/notes/a", {"seen": {"N": "1"}})
        server.ask("POST", "/notes/work", "a", {"Content-Type": "text/plain"})
        server.json("GET", "/notes/sweep")
        server.until("/notes/a", {"worked": {"N": "1"}})
        server.stop()
    recorded = json.loads((tmp_path / "data/permissions.json").read_text())
    assert recorded == {
        "eigenserver-ApiFunction": [
            ["dynamodb:PutItem", "eigenserver-notes"],
            ["dynamodb:Query", "eigenserver-notes"],
            ["lambda:InvokeFunction", "eigenserver-sweep"],
            ["sqs:SendMessage", "eigenserver-Data-WorkQueue"],
        ],
        "eigenserver-FollowerFunction": [
            ["dynamodb:DescribeStream", "eigenserver-notes/stream"],
            ["dynamodb:GetRecords", "eigenserver-notes/stream"],
            ["dynamodb:GetShardIterator", "eigenserver-notes/stream"],
            ["dynamodb:ListStreams", "eigenserver-notes/stream"],
            ["dynamodb:PutItem", "eigenserver-notes"],
            ["sqs:SendMessage", "eigenserver-Data-FailedQueue"],
        ],
        "eigenserver-SetupFunction": [["dynamodb:UpdateItem", "eigenserver-notes"]],
        "eigenserver-WorkerFunction": [
            ["dynamodb:UpdateItem", "eigenserver-notes"],
            ["sqs:DeleteMessage", "eigenserver-Data-WorkQueue"],
            ["sqs:GetQueueAttributes", "eigenserver-Data-WorkQueue"],
            ["sqs:ReceiveMessage", "eigenserver-Data-WorkQueue"],
        ],
        "eigenserver-sweep": [["dynamodb:UpdateItem", "eigenserver-notes"]],
    }
