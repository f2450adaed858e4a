"""What other servers sent and is not in its room yet: PDUs and receipts, in the table STAGING, by room.

    late/<arrived>/<transaction>/<n>    a receipt for an event that may be among what is staged
    parked                              what the parked PDUs wait for, and when they are tried again
    pdu/<arrived>/<transaction>/<n>     a PDU, as it came, but `unsigned`
    wait/<arrived>/<transaction>/<n>    a parked PDU: an event that it needs could not be had yet

In this order of the keys one Query brings what there is to do, without what is parked. (`job/...` before it are
memberships that take longer than a request: storage.membership_jobs.) Arrival in milliseconds of 13 digits, so that
the order of keys is the order of arrival; `<transaction>` names origin and transaction ID, `<n>` the place in it.
Everything is forgotten after a week.
"""

import random
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, ListAttribute, NumberAttribute, UnicodeAttribute

from homeserver.matrix.event_codec import pack, unpack
from homeserver.settings import table_name
from homeserver.storage.connection import Item, connection, query_range, query_raw

_KEPT_S = 7 * 24 * 3600
_JOB, _LATE, _PDU, _WAIT = "job/", "late/", "pdu/", "wait/"
_PARKED = "parked"
_END = "\U0010ffff"
_BATCH_WRITE_LIMIT = 25
_BATCH_TRIES = 8


class StagedItem(Item):
    """An item of any of these kinds."""

    class Meta:
        table_name = table_name("STAGING")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    origin = UnicodeAttribute(attr_name="o", null=True)
    room_version = UnicodeAttribute(attr_name="rv", null=True)
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False, null=True)
    # Of a parked PDU: how often it was tried. Of `parked`: milliseconds when the first of them is due, what they need
    tries = NumberAttribute(attr_name="n", default=0)
    due = NumberAttribute(attr_name="du", null=True)
    needs: ListAttribute[str] = ListAttribute(attr_name="w", null=True)
    expires = NumberAttribute()


@dataclass(frozen=True, slots=True)
class StagedPdu:
    """A PDU that waits: `key` is its sort key, `tries` how often it was parked, `due_ms` when it is tried again."""

    key: str
    origin: str
    pdu: Mapping[str, Any]
    room_version: str
    tries: int = 0
    due_ms: int = 0


@dataclass(frozen=True, slots=True)
class LateReceipt:
    """A receipt for an event that was not known when it came: arguments of services.received_ephemeral."""

    key: str
    origin: str
    receipt: tuple[str, str, str, int]  # user, thread, event, milliseconds


@dataclass(frozen=True, slots=True)
class Parked:
    """What the parked PDUs of a room need, as far as it is listed, and when the first is due. 0: none are parked."""

    due_ms: int = 0
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Staged:
    """What there is to do in a room; `is_all`: whether there is no more of it."""

    pdus: tuple[StagedPdu, ...]
    late: tuple[LateReceipt, ...]
    parked: Parked
    is_all: bool


class Arrivals:
    """What one transaction brings, as it will be staged: in the order in which it is added."""

    def __init__(self, origin: str, txn_id: str, arrived_ms: int) -> None:
        name = sha256(f"{origin}\n{txn_id}".encode()).hexdigest()[:12]
        self._origin, self._place = origin, f"{arrived_ms:013d}/{name}"
        self._expires = arrived_ms // 1000 + _KEPT_S
        self._items: list[StagedItem] = []

    def add_pdu(self, room_id: str, pdu: Mapping[str, Any], room_version: str) -> None:
        shown = {key: value for key, value in pdu.items() if key != "unsigned"}
        self._add(room_id, _PDU, pack(shown), room_version)

    def add_receipt(self, room_id: str, receipt: tuple[str, str, str, int]) -> None:
        """A receipt, as LateReceipt has it."""
        self._add(room_id, _LATE, orjson.dumps(receipt), None)

    def _add(self, room_id: str, prefix: str, packed: bytes, room_version: str | None) -> None:
        self._items.append(
            StagedItem(
                room_id,
                f"{prefix}{self._place}/{len(self._items):04d}",
                origin=self._origin,
                room_version=room_version,
                packed=packed,
                expires=self._expires,
            )
        )

    @property
    def rooms(self) -> list[str]:
        """The rooms that something was added for."""
        return list(dict.fromkeys(item.room for item in self._items))

    def store(self) -> None:
        """Write everything. Repeating it after a crash stages things twice, which is done once and found known then."""
        _write([{"PutRequest": {"Item": _raw(item)}} for item in self._items])


