"""The `state` of a room in a `/sync` answer: what a client cannot learn from the timeline.

Source: client-server API v1.19, "Syncing", `state` and `state_after`; "Lazy-loading room members".
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.filters import RoomEventFilter
from homeserver.services.visibility import Reader
from homeserver.storage.room_counts import known_counts
from homeserver.storage.rooms import StateKey
from homeserver.storage.state_cache import keep_state_events, state_events, state_without_members
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import Entry
from homeserver.storage.timeline_cache import read_timeline

_MEMBER = "m.room.member"
_ASKED_OF_ALL = (("m.room.history_visibility", ""), ("m.room.name", ""), ("m.room.canonical_alias", ""))
_CROWD = 100  # members beyond which a state that is to be told without them is read without them


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a timeline that was read: positions above `since` up to `last`, without a gap at its end.

    `entries` ascending, and those of them that are `shown`; `roots` of the room's state after the positions read.
    """

    entries: Sequence[Entry]
    shown: Sequence[Entry]
    roots: Mapping[int, bytes]
    since: int
    last: int
    limited: bool

    def last_only(self) -> "Window":
        """All that is left of a room that was forgotten: the event that ended the user's stay."""
        limited = self.last > self.since + 1
        return Window(self.entries[-1:], self.shown[-1:], self.roots, self.since, self.last, limited)

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
    found = read_timeline(head, position, position)
    if not found:
        raise KeyError(f"position {position} of {reader.view.room_id}")
    return found[0].room_root


def read_paths(reader: Reader, entries: Iterable[Entry]) -> None:
    """Bring into memory what a whole answer asks of the state's trees: a round a level, instead of one a question.

    That is the visibility at the entries, the room's name, the members that a lazy client needs, and what changed in
    the counts that are stored.
    """
    head, counts = reader.view.head, known_counts(reader.view.room_id)
    read = list(entries)
    # What the reader was there for is visible without a look at the state; at the create event there is nothing to see.
    unsure = (entry for entry in read if entry.position > 1 and not reader.was_there(entry.position))
    roots = {bytes(head.root), *(entry.own_root for entry in unsure)}
    if counts is not None:
        roots.add(counts.root)
    users = {reader.user_id, *(entry.pdu["sender"] for entry in read if entry.pdu is not None)}
    keys = [*_ASKED_OF_ALL, *((_MEMBER, user) for user in sorted(users))]
    state_tree.get_many_of(StateNodes(head.room), roots, keys)


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
    needed = _needed(reader, window, members, whole=since == 0) if state_filter.lazy_load_members else None
    if since == 0:
        ids = _whole(reader, nodes, root_at(reader, until, window), needed)
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
        ends = dict.fromkeys((until, window.last)) if missing else ()
        unchanged = _memberships(nodes, [root_at(reader, position, window) for position in ends], missing)
        # What the client has already is redundant.
        ids |= {key: event_id for key, event_id in unchanged.items() if members.known.get(key[1]) != event_id}
    wanted = [event_id for event_id in ids.values() if event_id not in shown_ids]
    return state_events(reader.view.head, reader.view.rules, wanted) if wanted else []


def _needed(reader: Reader, window: Window, members: Members, *, whole: bool) -> AbstractSet[str]:
    """Who sent something that is shown, the heroes, and with a whole state the user."""
    senders = {entry.pdu["sender"] for entry in window.shown if entry.pdu is not None}
    return senders | set(members.heroes) | ({reader.user_id} if whole else set())


def _memberships(nodes: StateNodes, roots: Iterable[bytes], users: Sequence[str]) -> dict[StateKey, str]:
    """The memberships of users in the first of the states that has them.

    Who came after the start of the timeline has none there: then it is the one at its end.
    """
    found: dict[StateKey, str] = {}
    for root in roots:
        missing = [(_MEMBER, user) for user in users if (_MEMBER, user) not in found]
        if missing:
            found |= state_tree.get_many(nodes, root, missing)
    return found


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


def _whole(reader: Reader, nodes: StateNodes, root: bytes, needed: AbstractSet[str] | None) -> dict[StateKey, str]:
    """The whole state at a root; of the members only those needed, unless that is None."""
    head, rules = reader.view.head, reader.view.rules
    if needed is None:
        return dict(state_tree.items(nodes, root))
    counts = known_counts(head.room)
    if counts is None or counts.present.count + counts.gone.count <= _CROWD:
        whole = state_tree.items(nodes, root)
        return {key: event_id for key, event_id in whole.items() if key[0] != _MEMBER or key[1] in needed}
    rows = state_without_members(head, rules)
    keep_state_events(head, rows.values())
    ids = {key: event.event_id for key, event in rows.items()}
    for key, (_, event_id) in state_tree.diff(nodes, bytes(head.root), root).items():
        if key[0] == _MEMBER:
            continue
        if event_id is None:
            ids.pop(key, None)
        else:
            ids[key] = event_id
    return ids | state_tree.get_many(nodes, root, [(_MEMBER, user) for user in sorted(needed)])
