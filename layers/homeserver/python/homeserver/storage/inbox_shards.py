"""Inboxes as DynamoDB's own JSON: the shards of a user's inbox, how to ask for them and read them.

For each local user, how far each of their rooms has come, in a few small items under one key:
  `i`            counters of the account-wide streams, and the next free slot
  `i00`, `i01`   shards of 64 slots; slot s is number n = s % 64 of shard s // 64, and has the attributes
                 `<n>`  position * 100,000 + arrival of the last event
                 `e<n>` ephemeral number: of the last receipt, or change of who is typing (see storage.ephemeral)
                 `h<n>` above 0 where the room is a large one: its head says how far it is (see large_rooms)
                 Times are counted in hours since 2025.
  `v/<room>`     pending and withdrawn invitations
  `base/...`     stored base vectors of long sync tokens
Partition `<user>#slots` says which room a slot is. A slot is never given to another room.

A poll reads all shards, so every byte of a slot is paid for with each: position and time share one number, and times
are coarse (rooms of the same hour are told apart by their heads, which also know the last event that moves a
room up in a list). 500 rooms cost half a read unit, 1,000 rooms one.

This module imports neither PynamoDB nor botocore: the waiting loop of `/sync` uses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from homeserver.settings import table_name

SLOTS_PER_SHARD = 64
COUNTERS = "i"
# Account-wide streams by the attribute that counts them.
STREAMS = {"account_data": "ad", "invites": "iv", "to_device": "td", "device_lists": "dl", "presence": "pr"}
_TIME_STEPS = 100_000  # of an hour: eleven years, then they stay at the last
_STEP_MS = 3_600_000
_SINCE_MS = 1_735_689_600_000  # 2025-01-01


def inbox_table() -> str:
    return table_name("INBOX")


@dataclass(slots=True)
class SlotState:
    """What the inbox says of one slot. Times are milliseconds; `large`: the head says how far the room is.

    `root`: that of the state which such a head was seen with; empty before.
    """

    position: int = 0
    ephemeral: int = 0
    arrived: int = 0
    large: bool = False
    root: bytes = b""


@dataclass(slots=True)
class Inbox:
    """A user's inbox as one poll saw it: shards are no snapshot, each component grows on its own."""

    slots: dict[int, SlotState] = field(default_factory=dict)
    streams: dict[str, int] = field(default_factory=dict)
    next_slot: int = 0

    @property
    def has_large_rooms(self) -> bool:
        """Whether the heads of some rooms have to be looked at."""
        return any(state.large for state in self.slots.values())


def slot_item_key(slot: int) -> str:
    """The sort key of a slot in `<user>#slots`."""
    return f"{slot:06d}"


def shard_key(slot: int) -> str:
    """The sort key of the shard that holds a slot."""
    return f"i{slot // SLOTS_PER_SHARD:02d}"


def slot_attribute(kind: str, slot: int) -> str:
    """The name of a slot's attribute in its shard."""
    return f"{kind}{slot % SLOTS_PER_SHARD}"


def poll_request(user_id: str, *, consistent: bool = False) -> dict[str, Any]:
    """The Query that reads a user's counters and shards."""
    return {
        "TableName": inbox_table(),
        "KeyConditionExpression": "#u = :u AND begins_with(#k, :i)",
        "ExpressionAttributeNames": {"#u": "user", "#k": "k"},
        "ExpressionAttributeValues": {":u": {"S": user_id}, ":i": {"S": "i"}},
        "ConsistentRead": consistent,
    }


def _step(milliseconds: int) -> int:
    return min(max(0, milliseconds - _SINCE_MS) // _STEP_MS, _TIME_STEPS - 1)


def _milliseconds(step: int) -> int:
    return step * _STEP_MS + _SINCE_MS


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
            digits = name if name.isdigit() else name[1:]
            if not digits.isdigit():
                continue
            state = inbox.slots.setdefault(base + int(digits), SlotState())
            number = int(value["N"])
            if name is digits:
                state.position, step = divmod(number, _TIME_STEPS)
                state.arrived = _milliseconds(step)
            elif name[0] == "e":
                state.ephemeral = number
            elif name[0] == "h":
                state.large = number > 0
    return inbox


def announce_ephemeral_request(user_id: str, slot: int, number: int) -> dict[str, Any]:
    """The UpdateItem that moves a slot's ephemeral number forward, and fails if it is there already."""
    return {
        "TableName": inbox_table(),
        "Key": {"user": {"S": user_id}, "k": {"S": shard_key(slot)}},
        "UpdateExpression": "SET #e = :n",
        "ConditionExpression": "attribute_not_exists(#e) OR #e < :n",
        "ExpressionAttributeNames": {"#e": slot_attribute("e", slot)},
        "ExpressionAttributeValues": {":n": {"N": str(number)}},
    }


def advance_request(user_id: str, slot: int, position: int, arrived: int) -> dict[str, Any]:
    """The UpdateItem that moves a slot forward to a position, and fails if it is there already.

    `arrived` in milliseconds since 1970; see the module for what becomes of it.
    """
    return {
        "TableName": inbox_table(),
        "Key": {"user": {"S": user_id}, "k": {"S": shard_key(slot)}},
        "UpdateExpression": "SET #p = :p",
        "ConditionExpression": "attribute_not_exists(#p) OR #p < :at",
        "ExpressionAttributeNames": {"#p": str(slot % SLOTS_PER_SHARD)},
        "ExpressionAttributeValues": {
            ":p": {"N": str(position * _TIME_STEPS + _step(arrived))},
            ":at": {"N": str(position * _TIME_STEPS)},
        },
    }
