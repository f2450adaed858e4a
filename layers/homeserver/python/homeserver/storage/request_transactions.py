"""What requests with a transaction ID were answered, where the answer is not simply an event: `<user>/<device>`.

Beside the records of events (`room_items.ClientTransaction`) in `TRANSACTIONS`, under keys that those cannot have.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import orjson
from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import PutError

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, Transaction

_PREFIX = "request/"


class RequestTransaction(Item):
    """The answer of one request; forgotten after a day."""

    class Meta:
        table_name = table_name("TRANSACTIONS")

    LIFETIME_S: ClassVar[int] = 24 * 3600

    device = UnicodeAttribute(hash_key=True)
    txn = UnicodeAttribute(range_key=True)
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False)
    # Whom the request was to invite, where that may have been cut off (services.draft_rooms)
    invited = BinaryAttribute(attr_name="iv", legacy_encoding=False, null=True)
    expires = NumberAttribute()

    @property
    def answer(self) -> dict[str, Any]:
        """The body of the answer."""
        answer: dict[str, Any] = orjson.loads(self.packed)
        return answer

    @property
    def to_invite(self) -> list[str]:
        """Whom the request was to invite, if that may have been cut off."""
        users: list[str] = orjson.loads(self.invited or b"[]")
        return users


def request_key(device: str, request: str) -> Key:
    """Where the answer of a request is kept; `request`: its path with its IDs, and the transaction ID."""
    return (RequestTransaction, device, _PREFIX + request)


def new_answer(key: Key, answer: Mapping[str, Any], invited: Sequence[str], *, now_s: int) -> RequestTransaction:
    """The item that keeps an answer."""
    return RequestTransaction(
        key[1],
        key[2],
        packed=orjson.dumps(answer),
        invited=orjson.dumps(list(invited)) if invited else None,
        expires=now_s + RequestTransaction.LIFETIME_S,
    )


def write_answer(transaction: Transaction, item: RequestTransaction) -> None:
    """Add to a transaction: the answer (label `request`), if the request has none yet."""
    transaction.put("request", item, RequestTransaction.device.does_not_exist())


def store_answer(item: RequestTransaction) -> bool:
    """Write the answer by itself. False if the request has one by now: that one counts."""
    try:
        item.save(RequestTransaction.device.does_not_exist())
    except PutError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True
