"""The `state` of a room in a `/sync` answer: what a client cannot learn from the timeline.

Source: client-server API v1.19, "Syncing", `state` and `state_after`; "Lazy-loading room members".
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.filters import RoomEventFilter
from homeserver.services.visibility import Reader
from homeserver.storage.connection import in_parallel
from homeserver.storage.room_counts import known_counts
from homeserver.storage.rooms import StateKey
from homeserver.storage.state_cache import (
    is_crowd,
    memberships_in_force,
    settings_of,
    settings_pages,
    state_events,
    state_of_few,
)
from homeserver.storage.state_nodes import StateNodes, known_entries, read_trees
from homeserver.storage.timeline import Entry
from homeserver.storage.timeline_cache import is_settled, known_root, read_timeline

_MEMBER = "m.room.member"
_NAMES = (("m.room.name", ""), ("m.room.canonical_alias", ""))
_HEROES = 6  # of the first members one may be the reader


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a timeline that was read: positions above `since` up to `last`, without a gap at its end.

    `entries` ascending, and those of them that are `shown`; `roots` of the room's state after the positions read.
    `settings`: the state without members at the head, where it was read ahead. `counted`: the stored counts of the
    room's members were read, if there are any.
    """

    entries: Sequence[Entry]
    shown: Sequence[Entry]
    roots: Mapping[int, bytes]
    since: int
    last: int
    limited: bool
    settings: Mapping[StateKey, Event] | None = None
    counted: bool = False

    def last_only(self) -> "Window":
        """All that is left of a room that was forgotten: the event that ended the user's stay."""
        limited = self.last > self.since + 1
        return replace(self, entries=self.entries[-1:], shown=self.shown[-1:], limited=limited)

    @property
    def hides(self) -> bool:
        """Whether entries are not shown that lie between those that are."""
        return len(self.shown) != sum(entry.position > self.start for entry in self.entries)

    @property
    def start(self) -> int:
        """The position before the first entry that is shown; the end of the window, if none is."""
        return self.shown[0].position - 1 if self.shown else self.last

    @property
    def is_whole(self) -> bool:
        """Whether every position above `since` is among the entries."""
        return self.last <= self.since or (bool(self.entries) and self.entries[0].position == self.since + 1)


@dataclass(frozen=True, slots=True)
class Members:
    """Whose memberships a lazy client needs beside those of the senders: `heroes` of the summary that it is told.

    `known`: membership events that it has, by user; to tell them again would be redundant.
    """

    heroes: Sequence[str] = ()
    known: Mapping[str, str] = field(default_factory=dict)


def root_at(reader: Reader, position: int, window: Window) -> bytes:
    """The root of the room's state after a position (0: before the room). Raises KeyError if it cannot be read yet."""
    head = reader.view.head
    if position <= 0:
        return state_tree.EMPTY_ROOT
    if int(head.state_position) <= position <= int(head.position):
        return bytes(head.root)
    if position in window.roots:
        return window.roots[position]
    known = known_root(reader.view.room_id, position)
    if known is not None:
        return known
    found = read_timeline(head, position, position)
    if not found:
        raise KeyError(f"position {position} of {reader.view.room_id}")
    return found[0].room_root


