"""The summary of a room in `/sync`: how many members, and whom to name it after.

Source: client-server API v1.19, "Syncing", `RoomSummary`; "Calculating the display name for a room".
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.room_counts import RoomCounts, count_members
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersionRules
from homeserver.services.sync_state import Window
from homeserver.services.visibility import Reader
from homeserver.storage.room_counts import known_counts, read_counts, remember, store_counts
from homeserver.storage.room_items import Head
from homeserver.storage.rooms import StateKey
from homeserver.storage.state_cache import state_events
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import Entry

HEROES = 5
STORED_FROM = 20  # local members or other servers, and changes since the last time, from which counts are stored
_COUNTED_ANEW_FROM = 200  # changes beyond which reading all members is cheaper than reading what each was before
_NAMES = {("m.room.name", ""): "name", ("m.room.canonical_alias", ""): "alias"}
_MEMBER = "m.room.member"
_MEMBERS = frozenset({_MEMBER})
_SUMMARISED = _MEMBERS | {"m.room.name", "m.room.canonical_alias", "m.room.redaction"}

_CACHED_ROOMS = 5000

Known = Mapping[str, tuple[str, int]]  # event ID -> membership and depth of membership events

# Changes of memberships that this process has followed since it read or stored a room's counts.
_unsaved: dict[str, int] = {}


def room_summary(reader: Reader, window: Window, *, whole: bool) -> dict[str, Any]:
    """The summary if the client needs one: with the whole state, or when something of it may have changed; else empty.

    It is that of the room's head, also where the window ends before it: what is counted too early is told again.
    Raises KeyError for state that cannot be read yet.
    """
    if not reader.is_joined or not (whole or _may_change(reader, window)):
        return {}
    head, rules = reader.view.head, reader.view.rules
    is_named = _names_the_room(window) or _is_named(head, rules)
    if is_named and not whole and window.is_whole and not any(_is_of(entry, _MEMBERS) for entry in window.entries):
        return {}  # only its name changed, and who has a name needs no heroes
    counts, _ = counts_of(head, rules, *_at_hand(window), is_read=window.counted)
    summary: dict[str, Any] = {"m.joined_member_count": counts.joined, "m.invited_member_count": counts.invited}
    if not is_named:
        summary["m.heroes"] = counts.heroes(reader.user_id, HEROES)
    return summary


@dataclass(frozen=True, slots=True)
class SummaryReads:
    """What a summary that may have changed is going to be made of: the room's `names`, and its members' `counts`."""

    names: bool = False
    counts: bool = False


def summary_reads(reader: Reader, window: Window) -> SummaryReads:
    """What `room_summary` will most likely ask for, of a room that is not told whole."""
    if not reader.is_joined or not _may_change(reader, window):
        return SummaryReads()
    counts = not window.is_whole or any(_is_of(entry, _MEMBERS) for entry in window.entries)
    return SummaryReads(not _names_the_room(window), counts)


def changes_to_count(head: Head, window: Window) -> list[tuple[StateKey, str]]:
    """The membership events that `room_summary` will ask for, with the state's tree and stored counts in memory."""
    nodes, root, known = StateNodes(head.room), bytes(head.root), known_counts(head.room)
    at_hand, replaced = _at_hand(window)
    if known is None:
        members = [pair for pair in state_tree.items(nodes, root).items() if pair[0][0] == _MEMBER]
        return [pair for pair in members if pair[1] not in at_hand]
    differences = state_tree.diff(nodes, known.root, root)
    changes = {key: pair for key, pair in differences.items() if key[0] == _MEMBER}
    if len(changes) > _COUNTED_ANEW_FROM:
        return []
    read = [(key, event_id) for key, pair in changes.items() for event_id in pair if event_id is not None]
    return [(key, event_id) for key, event_id in read if event_id not in at_hand and event_id not in replaced]


def _may_change(reader: Reader, window: Window) -> bool:
    head = reader.view.head
    if max(int(head.state_position), int(head.redaction_position)) <= window.since:
        return False
    if not window.is_whole:
        return True
    return any(_is_of(entry, _SUMMARISED) for entry in window.entries)


def _is_of(entry: Entry, types: AbstractSet[str]) -> bool:
    """Whether an entry is of one of these types, or may be, being a marker."""
    return entry.pdu is None or entry.pdu["type"] in types


def _names_the_room(window: Window) -> bool:
    """Whether the window's last change of state gave the room a name: then nothing has to be read to know it."""
    last = next((entry for entry in reversed(window.entries) if entry.pdu is None or "state_key" in entry.pdu), None)
    if last is None or last.pdu is None or last.own_root != last.room_root:
        return False
    key = (last.pdu["type"], last.pdu["state_key"])
    return key in _NAMES and bool(last.pdu["content"].get(_NAMES[key]))


