"""Invitations and knocks of local users in their inboxes: `v/<room>`, pending ones and those that ended.

They have a number in the account-wide stream `invites` and a cap of their own, so that spam cannot fill an inbox. What
is told of a room goes by the room's position: later positions win, whoever writes first. An invitation that was
accepted keeps its item and its number, because a reader takes the highest number that it finds for what was told.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction, TransactionCancelled, query_range
from homeserver.storage.inbox import Counters, raise_stream
from homeserver.storage.inbox_shards import COUNTERS

MOST_INVITES = 200  # beyond it the oldest disappears from the inbox; its room can still be joined by ID
_PENDING = frozenset({"invite", "knock"})
_PREFIX = "v/"
_TRIES = 8


class InviteItem(Item):
    """What is told to a user of a room that they are, or were, invited to or knocking at."""

    class Meta:
        table_name = table_name("INBOX")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    number = NumberAttribute(attr_name="n")
    # Position in the room of the membership event that is told
    position = NumberAttribute(attr_name="p")
    # "invite", "knock": `told` is stripped state; "leave": `told` is the event that ended it; "join": nothing is told
    membership = UnicodeAttribute(attr_name="m")
    told = BinaryAttribute(attr_name="j", legacy_encoding=False)


@dataclass(frozen=True, slots=True)
class Invite:
    """An invitation or a knock, or the end of one; `events` as they go into the answer of `/sync`."""

    room_id: str
    number: int
    position: int
    membership: str
    events: list[dict[str, Any]]


def _parse(item: InviteItem) -> Invite:
    room_id = item.k.removeprefix(_PREFIX)
    return Invite(room_id, int(item.number), int(item.position), item.membership, orjson.loads(item.told))


def invites_of(user_id: str) -> list[Invite]:
    """All invitations and knocks of a user, pending and ended."""
    return [_parse(item) for item in query_range(InviteItem, user_id, _PREFIX, consistent=True)]


def tell(user_id: str, room_id: str, position: int, membership: str, events: Sequence[Mapping[str, Any]]) -> None:
    """Store what a user is to be told of a room, under the next number of the stream.

    `position` is that of the membership event in the room. What is known of it or of a later one already stays.
    Raises TimeoutError when others write to the same inbox all the time.
    """
    for _ in range(_TRIES):
        write = telling(user_id, room_id, position, membership, events)
        if write is None:
            return
        transaction = Transaction()
        write(transaction)
        try:
            transaction.commit()
        except TransactionCancelled:
            continue
        return
    raise TimeoutError(f"the invitations of {user_id} change too fast")


def telling(
    user_id: str, room_id: str, position: int, membership: str, events: Sequence[Mapping[str, Any]]
) -> Callable[[Transaction], None] | None:
    """The same as part of a transaction: what adds it to one. None where nothing is to be told.

    Reads the inbox; the transaction fails if that changes before it.
    """
    key = _PREFIX + room_id
    items = query_range(InviteItem, user_id, _PREFIX, consistent=True)
    if any(item.k == key and item.position >= position for item in items):
        return None
    counters = Counters.fetch(user_id, COUNTERS)
    number = int(counters.invites or 0) + 1 if counters else 1
    told = orjson.dumps(list(events))
    invite = InviteItem(user_id, key, number=number, position=position, membership=membership, told=told)

    def write(transaction: Transaction) -> None:
        transaction.put("invite", invite, _is_older(position))
        raise_stream(transaction, user_id, "invites", number)
        for least in _least_wanted([item for item in items if item.k != key]):
            transaction.delete("least wanted", least)

    return write


def _least_wanted(others: list[InviteItem]) -> list[InviteItem]:
    """The items that give way to another one: what has ended first, then the oldest."""
    surplus = len(others) + 1 - MOST_INVITES
    ordered = sorted(others, key=lambda item: (item.membership in _PENDING, item.number))
    return ordered[: max(0, surplus)]


def drop(user_id: str, room_id: str, position: int) -> None:
    """An invitation was accepted at this position of the room, or who knocked came in: it is told no more."""
    item = InviteItem(user_id, _PREFIX + room_id)
    actions: list[Action] = [
        InviteItem.membership.set("join"),
        InviteItem.position.set(position),
        InviteItem.told.set(orjson.dumps([])),
    ]
    try:
        item.update(actions, InviteItem.k.exists() & _is_older(position))
    except UpdateError as error:
        # There is no such item (it gave way to others), or it is of a later invitation.
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise


def _is_older(position: int) -> Condition:
    older: Condition = InviteItem.position.does_not_exist() | (InviteItem.position < position)
    return older
