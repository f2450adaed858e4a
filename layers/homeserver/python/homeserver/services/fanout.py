"""Announcing receipts and typing users in the inboxes of a room's local members.

They are no commits, so no follower carries them: whoever wrote one into the room's ephemeral item announces it here.
Rooms with more members than `MEMBERS_AT_ONCE` use the follower's queue, whose worker is services.inboxes.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pynamodb.exceptions import VerboseClientError

from homeserver.adapters.queues import send_json
from homeserver.observability import fault_point
from homeserver.storage.connection import connection, in_parallel, query_raw
from homeserver.storage.ephemeral import told_in_inbox
from homeserver.storage.inbox_shards import announce_ephemeral_request
from homeserver.storage.room_items import LocalMember

FANOUT_QUEUE = "INBOX_FANOUT_QUEUE"
MEMBERS_AT_ONCE = 50  # beyond it the queue spreads the writes over several workers
_LOCAL, _AFTER_LOCAL = "local/", "local0"

Slot = tuple[str, int]  # a user's


def announce_to_members(
    room_id: str, number: int, *, author: str | None, slots: Mapping[str, int] | None = None
) -> None:
    """Move the slots of a room's local members to an ephemeral number, whose change can be read already.

    The slot of the author of the change comes last, so it says that the others are done, or in the queue: a client
    that repeats a request which was cut off finds there what is missing (see storage.ephemeral.told_in_inbox). Where
    the author is no local user, some local member takes that part (`was_announced`). None: nobody will repeat it, and
    all slots are moved at once. `slots`: those of the members, if the caller knows them (`slots_of`).
    """
    slots = slots_of(room_id) if slots is None else slots
    author = _witness(slots, author) if author is not None else None
    others = [(user_id, slot) for user_id, slot in slots.items() if user_id != author]
    fault_point("ephemeral.before_inboxes")
    if len(others) >= MEMBERS_AT_ONCE:
        for start in range(0, len(others), MEMBERS_AT_ONCE):
            part = ephemeral_part(others[start : start + MEMBERS_AT_ONCE], number)
            send_json(FANOUT_QUEUE, {"room": room_id, "arrived": 0, "moves": [], **part})
    else:
        announce_in_slots(others, number)
    fault_point("ephemeral.before_author")
    if author is not None and author in slots:
        announce_in_slots([(author, slots[author])], number)


def was_announced(room_id: str, number: int) -> bool:
    """Whether a change that no local user made was announced to all members, or there is none."""
    slots = slots_of(room_id)
    witness = _witness(slots, "")
    return witness not in slots or told_in_inbox(witness, slots[witness]) >= number


def slots_of(room_id: str) -> dict[str, int]:
    """The slots of the room's local members, by user."""
    rows = query_raw(LocalMember, room_id, _LOCAL, _AFTER_LOCAL, consistent=True)
    members = (LocalMember.from_raw_data(raw) for raw in rows)
    return {row.k[len(_LOCAL) :]: int(row.slot) for row in members if row.membership == "join" and row.slot is not None}


def _witness(slots: Mapping[str, int], author: str) -> str:
    return author if author in slots else min(slots, default="")


def announce_in_slots(slots: Iterable[Slot], number: int) -> None:
    """Move slots to an ephemeral number, whose change can be read already; those that are further stay there."""
    in_parallel(*[partial(write, announce_ephemeral_request(user_id, slot, number)) for user_id, slot in slots])


def ephemeral_part(slots: Sequence[Slot], number: int) -> dict[str, Any]:
    """What a message of the queue says of slots that are to be moved to an ephemeral number."""
    return {"ephemeral": number, "slots": [list(slot) for slot in slots]}


def announce_part(part: dict[str, Any]) -> None:
    """What a message of the queue says of ephemeral numbers, if anything. Repeating it does no harm."""
    announce_in_slots([(user_id, slot) for user_id, slot in part.get("slots", [])], part.get("ephemeral", 0))


def write(request: dict[str, Any]) -> None:
    """One UpdateItem of an inbox, which may be there already."""
    try:
        connection().dispatch("UpdateItem", request)
    except VerboseClientError as error:
        # The inbox is there already, or further: another run of the follower, or the user's own commit, was quicker.
        if error.response["Error"].get("Code") != "ConditionalCheckFailedException":
            raise
    fault_point("follower.between_inboxes")
