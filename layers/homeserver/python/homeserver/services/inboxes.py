"""The inbox follower: what was committed to a room goes into the inboxes of its local members.

A wake names a room, never a range: the follower works from its own cursor to the head, so repeats are harmless and a
wake that got lost is made good by the next one, or by the sweep.

Many members are moved by a queue, in parts. A part says itself which slots go where, is in the queue before the cursor
moves, and stays there until a worker has done it; what the workers give up goes on to the queue of failed records, see
room_sweep_worker. So the cursor says: everything up to here is in the inboxes, or in a queue.

The members of a large room (see storage.large_rooms) are moved once, when the room becomes one, and then only whoever
joins or leaves.

Receipts and typing users are no commits: whoever writes them announces them (services.fanout), through the same queue.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.adapters.queues import send_json
from homeserver.matrix import state_tree
from homeserver.observability import fault_point
from homeserver.services.directory_follow import follow_directory
from homeserver.services.fanout import (
    FANOUT_QUEUE,
    MEMBERS_AT_ONCE,
    Slot,
    announce_in_slots,
    announce_part,
    ephemeral_part,
    write,
)
from homeserver.services.followed_memberships import changed_members, follow_memberships, membership_changes
from homeserver.services.room_rows import is_local
from homeserver.services.room_summary import keep_counts
from homeserver.services.rows_follow import follow_rows
from homeserver.storage import large_rooms
from homeserver.storage.connection import Key, batch_get, in_parallel, query_raw
from homeserver.storage.ephemeral import EPHEMERAL, EphemeralItem
from homeserver.storage.inbox_shards import advance_request
from homeserver.storage.room_items import HEAD, INBOX_CURSOR, Cursor, Head, LocalMember
from homeserver.storage.rooms import load_heads

CURSOR = INBOX_CURSOR
FAILED_RECORDS_QUEUE = "FAILED_RECORDS_QUEUE"
MEMBERS_HANDED_OVER = 200  # users whose memberships changed, beyond which those of other servers are another's work
ROWS_HANDED_OVER = 150  # rows that are brought along before inboxes, beside those of local members
_LOCAL, _AFTER_LOCAL = "local/", "local0"
_FIRST_PAGE = MEMBERS_AT_ONCE + 4  # the cursors, the ephemeral item and the head lie before the members


@dataclass(frozen=True, slots=True)
class Move:
    """A slot goes to a position; `large`: it is marked (True), its mark is taken away (False), or neither."""

    user_id: str
    slot: int
    position: int
    large: bool | None = None


@dataclass(slots=True)
class _Room:
    """A head with the follower's cursor, and the local members as far as they were read."""

    head: Head
    position: int
    root: bytes
    was_large: bool
    members: dict[str, LocalMember] = field(default_factory=dict)
    last_key: str | None = None  # where reading the members has to go on
    ephemeral: int = 0  # the number that everybody is told

    @property
    def is_large(self) -> bool:
        """Whether the room is large now: what it was, unless its members say otherwise clearly."""
        members = int(self.head.local_members)
        return members >= large_rooms.LARGE_UNTIL if self.was_large else members > large_rooms.LARGE_FROM


def _read(room_id: str) -> _Room | None:
    """The room with its first members: in the order of sort keys they follow cursors and head."""
    head: Head | None = None
    cursor: Cursor | None = None
    members: dict[str, LocalMember] = {}
    ephemeral = 0
    items = query_raw(Head, room_id, CURSOR, _AFTER_LOCAL, consistent=True, limit=_FIRST_PAGE)
    for raw in items:
        key = raw["k"]["S"]
        if key == CURSOR:
            cursor = Cursor.from_raw_data(raw)
        elif key == HEAD:
            head = Head.from_raw_data(raw)
        elif key == EPHEMERAL:
            ephemeral = int(EphemeralItem.from_raw_data(raw).announced or 0)
        elif key.startswith(_LOCAL):
            members[key[len(_LOCAL) :]] = LocalMember.from_raw_data(raw)
    if head is None:
        return None
    position, root = (int(cursor.position), bytes(cursor.root)) if cursor else (0, state_tree.EMPTY_ROOT)
    last_key = items[-1]["k"]["S"] if len(items) == _FIRST_PAGE else None
    return _Room(head, position, root, bool(cursor and cursor.large), members, last_key, ephemeral)


def _read_other_members(room: _Room) -> None:
    if room.last_key is not None:
        # Bounds are inclusive; a space is the least that can follow.
        for raw in query_raw(Head, room.head.room, room.last_key + " ", _AFTER_LOCAL, consistent=True):
            room.members[raw["k"]["S"][len(_LOCAL) :]] = LocalMember.from_raw_data(raw)


