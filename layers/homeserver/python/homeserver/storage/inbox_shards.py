"""Inboxes as DynamoDB's own JSON: the shards of a user's inbox, how to ask for them and read them.

For each local user, how far each of their rooms has come, in a few small items under one key:
  `i`            counters of the account-wide streams, and the next free slot
  `i00`, `i01`   shards of 32 slots; slot s is attribute number s % 32 of shard s // 32:
                 `p<n>` position, `e<n>` ephemeral number, `t<n>` arrival and `b<n>` bump (tenths of a second)
  `v/<room>`     pending and withdrawn invitations
  `base/...`     stored base vectors of long sync tokens
Partition `<user>#slots` says which room a slot is. A slot is never given to another room.

This module imports neither PynamoDB nor botocore: the waiting loop of `/sync` uses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from homeserver.settings import table_name

SLOTS_PER_SHARD = 32
COUNTERS = "i"
# Account-wide streams by the attribute that counts them.
STREAMS = {"account_data": "ad", "invites": "iv", "to_device": "td", "device_lists": "dl", "presence": "pr"}
_TENTHS_SINCE = 1_735_689_600_000  # 2025-01-01: keeps the times in a shard short


def inbox_table() -> str:
    return table_name("INBOX")


@dataclass(slots=True)
class SlotState:
    """What the inbox says of one slot. Times are milliseconds."""

    position: int = 0
    ephemeral: int = 0
    arrived: int = 0
    bumped: int = 0


@dataclass(slots=True)
class Inbox:
    """A user's inbox as one poll saw it: shards are no snapshot, each component grows on its own."""

    slots: dict[int, SlotState] = field(default_factory=dict)
    streams: dict[str, int] = field(default_factory=dict)
    next_slot: int = 0


def slot_item_key(slot: int) -> str:
    """The sort key of a slot in `<user>#slots`."""
    return f"{slot:06d}"


def shard_key(slot: int) -> str:
    """The sort key of the shard that holds a slot."""
    return f"i{slot // SLOTS_PER_SHARD:02d}"


def poll_request(user_id: str, *, consistent: bool = False) -> dict[str, Any]:
    """The Query that reads a user's counters and shards."""
    return {
        "TableName": inbox_table(),
        "KeyConditionExpression": "#u = :u AND begins_with(#k, :i)",
        "ExpressionAttributeNames": {"#u": "user", "#k": "k"},
        "ExpressionAttributeValues": {":u": {"S": user_id}, ":i": {"S": "i"}},
        "ConsistentRead": consistent,
    }


_FIELDS = {"p": "position", "e": "ephemeral", "t": "arrived", "b": "bumped"}


def parse_inbox(items: list[Mapping[str, Any]]) -> Inbox:
    """An inbox from the items of a poll, in DynamoDB's JSON."""
    inbox = Inbox()
    for item in items:
        key = item["k"]["S"]
        if key == COUNTERS:
            inbox.streams = {name: int(item[a]["N"]) for name, a in STREAMS.items() if a in item}
            inbox.next_slot = int(item.get("ns", {"N": "0"})["N"])
            continue
        base = int(key[1:]) * SLOTS_PER_SHARD
        for name, value in item.items():
            kind = _FIELDS.get(name[0])
            if kind is None or not name[1:].isdigit():
                continue
            state = inbox.slots.setdefault(base + int(name[1:]), SlotState())
            number = int(value["N"])
            setattr(state, kind, number if kind in {"position", "ephemeral"} else number * 100 + _TENTHS_SINCE)
    return inbox


def advance_request(user_id: str, slot: int, position: int, arrived: int, bumped: int) -> dict[str, Any]:
    """The UpdateItem that moves a slot forward to a position, and fails if it is there already."""
    n = slot % SLOTS_PER_SHARD
    return {
        "TableName": inbox_table(),
        "Key": {"user": {"S": user_id}, "k": {"S": shard_key(slot)}},
        "UpdateExpression": "SET #p = :p, #t = :t, #b = :b",
        "ConditionExpression": "attribute_not_exists(#p) OR #p < :p",
        "ExpressionAttributeNames": {"#p": f"p{n}", "#t": f"t{n}", "#b": f"b{n}"},
        "ExpressionAttributeValues": {
            ":p": {"N": str(position)},
            ":t": {"N": str((arrived - _TENTHS_SINCE) // 100)},
            ":b": {"N": str((bumped - _TENTHS_SINCE) // 100)},
        },
    }
