"""PynamoDB on the process's one botocore session, with the cost meter on every call."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from functools import cache, partial
from typing import Any, Self, TypeVar

from pynamodb.connection import Connection, TableConnection
from pynamodb.connection.base import MetaTable
from pynamodb.exceptions import CancellationReason, TransactWriteError
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action
from pynamodb.models import Model

from homeserver.adapters import aws
from homeserver.observability import Meter, count_call, counting_on, current_meter
from homeserver.request_units import read_units, write_units

ItemType = TypeVar("ItemType", bound="Item")
BATCH_GET_LIMIT = 100  # keys in one BatchGetItem
_BATCH_TRIES = 8


class StoreConnection(Connection):
    """PynamoDB's connection with our client under it and the meter beside it."""

    @property
    def client(self) -> Any:
        return aws.client("dynamodb")

    def know_table(self, table: MetaTable) -> None:
        """Take up a table's keys. Several models share a table; all of them know the same keys."""
        if table.table_name not in self._tables:
            self.add_meta_table(table)

    def _make_api_call(self, operation_name: str, operation_kwargs: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = super()._make_api_call(operation_name, operation_kwargs)
        if current_meter() is not None:
            rru = read_units(operation_name, operation_kwargs, answer)
            count_call(rru=rru, wru=write_units(operation_name, answer))
        return answer


@cache
def connection() -> StoreConnection:
    """The connection that all models share."""
    return StoreConnection(region="us-east-1")  # the client decides the region; PynamoDB only wants a value


class Item(Model):
    """Base of all items: shares the connection, and reads an absent item as None."""

    @classmethod
    def _get_connection(cls) -> TableConnection:
        table = super()._get_connection()
        if table.connection is not connection():
            connection().know_table(table.get_meta_table())
            table.connection = connection()
        return table

    @classmethod
    def fetch(cls, hash_key: Any, range_key: Any = None, *, consistent: bool = True) -> Self | None:
        """The item under this key, or None."""
        data = cls._get_connection().get_item(hash_key, range_key=range_key, consistent_read=consistent)
        raw = data.get("Item")
        return cls.from_raw_data(raw) if raw else None

    @classmethod
    def raw_key(cls, hash_key: Any, range_key: Any = None) -> dict[str, Any]:
        """The key in DynamoDB's notation."""
        hash_value, range_value = cls._serialize_keys(hash_key, range_key)
        types = {attribute.attr_name: attribute.attr_type for attribute in cls.get_attributes().values()}
        hash_name, range_name = _key_attributes(cls)
        key = {hash_name: {types[hash_name]: hash_value}}
        if range_name is not None:
            key[range_name] = {types[range_name]: range_value}
        return key


Key = tuple[type[Item], Any, Any]  # model, partition key, sort key (None where the table has none)


def batch_get(keys: Sequence[Key], *, consistent: bool) -> dict[Key, Any]:
    """The items that exist among these keys, of any tables, in one round per 100 keys (several at once).

    Reads are read-committed each for itself: the answer is no snapshot.
    """
    found: dict[Key, Any] = {}
    unique = list(dict.fromkeys(keys))
    chunks = [unique[i : i + BATCH_GET_LIMIT] for i in range(0, len(unique), BATCH_GET_LIMIT)]
    for part in in_parallel(*[lambda chunk=chunk: _batch_get(chunk, consistent) for chunk in chunks]):
        found.update(part)
    return found


def batch_get_raw(
    model: type[Item], keys: Sequence[tuple[Any, Any]], *, consistent: bool
) -> dict[tuple[Any, Any], dict[str, Any]]:
    """Items of one table in DynamoDB's JSON, by (partition key, sort key): for reads that are many and hot."""
    hash_name, range_name = _key_attributes(model)
    found: dict[tuple[Any, Any], dict[str, Any]] = {}
    chunks = [list(keys[i : i + BATCH_GET_LIMIT]) for i in range(0, len(keys), BATCH_GET_LIMIT)]
    table = model.Meta.table_name
    for rows in in_parallel(
        *[
            lambda chunk=chunk: _batch_rows({table: [model.raw_key(*key) for key in chunk]}, consistent)
            for chunk in chunks
        ]
    ):
        for _, row in rows:
            found[next(iter(row[hash_name].values())), next(iter(row[range_name or hash_name].values()))] = row
    return found


def _batch_get(keys: Sequence[Key], consistent: bool) -> dict[Key, Any]:
    wanted: dict[tuple[str, ...], Key] = {}
    request: dict[str, list[dict[str, Any]]] = {}
    for key in keys:
        model, hash_key, range_key = key
        table = model.Meta.table_name
        raw = model.raw_key(hash_key, range_key)
        wanted[_identity(table, raw, model)] = key
        request.setdefault(table, []).append(raw)
    model_of = {key[0].Meta.table_name: key[0] for key in keys}  # any model of a table knows its key names
    found: dict[Key, Any] = {}
    for table, row in _batch_rows(request, consistent):
        key = wanted[_identity(table, row, model_of[table])]
        found[key] = key[0].from_raw_data(row)
    return found


def _batch_rows(keys: Mapping[str, list[dict[str, Any]]], consistent: bool) -> list[tuple[str, dict[str, Any]]]:
    request: Any = {table: {"Keys": raw, "ConsistentRead": consistent} for table, raw in keys.items()}
    rows: list[tuple[str, dict[str, Any]]] = []
    for attempt in range(_BATCH_TRIES):
        answer = connection().dispatch("BatchGetItem", {"RequestItems": request})
        rows += [(table, row) for table, found in answer["Responses"].items() for row in found]
        request = answer.get("UnprocessedKeys") or {}
        if not request:
            return rows
        time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - jitter, not a secret
    raise TimeoutError("the store did not answer all keys of a batch")


def _identity(table: str, raw: Mapping[str, Any], model: type[Item]) -> tuple[Any, ...]:
    hash_name, range_name = _key_attributes(model)
    return (table, *(next(iter(raw[name].values())) for name in (hash_name, range_name) if name))


@cache
def _key_attributes(model: type[Item]) -> tuple[str, str | None]:
    """The names of partition and sort key in the table."""
    attributes = model.get_attributes().values()
    hash_name = next(attribute.attr_name for attribute in attributes if attribute.is_hash_key)
    range_name = next((attribute.attr_name for attribute in attributes if attribute.is_range_key), None)
    return hash_name, range_name


def _key_attributes_of(item: Item) -> list[str]:
    """The names that an item's key has in Python."""
    return [
        name for name, attribute in item.get_attributes().items() if attribute.is_hash_key or attribute.is_range_key
    ]


def query_range(
    model: type[ItemType],
    hash_key: Any,
    prefix: str | None = None,
    *,
    low: Any = None,
    high: Any = None,
    consistent: bool,
    descending: bool = False,
    limit: int | None = None,
) -> list[ItemType]:
    """Items of one partition in the order of their sort keys: all, those with a prefix, or those from low to high.

    `limit` bounds how many are returned. Each further page of 1 MB is one more round.
    """
    raw = query_raw(
        model,
        hash_key,
        prefix if low is None else low,
        None if prefix is None and high is None else (high if prefix is None else prefix + "\U0010ffff"),
        consistent=consistent,
        descending=descending,
        limit=limit,
    )
    return [model.from_raw_data(item) for item in raw]


def query_raw(
    model: type[Item],
    hash_key: Any,
    low: Any,
    high: Any,
    *,
    consistent: bool,
    descending: bool = False,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The same in DynamoDB's JSON, for partitions that hold items of several kinds; `model` knows their keys."""
    hash_name, range_name = _key_attributes(model)
    types = {attribute.attr_name: attribute.attr_type for attribute in model.get_attributes().values()}
    condition, names = "#h = :h", {"#h": hash_name}
    values: dict[str, Any] = {":h": {types[hash_name]: hash_key}}
    if low is not None and range_name is not None:
        condition += " AND #r BETWEEN :low AND :high"
        names["#r"] = range_name
        values[":low"], values[":high"] = (
            {types[range_name]: str(bound) if types[range_name] == "N" else bound} for bound in (low, high)
        )
    request: dict[str, Any] = {
        "TableName": model.Meta.table_name,
        "KeyConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ConsistentRead": consistent,
        "ScanIndexForward": not descending,
    }
    items: list[dict[str, Any]] = []
    while True:
        if limit is not None:
            request["Limit"] = limit - len(items)
        answer = connection().dispatch("Query", dict(request))
        items += answer["Items"]
        if "LastEvaluatedKey" not in answer or (limit is not None and len(items) >= limit):
            return items
        request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def query_whole(model: type[ItemType], hash_key: Any, prefix: str) -> list[ItemType]:
    """All items of a partition under a prefix, read consistently, in order.

    What fills more than one page of 1 MB is read from both ends at the same time: half the rounds. Neither reads on
    into what the other has read, so that at most the two pages that meet have something in common.
    """
    hash_name, range_name = _key_attributes(model)
    if range_name is None:
        raise TypeError(f"the items of {model.Meta.table_name} have no sort key")
    # What comes right behind everything under the prefix: no item of ours has this key.
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)

    def page(low: str, high: str, after: Mapping[str, Any] | None, *, forward: bool) -> dict[str, Any]:
        """The next page from `low` to `high`, after a key that was read, from the one end or from the other."""
        request: dict[str, Any] = {
            "TableName": model.Meta.table_name,
            "KeyConditionExpression": "#h = :h AND #r BETWEEN :low AND :high",
            "ExpressionAttributeNames": {"#h": hash_name, "#r": range_name},
            "ExpressionAttributeValues": {":h": {"S": hash_key}, ":low": {"S": low}, ":high": {"S": high}},
            "ConsistentRead": True,
            "ScanIndexForward": forward,
        }
        start = {} if after is None else {"ExclusiveStartKey": after}
        answer: dict[str, Any] = connection().dispatch("Query", {**request, **start})
        return answer

    def name(key: Mapping[str, Any]) -> str:
        return str(key[range_name]["S"])

    answer = page(prefix, end, None, forward=True)
    found = {name(item): item for item in answer["Items"]}
    low, high = answer.get("LastEvaluatedKey"), None
    # DynamoDB sorts text by its bytes.
    while low is not None and (high is None or name(low).encode() < name(high).encode()):
        between = (name(low), end if high is None else name(high))
        up, down = in_parallel(partial(page, *between, low, forward=True), partial(page, *between, high, forward=False))
        found |= {name(item): item for part in (up, down) for item in part["Items"]}
        low, high = up.get("LastEvaluatedKey"), down.get("LastEvaluatedKey")
        if high is None:
            break
    return [model.from_raw_data(found[key]) for key in sorted(found, key=str.encode)]


_pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="read")
_in_parallel: ContextVar[bool] = ContextVar("in_parallel", default=False)


