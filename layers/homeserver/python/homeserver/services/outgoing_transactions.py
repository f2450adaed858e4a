"""Transactions to other servers: at most 50 events and 100 EDUs, named by a hash of what is in them.

Source: server-server API v1.19, "Transactions"; of the draft of 2014, `prev_ids` (services.outgoing_ledger).
"""

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from homeserver.adapters.federation_http import (
    BadAnswer,
    FederationClient,
    FederationError,
    HttpError,
    federation_path,
)
from homeserver.matrix.canonical_json import encode_lenient
from homeserver.observability import fault_point, log
from homeserver.services.outgoing_events import OutgoingEvent
from homeserver.services.outgoing_ledger import enter, understands_prev_ids
from homeserver.settings import settings
from homeserver.storage.destinations import Destination, note_software

MOST_PDUS = 50
MOST_EDUS = 100
TIMEOUT_S = 10.0  # who needs longer counts as not answering
# What a server says of a transaction that it will never take, however often it comes.
_HOPELESS = frozenset({400, 413})


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One event on its way, with its room."""

    room_id: str
    event: OutgoingEvent

    @property
    def place(self) -> tuple[str, int]:
        """Room and position."""
        return self.room_id, self.event.position


@dataclass(slots=True)
class Transaction:
    """What goes out at once. `ts`: the time of what has no time of its own, in milliseconds."""

    ts: int
    pdus: list[Outgoing] = field(default_factory=list)
    edus: list[Mapping[str, Any]] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        """The transaction, the same whenever the same is sent again."""
        only_events = self.pdus and not self.edus
        ts = max(pdu.event.arrived for pdu in self.pdus) if only_events else self.ts
        pdus = [pdu.event.pdu for pdu in self.pdus]
        body: dict[str, Any] = {"origin": settings().server_name, "origin_server_ts": ts, "pdus": pdus}
        return {**body, "edus": self.edus} if self.edus else body


def transaction_id(server: str, body: Mapping[str, Any]) -> str:
    """The ID of a transaction to a server: a hash of both, so that a repeated one is known as such."""
    return urlsafe_b64encode(sha256(server.encode() + b"\n" + encode_lenient(body)).digest()[:18]).decode()


def send(destination: Destination, transaction: Transaction) -> Destination:
    """Send one transaction; returns the destination as it is then. Raises FederationError, also for a bad answer.

    What the server finds wrong with single events is logged, and done. A transaction that it refuses as a whole, as one
    that it will never take, is sent in halves, until what it does not take is alone: that is logged, and done.
    """
    try:
        return _sent(destination, transaction)
    except HttpError as error:
        if error.status not in _HOPELESS:
            raise
        parts = _halves(transaction)
        if not parts:
            what = [pdu.event.event_id for pdu in transaction.pdus] or [edu["edu_type"] for edu in transaction.edus]
            log.error("%s takes no transaction with %s: %s", destination.server, what, error)
        for part in parts:
            destination = send(destination, part)
        return destination


def _halves(transaction: Transaction) -> list[Transaction]:
    pdus, edus = transaction.pdus, transaction.edus
    if pdus and edus:
        return [Transaction(transaction.ts, pdus=pdus), Transaction(transaction.ts, edus=edus)]
    half = (len(pdus) + len(edus)) // 2
    if half == 0:
        return []
    return [
        Transaction(transaction.ts, pdus=pdus[:half], edus=edus[:half]),
        Transaction(transaction.ts, pdus=pdus[half:], edus=edus[half:]),
    ]


def _sent(destination: Destination, transaction: Transaction) -> Destination:
    server = destination.server
    body = transaction.body()
    name = transaction_id(server, body)
    if understands_prev_ids(destination):
        destination, before = enter(destination, name, [pdu.place for pdu in transaction.pdus])
        body["prev_ids"] = [before] if before else []
    fault_point("sender.before_request")
    _, answer = FederationClient().request(
        "PUT", server, federation_path("v1", "send", name), content=body, timeout_s=TIMEOUT_S
    )
    fault_point("sender.after_request")
    results = answer.get("pdus") if isinstance(answer, dict) else None
    if not isinstance(results, dict) and (transaction.pdus or not isinstance(answer, dict)):
        raise BadAnswer(server, "the answer to a transaction does not say what became of it")
    _log_refusals(server, results)
    return destination


def _log_refusals(server: str, results: Any) -> None:
    if not isinstance(results, dict):
        return
    for event_id, result in results.items():
        if isinstance(result, dict) and "error" in result:
            log.warning("%s refused %s: %.200s", server, event_id, result["error"])


def ask_software(destination: Destination) -> None:
    """Ask a server what software it is, which says whether it understands prev_ids: once, whatever comes of it.

    If it could not tell, it is known by the prev_ids that it sends itself.
    """
    if destination.software is not None or destination.capable or settings().federation_prev_ids != "auto":
        return
    name = ""
    try:
        _, answer = FederationClient().request(
            "GET",
            destination.server,
            federation_path("v1", "version"),
            timeout_s=TIMEOUT_S / 2,
            signed=False,
        )
        name = _name_of(answer)
    except FederationError as error:
        log.info("its software is not known: %s", error)
    note_software(destination.server, name)


def _name_of(answer: Any) -> str:
    server = answer.get("server") if isinstance(answer, dict) else None
    name = server.get("name") if isinstance(server, dict) else None
    return name[:100] if isinstance(name, str) else ""


def transactions(ts: int, pdus: Sequence[Outgoing], edus: Sequence[Mapping[str, Any]]) -> list[Transaction]:
    """Events and EDUs in as few transactions as possible, in order; the EDUs go with the last events."""
    parts = [Transaction(ts, list(pdus[at : at + MOST_PDUS])) for at in range(0, len(pdus), MOST_PDUS)]
    for at in range(0, len(edus), MOST_EDUS):
        some = list(edus[at : at + MOST_EDUS])
        if at == 0 and parts:
            parts[-1].edus = some
        else:
            parts.append(Transaction(ts, edus=some))
    return parts
