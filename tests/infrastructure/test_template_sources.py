"""What wakes the functions that no request wakes, the queues, the log groups and the alarms."""

import json
from typing import Any

import pytest

from infrastructure.templates import ALARMS, FUNCTIONS, LOGS, QUEUES, STACK, TEMPLATE
from local.patterns import matches
from local.template import Stack

QUEUE_RESOURCES: dict[str, dict[str, Any]] = dict(QUEUES.resources("AWS::SQS::Queue"))
READERS = {
    "InboxFanoutQueue": "inbox_fanout_worker",
    "FailedRecordsQueue": "room_sweep_worker",
    "FederationInboundQueue": "federation_inbound_worker",
    "FederationOutboundQueue": "federation_sender_worker",
}


def test_the_follower_sees_heads_only_and_a_poison_record_cannot_block_its_shard() -> None:
    (source,) = FUNCTIONS["inbox_follower"].events("DynamoDB")
    filters = [json.loads(entry["Pattern"]) for entry in source.pop("FilterCriteria")["Filters"]]
    assert filters == [{"dynamodb": {"Keys": {"k": {"S": ["head"]}}}}]
    assert source == {
        "Stream": STACK.child("DataStack").output("RoomsStreamArn"),
        "StartingPosition": "TRIM_HORIZON",
        "BatchSize": 100,
        "MaximumBatchingWindowInSeconds": 0,
        "ParallelizationFactor": "2",
        "BisectBatchOnFunctionError": True,
        "MaximumRetryAttempts": 5,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "DestinationConfig": {"OnFailure": {"Destination": QUEUES.output("FailedRecordsQueueArn")}},
    }


def test_the_outbound_router_sees_rooms_that_concern_other_servers_and_what_is_ephemeral() -> None:
    (source,) = FUNCTIONS["outbound_router"].events("DynamoDB")
    (follower,) = FUNCTIONS["inbox_follower"].events("DynamoDB")
    filters = [json.loads(entry["Pattern"]) for entry in source.pop("FilterCriteria")["Filters"]]
    follower.pop("FilterCriteria", None)
    assert source == follower

    def passes(k: str, **image: Any) -> bool:
        record = {"dynamodb": {"Keys": {"room": {"S": "!r"}, "k": {"S": k}}, "NewImage": image}}
        return any(matches(pattern, record) for pattern in filters)

    assert passes("head", fs={"N": "7"}, p={"N": "9"})
    assert not passes("head", p={"N": "9"})
    assert passes("ephemeral", n={"N": "3"})
    assert not passes("state/m.room.topic/", fs={"N": "7"})
    assert not passes("cursor/outbound", p={"N": "9"})


def test_two_functions_read_the_stream_which_is_as_many_as_a_shard_serves_well() -> None:
    readers = [name for name, function in FUNCTIONS.items() if function.events("DynamoDB")]
    assert readers == ["inbox_follower", "outbound_router"]


@pytest.mark.parametrize(("queue", "reader"), READERS.items())
def test_a_queue_has_one_reader_that_reports_which_messages_failed(queue: str, reader: str) -> None:
    arn = QUEUES.output(f"{queue}Arn")
    readers = {n: e for n, f in FUNCTIONS.items() for e in f.events("SQS") if e["Queue"] == arn}
    assert list(readers) == [reader]
    assert readers[reader]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert int(readers[reader]["ScalingConfig"]["MaximumConcurrency"]) >= 2


def test_queues_that_only_federation_fills_are_not_read_without_it() -> None:
    mute = Stack(TEMPLATE, {"Federation": "off"})
    for federation, stack in (("on", STACK), ("off", mute)):
        enabled = {
            reader: stack.resolve(FUNCTIONS[reader].raw["Events"][name]["Properties"].get("Enabled", True))
            for reader in READERS.values()
            for name, event in FUNCTIONS[reader].raw["Events"].items()
            if event["Type"] == "SQS"
        }
        others = {"federation_inbound_worker", "federation_sender_worker"}
        assert enabled == {reader: federation == "on" or reader not in others for reader in READERS.values()}


@pytest.mark.parametrize(("queue", "reader"), READERS.items())
def test_a_message_stays_hidden_for_six_times_its_readers_timeout(queue: str, reader: str) -> None:
    assert QUEUE_RESOURCES[queue]["Properties"]["VisibilityTimeout"] >= 6 * FUNCTIONS[reader].properties["Timeout"]


# Where a message goes that was tried five times: a part of a fan-out is repeated by the sweep's worker before it ends.
AFTER_FIVE_TRIES = {
    "InboxFanoutQueue": "FailedRecordsQueue",
    "FailedRecordsQueue": "FailedRecordsDeadLetters",
    "FederationInboundQueue": "FederationDeadLetters",
    "FederationOutboundQueue": "FederationDeadLetters",
}


