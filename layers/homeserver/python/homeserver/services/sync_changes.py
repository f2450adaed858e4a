"""What a `/sync` since a token tells of a room whose state changed: brought into memory before it is asked for.

The summary (the room's name, and what changed in the counts that are stored), what changed up to the start of the
timeline, and the memberships that a lazy client needs ask one after the other, each down the state's tree. Here all of
them are read together: a round a level, and one for the events. It is a guess that decides nothing: trees and their
nodes never change, events are kept only where that is safe, and whatever else is needed is read by whoever asks.

The state at the start of the timeline is mostly a little older than the room's: the events of the timeline say what
they replaced, so that its tree is worked out from the present one, and not read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from homeserver.matrix import state_tree
from homeserver.matrix.filters import RoomEventFilter
from homeserver.services.room_summary import SummaryReads, changes_to_count, summary_reads
from homeserver.services.sync_state import Members, Window, needed_members, root_at
from homeserver.services.visibility import Reader
from homeserver.storage.connection import in_parallel
from homeserver.storage.room_counts import known_counts, learn_counts
from homeserver.storage.rooms import StateKey
from homeserver.storage.state_cache import state_events
from homeserver.storage.state_nodes import StateNodes, is_known, known_entries, read_trees, take_back
from homeserver.storage.timeline_cache import is_settled, known_root, learn_root

_MEMBER = "m.room.member"
_NAMES = (("m.room.name", ""), ("m.room.canonical_alias", ""))
_HEROES = 6  # of the first members one may be the reader


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which trees are looked at: `changes` are pairs of roots, `members` keys that are looked up below `told`."""

    summary: SummaryReads
    changes: tuple[tuple[bytes, bytes], ...]
    told: tuple[bytes, ...]
    members: tuple[StateKey, ...]
    heroes: frozenset[StateKey]


def read_changes(
    reader: Reader, window: Window, state_filter: RoomEventFilter, known: Mapping[str, str], *, at_end: bool
) -> Window:
    """Bring into memory what telling the room since the window's `since` asks for; nothing if its state is the same.

    `known` and `at_end` as in `room_state_update`. Returns the window, saying that the stored counts were read if they
    were. A round for what has to be known first, if it is not, one a level of the state's trees, one for the events.
    Raises KeyError for what cannot be read yet.
    """
    head = reader.view.head
    if int(head.state_position) <= window.since:
        return window
    is_told = not state_filter.excludes_everything and state_filter.includes_room(head.room)
    until = window.last if at_end else window.start
    differs = is_told and until > window.since
    hides = is_told and not at_end and window.hides
    summary = summary_reads(reader, window)
    if not (differs or hides or summary.names or summary.counts):
        return window
    window = _learn(reader, window, summary, differs=differs)
    start, end = root_at(reader, window.start, window), root_at(reader, window.last, window)
    until_root = end if at_end else start
    changes = [(root_at(reader, window.since, window), until_root)] if differs else []
    changes += [(start, end)] if hides else []
    lazy = is_told and state_filter.lazy_load_members
    members = needed_members(window, Members()) if lazy else frozenset()
    counts = known_counts(head.room)
    first = counts.present.first[:_HEROES] if lazy and summary.names and counts is not None else ()
    asked = _Asked(
        summary,
        tuple(changes),
        (until_root, end) if lazy else (),
        tuple((_MEMBER, user_id) for user_id in sorted(members)),
        frozenset((_MEMBER, user_id) for _, user_id in first),
    )
    _read_trees(reader, window, asked, start)
    if is_settled(head, int(head.position)):  # else what is read is not kept
        _read_events(reader, window, asked, known, at_end=at_end)
    return window


def _learn(reader: Reader, window: Window, summary: SummaryReads, *, differs: bool) -> Window:
    """Learn the stored counts and the root at `since`, where they are not known: one round, and nodes beside it."""
    head, since = reader.view.head, window.since
    calls = []
    if differs and since not in window.roots and known_root(head.room, since) is None:
        calls.append(partial(learn_root, head.room, since))
    if summary.counts and not window.counted and known_counts(head.room) is None:
        calls.append(partial(learn_counts, [head.room]))
        window = replace(window, counted=True)
    if calls:
        in_parallel(*calls, partial(read_trees, StateNodes(head.room), tops=[bytes(head.root)]))
    return window


def _read_trees(reader: Reader, window: Window, asked: _Asked, start: bytes) -> None:
    head, nodes = reader.view.head, StateNodes(reader.view.room_id)
    now, counts = bytes(head.root), known_counts(head.room)
    keys = {*asked.members, *asked.heroes, *(_NAMES if asked.summary.names else ())}
    paths = {*asked.told, *((now,) if asked.summary.names else ())}
    counted = asked.summary.counts
    pairs = {*asked.changes, *(((counts.root, now),) if counted and counts is not None else ())}
    wholes = [now] if counted and counts is None else []
    if start != now and root_at(reader, window.last, window) == now and not is_known(head.room, start):
        replaced = _replaced(window)
        looked_at = {now if root == start else root for root in {*paths, *(root for pair in pairs for root in pair)}}
        read_trees(
            nodes,
            wholes=wholes,
            paths={now, *looked_at},
            keys={*keys, *replaced},
            pairs={(now if a == start else a, now if b == start else b) for a, b in pairs},
        )
        take_back(head.room, now, replaced, start)
    read_trees(nodes, wholes=wholes, paths=paths, keys=keys, pairs=pairs)


def _replaced(window: Window) -> dict[StateKey, str | None]:
    """What the events after the start of the timeline replaced, as far as they say so: the first one of each key."""
    found: dict[StateKey, str | None] = {}
    for entry in window.entries:
        if entry.position > window.start and entry.pdu is not None and "state_key" in entry.pdu:
            found.setdefault((entry.pdu["type"], entry.pdu["state_key"]), entry.replaces)
    return found


def _read_events(reader: Reader, window: Window, asked: _Asked, known: Mapping[str, str], *, at_end: bool) -> None:
    head, nodes = reader.view.head, StateNodes(reader.view.room_id)
    now = bytes(head.root)
    wanted: set[tuple[StateKey, str]] = set()
    for a, b in asked.changes:
        wanted |= _set_to(state_tree.diff(nodes, a, b).items())
    names = state_tree.get_many(nodes, now, _NAMES) if asked.summary.names else {}
    members = {*asked.members, *(() if names else asked.heroes)} - {key for key, _ in wanted}
    for root in dict.fromkeys(asked.told):
        found = state_tree.get_many(nodes, root, members)
        wanted |= {(key, event_id) for key, event_id in found.items() if known.get(key[1]) != event_id}
        members -= found.keys()
    if not at_end:
        shown = {entry.event_id for entry in window.shown}
        wanted = {pair for pair in wanted if pair[1] not in shown}
    wanted |= names.items()
    if asked.summary.counts:
        wanted |= set(changes_to_count(head, window))
    if wanted:
        current = known_entries(head.room, now, {key for key, _ in wanted}) or {}
        past = {event_id for key, event_id in wanted if current.get(key) != event_id}
        state_events(head, reader.view.rules, sorted(wanted), past=past)


def _set_to(
    changes: Iterable[tuple[StateKey, tuple[str | None, str | None]]],
) -> set[tuple[StateKey, str]]:
    return {(key, new) for key, (_, new) in changes if new is not None}