def in_parallel(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that do not depend on each other, made at the same time.

    The meter counts as many sequential rounds as the longest of them has. Where one of the calls comes here itself,
    its calls run one after the other, and count so: a pool whose threads wait for each other would stand still.
    """
    if len(calls) <= 1 or _in_parallel.get():
        return [call() for call in calls]
    meter = current_meter()
    meters = [Meter() for _ in calls] if meter is not None else []
    work = [partial(_counted, call, one) for call, one in zip(calls, meters, strict=True)] if meters else list(calls)
    if aws.calls_stay_in_process:
        results = [copy_context().run(_alone, call) for call in work]
    else:
        results = [future.result() for future in [_pool.submit(copy_context().run, _alone, call) for call in work]]
    if meter is not None and meters:
        meter.add_parallel(meters)
    return results


def _counted(call: Callable[[], Any], meter: Meter) -> Any:
    with counting_on(meter):
        return call()


def _alone(call: Callable[[], Any]) -> Any:
    _in_parallel.set(True)
    return call()


class TransactionCancelled(Exception):
    """A write transaction that did not happen, with the reason of each labelled item.

    `conflict` says that another transaction was in flight on the same items: nothing is known about them.
    """

    def __init__(self, reasons: Mapping[str, CancellationReason], *, conflict: bool) -> None:
        super().__init__(", ".join(f"{label}: {reason.code}" for label, reason in reasons.items()) or "conflict")
        self.reasons = reasons
        self.conflict = conflict

    def failed(self, label: str) -> bool:
        """Whether the condition of this item was false."""
        reason = self.reasons.get(label)
        return reason is not None and reason.code == "ConditionalCheckFailed"


_TRANSIENT = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}


class Transaction:
    """Writes that happen together or not at all: at most 100 items, 4 MB, one write an item.

    Updates of one item become one: under the label of the first, and if the conditions of all hold.
    DynamoDB answers a cancelled transaction with reasons in the order in which the library grouped the items
    (checks, deletes, puts, updates); labels give them back their names.
    """

    def __init__(self) -> None:
        self._groups: dict[str, list[tuple[str, dict[str, Any]]]] = {
            g: [] for g in ("check", "delete", "put", "update")
        }
        self._updates: dict[tuple[Any, ...], tuple[str, Item, list[Action], Condition | None]] = {}

    def __len__(self) -> int:
        return sum(len(group) for group in self._groups.values()) + len(self._updates)

    def check(self, label: str, model: type[Item], hash_key: Any, range_key: Any, condition: Condition) -> None:
        kwargs = model.get_operation_kwargs_from_class(hash_key, range_key=range_key, condition=condition)
        self._groups["check"].append((label, kwargs))

    def delete(self, label: str, item: Item, condition: Condition | None = None) -> None:
        self._groups["delete"].append((label, item.get_delete_kwargs_from_instance(condition=condition)))

    def put(self, label: str, item: Item, condition: Condition | None = None) -> None:
        kwargs = item.get_save_kwargs_from_instance(condition=condition, return_values_on_condition_failure="ALL_OLD")
        self._groups["put"].append((label, kwargs))

    def update(self, label: str, item: Item, actions: Sequence[Action], condition: Condition | None = None) -> None:
        keys = _key_attributes_of(item)
        key = (item.Meta.table_name, *(getattr(item, name) for name in keys))
        if key in self._updates:
            label, item, before, other = self._updates[key]
            actions = [*before, *actions]
            if condition is not None and other is not None:
                condition = other & condition
            elif condition is None:
                condition = other
        self._updates[key] = (label, item, list(actions), condition)

    def update_raw(self, label: str, kwargs: dict[str, Any]) -> None:
        """An update written out by hand, for items whose attribute names are made at run time."""
        self._groups["update"].append((label, {**kwargs, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}))

    def commit(self) -> None:
        """Write everything. Raises TransactionCancelled and then nothing was written."""
        for label, item, actions, condition in self._updates.values():
            kwargs = item.get_update_kwargs_from_instance(
                actions=actions, condition=condition, return_values_on_condition_failure="ALL_OLD"
            )
            self._groups["update"].append((label, kwargs))
        self._updates.clear()
        try:
            connection().transact_write_items(
                condition_check_items=[kwargs for _, kwargs in self._groups["check"]],
                delete_items=[kwargs for _, kwargs in self._groups["delete"]],
                put_items=[kwargs for _, kwargs in self._groups["put"]],
                update_items=[kwargs for _, kwargs in self._groups["update"]],
            )
        except TransactWriteError as error:
            reasons = list(error.cancellation_reasons)
            if not reasons and error.cause_response_code != "TransactionInProgressException":
                raise
            labels = [label for group in self._groups.values() for label, _ in group]
            named = {label: r for label, r in zip(labels, reasons, strict=False) if r}
            if any(reason.code not in _TRANSIENT | {"ConditionalCheckFailed"} for reason in named.values()):
                raise
            raise TransactionCancelled(
                named, conflict=not named or any(reason.code in _TRANSIENT for reason in named.values())
            ) from error
