"""Servers that do not answer: how they are left alone, what is kept for them, and when they are tried again.

A server that fails, or takes too long, is **dead**. It is tried again at the time of its schedule (after a minute, then
twice as long each time, up to a day) or when it gives a sign of life. Until then nothing is sent to it: for each room a
row names the first position that it has not been sent, and the messages about it are done with.

The writes are in an order that loses nothing wherever it is cut off (see storage.destinations):

    death      schedule; `destination`; list of the dead; its version; rows
    revival    list of the dead; its version; `destination`; only then rows are looked at, and the rooms' heads after it

Whoever writes a row because a server is dead looks again afterwards. Found it alive, somebody may have looked at the
rows before this one was there: so it is asked to look once more (a message `retry`).
"""

from collections.abc import Iterable, Mapping
from functools import partial

from botocore.exceptions import BotoCoreError, ClientError

from homeserver.adapters.federation_http import FederationError, HttpError
from homeserver.adapters.schedules import remove_schedule, schedule_message
from homeserver.observability import fault_point, log
from homeserver.services.clock import now_ms
from homeserver.services.outbound_messages import digest, enqueue, retry_body, retry_message
from homeserver.storage import destinations as stored
from homeserver.storage.connection import in_parallel
from homeserver.storage.destinations import Destination, dead_servers, read_destination

FIRST_RETRY_MS = 60_000
LAST_RETRY_MS = 24 * 3600 * 1000
# A server that sends but does not answer is not tried for each of its signs of life, only when so long has passed
# since it failed, for each failure after the first.
SIGN_OF_LIFE_MS, _MOST_SIGN_OF_LIFE_MS = 10_000, 300_000
_SIGN_OF_LIFE_SECONDS = 10.0  # for which the list of the dead is believed where only a sign of life depends on it
_OVERDUE_MS = 3600 * 1000
_MOST_KNOWN = 50_000

# Rows that this process knows to be there, with the death in which they were: (room, server, dead since). As long as
# the server is dead nobody takes them away.
_kept: dict[tuple[str, str, int], None] = {}
_capable: set[str] = set()


def forget_destinations() -> None:
    """Forget what this process remembers of other servers."""
    _kept.clear()
    _capable.clear()
    stored.forget_dead_servers()


def backoff_ms(failures: int) -> int:
    """How long a server is left alone after so many failures."""
    return int(min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** min(failures - 1, 20)))


# ── Death ────────────────────────────────────────────────────────────────────────────────────────────


