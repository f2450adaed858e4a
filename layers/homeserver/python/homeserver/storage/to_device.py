"""Messages to devices of users of this server: the table TO_DEVICE, by user.

    <device>/<number>    a message: number of 13 digits; `*` for the device is every device that the user has
    count                the number of the last one
    sent/<hash>          a message ID of a sender's server that was taken: the same one is not stored twice

How to read it: numbers count from 1 for each user, whatever the device; a message and its number are written in one
step, so whoever sees that `count` is n finds everything up to n. `load_messages` gives a device its messages after a
number, its own and those to every device, in their order. Nothing is announced yet: whoever does that, in the user's
inbox, does it with the number that `store_messages` made readable. Whoever has delivered messages deletes them.
A user has at most 1,000 messages, beyond which the oldest go; all go after 30 days.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute

from homeserver.matrix.event_codec import pack, unpack
from homeserver.observability import fault_point, log
from homeserver.settings import table_name
from homeserver.storage.connection import (
    Item,
    Key,
    Transaction,
    TransactionCancelled,
    batch_get,
    query_range,
    query_raw,
)
from homeserver.storage.profiles import Profile

MOST_MESSAGES = 1000
EVERY_DEVICE = "*"
_COUNT, _SENT = "count", "sent/"
_KEPT_S = 30 * 24 * 3600
_LOOKED_AFTER = 50  # messages after which it is seen whether there are too many
_NEVER = 2**33  # seconds: in the year 2242
_AT_ONCE = 40  # messages of a user that one transaction stores
_TRIES = 8


class ToDeviceItem(Item):
    """An item of any of these kinds."""

    class Meta:
        table_name = table_name("TO_DEVICE")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    number = NumberAttribute(attr_name="n", null=True)
    sender = UnicodeAttribute(attr_name="s", null=True)
    type = UnicodeAttribute(attr_name="ty", null=True)
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False, null=True)
    expires = NumberAttribute()


@dataclass(frozen=True, slots=True)
class DeviceMessage:
    """A message to a device. `message_id` names all that one request sent: it is the sender's server's."""

    user_id: str
    device_id: str
    sender: str
    type: str
    content: Mapping[str, Any]
    message_id: str = ""


def store_messages(origin: str, messages: Sequence[DeviceMessage], *, now_ms: int) -> None:
    """Store messages that a server sent, each once however often it is sent; those to nobody are dropped.

    Raises TimeoutError where others store messages for the same user all the time.
    """
    users = list(dict.fromkeys(message.user_id for message in messages))
    keys: list[Key] = [(Profile, user_id, None) for user_id in users]
    known = {profile.user for profile in batch_get(keys, consistent=False).values()}
    for user_id in users:
        if user_id not in known:
            log.info("dropped messages of %s to devices of %s, who does not exist", origin, user_id)
            continue
        by_id: dict[str, list[DeviceMessage]] = {}
        for message in messages:
            if message.user_id == user_id:
                by_id.setdefault(message.message_id, []).append(message)
        for message_id, some in by_id.items():
            for part, start in enumerate(range(0, len(some), _AT_ONCE)):
                _store(user_id, _mark(origin, message_id, part), some[start : start + _AT_ONCE], now_ms)


def _mark(origin: str, message_id: str, part: int) -> str:
    name = f"{origin}\n{message_id}\n{part}"
    return _SENT + sha256(name.encode()).hexdigest()[:32]


def _store(user_id: str, mark: str, messages: Sequence[DeviceMessage], now_ms: int) -> None:
    expires = now_ms // 1000 + _KEPT_S
    wanted: list[Key] = [(ToDeviceItem, user_id, _COUNT), (ToDeviceItem, user_id, mark)]
    for _ in range(_TRIES):
        found = batch_get(wanted, consistent=True)
        if wanted[1] in found:
            return
        count: ToDeviceItem | None = found.get(wanted[0])
        last = int(count.number or 0) if count is not None else 0
        transaction = Transaction()
        same = ToDeviceItem.number == last if last else ToDeviceItem.k.does_not_exist()
        # The count is never forgotten, or numbers would begin anew.
        counted = [ToDeviceItem.number.set(last + len(messages)), ToDeviceItem.expires.set(_NEVER)]
        transaction.update("count", ToDeviceItem(user_id, _COUNT), counted, same)
        transaction.put("mark", ToDeviceItem(user_id, mark, expires=expires), ToDeviceItem.k.does_not_exist())
        for number, message in enumerate(messages, last + 1):
            item = ToDeviceItem(
                user_id,
                f"{_escaped(message.device_id)}/{number:013d}",
                sender=message.sender,
                type=message.type,
                packed=pack(message.content),
                expires=expires,
            )
            transaction.put(str(number), item)
        fault_point("to_device.before")
        try:
            transaction.commit()
        except TransactionCancelled:
            continue
        if last // _LOOKED_AFTER != (last + len(messages)) // _LOOKED_AFTER:
            _trim(user_id)
        return
    raise TimeoutError(f"the messages of {user_id} change too fast")


def load_messages(user_id: str, device_id: str, after: int, *, most: int) -> list[tuple[int, DeviceMessage]]:
    """The messages to a device after a number, with their numbers, oldest first, at most so many."""
    found: list[tuple[int, DeviceMessage]] = []
    for device in (device_id, EVERY_DEVICE):
        low, high = f"{_escaped(device)}/{after + 1:013d}", f"{_escaped(device)}/{10**13 - 1}"
        for item in query_range(ToDeviceItem, user_id, low=low, high=high, consistent=True, limit=most):
            message = DeviceMessage(user_id, device, item.sender, item.type, unpack(item.packed))
            found.append((int(item.k.rpartition("/")[2]), message))
    return sorted(found, key=lambda numbered: numbered[0])[:most]


def count_of(user_id: str) -> int:
    """The number of the last message to any device of a user, read consistently."""
    item = ToDeviceItem.fetch(user_id, _COUNT)
    return int(item.number or 0) if item is not None else 0


def _trim(user_id: str) -> None:
    """Forget the oldest messages of a user who has too many."""
    keys = [raw["k"]["S"] for raw in query_raw(ToDeviceItem, user_id, None, None, consistent=False)]
    messages = sorted((k for k in keys if _is_message(k)), key=lambda k: k.rpartition("/")[2])
    for key in messages[: max(0, len(messages) - MOST_MESSAGES)]:
        ToDeviceItem(user_id, key).delete()


def _is_message(key: str) -> bool:
    return not key.startswith(_SENT) and key != _COUNT


def _escaped(device_id: str) -> str:
    """A device ID without slashes, which does not begin as other keys do."""
    escaped = device_id.replace("~", "~0").replace("/", "~1")
    return f"~{escaped}" if escaped == _SENT.removesuffix("/") else escaped
