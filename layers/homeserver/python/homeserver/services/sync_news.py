"""What a `/sync` answer is made of: read after the inbox, in two rounds at most, but for the rooms' state.

Numbers that were read are told, never those that are announced: an item may be visible later than its number.

Source: client-server API v1.19, "Syncing", "Ignoring Users"; `docs/architecture.md`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial

from homeserver.matrix.filters import Filter
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services.clock import now_ms
from homeserver.services.ephemeral import EphemeralNews, read_ephemeral
from homeserver.services.ignored_users import IGNORED_USER_LIST, ignored_by
from homeserver.services.sync_delivered import Delivered
from homeserver.services.sync_rooms import (
    Question,
    RoomAnswer,
    RoomTask,
    View,
    answer_room,
    first_window,
    has_gap,
    is_over,
)
from homeserver.storage import invites, room_counts, slots, state_nodes, timeline_cache, user_data
from homeserver.storage.connection import Key, batch_get, in_parallel
from homeserver.storage.inbox_shards import Inbox
from homeserver.storage.invites import Invite
from homeserver.storage.room_items import BUCKET_POSITIONS, HEAD, Head, LocalMember
from homeserver.storage.rooms import RoomView
from homeserver.storage.timeline import Entry
from homeserver.storage.timeline_cache import Ahead
from homeserver.storage.user_data import AccountData

_ROOMS_AT_ONCE = 8
_TYPING = {"type": "m.typing", "content": {}}


@dataclass(slots=True)
class News:
    """What there is to tell but for the rooms' contents.

    `views`: heads and rows of the rooms that moved; `rows` of these and of all others that something is told of.
    `account_data` in the order of change; `ephemeral` by room, with its slot in `slots`; `ignored` users.
    """

    tasks: list[RoomTask] = field(default_factory=list)
    account_data: list[AccountData] = field(default_factory=list)
    invites: list[Invite] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    rows: dict[str, LocalMember] = field(default_factory=dict)
    ahead: dict[str, Ahead] = field(default_factory=dict)
    ephemeral: dict[str, EphemeralNews] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Streams:
    """What the numbers of the account-wide streams announce: changes of account data, and invitations (all of them).

    None: they announce nothing.
    """

    changes: Sequence[AccountData] | None = None
    invites: Sequence[Invite] | None = None


Reads = tuple[Callable[[], Sequence[AccountData] | None], Callable[[], Sequence[Invite] | None]]


def reads_of_streams(user_id: str, inbox: Inbox, told: Delivered, *, initial: bool) -> Reads:
    """The reads, to be made at the same time, that make `Streams`. `initial`: the client asks for everything."""
    changed = initial or _is_announced(inbox, told, "account_data")
    invited = initial or _is_announced(inbox, told, "invites")
    return (
        partial(user_data.changes_since, user_id, told.streams.get("account_data", 0)) if changed else _nothing,
        partial(invites.invites_of, user_id) if invited else _nothing,
    )


def _nothing() -> None:
    return None


def read_news(
    user_id: str,
    inbox: Inbox,
    told: Delivered,
    wanted: Filter,
    *,
    initial: bool,
    full_state: bool,
    streams: Streams | None = None,
    with_state: bool = True,
) -> News:
    """Everything that the inbox is ahead in; `told` takes up what counts as told already.

    `initial`: the client asks for everything. With `full_state` rooms that did not move are among the tasks too.
    `streams` of this inbox, where they were read before. `with_state`: what changed in the rooms' state will be told.
    """
    if streams is None:
        streams = Streams(*in_parallel(*reads_of_streams(user_id, inbox, told, initial=initial)))
    moved = {
        slot
        for slot, state in inbox.slots.items()
        if state.position and (full_state or state.position > told.positions.get(slot, 0))
    }
    noisy = _noisy_slots(inbox, told, wanted, moved)
    rooms = slots.rooms_of_slots(user_id, moved | noisy)
    known_invites = streams.invites or ()
    news = News(account_data=_within_limits(streams.changes or (), told, wanted))
    if any(change.room_id is None and change.type == IGNORED_USER_LIST for change in news.account_data):
        # Invitations of those who are not ignored any more are told now.
        known_invites = invites.invites_of(user_id) if streams.invites is None else known_invites
        news.invites = [invite for invite in known_invites if wanted.room.includes_room(invite.room_id)]
    else:
        news.invites = _new_invites(known_invites, told, wanted)
    told.streams["invites"] = max([told.streams.get("invites", 0), *(invite.number for invite in known_invites)])
    for slot in moved:
        state, since = inbox.slots[slot], told.positions.get(slot, 0)
        room_id = rooms.get(slot)
        if room_id is None:
            continue  # the slot is too new to be seen: it is not told, and comes with the next sync
        if wanted.room.includes_room(room_id):
            news.tasks.append(RoomTask(room_id, slot, since, state.position, state.arrived, initial, told.again))
        else:
            told.positions[slot] = max(since, state.position)
    news.tasks.sort(key=lambda task: -task.arrived)
    news.slots = {rooms[slot]: slot for slot in noisy if slot in rooms and wanted.room.includes_room(rooms[slot])}
    for slot in noisy:
        if slot in rooms and rooms[slot] not in news.slots:
            told.ephemeral[slot] = max(told.ephemeral.get(slot, 0), inbox.slots[slot].ephemeral)
            told.typing.pop(slot, None)
    _read_rooms(user_id, news, inbox, told, wanted, with_state=with_state)
    news.invites = [invite for invite in news.invites if _inviter(user_id, invite) not in news.ignored]
    _settle_invites(news, told)
    return news


def _noisy_slots(inbox: Inbox, told: Delivered, wanted: Filter, moved: set[int]) -> set[int]:
    """The slots that may have ephemeral events to tell: what a room has already nobody announces to who comes in."""
    if wanted.room.ephemeral.excludes_everything:
        told.ephemeral.update({slot: state.ephemeral for slot, state in inbox.slots.items() if state.ephemeral})
        told.typing.clear()
        return set()
    now = now_ms()
    return {
        slot
        for slot, state in inbox.slots.items()
        if state.ephemeral > told.ephemeral.get(slot, 0)
        or (slot in moved and not told.positions.get(slot))
        or 0 < told.typing.get(slot, 0) <= now
    }


def _is_announced(inbox: Inbox, told: Delivered, stream: str) -> bool:
    return inbox.streams.get(stream, 0) > told.streams.get(stream, 0)


def _within_limits(changes: Sequence[AccountData], told: Delivered, wanted: Filter) -> list[AccountData]:
    """The changes that pass the filters, up to the first that is more than a limit allows: that one comes next time."""
    kept: list[AccountData] = []
    counts: dict[str | None, int] = {}
    for change in changes:
        if _passes(change, wanted):
            limit = (wanted.account_data if change.room_id is None else wanted.room.account_data).limit
            counts[change.room_id] = counts.get(change.room_id, 0) + 1
            if limit is not None and counts[change.room_id] > limit:
                break
            kept.append(change)
        told.streams["account_data"] = change.n
    return kept


def _passes(change: AccountData, wanted: Filter) -> bool:
    if change.room_id is None:
        return wanted.account_data.matches(change.type, None)
    event = {"type": change.type, "content": change.content}
    return wanted.room.includes_room(change.room_id) and wanted.room.account_data.matches(event, change.room_id)


def _new_invites(known: Sequence[Invite], told: Delivered, wanted: Filter) -> list[Invite]:
    before = told.streams.get("invites", 0)
    return [invite for invite in known if invite.number > before and wanted.room.includes_room(invite.room_id)]


def _inviter(user_id: str, invite: Invite) -> str | None:
    """Who sent the membership event that is told of a room."""
    for event in invite.events:
        if event.get("type") == "m.room.member" and event.get("state_key") == user_id:
            return str(event["sender"])
    return None


def _read_rooms(user_id: str, news: News, inbox: Inbox, told: Delivered, wanted: Filter, *, with_state: bool) -> None:
    """Heads and rows of all rooms, and beside them ephemeral events and the timelines of the first few.

    `with_state`: also where the rooms stood before, and the stored counts, for those that have a gap.
    """
    others = {change.room_id for change in news.account_data if change.room_id} | news.slots.keys()
    others |= {invite.room_id for invite in news.invites}
    if not news.tasks and not others:
        return
    number = max(inbox.streams.get("account_data", 0), told.streams.get("account_data", 0))
    noisy = {
        room_id: (told.ephemeral.get(slot, 0), inbox.slots[slot].ephemeral) for room_id, slot in news.slots.items()
    }
    typing = {room_id: told.typing[slot] for room_id, slot in news.slots.items() if slot in told.typing}
    first = news.tasks[:_ROOMS_AT_ONCE]
    # A partition of the timeline a call.
    parts = [(task, part) for task in first for part in _by_bucket(*first_window(task, wanted.room.timeline))]
    timelines = [partial(timeline_cache.read_ahead, task.room_id, *part) for task, part in parts]
    gaps = [task for task in first if with_state and has_gap(task, wanted.room.timeline)]
    uncounted = {task.room_id for task in gaps if room_counts.known_counts(task.room_id) is None}
    news.ignored, found, news.ephemeral, _, *read = in_parallel(
        # Who has no account data ignores nobody. It is first, as what reads the ephemeral events asks for it too.
        partial(ignored_by, user_id, number=number) if number else frozenset,
        partial(_heads_and_rows, user_id, news.tasks, others, uncounted),
        partial(read_ephemeral, user_id, noisy, typing_until=typing, account_data_number=number) if noisy else dict,
        partial(state_nodes.read_ahead, _tops(first, inbox)),
        *timelines,
        *[partial(timeline_cache.learn_root, task.room_id, task.since) for task in gaps],
    )
    news.views, news.rows = found
    entries: dict[str, dict[int, Entry]] = {task.room_id: {} for task in first}
    for (task, _), ahead in zip(parts, read, strict=False):
        entries[task.room_id].update(ahead.entries)
    news.ahead = {
        task.room_id: Ahead(task.target, entries[task.room_id], counted=task.room_id in uncounted) for task in first
    }
    # A slot beyond where its user left: they may have come back, in a commit of which the row was not visible yet.
    doubtful = [task for task in news.tasks if _left_before(news.rows.get(task.room_id), task.target)]
    if doubtful:
        views, rows = _heads_and_rows(user_id, doubtful, ())
        news.views |= views
        news.rows |= rows


def _tops(tasks: Iterable[RoomTask], inbox: Inbox) -> list[tuple[str, bytes]]:
    """Where what changed in large rooms will be looked for, as far as it is known by now: (room, root) pairs."""
    tops: list[tuple[str, bytes]] = []
    for task in tasks:
        now, before = inbox.slots[task.slot].root, timeline_cache.known_root(task.room_id, task.since)
        if not now or before is None or before == now:
            continue
        counts = room_counts.known_counts(task.room_id)
        roots = (now, before) if counts is None else (now, before, counts.root)
        tops += [(task.room_id, root) for root in dict.fromkeys(roots)]
    return tops


def _by_bucket(low: int, high: int) -> list[tuple[int, int]]:
    """A range of positions, cut where the partitions of a timeline end."""
    low = max(low, 1)
    starts = range(low - (low - 1) % BUCKET_POSITIONS, high + 1, BUCKET_POSITIONS)
    return [(max(low, start), min(high, start + BUCKET_POSITIONS - 1)) for start in starts]


def _left_before(row: LocalMember | None, position: int) -> bool:
    return row is not None and row.membership != "join" and int(row.left_at or 0) < position


def _heads_and_rows(
    user_id: str, tasks: Sequence[RoomTask], others: Iterable[str], uncounted: AbstractSet[str] = frozenset()
) -> tuple[dict[str, View], dict[str, LocalMember]]:
    """Head and row of the user for each task, and the rows in the other rooms: one round.

    The stored counts of rooms that were never told, and of those that are `uncounted`, come along.
    """
    rooms = [task.room_id for task in tasks]
    keys: list[Key] = [(Head, room_id, HEAD) for room_id in rooms]
    keys += [(LocalMember, room_id, f"local/{user_id}") for room_id in dict.fromkeys([*rooms, *others])]
    new = [room_counts.summary_key(task.room_id) for task in tasks if task.since == 0 or task.room_id in uncounted]
    found = batch_get([*keys, *new], consistent=True)
    for key in new:
        room_counts.take_up(found.get(key))
    rows = {key[1]: item for key, item in found.items() if key[0] is LocalMember}
    heads = {key[1]: item for key, item in found.items() if key[0] is Head}
    views = {
        room_id: (RoomView(head, ROOM_VERSIONS[head.room_version]), rows.get(room_id))
        for room_id, head in heads.items()
    }
    return views, rows


def _settle_invites(news: News, told: Delivered) -> None:
    """An invitation that is newer than the row that was read comes next time: only the row says if it still stands."""
    early = [
        invite.number
        for invite in news.invites
        if invite.room_id not in news.rows or int(news.rows[invite.room_id].position) < invite.position
    ]
    if early:
        news.invites = [invite for invite in news.invites if invite.number < min(early)]
        told.streams["invites"] = min(early) - 1


def room_answers(question: Question, news: News) -> Iterator[RoomAnswer]:
    """The rooms in the order of the tasks; rooms are read a few at a time, so that a full answer reads no further."""
    tasks = []
    for task in news.tasks:
        row = news.rows.get(task.room_id) if task.room_id in news.views else None
        if row is None:
            continue  # where there is a slot there is a row: it cannot be read yet, and nothing is told
        if is_over(task, row, question.wanted, full_state=question.full_state):
            yield RoomAnswer(task, "leave", task.target)
        else:
            tasks.append(task)
    # A room that is told from scratch needs its whole state: one round for all instead of one for each.
    new_rooms = [news.views[task.room_id][0].head for task in tasks if task.since == 0]
    if len(new_rooms) > 1:
        state_nodes.read_ahead((head.room, bytes(head.root)) for head in new_rooms)
    for start in range(0, len(tasks), _ROOMS_AT_ONCE):
        yield from in_parallel(
            *[
                partial(
                    answer_room,
                    question,
                    task,
                    news.views[task.room_id],
                    news.ahead.get(task.room_id, timeline_cache.NOTHING_AHEAD),
                )
                for task in tasks[start : start + _ROOMS_AT_ONCE]
            ]
        )


def tell_ephemeral(news: News, room_id: str, told: Delivered, wanted: Filter) -> list[dict[str, object]]:
    """The ephemeral events of a room that pass the filter; `told` takes up that they are told."""
    found = news.ephemeral.pop(room_id, None)
    if found is None:
        return []
    slot, passes = news.slots[room_id], wanted.room.ephemeral
    told.ephemeral[slot] = max(told.ephemeral.get(slot, 0), found.number)
    told.typing.pop(slot, None)
    if found.typing_until and passes.matches(_TYPING, room_id):
        told.typing[slot] = found.typing_until
    return [event for event in found.events if passes.matches(event, room_id)][: passes.limit]


def account_data_by_room(changes: Iterable[AccountData]) -> dict[str, list[AccountData]]:
    """The account data of rooms, by room."""
    by_room: dict[str, list[AccountData]] = {}
    for change in changes:
        if change.room_id is not None:
            by_room.setdefault(change.room_id, []).append(change)
    return by_room


def data_of_room(
    user_id: str, answer: RoomAnswer, changes: Mapping[str, list[AccountData]], told: Delivered, wanted: Filter
) -> list[AccountData]:
    """The account data that a room's answer tells: what changed, and all of it where the user has just come in.

    While they were not in the room what changed was passed over.
    """
    room_id = answer.task.room_id
    if answer.fresh and not answer.task.initial and told.streams.get("account_data", 0):
        everything = [change for change in user_data.of_room(user_id, room_id) if _passes(change, wanted)]
        return everything[: wanted.room.account_data.limit]
    return changes.get(room_id, [])
