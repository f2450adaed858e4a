"""Inboxes on PynamoDB: slots, counters, and the writes that commits and followers make; see inbox_shards."""

from collections.abc import Mapping
from typing import Any

from pynamodb.attributes import NumberAttribute, UnicodeAttribute

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction, connection
from homeserver.storage.inbox_shards import COUNTERS, STREAMS, Inbox, inbox_table, parse_inbox, poll_request


class Slot(Item):
    """Which room a slot of a user is: partition `<user>#slots`, key the slot number."""

    class Meta:
        table_name = table_name("INBOX")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    room = UnicodeAttribute(attr_name="r")


class Counters(Item):
    """The counters item `i`, as far as commits need it."""

    class Meta:
        table_name = table_name("INBOX")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    next_slot = NumberAttribute(attr_name="ns", null=True)
    account_data = NumberAttribute(attr_name="ad", null=True)
    invites = NumberAttribute(attr_name="iv", null=True)


def read_inbox(user_id: str, *, consistent: bool = False) -> Inbox:
    """A user's inbox, in one round (two beyond about 40,000 rooms)."""
    items: list[Mapping[str, Any]] = []
    request = poll_request(user_id, consistent=consistent)
    while True:
        answer = connection().dispatch("Query", dict(request))
        items += answer["Items"]
        if "LastEvaluatedKey" not in answer:
            return parse_inbox(items)
        request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def take_slot(transaction: Transaction, user_id: str, slot: int) -> None:
    """Add to a transaction: the next free slot of the user is `slot`, and is now taken."""
    counters = Counters(user_id, COUNTERS)
    unchanged = Counters.next_slot == slot if slot else Counters.next_slot.does_not_exist()
    transaction.update(f"slot {user_id}", counters, [Counters.next_slot.set(slot + 1)], unchanged)


def raise_stream(transaction: Transaction, user_id: str, stream: str, number: int) -> None:
    """Add to a transaction: the account-wide stream moves from `number - 1` to `number`.

    The item that the number names must be written by the same transaction: no number is announced before its
    item can be read.
    """
    attribute = STREAMS[stream]
    unchanged = "#n = :before" if number > 1 else "attribute_not_exists(#n)"
    values = {":n": {"N": str(number)}}
    if number > 1:
        values[":before"] = {"N": str(number - 1)}
    transaction.update_raw(
        f"stream {stream}",
        {
            "TableName": inbox_table(),
            "Key": {"user": {"S": user_id}, "k": {"S": COUNTERS}},
            "UpdateExpression": "SET #n = :n",
            "ConditionExpression": unchanged,
            "ExpressionAttributeNames": {"#n": attribute},
            "ExpressionAttributeValues": values,
        },
    )