@pytest.mark.parametrize(("queue", "target"), AFTER_FIVE_TRIES.items())
def test_what_fails_five_times_goes_on_and_is_kept_for_two_weeks(queue: str, target: str) -> None:
    redrive = QUEUE_RESOURCES[queue]["Properties"]["RedrivePolicy"]
    assert redrive == {"deadLetterTargetArn": {"Fn::GetAtt": [target, "Arn"]}, "maxReceiveCount": 5}
    assert QUEUE_RESOURCES[target]["Properties"]["MessageRetentionPeriod"] == 14 * 86400


def test_every_queue_is_encrypted_and_is_read_or_is_dead_letters() -> None:
    assert all(queue["Properties"]["SqsManagedSseEnabled"] is True for queue in QUEUE_RESOURCES.values())
    assert set(QUEUE_RESOURCES) == set(READERS) | {"FailedRecordsDeadLetters", "FederationDeadLetters"}
    assert set(AFTER_FIVE_TRIES) == set(READERS)


def test_a_queue_in_order_ends_in_dead_letters_in_order_and_groups_do_not_wait_for_each_other() -> None:
    fifo = {name: queue["Properties"] for name, queue in QUEUE_RESOURCES.items() if "FifoQueue" in queue["Properties"]}
    assert all(queue["FifoQueue"] is True for queue in fifo.values())
    for name, target in AFTER_FIVE_TRIES.items():
        assert (name in fifo) == (target in fifo)
        if name in fifo:
            assert fifo[name]["DeduplicationScope"] == "messageGroup"
            assert fifo[name]["FifoThroughputLimit"] == "perMessageGroupId"


def test_the_sweep_runs_every_day_and_looks_after_what_is_staged_and_nothing_else_runs_by_the_clock() -> None:
    schedules = {name: f.events("Schedule") for name, f in FUNCTIONS.items() if f.events("Schedule")}
    assert {n: [s["Schedule"] for s in found] for n, found in schedules.items()} == {
        "room_sweep_worker": ["rate(10 minutes)", "rate(1 day)"]
    }
    assert [s.get("Input") for s in schedules["room_sweep_worker"]] == ['{"staged": true}', None]


@pytest.mark.parametrize("folder", FUNCTIONS)
def test_a_function_logs_into_a_group_that_forgets(folder: str) -> None:
    name = FUNCTIONS[folder].properties["LoggingConfig"]["LogGroup"]
    groups = {LOGS.physical_name(i): LOGS.resolve(r["Properties"]) for i, r in LOGS.resources("AWS::Logs::LogGroup")}
    assert groups[name]["LogGroupName"].endswith(f"/{folder}")
    assert int(groups[name]["RetentionInDays"]) == 30


def test_the_access_log_holds_neither_path_nor_query_nor_header() -> None:
    settings = STACK.template["Resources"]["Api"]["Properties"]["AccessLogSettings"]
    line = json.loads(settings["Format"])
    assert set(line.values()) == {
        "$context.requestTimeEpoch",
        "$context.requestId",
        "$context.identity.sourceIp",
        "$context.routeKey",
        "$context.status",
        "$context.responseLength",
        "$context.responseLatency",
        "$context.integrationLatency",
        "$context.error.messageString",
    }


def test_every_alarm_watches_something_that_exists_and_says_what_is_wrong() -> None:
    alarms = [resource["Properties"] for _, resource in ALARMS.resources("AWS::CloudWatch::Alarm")]
    given = STACK.template["Resources"]["ObservabilityStack"]["Properties"]["Parameters"]
    watched = [alarm["Dimensions"][0]["Value"]["Ref"] for alarm in alarms]
    assert set(watched) == set(given) - {"AlarmEmail"}
    assert {(a["Namespace"], a["MetricName"]) for a in alarms} >= {
        ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
        ("AWS/Lambda", "Errors"),
        ("AWS/Lambda", "Throttles"),
        ("AWS/Lambda", "IteratorAge"),
        ("AWS/ApiGateway", "5xx"),
        ("AWS/DynamoDB", "WriteThrottleEvents"),
    }
    assert all(len(alarm["AlarmDescription"]) > 20 for alarm in alarms)
    assert all(alarm["TreatMissingData"] == "notBreaching" for alarm in alarms)
    # docs/costs.md counts on it.
    assert len(alarms) <= 7


def test_every_dead_letter_queue_has_an_alarm_at_its_first_message() -> None:
    alarms = [ALARMS.resolve(resource["Properties"]) for _, resource in ALARMS.resources("AWS::CloudWatch::Alarm")]
    letters = {QUEUES.physical_name(name) for name in QUEUE_RESOURCES if name.endswith("DeadLetters")}
    first = {a["Dimensions"][0]["Value"] for a in alarms if a["Namespace"] == "AWS/SQS" and a["Threshold"] == 0}
    assert first == letters