def fall_behind(destination: Destination, error: FederationError, rows: Mapping[str, int]) -> None:
    """A server failed: it is dead, or stays so. `rows`: the first positions that it was not sent, by room."""
    server, now = destination.server, now_ms()
    failures = destination.failures + 1
    wait = backoff_ms(failures)
    spared = min(_MOST_SIGN_OF_LIFE_MS, SIGN_OF_LIFE_MS * (failures - 1))
    if isinstance(error, HttpError) and error.retry_after_ms is not None:
        # It says itself how long it wants to be left alone.
        wait = min(LAST_RETRY_MS, max(wait, error.retry_after_ms))
        spared = max(spared, min(LAST_RETRY_MS, error.retry_after_ms))
    log.warning("sending failed for the %dth time, next try in %d s: %s", failures, wait // 1000, error)
    try:
        schedule_message(_schedule_name(server), now + wait, retry_body(server, now + wait), digest(server))
    except (ClientError, BotoCoreError):
        # The sweep finds servers whose time is over.
        log.exception("no schedule for %s", server)
    fault_point("destination.scheduled")
    stored.note_failure(server, failures, retry_at=now + wait, not_before=now + spared)
    fault_point("destination.failed")
    _list_as_dead(server, now)
    keep_behind(server, rows)


def _list_as_dead(server: str, now: int) -> None:
    if stored.put_dead(server, now):
        fault_point("destination.listed")
    elif server in dead_servers():
        return
    # Also where an earlier run was cut off between the two writes.
    stored.dead_list_changed()
    fault_point("destination.dead")


def _schedule_name(server: str) -> str:
    return f"retry-{digest(server)}"


def put_off(destination: Destination, rows: Mapping[str, int]) -> None:
    """A sender puts off what it would have sent to a server that does not answer, or has to catch up."""
    if destination.is_dead and rows and destination.server not in dead_servers():
        # Who marked it was cut off, or its message was on the way.
        _list_as_dead(destination.server, now_ms())
    keep_behind(destination.server, rows)


def keep_behind(server: str, rows: Mapping[str, int]) -> None:
    """Keep the first unsent positions of a server, by room."""
    for room_id, first in rows.items():
        stored.put_behind(server, room_id, first)
        fault_point("destination.row")
    if rows:
        again = read_destination(server)
        if not again.is_dead:
            enqueue([retry_message(server, again.catching_up or now_ms(), "put off")])


def skip_dead(room_id: str, dead: Mapping[str, int], firsts: Mapping[str, int]) -> list[str]:
    """The router leaves out dead servers of a room, after making sure that each has a row.

    dead: the list as it was read after the room's head; firsts: by dead server, the first position it is not sent.
    Returns the servers that came alive meanwhile, and may have missed their rows: they have to be tried again.
    """
    unknown = [server for server in firsts if (room_id, server, dead[server]) not in _kept]
    if not unknown:
        return []
    there = stored.behind_in(room_id, unknown)
    absent = [server for server in unknown if there.get(server, firsts[server] + 1) > firsts[server]]
    in_parallel(*[partial(stored.put_behind, server, room_id, firsts[server]) for server in absent])
    fault_point("outbound.rows")
    still = dead_servers() if absent else dead
    revived = [server for server in absent if server not in still]
    for server in unknown:
        # One that died again since has its row from before, or it was found when the server came alive.
        if still.get(server) == dead[server]:
            _kept[room_id, server, dead[server]] = None
    while len(_kept) > _MOST_KNOWN:
        _kept.pop(next(iter(_kept)))
    return revived


# ── Revival ──────────────────────────────────────────────────────────────────────────────────────────


def come_alive(destination: Destination) -> None:
    """A server answered: from now on it is sent what is new, after what it missed.

    Only rows and heads that are read after this are sure to have everything that the router left out.
    """
    server = destination.server
    if destination.is_dead or server in dead_servers():
        stored.drop_dead(server)
        fault_point("destination.unlisted")
        stored.dead_list_changed()
        fault_point("destination.alive")
    if destination.is_dead:
        stored.note_answer(server, now_ms())
        fault_point("destination.answered")
        log.info("%s answers again after %d failures", server, destination.failures)
        try:
            remove_schedule(_schedule_name(server))
        except (ClientError, BotoCoreError):
            # It will find nothing to do.
            log.exception("the schedule of %s stays", server)


def continue_later(destination: Destination, rows: Mapping[str, int]) -> None:
    """There is no time left to send everything: the rest is kept in rows, and a further message goes on with it."""
    server, now = destination.server, now_ms()
    for room_id, first in rows.items():
        stored.put_behind(server, room_id, first)
    fault_point("destination.row")
    if destination.catching_up is None:
        stored.note_catching_up(server, now)
        fault_point("destination.catching_up")
    enqueue([retry_message(server, now, "go on")])


# ── Signs of life ────────────────────────────────────────────────────────────────────────────────────


def heard_from(server: str) -> None:
    """A sign of life: a server that does not answer is tried again at once, unless it failed a moment ago.

    Free for healthy servers: the list of the dead is read once in ten seconds. Never raises what goes wrong here: a
    schedule tries again as well.
    """
    try:
        if server not in dead_servers(seconds=_SIGN_OF_LIFE_SECONDS):
            return
        destination = read_destination(server)
        if destination.retry_at is not None and destination.not_before <= now_ms():
            enqueue([retry_message(server, destination.retry_at, "heard from")])
    except Exception:  # whoever heard has work of its own to do
        log.exception("%s is not tried again at once", server)


def mark_capable(server: str) -> None:
    """The server sent prev_ids, so it understands them. One write the first time a process hears of it."""
    if server in _capable:
        return
    if not read_destination(server).capable:
        stored.note_capable(server)
    _capable.add(server)


def retry_stranded() -> int:
    """Try again every server that nobody would try again, as after a crash; how many there are. For the sweep."""
    now = now_ms()
    servers: Iterable[str] = sorted(stored.scan_stranded(now - _OVERDUE_MS))
    messages = [retry_message(server, now, "sweep") for server in servers]
    enqueue(messages)
    return len(messages)
