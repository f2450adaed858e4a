"""Requests that a client may repeat under a transaction ID without anything happening twice.

A request with a `RequestClaim` is answered once: what it does and its answer become known in one and the same write
transaction, so that no crash and no twin of the request comes between them. Where a request turns out to change
nothing, or another server does what it asks for, its answer is kept right afterwards; a repetition that comes before
finds the same state, and changes nothing either.

Source: the client-server specification of autumn 2014, "PUT ... /{txnId}"; v1.19, "Transaction identifiers".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.identifiers import fits_identifier
from homeserver.observability import fault_point
from homeserver.services.access_tokens import Requester
from homeserver.services.clock import now_ms
from homeserver.storage.connection import Key, Transaction, batch_get
from homeserver.storage.request_transactions import (
    RequestTransaction,
    new_answer,
    request_key,
    store_answer,
    write_answer,
)


class Replayed(Exception):
    """The request was made before: nothing was done now. `stored` is what it was answered."""

    def __init__(self, stored: RequestTransaction) -> None:
        super().__init__(stored.txn)
        self.stored = stored


@dataclass(slots=True)
class RequestClaim:
    """One request of a device under a transaction ID, and the answer that it gets if it succeeds.

    Whoever acts for the request reads `key` together with what they need, calls `check` on what they found, and adds
    `write` to their transaction; in each of their tries anew.
    """

    key: Key
    answer: Mapping[str, Any] = field(default_factory=dict)
    _is_written: bool = False

    @classmethod
    def of(
        cls, requester: Requester, path: str, txn_id: str, answer: Mapping[str, Any] | None = None
    ) -> "RequestClaim":
        """The claim on a path, with its IDs. Raises InvalidParam for an ID that is empty, or too long to be kept."""
        if not txn_id or not fits_identifier(txn_id):
            raise InvalidParam("A transaction ID has 1 to 255 bytes.")
        device = f"{requester.user_id}/{requester.device_id}"
        return cls(request_key(device, f"{path}/{txn_id}"), answer or {})

    def find(self) -> None:
        """Look whether the request was made before: one round. Raises Replayed."""
        self.check(batch_get([self.key], consistent=True))

    def check(self, found: Mapping[Key, Any]) -> None:
        """Raises Replayed if the request's answer is among the items. A try begins with this."""
        self._is_written = False
        if (stored := found.get(self.key)) is not None:
            raise Replayed(stored)

    def write(
        self, transaction: Transaction, answer: Mapping[str, Any] | None = None, *, invited: Sequence[str] = ()
    ) -> None:
        """Add the answer to the transaction of what the request does, which fails if there is one by then."""
        if answer is not None:
            self.answer = answer
        write_answer(transaction, self._item(invited))
        self._is_written = True

    def keep(self) -> None:
        """Keep the answer, unless the transaction had it. Raises Replayed where a twin of the request was quicker."""
        if not self._is_written:
            fault_point("request.before_answer")
            if not store_answer(self._item(())):
                self.find()
            self._is_written = True

    def _item(self, invited: Sequence[str]) -> RequestTransaction:
        return new_answer(self.key, self.answer, invited, now_s=now_ms() // 1000)


def answered_once(claim: RequestClaim | None, act: Callable[[], Mapping[str, Any] | None]) -> Mapping[str, Any]:
    """The answer of a request: the one it got before, if it was made before; else what `act` returns, or `{}`.

    `act` gives the claim to the service that it calls. What it raises is kept by nobody: the request may be repeated.
    """
    try:
        answer = act() or {}
        if claim is not None:
            claim.answer = answer
            claim.keep()
    except Replayed as replayed:
        return replayed.stored.answer
    return answer
