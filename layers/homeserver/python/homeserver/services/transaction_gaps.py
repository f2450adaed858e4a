"""Transactions that never came: the draft's `prev_ids`, as one who receives them.

A server that keeps to the draft of 2014 names in each transaction the one before it. Where that never came, it is asked
once for everything since the last one that did: `GET /pull/`. What it answers is taken as if it had been sent.

Source: the draft's transactions (`prev_ids`, `pull`), as README.md ("the draft's dialect") puts them to use.
"""

from collections.abc import Collection
from typing import Any

from homeserver.adapters.federation_http import FederationClient, FederationError, HttpError
from homeserver.observability import fault_point, log
from homeserver.services.clock import now_ms
from homeserver.services.inbound_wakes import wake_gap
from homeserver.services.received_contents import read_gates, take_edus, take_pdus
from homeserver.settings import settings
from homeserver.storage.received_transactions import (
    Ledger,
    Peer,
    end_gap,
    last_taken,
    note_failure,
    read_ledger,
    store_peer,
)

PULL = "/_matrix/federation/v1/pull/"
OUT_OF_ORDER_MS = 60_000  # so long a transaction may take to come after those that name it
MOST_PULLED_PDUS = 500
_MOST_PULLED_EDUS = 500
_BETWEEN_PULLS_MS = 60_000
_FIRST_BACKOFF_MS, _LONGEST_BACKOFF_MS = 60_000, 24 * 3600 * 1000
_UNSUPPORTED_MS = 7 * 24 * 3600 * 1000
_UNSUPPORTED_STATUSES = {400, 404}
_AT_ONCE = 50  # PDUs, as in a transaction
_TIMEOUT_S = 60.0


class TooEarly(Exception):
    """There is nothing to be done before so many seconds are over."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"in {seconds} s")
        self.seconds = seconds


def note_prev_ids(origin: str, txn_id: str, prev_ids: Collection[str], ledger: Ledger) -> None:
    """A transaction came, and names those before it: note where the server's order stands, and what is missing.

    Nothing is missing at first contact, nor of what was forgotten. One write, two reads of which the second is rare.
    """
    peer, now = ledger.peer, now_ms()
    unknown = [prev_id for prev_id in dict.fromkeys(prev_ids) if prev_id not in ledger.taken and prev_id != txn_id]
    last = peer.last if peer is not None else last_taken(origin) if unknown else ""
    if peer is None:
        # OUT's own record of the server: from now on it is sent prev_ids too.
        from homeserver.services.destinations import mark_capable  # noqa: PLC0415 - only the first contact needs it

        mark_capable(origin)
        peer = Peer(last)
    missing = (*peer.missing, *(prev_id for prev_id in unknown if prev_id not in peer.missing)) if last else ()
    noted = Peer(txn_id, missing, peer.since or last, peer.noted_ms or now, peer.pull_at_ms, peer.failures)
    store_peer(origin, noted, now_ms=now)
    fault_point("gaps.noted")
    is_late = noted.noted_ms + OUT_OF_ORDER_MS <= now
    is_soon = noted.pull_at_ms <= now + OUT_OF_ORDER_MS
    if missing and (unknown or is_late) and is_soon and peer.unsupported_ms <= now:
        wake_gap(origin, txn_id)


def repair_gap(origin: str) -> None:
    """Ask a server for what is missing of it, in the worker; nothing if nothing is, or it is to be left alone.

    Raises TooEarly while what is missing may still come by itself, and where the server was asked just now.
    """
    now = now_ms()
    peer = read_ledger(origin, []).peer
    if peer is None or not peer.missing or peer.pull_at_ms > now + OUT_OF_ORDER_MS or peer.unsupported_ms > now:
        return
    taken = read_ledger(origin, peer.missing).taken
    missing = [txn_id for txn_id in peer.missing if txn_id not in taken]
    if not missing:
        end_gap(origin, peer, pull_at_ms=0)
        return
    left = max(peer.noted_ms + OUT_OF_ORDER_MS, peer.pull_at_ms) - now
    if left > 0:
        raise TooEarly(-(-left // 1000))
    log.info("%s has sent %s, which never came: asking for what came after %s", origin, missing, peer.since)
    try:
        _, answer = FederationClient().request(
            "GET", origin, PULL, {"origin": settings().server_name, "v": peer.since}, timeout_s=_TIMEOUT_S
        )
    except FederationError as error:
        _failed(origin, peer, error)
        return
    fault_point("gaps.pulled")
    _take(origin, peer, answer)
    fault_point("gaps.taken")
    end_gap(origin, peer, pull_at_ms=now_ms() + _BETWEEN_PULLS_MS)


def _failed(origin: str, peer: Peer, error: FederationError) -> None:
    now = now_ms()
    if isinstance(error, HttpError) and (error.status in _UNSUPPORTED_STATUSES or error.errcode == "M_UNRECOGNIZED"):
        log.info("%s does not know how to be asked for transactions: %s", origin, error)
        end_gap(origin, peer, pull_at_ms=now, unsupported_ms=now + _UNSUPPORTED_MS)
        return
    failures = peer.failures + 1
    backoff = min(_FIRST_BACKOFF_MS * 2 ** (failures - 1), _LONGEST_BACKOFF_MS)
    log.info("%s did not tell what is missing of it: %s", origin, error)
    note_failure(origin, failures=failures, pull_at_ms=now + backoff)


def _take(origin: str, peer: Peer, answer: Any) -> None:
    """Take what a server answered as if it had sent it; its own prev_ids are of no interest, or this would not end."""
    content = answer if isinstance(answer, dict) else {}
    pdus, edus = (content[key] if isinstance(content.get(key), list) else [] for key in ("pdus", "edus"))
    if len(pdus) > MOST_PULLED_PDUS:
        log.warning("of %d PDUs that %s told at once %d are taken", len(pdus), origin, MOST_PULLED_PDUS)
        pdus = pdus[:MOST_PULLED_PDUS]
    for start in range(0, len(pdus), _AT_ONCE):
        some = pdus[start : start + _AT_ONCE]
        take_pdus(origin, f"pull {peer.since} {start}", some, read_gates(some, []))
    edus = edus[:_MOST_PULLED_EDUS]
    if edus:
        take_edus(origin, f"pull {peer.since}", edus, read_gates([], edus))
