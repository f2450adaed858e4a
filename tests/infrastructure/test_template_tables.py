"""The tables of infra/data.yaml: keys, indexes, and what protects their content and the bill."""

import re
from pathlib import Path
from typing import Any

import pytest

from infrastructure.templates import DATA, ROOT, STACK

KEYS = {
    "Rooms": [("room", "S"), ("k", "S")],
    "Timeline": [("bucket", "S"), ("pos", "N")],
    "Events": [("event", "S")],
    "State": [("room", "S"), ("node", "B")],
    "Members": [("user", "S"), ("room", "S")],
    "Inbox": [("user", "S"), ("k", "S")],
    "Transactions": [("device", "S"), ("txn", "S")],
    "Directory": [("alias", "S")],
    "Accounts": [("user", "S"), ("k", "S")],
    "Tokens": [("hash", "S")],
    "Sessions": [("session", "S")],
    "Limits": [("bucket", "S")],
    "Profiles": [("user", "S")],
    "UserData": [("user", "S"), ("k", "S")],
    "Server": [("k", "S")],
    "Search": [("room", "S"), ("bucket", "N")],
    "Reports": [("month", "S"), ("k", "S")],
    "Listings": [("list", "S"), ("k", "S")],
    "ServerKeys": [("server", "S"), ("k", "S")],
    "Destinations": [("server", "S"), ("k", "S")],
    "Staging": [("room", "S"), ("k", "S")],
    "Received": [("server", "S"), ("txn", "S")],
    "ToDevice": [("user", "S"), ("k", "S")],
    "Presence": [("user", "S")],
    "RemoteDevices": [("user", "S"), ("k", "S")],
}
EXPIRING = {"Transactions", "Tokens", "Sessions", "Limits", "ServerKeys"} | {
    "Staging",
    "Received",
    "ToDevice",
    "Presence",
    "RemoteDevices",
    "Destinations",
}

TABLES: dict[str, dict[str, Any]] = {
    logical_id.removesuffix("Table"): resource for logical_id, resource in DATA.resources("AWS::DynamoDB::Table")
}


def noun(name: str) -> str:
    """UserData -> USER_DATA."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def key_schema(properties: dict[str, Any], schema: list[dict[str, str]]) -> list[tuple[str, str]]:
    types = {a["AttributeName"]: a["AttributeType"] for a in properties["AttributeDefinitions"]}
    assert [element["KeyType"] for element in schema] == ["HASH", "RANGE"][: len(schema)]
    return [(element["AttributeName"], types[element["AttributeName"]]) for element in schema]


def test_the_tables_and_keys_are_the_ones_the_code_knows() -> None:
    assert {name: key_schema(t["Properties"], t["Properties"]["KeySchema"]) for name, t in TABLES.items()} == KEYS


def test_the_architecture_page_lists_every_table_with_its_partition_and_sort_key() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Tables")[1].split("\nQueues:")[0]
    listed = {}
    for row in re.findall(r"^\| `([A-Z_]+)` \| ([^|]+)\|", page, re.MULTILINE):
        listed[row[0]] = re.findall(r"`([a-z]+)`", re.sub(r"\([^)]*\)", "", row[1]))
    assert listed == {noun(name): [attribute for attribute, _ in keys] for name, keys in KEYS.items()}


@pytest.mark.parametrize("name", KEYS)
def test_a_table_is_kept_restorable_encrypted_and_bounded(name: str) -> None:
    table = TABLES[name]
    properties = DATA.resolve(table["Properties"])
    assert (table["DeletionPolicy"], table["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert properties["DeletionProtectionEnabled"] is True
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["SSESpecification"] == {"SSEEnabled": True}
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert {"Key": "project", "Value": "eigenserver"} in properties["Tags"]
    maximum = {"MaxReadRequestUnits": "4000", "MaxWriteRequestUnits": "1000"}
    assert properties["OnDemandThroughput"] == maximum
    for index in properties.get("GlobalSecondaryIndexes", []):
        assert index["OnDemandThroughput"] == maximum


@pytest.mark.parametrize("name", KEYS)
def test_cloudformation_names_each_table_so_that_two_deployments_can_stand_side_by_side(name: str) -> None:
    assert "TableName" not in TABLES[name]["Properties"]


@pytest.mark.parametrize("name", KEYS)
def test_only_records_that_may_be_forgotten_expire(name: str) -> None:
    wanted = {"AttributeName": "expires", "Enabled": True} if name in EXPIRING else None
    assert TABLES[name]["Properties"].get("TimeToLiveSpecification") == wanted


def test_only_rooms_have_a_stream_and_it_carries_new_images() -> None:
    streams = {name: t["Properties"].get("StreamSpecification") for name, t in TABLES.items()}
    assert {name: stream for name, stream in streams.items() if stream} == {"Rooms": {"StreamViewType": "NEW_IMAGE"}}


def test_account_data_is_listed_by_stream_number_with_strong_consistency() -> None:
    properties = TABLES["UserData"]["Properties"]
    (index,) = properties["LocalSecondaryIndexes"]
    assert index["IndexName"] == "by_stream"
    assert key_schema(properties, index["KeySchema"]) == [("user", "S"), ("n", "N")]
    assert index["Projection"] == {"ProjectionType": "ALL"}


def test_no_other_table_has_an_index_because_each_doubles_its_writes() -> None:
    indexed = {
        n for n, t in TABLES.items() if {"GlobalSecondaryIndexes", "LocalSecondaryIndexes"} & set(t["Properties"])
    }
    assert indexed == {"UserData"}


def test_every_attribute_that_is_defined_is_a_key() -> None:
    for table in TABLES.values():
        properties = table["Properties"]
        indexes = properties.get("GlobalSecondaryIndexes", []) + properties.get("LocalSecondaryIndexes", [])
        schemas = [properties["KeySchema"], *(index["KeySchema"] for index in indexes)]
        used = {element["AttributeName"] for schema in schemas for element in schema}
        assert {a["AttributeName"] for a in properties["AttributeDefinitions"]} == used


def test_every_function_is_told_the_name_of_every_table() -> None:
    variables = STACK.template["Globals"]["Function"]["Environment"]["Variables"]
    told = {key: value for key, value in variables.items() if key.endswith("_TABLE")}
    assert told == {f"{noun(n)}_TABLE": {"Fn::GetAtt": ["DataStack", f"Outputs.{n}Table"]} for n in KEYS}


def test_the_data_stack_is_kept_when_the_root_stack_goes() -> None:
    stack = STACK.template["Resources"]["DataStack"]
    assert (stack["DeletionPolicy"], stack["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert Path(stack["Properties"]["Location"]) == Path("infra/data.yaml")
