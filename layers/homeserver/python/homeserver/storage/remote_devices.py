"""What changed about devices and signing keys of users of other servers: the table REMOTE_DEVICES, by user.

    list                 the number of the last change, the user's last `stream_id`, and whether the list has holes
    device/<device>      what was last told of a device: its number, keys and name, or that it is gone
    signing_keys         the cross-signing keys that were last told, with their number

How to read it: numbers count from 1 for each user, whatever changed; a change and its number are written in one step,
so whoever sees that `list` is n finds everything up to n. `load_changes` gives what changed after a number, which is
what users who share a room with this one have to be told (`device_lists.changed`). It is no whole list: whoever wants
one asks the user's server, which it has to do in any case where `needs_asking` is set, and calls `asked`. Nothing is
announced yet. At most 200 devices of a user are kept, and everything for 30 days after the last change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.matrix.event_codec import pack, unpack
from homeserver.observability import fault_point
from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, Transaction, TransactionCancelled, batch_get, query_range

MOST_DEVICES = 200
_LIST, _DEVICE, _SIGNING_KEYS = "list", "device/", "signing_keys"
_KEPT_S = 30 * 24 * 3600
_TRIES = 8


class RemoteDeviceItem(Item):
    """An item of any of these kinds."""

    class Meta:
        table_name = table_name("REMOTE_DEVICES")

    user = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    number = NumberAttribute(attr_name="n")
    stream = NumberAttribute(attr_name="st", null=True)
    # Of `list`: how many devices there are; 1 where something was missed
    devices = NumberAttribute(attr_name="c", null=True)
    holes = NumberAttribute(attr_name="h", null=True)
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False, null=True)
    expires = NumberAttribute()


@dataclass(frozen=True, slots=True)
class DeviceUpdate:
    """What a server tells of a device of its user. `stream` numbers the changes; `prev`: those before this one."""

    user_id: str
    device_id: str
    stream: int
    prev: tuple[int, ...] = ()
    name: str | None = None
    keys: Mapping[str, Any] | None = None
    is_deleted: bool = False


@dataclass(frozen=True, slots=True)
class DeviceList:
    """How far a user's devices are known: the last change's number here and on the user's server.

    `needs_asking`: a change was missed, so only the user's server knows them all.
    """

    number: int = 0
    stream: int | None = None
    needs_asking: bool = False


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """What is known of a device since a change: `told` has `device_display_name` and `keys`; empty if it is gone."""

    number: int
    device_id: str
    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Change:
    """The item of a change; nothing is `packed` where only the number moves."""

    key: str
    packed: bytes | None
    stream: int | None = None


def store_device_update(update: DeviceUpdate, *, now_ms: int) -> None:
    """Write what is told of a device, unless it is known already, or something later is.

    Raises TimeoutError where others write about the same user all the time.
    """
    told = {"device_display_name": update.name, "keys": update.keys} if not update.is_deleted else {}
    key = f"{_DEVICE}{update.device_id}"
    for _ in range(_TRIES):
        found = _read(update.user_id, key)
        known, listed = found.get(key), found.get(_LIST)
        if known is not None and known.stream is not None and int(known.stream) >= update.stream:
            return
        last = int(listed.stream) if listed is not None and listed.stream is not None else None
        devices = int(listed.devices or 0) if listed is not None else 0
        is_new = known is None
        # The first change that is heard of is no hole by itself: nothing is known of the list before it either.
        missed = last is None or any(before > last for before in update.prev) or (last not in update.prev != ())
        fits = not is_new or devices < MOST_DEVICES
        stream = max(update.stream, last) if last is not None else update.stream
        actions: list[Action] = [RemoteDeviceItem.stream.set(stream)]
        if is_new and fits:
            actions.append(RemoteDeviceItem.devices.set(devices + 1))
        if missed or not fits:
            actions.append(RemoteDeviceItem.holes.set(1))
        change = _Change(key, pack(told) if fits else None, update.stream)
        if _write(update.user_id, listed, actions, change, now_ms):
            return
    raise TimeoutError(f"the devices of {update.user_id} change too fast")


def store_signing_keys(user_id: str, keys: Mapping[str, Any], *, now_ms: int) -> None:
    """Write the cross-signing keys that are told, beside others that are known; the same ones once.

    Raises TimeoutError where others write about the same user all the time.
    """
    for _ in range(_TRIES):
        found = _read(user_id, _SIGNING_KEYS)
        known = found.get(_SIGNING_KEYS)
        before = unpack(known.packed) if known is not None and known.packed is not None else {}
        after = {**before, **keys}
        if after == before or _write(user_id, found.get(_LIST), [], _Change(_SIGNING_KEYS, pack(after)), now_ms):
            return
    raise TimeoutError(f"the signing keys of {user_id} change too fast")


def _read(user_id: str, key: str) -> dict[str, RemoteDeviceItem]:
    keys: list[Key] = [(RemoteDeviceItem, user_id, k) for k in (_LIST, key)]
    return {item.k: item for item in batch_get(keys, consistent=True).values()}


def _write(user_id: str, listed: RemoteDeviceItem | None, actions: list[Action], change: _Change, now_ms: int) -> bool:
    """Write a change under the next number; false if another one took it."""
    last = int(listed.number) if listed is not None else 0
    expires = now_ms // 1000 + _KEPT_S
    same = RemoteDeviceItem.number == last if listed is not None else RemoteDeviceItem.k.does_not_exist()
    transaction = Transaction()
    counted = [RemoteDeviceItem.number.set(last + 1), RemoteDeviceItem.expires.set(expires), *actions]
    transaction.update("list", RemoteDeviceItem(user_id, _LIST), counted, same)
    if change.packed is not None:
        item = RemoteDeviceItem(user_id, change.key, number=last + 1, stream=change.stream, expires=expires)
        item.packed = change.packed
        transaction.put("change", item)
    fault_point("remote_devices.before")
    try:
        transaction.commit()
    except TransactionCancelled:
        return False
    return True


def load_list(user_id: str) -> DeviceList:
    """How far a user's devices are known, read consistently."""
    item = RemoteDeviceItem.fetch(user_id, _LIST)
    if item is None:
        return DeviceList()
    stream = int(item.stream) if item.stream is not None else None
    return DeviceList(int(item.number), stream, needs_asking=bool(item.holes))


def load_changes(user_id: str, after: int) -> tuple[list[DeviceChange], Mapping[str, Any] | None]:
    """The devices that changed after a number, in order, and the signing keys if they did."""
    items = query_range(RemoteDeviceItem, user_id, consistent=True)
    changed = [item for item in items if item.k != _LIST and int(item.number) > after and item.packed is not None]
    devices = [
        DeviceChange(int(item.number), item.k.removeprefix(_DEVICE), unpack(item.packed))
        for item in changed
        if item.k.startswith(_DEVICE)
    ]
    keys = next((unpack(item.packed) for item in changed if item.k == _SIGNING_KEYS), None)
    return sorted(devices, key=lambda device: device.number), keys


def asked(user_id: str, listed: DeviceList) -> bool:
    """The user's server told its whole list after `listed` was read: nothing is missing, unless more came since."""
    item = RemoteDeviceItem(user_id, _LIST)
    try:
        item.update([RemoteDeviceItem.holes.remove()], RemoteDeviceItem.number == listed.number)
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True
