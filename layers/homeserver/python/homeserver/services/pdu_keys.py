"""The keys that the signatures of many events need, of all servers at once.

A key counts up to some time and not later, so one answer for the newest event mostly serves all events of a server; and
however many events there are, a server is asked once.

Source: Matrix v1.19, server-server API, "Retrieving server keys"; "Signing key validity period" of room version 5.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, field

from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.matrix.server_keys import MOST_KEYS
from homeserver.services.clock import now_ms
from homeserver.services.server_keys import verify_keys
from homeserver.settings import settings
from homeserver.storage.server_keys import load_keys

_AT_ONCE = 32  # servers
_MOST_IDS = 4 * MOST_KEYS  # of one server: it has at most 64, so most of a great many are made up
_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Signature:
    """A server's signatures on one event: with which keys, and of when the event is (milliseconds)."""

    server: str
    key_ids: frozenset[str]
    at_ms: int


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """One server's keys by ID, each with the last of the wanted times for which it counts.

    `is_certain`: what is not here does not exist. Else the server could not be asked at the moment.
    """

    keys: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)
    is_certain: bool = False

    def counting(self, at_ms: int) -> dict[str, bytes]:
        """The keys that count for a signature of this time, which is one of those wanted."""
        return {key_id: key for key_id, (key, until) in self.keys.items() if at_ms <= until}


def fetch_keys(
    signatures: Iterable[Signature], rules: RoomVersionRules, *, seconds: float = 60.0
) -> dict[str, ServerKeys]:
    """The keys of every server that signed, as they count in rooms of this version; all servers at the same time.

    What is not there after some seconds is not waited for: those servers' keys are not certain.
    """
    wanted: defaultdict[str, list[Signature]] = defaultdict(list)
    for signature in signatures:
        wanted[signature.server].append(signature)
    if len(wanted) <= 1:
        return {server: _keys_of(server, its, rules) for server, its in wanted.items()}
    end = time.monotonic() + seconds
    threads = ThreadPoolExecutor(min(_AT_ONCE, len(wanted)), thread_name_prefix="keys")
    # The meter of this invocation counts on in the threads.
    futures = {
        server: threads.submit(copy_context().run, _keys_of, server, its, rules) for server, its in wanted.items()
    }
    wait(futures.values(), timeout=max(0.0, end - time.monotonic()))
    found = {server: future.result() if future.done() else ServerKeys() for server, future in futures.items()}
    threads.shutdown(wait=False, cancel_futures=True)
    return found


def _keys_of(server: str, signatures: Sequence[Signature], rules: RoomVersionRules) -> ServerKeys:
    """What a server's keys are good for, by its signatures."""
    started = now_ms()
    times: defaultdict[str, list[int]] = defaultdict(list)
    for signature in signatures:
        for key_id in signature.key_ids:
            times[key_id].append(signature.at_ms)
    ids = list(times)
    if len(ids) > _MOST_IDS:
        known_before = load_keys(server).keys
        ids = sorted(ids, key=lambda key_id: (key_id in known_before, len(times[key_id])), reverse=True)[:_MOST_IDS]
    newest = max(signature.at_ms for signature in signatures)
    # A time far ahead is a lie or a broken clock: no key counts then, and nobody is asked for its sake first.
    asked_for = max((s.at_ms for s in signatures if s.at_ms <= started + _DAY_MS), default=newest)
    found = verify_keys(server, ids, valid_at_ms=asked_for, rules=rules)
    if len(found) == len(times) and asked_for == newest:
        return ServerKeys({key_id: (key, newest) for key_id, key in found.items()}, is_certain=True)
    known = found | verify_keys(server, ids, valid_at_ms=0, rules=rules)
    alone = {key_id for signature in signatures if not signature.key_ids & known.keys() for key_id in signature.key_ids}
    unknown = [key_id for key_id in ids if key_id in alone]
    if known and unknown:
        # The server is asked only if none of the keys is known: it may have begun to sign with another.
        known |= verify_keys(server, unknown, valid_at_ms=asked_for, rules=rules)
        known |= verify_keys(server, unknown, valid_at_ms=0, rules=rules)
    keys = {}
    for key_id, key in known.items():
        until = _last_counting(server, key_id, sorted(set(times[key_id])), rules)
        if until is not None:
            keys[key_id] = (key, until)
    if server == settings().server_name:
        return ServerKeys(keys, is_certain=True)
    # Somebody who was asked a moment ago is not asked again for half a minute: that says nothing about new keys.
    told = load_keys(server)
    is_certain = told.failures == 0 and told.fetched_ms >= started and len(ids) == len(times)
    return ServerKeys(keys, is_certain=is_certain)


def _last_counting(server: str, key_id: str, times: Sequence[int], rules: RoomVersionRules) -> int | None:
    """The last of the times, in order, at which the key counts: it counts at all before it, and at none after."""
    low, high = 0, len(times)
    middle = high - 1
    while low < high:
        if verify_keys(server, [key_id], valid_at_ms=times[middle], rules=rules):
            low = middle + 1
        else:
            high = middle
        middle = (low + high) // 2
    return times[low - 1] if low else None
