"""State events that a warm process has read before: an event never changes but for its redaction.

The head names the position of the room's last redaction: events that were kept under the same number are still right.
When an event may be kept is the same question as for timelines, see timeline_cache.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.storage.connection import Key, batch_get, in_parallel, query_range
from homeserver.storage.room_items import Head, StateRow, parse_state_key, state_key
from homeserver.storage.rooms import StateEntry, StateKey, entry_of_row, fetch_state_events
from homeserver.storage.state_nodes import StateNodes, entry_count, read_trees
from homeserver.storage.timeline_cache import is_settled

CROWD = 100  # entries beyond which a state that is to be told without its members is read without them
_CACHED_EVENTS = 20_000
_ROWS_FROM = 8  # events beyond which the rows of the current state are cheaper than a read a key,
_ROWS_UNTIL = 4  # unless they have this many times as many entries
_ROWS_AT_ONCE = 1000  # entries of one Query: mostly less than a page
_MEMBER = "m.room.member"

_events: dict[str, tuple[int, Event]] = {}


def state_events(
    head: Head,
    rules: RoomVersionRules,
    entries: Iterable[tuple[StateKey, str]],
    *,
    past: AbstractSet[str] = frozenset(),
) -> list[Event]:
    """State events of a room by (key, event ID), in their order; of whatever state of the room.

    One round for those that are not known yet; one more for some that are not in force any more, where many are asked
    for, and they are not among the `past` ones. Raises KeyError for an event that cannot be read (yet).
    """
    wanted = list(entries)
    redaction = int(head.redaction_position)
    found: dict[str, Event] = {}
    missing: dict[str, StateKey] = {}
    for key, event_id in wanted:
        known = _events.get(event_id)
        if known is not None and known[0] == redaction:
            found[event_id] = known[1]
        else:
            missing[event_id] = key
    if missing:
        ranges = _ranges(head, [key for event_id, key in missing.items() if event_id not in past])
        gone = [event_id for event_id in missing if event_id in past] if ranges else list(missing)
        records, *pages = in_parallel(
            partial(_fetch, head, rules, gone),
            *[partial(_rows_between, head.room, low, high) for low, high in ranges],
        )
        read = dict(records)
        # What a row shows is taken for the event that it is, not for what is in force: so its age does not matter.
        read |= {
            row.event_id: entry_of_row(row, rules).event for page in pages for row in page if row.event_id in missing
        }
        read |= _fetch(head, rules, [event_id for event_id in missing if event_id not in read])
        keep_state_events(head, read.values())
        found |= read
    return [found[event_id] for _, event_id in wanted]


def _fetch(head: Head, rules: RoomVersionRules, event_ids: Sequence[str]) -> dict[str, Event]:
    if not event_ids:
        return {}
    # An eventual read may show an event as it was before its redaction; without redactions there is no before.
    found = fetch_state_events(head.room, event_ids, rules, consistent=int(head.redaction_position) > 0)
    return {event_id: entry.event for event_id, entry in found.items()}


def _ranges(head: Head, keys: Sequence[StateKey]) -> list[tuple[str, str]]:
    """Between which keys the rows of the current state show many entries; none where a read for each is cheaper."""
    if len(keys) <= _ROWS_FROM:
        return []
    count = entry_count(StateNodes(head.room), bytes(head.root))
    if len(keys) * _ROWS_UNTIL < count:
        return []
    ordered = sorted(state_key(*key) for key in keys)
    size = -(-len(ordered) // max(1, -(-count // _ROWS_AT_ONCE)))
    return [(ordered[start], ordered[min(start + size, len(ordered)) - 1]) for start in range(0, len(ordered), size)]


def _rows_between(room_id: str, low: str, high: str) -> list[StateRow]:
    return query_range(StateRow, room_id, low=low, high=high, consistent=True)


def keep_state_events(head: Head, events: Iterable[Event]) -> None:
    """Keep state events that were read after the head, if they are certainly as the last redaction left them."""
    if not is_settled(head, int(head.position)):
        return
    for event in events:
        _events[event.event_id] = (int(head.redaction_position), event)
    while len(_events) > _CACHED_EVENTS:
        _events.pop(next(iter(_events)), None)


def read_whole(
    nodes: StateNodes, now: bytes, root: bytes, *, paths: Iterable[bytes] = (), keys: Iterable[StateKey] = ()
) -> bool:
    """Bring into memory what `whole_state` asks of the trees of a state and the current one; besides, some `paths`.

    A round a level. Returns whether the two states are about as large, so that their difference was read too.
    """
    others = list(paths)
    read_trees(nodes, tops=[now, root, *others])
    near = entry_count(nodes, root) * _ROWS_UNTIL >= entry_count(nodes, now)
    read_trees(nodes, wholes=[root], paths=others, keys=keys, pairs=[(now, root)] if near else [])
    return near


def whole_state(head: Head, rules: RoomVersionRules, root: bytes) -> dict[StateKey, Event]:
    """The whole state with a root, which may be an old one: a round a level of its tree, and one for the events."""
    nodes, now = StateNodes(head.room), bytes(head.root)
    near = read_whole(nodes, now, root)
    ids = state_tree.items(nodes, root)
    past = {old for _, old in state_tree.diff(nodes, now, root).values() if old is not None} if near else set()
    return dict(zip(ids, state_events(head, rules, ids.items(), past=past), strict=True))


def is_crowd(nodes: StateNodes, root: bytes) -> bool:
    """Whether a state is so large that it is told to lazy clients without reading its members."""
    return entry_count(nodes, root) > CROWD


def state_of_few(
    head: Head,
    rules: RoomVersionRules,
    root: bytes,
    users: Iterable[str],
    settings: Mapping[StateKey, Event] | None = None,
) -> dict[StateKey, Event]:
    """The state with a root, with the memberships of some users only. What is read does not follow the members.

    `settings` is what `settings_of` says of this head, where it was read before. A round a level of the tree, and one
    for the events.
    """
    nodes = StateNodes(head.room)
    members = [(_MEMBER, user) for user in sorted(set(users))]
    read_trees(nodes, tops=[root, bytes(head.root)])
    if not is_crowd(nodes, root):
        known = set(members)
        ids = {key: i for key, i in state_tree.items(nodes, root).items() if key[0] != _MEMBER or key in known}
        return dict(zip(ids, state_events(head, rules, ids.items()), strict=True))
    few, (changed, replaced), *pages = in_parallel(
        partial(_few, head, rules, root, members),
        partial(_replaced, head, rules, root),
        *(settings_pages(head) if settings is None else ()),
    )
    state = dict(settings_of(head, rules, pages) if settings is None else settings)
    for key in changed:
        state.pop(key, None)
    state.update(replaced)
    state.update(few)
    return state


def _replaced(head: Head, rules: RoomVersionRules, root: bytes) -> tuple[list[StateKey], dict[StateKey, Event]]:
    """Which entries but memberships a state has not as the current one has them, and what it has there."""
    changes = state_tree.diff(StateNodes(head.room), bytes(head.root), root)
    changed = [key for key in changes if key[0] != _MEMBER]
    ids = {key: old for key in changed if (old := changes[key][1]) is not None}
    return changed, dict(zip(ids, state_events(head, rules, ids.items()), strict=True))


def _few(head: Head, rules: RoomVersionRules, root: bytes, keys: Sequence[StateKey]) -> dict[StateKey, Event]:
    ids = state_tree.get_many(StateNodes(head.room), root, keys)
    return dict(zip(ids, state_events(head, rules, ids.items()), strict=True))


def settings_pages(head: Head) -> list[Callable[[], list[StateRow]]]:
    """The reads of the rows that are no memberships, to be made at the same time; for `settings_of`."""
    members = state_key(_MEMBER, "")
    ranges = (("state/", members), (members[:-1] + "0", "state/\U0010ffff"))  # "0" follows "/"
    return [partial(_rows_between, head.room, low, high) for low, high in ranges]


def settings_of(head: Head, rules: RoomVersionRules, pages: Iterable[Iterable[StateRow]]) -> dict[StateKey, Event]:
    """The current state at this head, but for the memberships: as many rows as it has, however many members.

    `pages` is what `settings_pages` read after the head. Where rows lag behind the head, the tree has the truth, as in
    `current_state`.
    """
    rows = {parse_state_key(row.k): row for page in pages for row in page if row.k != state_key(_MEMBER, "")}
    state = {key: entry_of_row(row, rules).event for key, row in rows.items()}
    later = [key for key, row in rows.items() if row.position > head.position]
    nodes = StateNodes(head.room)
    if head.rows_root != head.root:
        later += [key for key in state_tree.diff(nodes, head.rows_root, head.root) if key[0] != _MEMBER]
    if later:
        ids = state_tree.get_many(nodes, head.root, later)
        events = fetch_state_events(head.room, ids.values(), rules)
        for key in later:
            state.pop(key, None)
        state.update({key: events[event_id].event for key, event_id in ids.items()})
    keep_state_events(head, state.values())
    return state


def memberships_in_force(head: Head, rules: RoomVersionRules, users: Iterable[str]) -> dict[str, StateEntry]:
    """The membership events of users as rows show them now, with the positions since when: one round.

    Only for a head whose rows do not lag. What a commit is just writing may not be seen yet.
    """
    keys: dict[Key, str] = {(StateRow, head.room, state_key(_MEMBER, user)): user for user in users}
    found = {keys[key]: entry_of_row(row, rules) for key, row in batch_get(list(keys), consistent=True).items()}
    keep_state_events(head, [entry.event for entry in found.values()])
    return found
