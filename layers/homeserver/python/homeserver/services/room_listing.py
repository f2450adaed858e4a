"""Keeping the preview of a room, and its entry in the published directory, as the room is.

The number of members is written when it has moved by a twentieth or more since it was written last, and else when the
last write is a minute old: a busy room costs a write a minute, and a room of up to twenty members is always exact. All
else is written as soon as it changes. Preview, entry and the list of open rooms change together.
"""

from collections.abc import Callable
from functools import partial

from homeserver.matrix.room_facts import FACT_KEYS, room_facts
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.storage.connection import Transaction
from homeserver.storage.listings import set_open
from homeserver.storage.published_rooms import list_room, place_of, unlist_room
from homeserver.storage.room_previews import (
    RoomPreview,
    deciding_ids,
    pack_facts,
    preview_key,
    remote_members,
    store,
)
from homeserver.storage.rooms import RoomView, load_room

COUNT_AGAIN_MS = 60_000
_TWENTIETH = 20


def keep_listing(room_id: str) -> None:
    """Bring the preview of a room and its entry in the directory up to date. Repeating it changes nothing.

    Raises LimitExceeded when others keep changing them.
    """
    for _ in attempts("The directory"):
        view, found = load_room(room_id, FACT_KEYS, extras=[preview_key(room_id)])
        if view is None or view.head.kind != "full" or store_listing(view, found.get(preview_key(room_id))):
            return


def store_listing(view: RoomView, before: RoomPreview | None, *, publish: bool | None = None) -> bool:
    """Write what differs from the preview as it was read; `publish` says whether the room is published from now on.

    `view` has the state of `FACT_KEYS`. False if somebody else was faster: then nothing was written.
    """
    head, room_id = view.head, view.room_id
    facts = room_facts(view.event, view.rules).cut()
    packed, deciding, remote = pack_facts(facts), deciding_ids(head), remote_members(head)
    joined = int(head.local_members) + remote
    was_published, was_open = (before is not None and bool(value) for value in _flags(before))
    published = was_published if publish is None else publish
    listed = int(before.listed) if before is not None and before.listed is not None else None
    # Nobody can be met in an empty room: it is published again with its next member.
    place = joined if published and joined > 0 else None
    same_facts = before is not None and (before.packed, before.deciding) == (packed, deciding)
    if (
        before is not None
        and same_facts
        and (published, facts.is_open) == (was_published, was_open)
        and (place is None) == (listed is None)
        and not _count_is_due(before, joined, counts=published or remote > 0 or bool(before.remote))
    ):
        return True
    also: list[Callable[[Transaction], None]] = []
    if facts.is_open != was_open:
        also.append(partial(set_open, room_id=room_id, is_open=facts.is_open))
    if place is not None and (place != listed or not same_facts):
        key, old = place_of(room_id, place), None if listed is None else place_of(room_id, listed)
        also.append(partial(list_room, key=key, chunk=facts.published_chunk(room_id, joined), before=old))
    elif place is None and listed is not None:
        also.append(partial(unlist_room, key=place_of(room_id, listed)))
    values = {
        "packed": packed,
        "deciding": deciding,
        "joined": joined,
        "remote": remote or None,
        "written": now_ms(),
        "published": 1 if published else None,
        "listed": place,
        "open": 1 if facts.is_open else None,
    }
    return store(before, room_id, values, also)


def _flags(before: RoomPreview | None) -> tuple[object, object]:
    return (before.published, before.open) if before is not None else (None, None)


def _count_is_due(before: RoomPreview, joined: int, *, counts: bool) -> bool:
    last = int(before.joined or 0)
    moved = abs(joined - last)
    if not counts or not moved:
        return False
    return moved * _TWENTIETH >= last or now_ms() - int(before.written or 0) >= COUNT_AGAIN_MS