def read_ahead(
    reader: Reader, entries: Sequence[Entry], start: bytes, state_filter: RoomEventFilter
) -> Mapping[StateKey, Event] | None:
    """Bring into memory what telling a room whole asks for: a round a level of the state's trees, one for the events.

    That is the visibility at the entries, the room's name, what changed in the counts that are stored, and the state at
    `start`, the root before the entries; for a lazy client with the members that it needs. It is a guess: whatever else
    is needed is read then. Returns the state without members, where the room is so large that it was read.
    """
    head, rules = reader.view.head, reader.view.rules
    nodes, now = StateNodes(head.room), bytes(head.root)
    told = not state_filter.excludes_everything and state_filter.includes_room(head.room)
    lazy, counts = state_filter.lazy_load_members, known_counts(head.room)
    start = start if told else state_tree.EMPTY_ROOT
    # At the create event there is nothing to see.
    roots = {entry.own_root for entry in reader.unsure(entries) if entry.position > 1}
    users = {reader.user_id, *(entry.pdu["sender"] for entry in entries if entry.pdu is not None)}
    # Whom the room is named after, if it has no name.
    heroes = {user_id for _, user_id in counts.present.first[:_HEROES]} if counts is not None else set()
    read_trees(
        nodes,
        wholes=[*([now] if counts is None else []), *([] if lazy else [start])],
        paths=[*roots, now, start],
        keys=[*reader.keys, *_NAMES, *((_MEMBER, user_id) for user_id in sorted(users | heroes))],
        pairs=[(now, start), *([] if counts is None else [(counts.root, now)])],
    )
    if not is_settled(head, int(head.position)):
        return None  # what is read is not kept
    at_hand = {entry.event_id for entry in entries}
    crowd = lazy and is_crowd(nodes, start)
    wanted = {pair for found in state_tree.get_many_of(nodes, roots, reader.keys).values() for pair in found.items()}
    names = state_tree.get_many(nodes, now, _NAMES)
    wanted |= names.items()
    needed = {(_MEMBER, user_id) for user_id in (users if names else users | heroes)} if lazy else None
    later = state_tree.diff(nodes, start, now) if start != state_tree.EMPTY_ROOT else {}
    replaced = [(key, pair[0]) for key, pair in later.items() if pair[0] is not None]
    past = {event_id for _, event_id in replaced}
    if counts is None:
        ids = [pair for pair in state_tree.items(nodes, now).items() if pair[0][0] == _MEMBER]
    else:
        changes = state_tree.diff(nodes, counts.root, now)
        ids = [(key, i) for key, pair in changes.items() if key[0] == _MEMBER for i in pair if i is not None]
        past |= {pair[0] for pair in changes.values() if pair[0] is not None}
    if crowd:
        ids += [pair for pair in replaced if pair[0][0] != _MEMBER]
        ids += state_tree.get_many(nodes, start, needed or ()).items()
    else:
        ids += [p for p in state_tree.items(nodes, start).items() if _is_told(p[0], needed)]
    wanted |= {pair for pair in ids if pair[1] not in at_hand}
    read_events = partial(state_events, head, rules, wanted, past=past)
    _, *pages = in_parallel(read_events, *(settings_pages(head) if crowd else ()))
    return settings_of(head, rules, pages) if crowd else None


def _is_told(key: StateKey, members: AbstractSet[StateKey] | None) -> bool:
    return members is None or key[0] != _MEMBER or key in members


def without_overruled(reader: Reader, window: Window) -> Window:
    """The window without shown state events that the room's state went past, when its forks were resolved.

    A client takes the last state event of a timeline for what is in force, and nothing can tell it that an entry of the
    state is gone. Where that would lead it astray the timeline begins later, as after a gap: the client is told the
    state there, and finds the events when it pages back.
    """
    if all(entry.event_id is not None and entry.own_root == entry.room_root for entry in window.entries):
        return window
    nodes, end = StateNodes(reader.view.room_id), root_at(reader, window.last, window)
    said = {
        (entry.pdu["type"], entry.pdu["state_key"]): entry
        for entry in window.shown
        if entry.pdu is not None and "state_key" in entry.pdu
    }
    ids = state_tree.get_many(nodes, end, said) if said else {}
    cut = max((entry.position for key, entry in said.items() if ids.get(key) != entry.event_id), default=0)
    markers = [entry.position for entry in window.entries if entry.event_id is None and entry.position > window.start]
    if markers and any(
        new is None for _, new in state_tree.diff(nodes, root_at(reader, window.start, window), end).values()
    ):
        cut = max(cut, markers[-1])
    if not cut:
        return window
    return replace(window, shown=[entry for entry in window.shown if entry.position > cut], limited=True)


