"""Redactions that other servers made: applied when both they and what they redact are known, in whatever order.

A redaction that came first waits in an item of its target's, and one that has no right to redact waits for ever:
clients are not shown either. When the target comes, it is stored as it is left, and the redaction is shown.

Source: server-server API v1.19, "Handling redactions" of room version 3 and later.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, may_redact
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.timeline_place import place_number
from homeserver.services.redactions import pruned_event, prunings_elsewhere, read_target
from homeserver.services.relationships import unrelate
from homeserver.services.room_draft import RoomDraft
from homeserver.storage.connection import Key, batch_get
from homeserver.storage.room_items import EventRecord
from homeserver.storage.rooms import RoomView, StateKey

WAITING = 20  # redactions that may wait for one event
WAITING_PREFIX = "redacts/"

StateAt = Callable[[bytes, Iterable[StateKey]], dict[StateKey, Event]]


class Effect(Enum):
    """What receiving an event means for its being shown."""

    NONE = "none"  # it is shown
    HIDDEN = "hidden"  # it is a redaction whose target is not known, or that it may not redact
    LATER = "later"  # what the same commit has before it must be committed first


def waiting_item(event_id: str) -> str:
    """The key in EVENTS under which redactions wait for an event."""
    return WAITING_PREFIX + event_id


def effect_of_redaction(
    draft: RoomDraft, view: RoomView, redaction: Event, state: AuthState, found: Mapping[Key, object]
) -> Effect:
    """Let the commit prune what an accepted redaction redacts, or let the redaction wait.

    The draft must be empty so far. `state` is the room's before the redaction; `found` has the target's record and the
    item in which redactions wait for it, if they exist.
    """
    target_id = redaction.redacts or ""
    record = found.get((EventRecord, target_id, None))
    if not isinstance(record, EventRecord) or record.room is None:
        item = waiting_item(target_id)
        waiting = found.get((EventRecord, item, None))
        ids = list(waiting.waiting or ()) if isinstance(waiting, EventRecord) else []
        if len(ids) < WAITING:
            draft.waiting[item] = [*ids, redaction.event_id]
        return Effect.HIDDEN
    if record.room != view.room_id:
        return Effect.HIDDEN
    if record.position is None or record.flags:
        return _redact_unseen(draft, redaction, state, record)
    _load_current(draft, view, record)
    target = read_target(view, record)
    if not may_redact(redaction, target.event, state):
        return Effect.HIDDEN
    if not target.is_redacted:
        draft.extras += prunings_elsewhere(draft, view, target)
        unrelate(draft, target.event, place_number(target.position, target.offset))
        pruned = pruned_event(target.event, redaction)
        draft.redact(target.event, target.position, redaction, pruned, offset=target.offset)
    return Effect.NONE


def _redact_unseen(draft: RoomDraft, redaction: Event, state: AuthState, record: EventRecord) -> Effect:
    """Redact an event that clients do not see in the timeline: its record is its only copy, but for a state row."""
    if record.packed is None:
        return Effect.HIDDEN
    rejected = "r" in (record.flags or "")
    target = Event(record.event_id, redaction.room_id, unpack(record.packed), redaction.rules, rejected=rejected)
    if not may_redact(redaction, target, state):
        return Effect.HIDDEN
    if target.is_state:
        ids = state_tree.get_many(draft.nodes, draft.root, [target.key])
        if ids.get(target.key) == target.event_id:
            draft.state[target.key] = draft.entries([target.event_id])[target.event_id]
    draft.redact(target, None, redaction, pruned_event(target, redaction))
    return Effect.NONE


def _load_current(draft: RoomDraft, view: RoomView, record: EventRecord) -> None:
    """Bring the entry of the current state that has the target's key, by the tree: rows may be late."""
    if record.packed is None:
        return
    pdu = unpack(record.packed)
    key = (pdu["type"], pdu["state_key"])
    ids = state_tree.get_many(draft.nodes, draft.root, [key])
    if key in ids:
        view.state[key] = draft.state[key] = draft.entries([ids[key]])[ids[key]]


def redaction_of_late_event(
    draft: RoomDraft, event: Event, waiting: list[str], state_at: StateAt
) -> tuple[Event | None, Event]:
    """The first of the redactions waiting for an event that may redact it, which the commit then shows to clients.

    Returns it with what is left of the event; None and the event itself if none may.
    """
    keys: list[Key] = [(EventRecord, event_id, None) for event_id in waiting]
    found = batch_get(keys, consistent=True)
    for key in keys:
        record = found.get(key)
        if record is None or record.room != event.room_id or record.position is None or record.packed is None:
            continue
        redaction = Event(record.event_id, event.room_id, unpack(record.packed), event.rules)
        power = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", redaction.sender)]
        state = AuthState(state_at(bytes(record.state_before), power))
        if may_redact(redaction, event, state):
            draft.reveal(redaction, int(record.position), int(record.offset or 0))
            return redaction, pruned_event(event, redaction)
    return None, event