def _is_named(head: Head, rules: RoomVersionRules) -> bool:
    ids = state_tree.get_many(StateNodes(head.room), bytes(head.root), _NAMES)
    return any(event.content.get(_NAMES[event.key]) for event in state_events(head, rules, ids.items()))


def counts_of(
    head: Head,
    rules: RoomVersionRules,
    at_hand: Known = MappingProxyType({}),
    before: Known = MappingProxyType({}),
    *,
    is_read: bool = False,
) -> tuple[RoomCounts, int]:
    """The counts of a head's state, and in how many memberships it differs from the last one that was known.

    `at_hand` are membership events that need not be read, `before` such ones that may have been replaced: their depth
    is of no account. `is_read`: what is stored was read already, and taken up. Raises KeyError for state that cannot be
    read yet.
    """
    known = known_counts(head.room) or (None if is_read else read_counts(head.room))
    counts, changes = _advanced(known, head, rules, {**before, **at_hand}) if known is not None else (None, 0)
    if counts is None or not counts.is_enough:
        counts = _counted(head, rules, at_hand)
        changes = counts.present.count + counts.gone.count
    remember(head.room, counts)
    return counts, changes


def _advanced(known: RoomCounts, head: Head, rules: RoomVersionRules, at_hand: Known) -> tuple[RoomCounts | None, int]:
    """What was known, with all memberships that changed since; None where that takes too much."""
    root = bytes(head.root)
    if known.root == root:
        return known, 0
    differences = state_tree.diff(StateNodes(head.room), known.root, root)
    changes = {key[1]: ids for key, ids in differences.items() if key[0] == _MEMBER}
    if len(changes) > _COUNTED_ANEW_FROM:
        return None, 0
    unknown = [
        ((_MEMBER, user_id), event_id)
        for user_id, pair in changes.items()
        for event_id in pair
        if event_id is not None and event_id not in at_hand
    ]
    read = state_events(head, rules, unknown)
    members = {**at_hand, **{e.event_id: _member(e.content, e.depth) for e in read}}
    counts = replace(known, root=root)
    for user_id, (old, new) in changes.items():
        before, _ = members[old] if old is not None else ("", 0)
        after, depth = members[new] if new is not None else ("", 0)
        counts = counts.with_change(user_id, before, after, depth)
    return counts, len(changes)


def _counted(head: Head, rules: RoomVersionRules, at_hand: Known) -> RoomCounts:
    root = bytes(head.root)
    ids = {
        key[1]: event_id for key, event_id in state_tree.items(StateNodes(head.room), root).items() if key[0] == _MEMBER
    }
    members = dict(at_hand)
    missing = [((_MEMBER, user_id), event_id) for user_id, event_id in ids.items() if event_id not in members]
    members.update({e.event_id: _member(e.content, e.depth) for e in state_events(head, rules, missing)})
    return count_members(root, [(user_id, *members[event_id]) for user_id, event_id in ids.items()])


def _member(content: Mapping[str, Any], depth: int) -> tuple[str, int]:
    return str(content.get("membership")), depth


def _at_hand(window: Window) -> tuple[Known, Known]:
    """The membership events of a window and, without their depth, those that they replaced outside of it."""
    found: dict[str, tuple[str, int]] = {}
    replaced: dict[str, tuple[str, int]] = {}
    for entry in window.entries:
        if entry.event_id is not None and entry.pdu is not None and entry.pdu["type"] == "m.room.member":
            found[entry.event_id] = _member(entry.pdu["content"], entry.pdu["depth"])
            if entry.replaces is not None and entry.previous is not None:
                replaced[entry.replaces] = _member(entry.previous, 0)
    return found, replaced


def keep_counts(head: Head) -> None:
    """Follow a room's memberships: the counts are stored when there are many members, or many changes since.

    Repeating it changes nothing; an item that was not written is made good with the next change.
    """
    if int(head.local_members) + int(head.remote_servers) < STORED_FROM:
        return
    goes_on = known_counts(head.room) is not None
    counts, changes = counts_of(head, ROOM_VERSIONS[head.room_version])
    unsaved = changes + (_unsaved.pop(head.room, 0) if goes_on else 0)
    if unsaved >= STORED_FROM:
        store_counts(head.room, counts, int(head.state_position))
    else:
        _unsaved[head.room] = unsaved
    while len(_unsaved) > _CACHED_ROOMS:
        _unsaved.pop(next(iter(_unsaved)), None)
