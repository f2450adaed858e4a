"""Invitations of local users in their inboxes: `v/<room>`, pending ones and those that were withdrawn.

They have a number in the account-wide stream `invites` and a cap of their own, so that spam cannot fill an inbox.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction, TransactionCancelled, query_range
from homeserver.storage.inbox import Counters, raise_stream
from homeserver.storage.inbox_shards import COUNTERS

MOST_INVITES = 200  # beyond it the oldest disappears from the inbox; its room can still be joined by ID
_PREFIX = "v/"
_TRIES = 8


class InviteItem(Item):
    """What is told to a user of a room that they are, or were, invited to."""

    class Meta:
        table_name = table_name("INBOX")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    number = NumberAttribute(attr_name="n")
    event_id = UnicodeAttribute(attr_name="e")
    # "invite": `told` is stripped state; "leave": `told` is the one event that ended it
    membership = UnicodeAttribute(attr_name="m")
    told = BinaryAttribute(attr_name="j", legacy_encoding=False)


@dataclass(frozen=True, slots=True)
class Invite:
    """An invitation, or the end of one; `events` as they go into the answer of `/sync`."""

    room_id: str
    number: int
    event_id: str
    membership: str
    events: list[dict[str, Any]]


def _parse(item: InviteItem) -> Invite:
    room_id = item.k.removeprefix(_PREFIX)
    return Invite(room_id, int(item.number), item.event_id, item.membership, orjson.loads(item.told))


def invites_of(user_id: str) -> list[Invite]:
    """All invitations of a user, pending and ended."""
    return [_parse(item) for item in query_range(InviteItem, user_id, _PREFIX, consistent=True)]


def tell(user_id: str, room_id: str, event_id: str, membership: str, events: Sequence[Mapping[str, Any]]) -> None:
    """Store what a user is to be told of a room, under the next number of the stream. Repeating it changes nothing."""
    for _ in range(_TRIES):
        items = query_range(InviteItem, user_id, _PREFIX, consistent=True)
        if any(item.k == _PREFIX + room_id and item.event_id == event_id for item in items):
            return
        counters = Counters.fetch(user_id, COUNTERS)
        number = int(counters.invites or 0) + 1 if counters else 1
        transaction = Transaction()
        transaction.put(
            "invite",
            InviteItem(
                user_id,
                _PREFIX + room_id,
                number=number,
                event_id=event_id,
                membership=membership,
                told=orjson.dumps(list(events)),
            ),
        )
        raise_stream(transaction, user_id, "invites", number)
        others = sorted((item for item in items if item.k != _PREFIX + room_id), key=lambda item: item.number)
        for oldest in others[: max(0, len(others) + 1 - MOST_INVITES)]:
            transaction.delete("oldest invite", oldest)
        try:
            transaction.commit()
        except TransactionCancelled:
            continue
        return
    raise TimeoutError(f"the invitations of {user_id} change too fast")


def drop(user_id: str, room_id: str) -> None:
    """Remove an invitation that was accepted."""
    InviteItem(user_id, _PREFIX + room_id).delete()
