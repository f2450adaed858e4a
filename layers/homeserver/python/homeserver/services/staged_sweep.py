"""What other servers sent and no worker has looked at: their wakes were lost or given up, or parked PDUs are due."""

from homeserver.observability import log
from homeserver.services.clock import now_ms
from homeserver.services.inbound_wakes import wake_job, wake_rooms
from homeserver.storage.staging import rooms_with_staged

_LATE_MS = 5 * 60 * 1000  # so long a worker may take without anybody looking after it


def wake_staged() -> int:
    """Wake the workers of everything that waits for longer than it should; returns how many."""
    now = now_ms()
    rooms, jobs = rooms_with_staged(before_ms=now - _LATE_MS, due_ms=now)
    wake_rooms(sorted(rooms))
    for room_id, key in sorted(jobs):
        wake_job(room_id, key)
    if rooms or jobs:
        log.info("woke the workers of %d rooms and %d jobs", len(rooms), len(jobs))
    return len(rooms) + len(jobs)
