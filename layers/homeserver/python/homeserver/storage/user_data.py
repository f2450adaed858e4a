"""What a user's clients keep on the server: account data and filters.

    global/<type>          account data of the user
    room/<room>/<type>     account data of the user for a room
    filter/<id>            an uploaded filter; never changes

Account data carries the stream number `n` of its last change. Filters have none, so that they do not stand in the
local index `by_stream`, which lists account data in the order of change.
"""

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import PutError

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction, batch_get, connection, query_range
from homeserver.storage.inbox import Counters, raise_stream
from homeserver.storage.inbox_shards import COUNTERS

FORMAT = 1
_STREAM = "account_data"
_PLAIN, _DEFLATED = b"\0", b"\1"
# Below a write unit deflating gains nothing that is billed.
_DEFLATE_FROM_BYTES = 900


class UserData(Item):
    """One item of account data, or a filter."""

    class Meta:
        table_name = table_name("USER_DATA")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    f = NumberAttribute(default=FORMAT)
    n = NumberAttribute(null=True)
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False)


@dataclass(frozen=True)
class AccountData:
    """Account data as it is stored: `room_id` is None for data of the whole account, `content_json` a JSON object."""

    room_id: str | None
    type: str
    n: int
    content_json: bytes

    @cached_property
    def content(self) -> dict[str, Any]:
        """The content, parsed at first use: who only passes it on takes `content_json`."""
        return dict(orjson.loads(self.content_json))


def account_data_key(room_id: str | None, data_type: str) -> str:
    """The sort key of account data. Types and room IDs may hold any character, slashes too."""
    if room_id is None:
        return f"global/{data_type}"
    return "room/" + room_id.replace("~", "~0").replace("/", "~1") + "/" + data_type


def _parse_key(k: str) -> tuple[str | None, str]:
    kind, _, rest = k.partition("/")
    if kind == "global":
        return None, rest
    room, _, data_type = rest.partition("/")
    return room.replace("~1", "/").replace("~0", "~"), data_type


def pack(content_json: bytes) -> bytes:
    """JSON as it is stored: a byte that names the format, then the JSON, deflated where that saves write units."""
    if len(content_json) >= _DEFLATE_FROM_BYTES:
        deflated = zlib.compress(content_json, wbits=-15)
        if len(deflated) < len(content_json):
            return _DEFLATED + deflated
    return _PLAIN + content_json


def unpack(packed: bytes) -> bytes:
    """The JSON that was packed. Raises ValueError for a format that this version does not know."""
    if packed[:1] == _PLAIN:
        return packed[1:]
    if packed[:1] == _DEFLATED:
        return zlib.decompress(packed[1:], wbits=-15)
    raise ValueError(f"unknown format of stored user data: {packed[:1]!r}")


def _account_data(item: UserData) -> AccountData:
    room_id, data_type = _parse_key(item.k)
    return AccountData(room_id, data_type, int(item.n), unpack(item.packed))


def load(user_id: str, room_id: str | None, data_type: str) -> AccountData | None:
    """One item of account data as it is now, or None."""
    item = UserData.fetch(user_id, account_data_key(room_id, data_type))
    return _account_data(item) if item is not None else None


def load_with_stream(user_id: str, room_id: str | None, data_type: str) -> tuple[AccountData | None, int]:
    """One item of account data, and the stream number of the user's last change, in one round."""
    data_key = (UserData, user_id, account_data_key(room_id, data_type))
    counters_key = (Counters, user_id, COUNTERS)
    found = batch_get([data_key, counters_key], consistent=True)
    item, counters = found.get(data_key), found.get(counters_key)
    return _account_data(item) if item is not None else None, int((counters and counters.account_data) or 0)


def store(user_id: str, room_id: str | None, data_type: str, content_json: bytes, *, number: int) -> None:
    """Write account data under the next stream number, and announce that number, in one transaction.

    Raises TransactionCancelled if the stream does not stand at `number - 1`: nothing was written then. As every
    change of the user's account data moves the stream, this is the only condition it takes.
    """
    transaction = Transaction()
    item = UserData(user_id, account_data_key(room_id, data_type))
    actions = [UserData.f.set(FORMAT), UserData.n.set(number), UserData.packed.set(pack(content_json))]
    transaction.update("account_data", item, actions)
    raise_stream(transaction, user_id, _STREAM, number)
    transaction.commit()


def changes_since(user_id: str, n: int) -> list[AccountData]:
    """The account data that changed after stream number `n`, as it is now, in the order of change."""
    request: dict[str, Any] = {
        "TableName": UserData.Meta.table_name,
        "IndexName": "by_stream",
        "KeyConditionExpression": "#u = :u AND #n > :n",
        "ExpressionAttributeNames": {"#u": "user", "#n": "n"},
        "ExpressionAttributeValues": {":u": {"S": user_id}, ":n": {"N": str(n)}},
        "ConsistentRead": True,
    }
    changes: list[AccountData] = []
    while True:
        answer = connection().dispatch("Query", dict(request))
        changes += [_account_data(UserData.from_raw_data(item)) for item in answer["Items"]]
        if "LastEvaluatedKey" not in answer:
            return changes
        request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def all_of(user_id: str) -> list[AccountData]:
    """All account data of a user, in the order of change."""
    return changes_since(user_id, 0)


def of_room(user_id: str, room_id: str) -> list[AccountData]:
    """All account data of a user for one room: one round."""
    prefix = account_data_key(room_id, "")
    return [_account_data(item) for item in query_range(UserData, user_id, prefix, consistent=True)]


def _filter_key(filter_id: str) -> str:
    return f"filter/{filter_id}"


def load_filter(user_id: str, filter_id: str, *, consistent: bool = True) -> bytes | None:
    """The JSON of an uploaded filter, or None."""
    item = UserData.fetch(user_id, _filter_key(filter_id), consistent=consistent)
    return unpack(item.packed) if item is not None else None


def store_filter(user_id: str, filter_id: str, filter_json: bytes) -> None:
    """Store a filter, unless it is there already: an ID always names the same filter."""
    if load_filter(user_id, filter_id, consistent=False) is not None:  # a read is a tenth of a write
        return
    item = UserData(user_id, _filter_key(filter_id), packed=pack(filter_json))
    try:
        item.save(UserData.k.does_not_exist())
    except PutError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
