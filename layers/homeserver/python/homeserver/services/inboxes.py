"""The inbox follower: what was committed to a room goes into the inboxes of its local members.

A wake names a room, never a range: the follower works from its own cursor to the head, so repeats are harmless and a
wake that got lost is made good by the next one, or by the sweep.

Many members are moved by a queue, in parts. A part says itself which slots go where, is in the queue before the cursor
moves, and stays there until a worker is done with it; what the workers give up goes on to the queue of failed
records, see room_sweep_worker. So the cursor says: everything up to here is in the inboxes, or in a queue.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pynamodb.exceptions import UpdateError, VerboseClientError
from pynamodb.expressions.update import Action

from homeserver.adapters.queues import send_json
from homeserver.matrix import state_tree
from homeserver.observability import fault_point
from homeserver.services.followed_memberships import MembershipChange, follow_memberships, local_changes
from homeserver.storage.connection import connection, in_parallel, query_raw
from homeserver.storage.inbox_shards import advance_request
from homeserver.storage.large_rooms import LARGE_FROM, LARGE_UNTIL, mark_request
from homeserver.storage.room_items import HEAD, Cursor, Head, LocalMember

CURSOR = "cursor/inbox"
FANOUT_QUEUE = "INBOX_FANOUT_QUEUE_URL"
MEMBERS_AT_ONCE = 50  # beyond it the queue spreads the writes over several workers
_LOCAL = "local/"
_PART_ITEMS = 4  # head and cursors, which lie before the members


@dataclass(frozen=True, slots=True)
class Move:
    """One step of one inbox: the slot goes to a position; `large` marks it (True) or takes the mark away (False)."""

    user_id: str
    slot: int
    position: int
    large: bool | None = None


@dataclass(slots=True)
class _Room:
    """A head with the follower's cursor, and the local members as far as they were read."""

    head: Head
    position: int = 0
    root: bytes = state_tree.EMPTY_ROOT
    is_large: bool = False
    members: list[LocalMember] = None  # type: ignore[assignment]  # set by _read
    next_key: str | None = None
