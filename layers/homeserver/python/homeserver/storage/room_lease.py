"""A short lease on a room's head: who lost race after race holds the others off for as long as one merge takes.

It only saves work. What is right is decided by the head's version, which taking the lease moves on: whatever others
have prepared is void, and they see the lease when they read the room again.
"""

import time

from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.room_items import HEAD, Head

LEASE_MS = 2_000
_WAIT_S = 0.1


def take_lease(head: Head, holder: str) -> bool:
    """Lease the room to a holder, whom nobody else must be called; false if somebody else was quicker."""
    if _is_leased(head, holder):
        return False
    transaction = Transaction()
    actions = [
        Head.version.set(int(head.version) + 1),
        Head.lease_holder.set(holder),
        Head.lease_until.set(_now() + LEASE_MS),
    ]
    transaction.update("head", Head(head.room, HEAD), actions, Head.version == head.version)
    try:
        transaction.commit()
    except TransactionCancelled:
        return False
    return True


def wait_for_lease(head: Head, holder: str | None) -> bool:
    """Whether somebody else holds the room. If so, after a moment: then it is time to read the room again."""
    if not _is_leased(head, holder):
        return False
    time.sleep(min(_WAIT_S, max(0.0, (int(head.lease_until or 0) - _now()) / 1000)))
    return True


def _is_leased(head: Head, holder: str | None) -> bool:
    return head.lease_holder is not None and head.lease_holder != holder and int(head.lease_until or 0) > _now()


def _now() -> int:
    return time.time_ns() // 1_000_000