def staged(room_id: str, *, most: int) -> Staged:
    """What is to be done first in a room, at most so much: one Query, which is small where little is to do."""
    items = [
        StagedItem.from_raw_data(raw)
        for raw in query_raw(StagedItem, room_id, _LATE, _PDU + _END, consistent=True, limit=most)
    ]
    parked = next((item for item in items if item.k == _PARKED), None)
    return Staged(
        tuple(_pdu(item) for item in items if item.k.startswith(_PDU)),
        tuple(
            LateReceipt(item.k, item.origin, tuple(orjson.loads(item.packed)))
            for item in items
            if item.k.startswith(_LATE)
        ),
        Parked(int(parked.due or 0), frozenset(parked.needs or ())) if parked is not None else Parked(),
        is_all=len(items) < most,
    )


def parked_pdus(room_id: str, *, most: int) -> list[StagedPdu]:
    """The PDUs that are parked in a room, oldest first."""
    return [_pdu(item) for item in query_range(StagedItem, room_id, _WAIT, consistent=True, limit=most)]


def note_parked(room_id: str, parked: Parked, *, now_ms: int) -> None:
    """Say what the parked PDUs wait for: before they are parked, and again when they are not any more."""
    if not parked.due_ms:
        _write([{"DeleteRequest": {"Key": StagedItem.raw_key(room_id, _PARKED)}}])
        return
    StagedItem(room_id, _PARKED, due=parked.due_ms, needs=sorted(parked.needs), expires=now_ms // 1000 + _KEPT_S).save()


def park(room_id: str, pdus: Iterable[StagedPdu], *, now_ms: int) -> None:
    """Store parked PDUs, under their keys of parked ones. Those they were staged under are to be deleted afterwards."""
    _write(
        [
            {
                "PutRequest": {
                    "Item": _raw(
                        StagedItem(
                            room_id,
                            parked_key(pdu.key),
                            origin=pdu.origin,
                            room_version=pdu.room_version,
                            packed=pack(pdu.pdu),
                            tries=pdu.tries,
                            due=pdu.due_ms,
                            expires=now_ms // 1000 + _KEPT_S,
                        )
                    )
                }
            }
            for pdu in pdus
        ]
    )


def parked_key(key: str) -> str:
    """The sort key under which a PDU is parked: it keeps its place in the order of arrival."""
    return _WAIT + key.partition("/")[2]


def unstage(room_id: str, keys: Collection[str]) -> None:
    """Delete what is done."""
    _write([{"DeleteRequest": {"Key": StagedItem.raw_key(room_id, key)}} for key in dict.fromkeys(keys)])


def rooms_with_staged(*, before_ms: int, due_ms: int) -> tuple[set[str], set[tuple[str, str]]]:
    """The rooms that wait for a worker, and jobs (room, key) that do: a scan of the table.

    A room waits if something of it was staged before a time, or parked PDUs of it were due before another; a job, if it
    was begun before the first. The table holds what is not done yet, and small notes of jobs that ended in the last
    week: next to nothing, unless something is wrong.
    """
    rooms: set[str] = set()
    jobs: set[tuple[str, str]] = set()
    request: dict[str, Any] = {
        "TableName": StagedItem.Meta.table_name,
        "ProjectionExpression": "#r, #k, #d, #t, #o",
        "ExpressionAttributeNames": {"#r": "room", "#k": "k", "#d": "du", "#t": "t", "#o": "o"},
    }
    while True:
        answer = connection().dispatch("Scan", dict(request))
        for item in answer["Items"]:
            room_id, key = item["room"]["S"], item["k"]["S"]
            if key.startswith(_JOB):
                if "o" not in item and int(item["t"]["N"]) < before_ms:  # it has no outcome yet
                    jobs.add((room_id, key))
            elif key.startswith((_PDU, _LATE)):
                if int(key.split("/", 2)[1]) < before_ms:
                    rooms.add(room_id)
            elif key.startswith(_WAIT) and int(item["du"]["N"]) < due_ms:
                rooms.add(room_id)
        if "LastEvaluatedKey" not in answer:
            return rooms, jobs
        request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def _pdu(item: StagedItem) -> StagedPdu:
    return StagedPdu(
        item.k, item.origin, unpack(item.packed), item.room_version, int(item.tries or 0), int(item.due or 0)
    )


def _raw(item: StagedItem) -> dict[str, Any]:
    raw: dict[str, Any] = item.serialize()
    return raw


def _write(requests: Sequence[dict[str, Any]]) -> None:
    """Puts and deletes, 25 a request. None of them depends on another; all are done when this returns."""
    table = StagedItem.Meta.table_name
    for start in range(0, len(requests), _BATCH_WRITE_LIMIT):
        left: Any = {table: list(requests[start : start + _BATCH_WRITE_LIMIT])}
        for attempt in range(_BATCH_TRIES):
            left = connection().dispatch("BatchWriteItem", {"RequestItems": left}).get("UnprocessedItems") or {}
            if not left:
                break
            time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - jitter, not a secret
        else:
            raise TimeoutError("the store did not take all items of a batch")
