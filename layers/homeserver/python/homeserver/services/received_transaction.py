"""Transactions of other servers: taken once, answered the same however often they come.

What they bring is only stored here, and a worker woken: a room's events are judged one room at a time. First it is
stored, then the worker woken, then the transaction noted, then it is answered. So a crash in between makes the other
server send it again; what was stored already is then stored a second time, and found known by the worker.

Source: server-server API v1.19, "Transactions"; the draft's `ts` and `prev_ids`.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from homeserver.matrix.canonical_json import encode_lenient
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam
from homeserver.observability import fault_point, log
from homeserver.services.clock import now_ms
from homeserver.services.received_contents import read_gates, take_edus, take_pdus
from homeserver.services.transaction_gaps import note_prev_ids
from homeserver.storage.received_transactions import (
    Taken,
    ledger_keys,
    ledger_of,
    note_taken,
    packed_answer,
    unpacked_answer,
)

MOST_PDUS, MOST_EDUS = 50, 100
_MOST_PREV_IDS = 50
_MOST_ID_BYTES = 255


def receive_transaction(origin: str, txn_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Take a transaction of a server that has signed it; returns what became of each PDU, as far as is known now.

    Raises InvalidParam for an ID that is none, Forbidden for the transaction of another server, BadJson for one of the
    wrong shape or with too much in it.
    """
    if not 0 < len(txn_id.encode()) <= _MOST_ID_BYTES:
        raise InvalidParam(f"A transaction ID has 1 to {_MOST_ID_BYTES} bytes.")
    if body.get("origin", origin) != origin:
        raise Forbidden("The transaction is of another server than the one that signed the request.")
    pdus, edus = _listed(body, "pdus", MOST_PDUS), _listed(body, "edus", MOST_EDUS)
    _check_time(body)
    prev_ids = _prev_ids(body)
    digest = sha256(encode_lenient(body)).digest()[:16]
    gates = read_gates(pdus, edus, extras=ledger_keys(origin, [txn_id, *(prev_ids or ())]))
    ledger = ledger_of(origin, gates.extras)
    known = ledger.taken.get(txn_id)
    if known is not None:
        if known.digest != digest:
            log.warning("%s sends another transaction under the ID %s: answered as the first one", origin, txn_id)
        _heard_from(origin)
        return unpacked_answer(known)
    results = take_pdus(origin, txn_id, pdus, gates)
    take_edus(origin, txn_id, edus, gates)
    fault_point("transaction.taken")
    if prev_ids is not None:
        note_prev_ids(origin, txn_id, prev_ids, ledger)
    answer = {"pdus": results}
    note_taken(origin, txn_id, Taken(digest, packed_answer(answer)), now_ms=now_ms(), prev_ids=prev_ids)
    fault_point("transaction.noted")
    _heard_from(origin)
    return answer


def _heard_from(origin: str) -> None:
    from homeserver.services.destinations import heard_from  # noqa: PLC0415 - it sends, which is another matter

    heard_from(origin)


def _listed(body: Mapping[str, Any], key: str, most: int) -> list[Any]:
    found = body.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise BadJson(f"{key} must be an array.")
    if len(found) > most:
        raise BadJson(f"A transaction has at most {most} {key}.")
    return found


def _check_time(body: Mapping[str, Any]) -> None:
    """Nothing depends on the time, which the draft calls `ts`; but where it is no number, the rest is to be doubted."""
    for key in ("origin_server_ts", "ts"):
        if key in body and type(body[key]) is not int:
            raise BadJson(f"{key} must be an integer.")


def _prev_ids(body: Mapping[str, Any]) -> list[str] | None:
    """The transactions before this one; None where the server does not name any, as most do not."""
    found = body.get("prev_ids")
    if found is None:
        return None
    if not isinstance(found, list) or len(found) > _MOST_PREV_IDS:
        raise BadJson(f"prev_ids must be an array of at most {_MOST_PREV_IDS} transaction IDs.")
    if not all(isinstance(prev_id, str) and 0 < len(prev_id.encode()) <= _MOST_ID_BYTES for prev_id in found):
        raise BadJson("prev_ids must be an array of transaction IDs.")
    return found