def room_state_update(
    reader: Reader,
    since: int,
    window: Window,
    state_filter: RoomEventFilter,
    members: Members,
    *,
    at_end: bool,
) -> list[Event]:
    """The state events that changed from `since` (0: all of them) to the start of the timeline.

    Where entries of the window are hidden (by a filter, by visibility, or as markers), what changed at them is told
    here too. With `at_end`: from `since` to the end of the timeline, whatever the timeline shows. Raises KeyError for
    what cannot be read yet.
    """
    if state_filter.excludes_everything or not state_filter.includes_room(reader.view.room_id):
        return []
    nodes = StateNodes(reader.view.room_id)
    until = window.last if at_end else window.start
    needed: AbstractSet[str] | None = None
    if state_filter.lazy_load_members:
        needed = needed_members(window, members) | ({reader.user_id} if since == 0 else set())
    if since == 0:
        ids = _whole(reader, root_at(reader, until, window), needed, window)
    else:
        ids = _changed(reader, nodes, since, until, window) if until > since else {}
    shown_ids = set() if at_end else {entry.event_id for entry in window.shown}
    if not at_end and window.hides:
        hidden = _changed(reader, nodes, max(since, window.start), window.last, window)
        ids.update(
            {
                key: event_id
                for key, event_id in hidden.items()
                if event_id not in shown_ids and (since or needed is None or key[0] != _MEMBER or key[1] in needed)
            }
        )
    if needed:
        missing = [user for user in sorted(needed) if (_MEMBER, user) not in ids]
        found = _memberships(reader, window, until, missing, unchanged=since > 0) if missing else {}
        # What the client has already is redundant.
        ids |= {key: event_id for key, event_id in found.items() if members.known.get(key[1]) != event_id}
    wanted = [(key, event_id) for key, event_id in ids.items() if event_id not in shown_ids]
    return state_events(reader.view.head, reader.view.rules, wanted) if wanted else []


def needed_members(window: Window, members: Members) -> AbstractSet[str]:
    """Whose memberships a lazy client needs: of who sent something that is shown, and of the heroes."""
    return {entry.pdu["sender"] for entry in window.shown if entry.pdu is not None} | set(members.heroes)


def _memberships(
    reader: Reader, window: Window, until: int, users: Sequence[str], *, unchanged: bool
) -> dict[StateKey, str]:
    """The memberships of users at a position or, of those who had none there, at the end of the window.

    Who came after the start of the timeline has none there: then it is the one at its end. `unchanged`: these are users
    whose memberships did not change after what the client was told before, up to the position.
    """
    room_id = reader.view.room_id
    roots = dict.fromkeys(root_at(reader, position, window) for position in (until, window.last))
    keys = [(_MEMBER, user) for user in users]
    found: dict[StateKey, str] = {}
    if unchanged and any(known_entries(room_id, root, keys) is None for root in roots):
        found = _in_force(reader, until, users)
    for root in roots:
        missing = [key for key in keys if key not in found]
        if missing:
            found |= state_tree.get_many(StateNodes(room_id), root, missing)
    return found


def _in_force(reader: Reader, until: int, users: Sequence[str]) -> dict[StateKey, str]:
    """Unchanged memberships as the rows of the current state show them: one round, however deep the tree is.

    A row says since which position its event has been in force. What a commit has just changed may not be seen yet; but
    of these users that is either behind the position, or was told before, and has been followed by another commit.
    """
    head = reader.view.head
    if head.rows_root != head.root:
        return {}  # they lag
    rows = memberships_in_force(head, reader.view.rules, users)
    return {(_MEMBER, user): row.event.event_id for user, row in rows.items() if row.position <= until}


def _changed(reader: Reader, nodes: StateNodes, since: int, until: int, window: Window) -> dict[StateKey, str]:
    if since and int(reader.view.head.state_position) <= since:
        return {}
    before, after = root_at(reader, since, window), root_at(reader, until, window)
    if before == after:
        return {}
    if before == state_tree.EMPTY_ROOT:
        return dict(state_tree.items(nodes, after))
    changes = state_tree.diff(nodes, before, after)
    return {key: new for key, (_, new) in changes.items() if new is not None}


def _whole(reader: Reader, root: bytes, needed: AbstractSet[str] | None, window: Window) -> dict[StateKey, str]:
    """The whole state at a root; of the members only those needed, unless that is None."""
    if needed is None:
        nodes = StateNodes(reader.view.room_id)
        read_trees(nodes, wholes=[root], tops=[bytes(reader.view.head.root)])
        return dict(state_tree.items(nodes, root))
    state = state_of_few(reader.view.head, reader.view.rules, root, needed, window.settings)
    return {key: event.event_id for key, event in state.items()}
