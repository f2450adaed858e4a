"""EDUs of other servers, by their type. What nobody here knows is passed over; what is malformed is dropped and logged.

An EDU speaks only for users of the server that sent it. Typing and receipts are shown (services.received_ephemeral);
presence, messages to devices, and what is told of devices and signing keys are stored for whoever will read them
(storage.presence, storage.to_device, storage.remote_devices).

Source: server-server API v1.19, "EDUs", "Typing Notifications", "Receipts", "Presence", "Device Management",
"Send-to-device messaging", `m.signing_key_update`.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.canonical_json import NotCanonical, encode_lenient
from homeserver.matrix.errors import LimitExceeded
from homeserver.matrix.identifiers import domain_of, fits_identifier, is_event_id, is_room_id, is_user_id
from homeserver.observability import fault_point, log
from homeserver.services.clock import now_ms
from homeserver.services.received_ephemeral import RemoteReceipt, show_in_room
from homeserver.settings import settings
from homeserver.storage.presence import RemotePresence, store_presence
from homeserver.storage.remote_devices import DeviceUpdate, store_device_update, store_signing_keys
from homeserver.storage.shared_rooms import users_with_rooms
from homeserver.storage.to_device import DeviceMessage, store_messages

MOST_RECEIPTS, MOST_LATE_RECEIPTS = 200, 20  # of one transaction
MOST_TYPING = 200
MOST_PRESENCES = 200
MOST_DEVICE_MESSAGES = 500
_MOST_EVENT_IDS = 5  # that one receipt names
_MOST_EDU_BYTES = 65_536
_EPHEMERAL_SECONDS = 12.0  # after which what is left of typing and receipts is dropped: it will be old
_PRESENCES = frozenset({"online", "offline", "unavailable", "busy"})
_MOST_STATUS_BYTES = 1024
_MOST_TIME = 2**53 - 1
_THREAD_MAIN = "main"


class BadEdu(ValueError):
    """An EDU that is not what its type must be."""


@dataclass(slots=True)
class _Gathered:
    """What EDUs of one transaction say, put together so that each room and user is written once."""

    origin: str
    open_rooms: Collection[str]
    typing: dict[str, dict[str, bool]]
    receipts: dict[str, list[RemoteReceipt]]
    presence: dict[str, RemotePresence]
    messages: list[DeviceMessage]
    devices: list[DeviceUpdate]
    signing_keys: dict[str, Mapping[str, Any]]

    def checked_user(self, user_id: object) -> str:
        """The user, if they are of the server that speaks for them."""
        if not is_user_id(user_id) or domain_of(str(user_id)) != self.origin:
            raise BadEdu(f"{user_id!r:.300} is no user of {self.origin}")
        return str(user_id)


def rooms_of_edus(edus: Iterable[Any]) -> list[str]:
    """The rooms that EDUs are about, as far as they can be read, each once."""
    rooms: dict[str, None] = {}
    for edu in edus:
        content = edu.get("content") if isinstance(edu, dict) else None
        if not isinstance(content, dict):
            continue
        if edu.get("edu_type") == "m.typing" and is_room_id(content.get("room_id")):
            rooms[content["room_id"]] = None
        elif edu.get("edu_type") == "m.receipt":
            rooms.update(dict.fromkeys(room_id for room_id in content if is_room_id(room_id)))
    return list(rooms)


def receive_edus(origin: str, edus: Sequence[Any], open_rooms: Collection[str]) -> list[RemoteReceipt]:
    """Show or store EDUs. `open_rooms`: rooms that this server is in and that take something from the other.

    Returns receipts for events that are not known (yet). What is to be kept is stored when this returns.
    """
    gathered = _Gathered(origin, open_rooms, {}, {}, {}, [], [], {})
    for edu in edus:
        _gather(gathered, edu)
    _store(gathered)
    fault_point("edus.stored")
    return _show(gathered)


def _gather(gathered: _Gathered, edu: Any) -> None:
    edu_type = edu.get("edu_type") if isinstance(edu, dict) else None
    reader = _READERS.get(edu_type) if isinstance(edu_type, str) else None
    if reader is None:
        return
    try:
        reader(gathered, _content(edu))
    except (BadEdu, NotCanonical) as error:
        log.info("dropped an EDU %s of %s: %s", edu_type, gathered.origin, error)


def _content(edu: Mapping[str, Any]) -> Mapping[str, Any]:
    content = _object(edu.get("content"), "its content")
    if len(encode_lenient(content)) > _MOST_EDU_BYTES:
        raise BadEdu("it is too large")
    return content


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadEdu(f"{what} is not an object")
    return value


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value or not fits_identifier(value):
        raise BadEdu(f"{key} is missing or is no string of at most 255 bytes")
    return value


# ── Rooms ────────────────────────────────────────────────────────────────────────────────────────────────


def _typing(gathered: _Gathered, content: Mapping[str, Any]) -> None:
    user_id, room_id = gathered.checked_user(content.get("user_id")), content.get("room_id")
    if not is_room_id(room_id) or not isinstance(content.get("typing"), bool):
        raise BadEdu("room_id or typing is missing or wrong")
    if room_id not in gathered.open_rooms:
        raise BadEdu("the room is not open to the server")
    if sum(map(len, gathered.typing.values())) >= MOST_TYPING:
        raise BadEdu("there are too many")
    gathered.typing.setdefault(str(room_id), {})[user_id] = content["typing"]


def _receipts(gathered: _Gathered, content: Mapping[str, Any]) -> None:
    for room_id, kinds in content.items():
        if not is_room_id(room_id) or room_id not in gathered.open_rooms:
            log.info("dropped receipts of %s in %.300r: not open to it", gathered.origin, room_id)
            continue
        # Nobody is told of other kinds: private ones are not sent.
        for user_id, receipt in _object(_object(kinds, "a room").get("m.read", {}), "m.read").items():
            try:
                _receipt(gathered, room_id, user_id, _object(receipt, "a receipt"))
            except BadEdu as error:
                log.info("dropped a receipt of %s in %s: %s", gathered.origin, room_id, error)


def _receipt(gathered: _Gathered, room_id: str, user_id: str, receipt: Mapping[str, Any]) -> None:
    gathered.checked_user(user_id)
    data, event_ids = _object(receipt.get("data", {}), "data"), receipt.get("event_ids")
    if not isinstance(event_ids, list) or not event_ids or not all(map(is_event_id, event_ids[:_MOST_EVENT_IDS])):
        raise BadEdu("event_ids is missing or wrong")
    thread = data.get("thread_id", "")
    if thread not in ("", _THREAD_MAIN) and not is_event_id(thread):
        raise BadEdu("thread_id is wrong")
    if sum(map(len, gathered.receipts.values())) >= MOST_RECEIPTS:
        raise BadEdu("there are too many")
    claimed, now = data.get("ts"), now_ms()
    ts = min(claimed, now) if type(claimed) is int and claimed >= 0 else now
    gathered.receipts.setdefault(room_id, []).extend(
        RemoteReceipt(room_id, user_id, thread, event_id, ts) for event_id in event_ids[:_MOST_EVENT_IDS]
    )


def _show(gathered: _Gathered) -> list[RemoteReceipt]:
    """Write typing and receipts, a room at a time; a room that is too busy misses them, which harms nobody."""
    late: list[RemoteReceipt] = []
    end = time.monotonic() + _EPHEMERAL_SECONDS
    for room_id in dict.fromkeys((*gathered.typing, *gathered.receipts)):
        if time.monotonic() > end:
            log.warning("typing and receipts of %s were dropped: there was no time for them", gathered.origin)
            break
        try:
            late += show_in_room(room_id, gathered.typing.get(room_id, {}), gathered.receipts.get(room_id, []))
        except (LimitExceeded, TimeoutError) as error:
            log.warning("typing and receipts of %s in %s were dropped: %s", gathered.origin, room_id, error)
    if len(late) > MOST_LATE_RECEIPTS:
        log.info("dropped %d receipts of %s for unknown events", len(late) - MOST_LATE_RECEIPTS, gathered.origin)
    return late[:MOST_LATE_RECEIPTS]


# ── Users and devices ────────────────────────────────────────────────────────────────────────────────────


def _presence(gathered: _Gathered, content: Mapping[str, Any]) -> None:
    pushed = content.get("push")
    if not isinstance(pushed, list):
        raise BadEdu("push is missing or is not an array")
    for update in pushed:
        try:
            told = _one_presence(gathered, _object(update, "an update"))
        except BadEdu as error:
            log.info("dropped a presence of %s: %s", gathered.origin, error)
        else:
            gathered.presence[told.user_id] = told


def _one_presence(gathered: _Gathered, update: Mapping[str, Any]) -> RemotePresence:
    user_id, presence, now = gathered.checked_user(update.get("user_id")), update.get("presence"), now_ms()
    if not isinstance(presence, str) or presence not in _PRESENCES:
        raise BadEdu("presence is missing or unknown")
    ago, status = update.get("last_active_ago"), update.get("status_msg")
    if status is not None and (not isinstance(status, str) or len(status.encode()) > _MOST_STATUS_BYTES):
        raise BadEdu("status_msg is no string, or too long")
    if len(gathered.presence) >= MOST_PRESENCES and user_id not in gathered.presence:
        raise BadEdu("there are too many")
    active = now - ago if type(ago) is int and 0 <= ago <= now else None
    return RemotePresence(user_id, presence, status, active, is_active=update.get("currently_active") is True)


def _to_device(gathered: _Gathered, content: Mapping[str, Any]) -> None:
    sender = gathered.checked_user(content.get("sender"))
    message_id, event_type = _text(content, "message_id"), _text(content, "type")
    for user_id, devices in _object(content.get("messages"), "messages").items():
        if not is_user_id(user_id) or domain_of(user_id) != settings().server_name:
            log.info("dropped a message to a device of %s: %.300r is of another server", gathered.origin, user_id)
            continue
        for device_id, message in _object(devices, "a user's devices").items():
            if not device_id or not fits_identifier(device_id):
                raise BadEdu("a device ID is no string of at most 255 bytes")
            if len(gathered.messages) >= MOST_DEVICE_MESSAGES:
                raise BadEdu("there are too many messages to devices")
            gathered.messages.append(
                DeviceMessage(user_id, device_id, sender, event_type, _object(message, "a message"), message_id)
            )


def _device_list(gathered: _Gathered, content: Mapping[str, Any]) -> None:
    user_id, device_id = gathered.checked_user(content.get("user_id")), _text(content, "device_id")
    stream, prev = content.get("stream_id"), content.get("prev_id", [])
    if type(stream) is not int or not -_MOST_TIME <= stream <= _MOST_TIME:
        raise BadEdu("stream_id is missing or is not an integer")
    if not isinstance(prev, list) or not all(type(before) is int for before in prev):
        raise BadEdu("prev_id is not an array of integers")
    name, keys, deleted = content.get("device_display_name"), content.get("keys"), content.get("deleted", False)
    if not isinstance(name, str | None) or not isinstance(keys, dict | None) or not isinstance(deleted, bool):
        raise BadEdu("device_display_name, keys or deleted is wrong")
    gathered.devices.append(
        DeviceUpdate(user_id, device_id, stream, tuple(prev[: _MOST_EVENT_IDS * 10]), name, keys, is_deleted=deleted)
    )


def _signing_keys(gathered: _Gathered, content: Mapping[str, Any]) -> None:
    user_id = gathered.checked_user(content.get("user_id"))
    kept = {key: _object(content[key], key) for key in ("master_key", "self_signing_key") if key in content}
    if not kept:
        raise BadEdu("there is no key in it")
    gathered.signing_keys[user_id] = {**gathered.signing_keys.get(user_id, {}), **kept}


_READERS: Mapping[str, Callable[[_Gathered, Mapping[str, Any]], None]] = {
    "m.typing": _typing,
    "m.receipt": _receipts,
    "m.presence": _presence,
    "m.direct_to_device": _to_device,
    "m.device_list_update": _device_list,
    "m.signing_key_update": _signing_keys,
}


def _store(gathered: _Gathered) -> None:
    """Store what is to be kept. Of users whom nobody here shares a room with nothing is: there is nobody to tell."""
    now = now_ms()
    if gathered.messages:
        store_messages(gathered.origin, gathered.messages, now_ms=now)
    about = {*gathered.presence, *(update.user_id for update in gathered.devices), *gathered.signing_keys}
    if not about:
        return
    known = users_with_rooms(about)
    store_presence([update for user_id, update in gathered.presence.items() if user_id in known], now_ms=now)
    for update in gathered.devices:
        if update.user_id in known:
            store_device_update(update, now_ms=now)
    for user_id, keys in gathered.signing_keys.items():
        if user_id in known:
            store_signing_keys(user_id, keys, now_ms=now)
