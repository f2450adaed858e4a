"""Rooms with very many local members: their inboxes do not follow the room, their readers look at its head.

Beyond `LARGE_FROM` local members an event is not written into every inbox. The follower marks the slot of each member
instead (`h<n>` in the shard, see inbox_shards), once; from then on whoever reads the inbox takes the later of the
slot's position and the head's. With fewer than `LARGE_UNTIL` members the marks are taken away again, and the slots
follow as before. Between the two a room stays what it was, so that it does not change with every join and leave.

Receipts and typing users are not announced there either, but to whom they are of. They never end a wait: in a room of
thousands somebody reads all the time. Readers look at them with what else they have to tell, and when a wait is over.

Users without a marked slot pay nothing: the marks come with the poll, and only they cause a further read.

This module imports neither PynamoDB nor botocore: the waiting loop of `/sync` can use it.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from homeserver.settings import table_name
from homeserver.storage.inbox_shards import Inbox, inbox_table, shard_key, slot_attribute, slot_item_key

LARGE_FROM = 500  # more local members than this make a room large
LARGE_UNTIL = 400  # fewer than this make it an ordinary one again
_KEYS_AT_ONCE = 100  # that BatchGetItem takes

Dispatch = Callable[[str, dict[str, Any]], dict[str, Any]]

_NOTHING: Mapping[int, str] = MappingProxyType({})

_rooms: dict[tuple[str, int], str] = {}  # which room a marked slot is; never changes


def mark_request(user_id: str, slot: int, position: int, *, large: bool) -> dict[str, Any]:
    """The UpdateItem that marks a slot, or takes its mark away, by what the room was at a position.

    The mark keeps that position, negative where it was taken away, so that the later decision wins whatever comes
    first; an older one fails with a ConditionalCheckFailedException.
    """
    return {
        "TableName": inbox_table(),
        "Key": {"user": {"S": user_id}, "k": {"S": shard_key(slot)}},
        "UpdateExpression": "SET #h = :h",
        "ConditionExpression": "attribute_not_exists(#h) OR #h BETWEEN :low AND :high",
        "ExpressionAttributeNames": {"#h": slot_attribute("h", slot)},
        "ExpressionAttributeValues": {
            ":h": {"N": str(position if large else -position)},
            ":low": {"N": str(1 - position)},
            ":high": {"N": str(position - 1)},
        },
    }


def marked_slots(inbox: Inbox) -> list[int]:
    """The slots of the rooms whose heads have to be looked at."""
    return [slot for slot, state in inbox.slots.items() if state.large]


def look_at_heads(
    dispatch: Dispatch,
    user_id: str,
    inbox: Inbox,
    *,
    consistent: bool,
    ephemeral: bool = False,
    rooms: Mapping[int, str] = _NOTHING,
) -> None:
    """Move the marked slots of an inbox to where the heads of their rooms are: one round, and one for unknown slots.

    `ephemeral`: also to the ephemeral numbers of these rooms. `dispatch` makes one call to DynamoDB. `rooms` by slot,
    as far as the caller knows them. Without marked slots nothing is read.
    """
    marked = marked_slots(inbox)
    if not marked:
        return
    _rooms.update({(user_id, slot): rooms[slot] for slot in marked if slot in rooms})
    unknown = [slot for slot in marked if (user_id, slot) not in _rooms]
    if unknown:
        keys = [{"user": {"S": f"{user_id}#slots"}, "k": {"S": slot_item_key(slot)}} for slot in unknown]
        for item in _get_all(dispatch, inbox_table(), keys, consistent=True):
            _rooms[user_id, int(item["k"]["S"])] = item["r"]["S"]
    slots = {_rooms[user_id, slot]: slot for slot in marked if (user_id, slot) in _rooms}
    kinds = ("head", "ephemeral") if ephemeral else ("head",)
    keys = [{"room": {"S": room_id}, "k": {"S": kind}} for room_id in slots for kind in kinds]
    for item in _get_all(dispatch, table_name("ROOMS"), keys, consistent=consistent):
        state = inbox.slots[slots[item["room"]["S"]]]
        if item["k"]["S"] == "ephemeral":
            state.ephemeral = max(state.ephemeral, int(item["a"]["N"]))
        else:
            root = item["r"]["B"]
            state.root = root if isinstance(root, bytes) else b64decode(root)
            if int(item["p"]["N"]) > state.position:
                state.position = int(item["p"]["N"])
                state.arrived = int(item["ta"]["N"])


def _get_all(
    dispatch: Dispatch, table: str, keys: list[dict[str, Any]], *, consistent: bool
) -> list[Mapping[str, Any]]:
    items: list[Mapping[str, Any]] = []
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        wanted: Any = {table: {"Keys": keys[start : start + _KEYS_AT_ONCE], "ConsistentRead": consistent}}
        # What does not come in one answer is looked at again with the next poll.
        items += dispatch("BatchGetItem", {"RequestItems": wanted})["Responses"].get(table, [])
    return items
