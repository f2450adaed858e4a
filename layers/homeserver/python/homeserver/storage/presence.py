"""Presence of users of other servers, as they last told it: the table PRESENCE, one item a user.

How to read it: `load_presence` gives what users last told, for whoever shares a room with them. Each change of a user
has a number, which counts from 1; a reader who remembers the number that it showed sees whether there is a newer one.
Nothing of it is announced yet: whoever does that reads the item first. `last_active_ms` is by this server's clock.
What is not told again within 30 days is forgotten.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.expressions.update import Action

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, batch_get, in_parallel

_KEPT_S = 30 * 24 * 3600
# Servers tell presence again and again: what differs only by this much, in milliseconds, is not written.
_SMALL_STEP_MS = 5 * 60 * 1000
_REFRESHED_MS = 7 * 24 * 3600 * 1000


class PresenceItem(Item):
    """What a user last told."""

    class Meta:
        table_name = table_name("PRESENCE")

    user = UnicodeAttribute(hash_key=True)
    number = NumberAttribute(attr_name="n", default=0)
    presence = UnicodeAttribute(attr_name="p")
    status = UnicodeAttribute(attr_name="s", null=True)
    last_active = NumberAttribute(attr_name="la", null=True)
    active = NumberAttribute(attr_name="ac", null=True)
    told = NumberAttribute(attr_name="t")
    expires = NumberAttribute()


@dataclass(frozen=True, slots=True)
class RemotePresence:
    """One user's presence: online, offline, unavailable or busy; milliseconds when they last did something, if told."""

    user_id: str
    presence: str
    status: str | None
    last_active_ms: int | None
    is_active: bool = False


def store_presence(updates: Sequence[RemotePresence], *, now_ms: int) -> None:
    """Write what is news: one round of reads, and one write for each user of whom it is."""
    keys: list[Key] = [(PresenceItem, update.user_id, None) for update in updates]
    found = batch_get(keys, consistent=True) if keys else {}
    in_parallel(
        *[
            partial(_write, update, now_ms)
            for update, key in zip(updates, keys, strict=True)
            if _is_news(found.get(key), update, now_ms)
        ]
    )


def load_presence(user_ids: Collection[str]) -> dict[str, tuple[int, RemotePresence]]:
    """What users last told, with the number of that change; those of whom nothing is known are left out."""
    found = batch_get([(PresenceItem, user_id, None) for user_id in user_ids], consistent=True) if user_ids else {}
    return {item.user: (int(item.number), _parse(item)) for item in found.values()}


def _parse(item: PresenceItem) -> RemotePresence:
    last = int(item.last_active) if item.last_active is not None else None
    return RemotePresence(item.user, item.presence, item.status, last, is_active=bool(item.active))


def _is_news(item: PresenceItem | None, update: RemotePresence, now_ms: int) -> bool:
    if item is None or now_ms - int(item.told) > _REFRESHED_MS:
        return True
    known = _parse(item)
    if (known.presence, known.status, known.is_active) != (update.presence, update.status, update.is_active):
        return True
    return abs((known.last_active_ms or 0) - (update.last_active_ms or 0)) > _SMALL_STEP_MS


def _write(update: RemotePresence, now_ms: int) -> None:
    actions: list[Action] = [
        PresenceItem.number.add(1),
        PresenceItem.presence.set(update.presence),
        PresenceItem.told.set(now_ms),
        PresenceItem.expires.set(now_ms // 1000 + _KEPT_S),
        PresenceItem.status.remove() if update.status is None else PresenceItem.status.set(update.status),
        PresenceItem.active.set(1) if update.is_active else PresenceItem.active.remove(),
    ]
    last = update.last_active_ms
    actions.append(PresenceItem.last_active.remove() if last is None else PresenceItem.last_active.set(last))
    PresenceItem(update.user_id).update(actions)