def follow_room(room_id: str, *, everything: bool = False) -> None:
    """Bring rows, inboxes, memberships and invitations of a room up to its head, and move the cursor there.

    Rows and memberships of very many users of other servers are handed over to the queue of failed records, whose
    worker has the time for them, unless `everything` is to be done here.
    """
    room = _read_in_step(room_id, everything=everything)
    if room is None or room.head.position <= room.position:
        return
    changed_ids = changed_members(room.head, room.root) if room.head.root != room.root else {}
    if len(changed_ids) > MEMBERS_HANDED_OVER and not everything:
        hand_over = {"from": room.root.hex(), "to": bytes(room.head.root).hex(), "position": room.position}
        send_json(FAILED_RECORDS_QUEUE, {"room": room_id, "members": hand_over})
        changed_ids = {user_id: ids for user_id, ids in changed_ids.items() if is_local(user_id)}
    changes = membership_changes(room_id, room.head.room_version, changed_ids, room.position) if changed_ids else []
    follow_memberships(room_id, changes)
    changed = [change.user_id for change in changes if change.is_local]
    fault_point("follower.before_inboxes")
    moves = _moves(room, changed)
    if len(moves) > MEMBERS_AT_ONCE:
        for start in range(0, len(moves), MEMBERS_AT_ONCE):
            send_json(FANOUT_QUEUE, _part(room, moves[start : start + MEMBERS_AT_ONCE]))
            fault_point("follower.between_parts")
    else:
        _make_moves(moves, int(room.head.arrived))
        announce_in_slots(_missed(room, moves), room.ephemeral)
    follow_directory(room.head, room.root, room.position, changes)
    if changes:
        keep_counts(room.head)
    fault_point("follower.before_cursor")
    _move_cursor(room)
    fault_point("follower.after_cursor")


def _read_in_step(room_id: str, *, everything: bool) -> _Room | None:
    """The room with its rows in step with its state, those of the local members at least."""
    room = _read(room_id)
    if room is None or room.head.rows_root == room.head.root:
        return room
    if not follow_rows(room_id, most=None if everything else ROWS_HANDED_OVER):
        send_json(FAILED_RECORDS_QUEUE, {"room": room_id})
    return _read(room_id)


def follow_members(room_id: str, part: dict[str, Any]) -> None:
    """Bring along what the follower handed over: memberships of users of other servers. Repeating it does no harm."""
    head = load_heads([room_id]).get(room_id)
    if head is None:
        return
    root, position = bytes.fromhex(part["from"]), int(part["position"])
    ids = changed_members(head, root, bytes.fromhex(part["to"]))
    others = {user_id: changed for user_id, changed in ids.items() if not is_local(user_id)}
    for start in range(0, len(others), MEMBERS_HANDED_OVER):
        some = dict(islice(others.items(), start, start + MEMBERS_HANDED_OVER))
        changes = membership_changes(room_id, head.room_version, some, position)
        follow_memberships(room_id, changes)
        follow_directory(head, root, position, changes)


def _moves(room: _Room, changed: Sequence[str]) -> list[Move]:
    """Where the slots of the local members have to go."""
    if room.was_large or room.is_large:
        if room.was_large and room.is_large:
            room.members.clear()
        else:
            _read_other_members(room)
        # A row that was read together with the head may be older than the head's last commit; these are not.
        keys: list[Key] = [(LocalMember, room.head.room, _LOCAL + user_id) for user_id in changed]
        found = batch_get(keys, consistent=True) if keys else {}
        room.members |= {row.k[len(_LOCAL) :]: row for row in found.values()}
    else:
        _read_other_members(room)
    moves = [_move(room, user_id, row) for user_id, row in room.members.items()]
    return [move for move in moves if move is not None]


def _move(room: _Room, user_id: str, row: LocalMember) -> Move | None:
    if row.slot is None:
        return None
    if row.membership == "join":
        mark = room.is_large if room.is_large or room.was_large else None
        return Move(user_id, int(row.slot), int(room.head.position), mark)
    if row.left_at is not None and row.left_at > room.position:
        # Since the cursor: to where they left, and no further.
        return Move(user_id, int(row.slot), int(row.left_at), False if room.is_large or room.was_large else None)
    return None


def _missed(room: _Room, moves: Iterable[Move]) -> list[Slot]:
    """The slots that nothing ephemeral was announced to: of who was not joined, and while the room was a large one."""
    if not room.ephemeral:
        return []
    shrunk = room.was_large and not room.is_large
    return [(move.user_id, move.slot) for move in moves if shrunk or _has_joined(room, room.members[move.user_id])]


def _has_joined(room: _Room, row: LocalMember) -> bool:
    return row.membership == "join" and int(row.joined_since or 0) > room.position


def _part(room: _Room, moves: Sequence[Move]) -> dict[str, Any]:
    listed = [[move.user_id, move.slot, move.position, move.large] for move in moves]
    part = {"room": room.head.room, "arrived": int(room.head.arrived), "moves": listed}
    missed = _missed(room, moves)
    return {**part, **ephemeral_part(missed, room.ephemeral)} if missed else part


def follow_part(part: dict[str, Any]) -> None:
    """One part of a room with many local members, as the follower put it into the queue. Repeating it does no harm."""
    _make_moves([Move(*move) for move in part["moves"]], part["arrived"])
    announce_part(part)
    fault_point("fanout.after")


def _make_moves(moves: Iterable[Move], arrived: int) -> None:
    calls = []
    for move in moves:
        calls.append(partial(write, advance_request(move.user_id, move.slot, move.position, arrived)))
        if move.large is not None:
            mark = large_rooms.mark_request(move.user_id, move.slot, move.position, large=move.large)
            calls.append(partial(write, mark))
    in_parallel(*calls)


def _move_cursor(room: _Room) -> None:
    actions: list[Action] = [
        Cursor.position.set(int(room.head.position)),
        Cursor.root.set(bytes(room.head.root)),
    ]
    if room.is_large != room.was_large:
        actions.append(Cursor.large.set(1) if room.is_large else Cursor.large.remove())
    ahead = Cursor.position.does_not_exist() | (Cursor.position < int(room.head.position))
    try:
        Cursor(room.head.room, CURSOR).update(actions, ahead)
    except UpdateError as error:
        # Another run of the follower was quicker, and has done at least as much.
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
