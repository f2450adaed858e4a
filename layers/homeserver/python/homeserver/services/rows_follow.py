"""Rows that follow the state of a room after a change that was too large to bring them along in its own commit.

Chunk by chunk, each in one transaction: the rows of some keys, the local members and servers behind them, and on the
head the root of the state that the rows show then. So between any two chunks the rows are exactly a state with a root,
and a reader takes what differs from the head's own root from the tree. A chunk moves the head's version on, as a commit
does: whoever has prepared something on the rows as they were has to look again.
"""

from collections.abc import Mapping
from itertools import islice

from homeserver.matrix import state_tree
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.state_nodes import encode_key, key_hash
from homeserver.observability import fault_point
from homeserver.services.attempts import attempts
from homeserver.services.room_rows import RoomRows, is_local
from homeserver.storage.commit import Commit, write_rows
from homeserver.storage.connection import TransactionCancelled
from homeserver.storage.room_items import Head
from homeserver.storage.rooms import StateEntry, StateKey, fetch_state_events, load_heads
from homeserver.storage.state_nodes import StateNodes

ROWS_AT_ONCE = 15  # keys of one chunk: a local member who comes in takes six items
_MEMBER = "m.room.member"

Changes = Mapping[StateKey, tuple[str | None, str | None]]


def follow_rows(room_id: str, *, most: int | None = None) -> bool:
    """Bring the rows of a room up to its state; whether all are there now. Beyond `most` keys it ends early.

    Local members come first, all of them, so that inboxes need not wait for the rest. Repeating it does no harm. Raises
    LimitExceeded where others change the room all the time.
    """
    done = 0
    for _ in attempts("The room"):
        head = load_heads([room_id]).get(room_id)
        if head is None or head.rows_root == head.root:
            return True
        nodes = StateNodes(room_id)
        changes = state_tree.diff(nodes, bytes(head.rows_root), bytes(head.root))
        order = iter(sorted(changes, key=_local_first))
        while chunk := list(islice(order, ROWS_AT_ONCE)):
            if most is not None and done >= most and not _is_of_local_member(chunk[0]):
                return False
            after = _bring(nodes, head, {key: changes[key] for key in chunk})
            if after is None:
                break
            head = after
            done += len(chunk)
            fault_point("rows.between_chunks")
        else:
            return True
    raise AssertionError("attempts() never ends by itself")


def _is_of_local_member(key: StateKey) -> bool:
    return key[0] == _MEMBER and is_local(key[1])


def _local_first(key: StateKey) -> tuple[bool, bytes]:
    # In the order of the tree a chunk changes few of its nodes.
    return not _is_of_local_member(key), key_hash(encode_key(key))


def _bring(nodes: StateNodes, head: Head, changes: Changes) -> Head | None:
    """Write the rows of some keys; returns the head after it, or None if somebody else was quicker."""
    room_id = head.room
    ids = {event_id for change in changes.values() for event_id in change if event_id is not None}
    entries = fetch_state_events(room_id, ids, ROOM_VERSIONS[head.room_version], consistent=True)
    rows = RoomRows(room_id, head)
    rows.read([key[1] for key in changes if key[0] == _MEMBER])
    for key, (old, new) in changes.items():
        position = int(head.state_position if _is_of_local_member(key) else head.position)
        entry = StateEntry(entries[new].event, position, entries[new].cover) if new is not None else None
        late_since = int(head.rows_late_since) if head.rows_late_since is not None else None
        rows.change(key, entries[old].event if old is not None else None, entry, position, late_since=late_since)
    update = state_tree.update(nodes, bytes(head.rows_root), {key: new for key, (_, new) in changes.items()})
    nodes.add(update.new_nodes)
    nodes.write()
    after = Head.from_raw_data(head.serialize())
    after.version = int(head.version) + 1
    after.rows_root = update.root
    after.local_members, after.remote_servers = rows.local_members, rows.remote_servers
    commit = Commit(
        before=head,
        after=after,
        state=list(rows.state.values()),
        locals=list(rows.locals.values()),
        servers=list(rows.servers.values()),
    )
    try:
        write_rows(commit)
    except TransactionCancelled:
        return None
    return after
