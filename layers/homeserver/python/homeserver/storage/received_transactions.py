"""Which transactions other servers sent, and what they were answered: the table RECEIVED, by server.

    txn/<transaction ID>    a transaction that was taken
    peer                    of servers that name the transactions before (the draft's prev_ids): how their order is

A transaction is written when everything it brought is stored. Everything is forgotten after a week.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, JSONAttribute, ListAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, batch_get, query_raw

_KEPT_S = 7 * 24 * 3600
_TXN, _PEER = "txn/", "peer"
_MOST_MISSING = 50  # transactions of one gap that are named
_LOOKED_THROUGH = 100  # transactions among which the last is looked for where it is not noted


class ReceivedTransaction(Item):
    """An item of either kind."""

    class Meta:
        table_name = table_name("RECEIVED")

    server = UnicodeAttribute(hash_key=True)
    txn = UnicodeAttribute(range_key=True)
    arrived = NumberAttribute(attr_name="t")  # milliseconds
    digest = BinaryAttribute(attr_name="h", legacy_encoding=False, null=True)
    answer = BinaryAttribute(attr_name="j", legacy_encoding=False, null=True)
    prev_ids: ListAttribute[str] = ListAttribute(attr_name="pr", null=True)
    # Of `peer`: the transaction that came last; and of its open gap: which are missing, the last before it, since when
    last = UnicodeAttribute(attr_name="l", null=True)
    missing = JSONAttribute(attr_name="m", null=True)
    since = UnicodeAttribute(attr_name="s", null=True)
    noted = NumberAttribute(attr_name="nt", null=True)
    # When it may be asked again, how often that went wrong; until when it counts as unable to answer
    pull_at = NumberAttribute(attr_name="pa", null=True)
    failures = NumberAttribute(attr_name="n", null=True)
    unsupported = NumberAttribute(attr_name="us", null=True)
    expires = NumberAttribute()


@dataclass(frozen=True, slots=True)
class Taken:
    """A transaction that was taken: `digest` of its body, and the answer as JSON text."""

    digest: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that names the transactions before. Times in milliseconds.

    last: the transaction of it that came last. missing: those that have not come, though later ones name them;
        since: the last that came before these; noted_ms: when they were first missed; all empty where none is missing.
    pull_at_ms: when it may be asked for them, after `failures` tries in vain. unsupported_ms: until then it is not
        asked at all, as it does not know the question.
    """

    last: str
    missing: tuple[str, ...] = ()
    since: str = ""
    noted_ms: int = 0
    pull_at_ms: int = 0
    failures: int = 0
    unsupported_ms: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is known of a server's transactions, of those that were asked for."""

    taken: Mapping[str, Taken]
    peer: Peer | None


def ledger_keys(server: str, txn_ids: Collection[str]) -> list[Key]:
    """The items that `ledger_of` wants, to be read with others."""
    keys = [f"{_TXN}{txn_id}" for txn_id in dict.fromkeys(txn_ids)]
    return [(ReceivedTransaction, server, key) for key in (*keys, _PEER)]


def ledger_of(server: str, found: Mapping[Key, Any]) -> Ledger:
    """The ledger as far as its items were read."""
    items = [item for (model, name, _), item in found.items() if model is ReceivedTransaction and name == server]
    taken = {
        item.txn.removeprefix(_TXN): Taken(bytes(item.digest), bytes(item.answer))
        for item in items
        if item.txn.startswith(_TXN)
    }
    peer = next((item for item in items if item.txn == _PEER), None)
    return Ledger(taken, _peer(peer) if peer is not None else None)


def read_ledger(server: str, txn_ids: Collection[str]) -> Ledger:
    """The same, read by itself, consistently."""
    return ledger_of(server, batch_get(ledger_keys(server, txn_ids), consistent=True))


def note_taken(server: str, txn_id: str, taken: Taken, *, now_ms: int, prev_ids: Collection[str] | None = None) -> None:
    """Write a transaction into the ledger: everything it brought is stored."""
    ReceivedTransaction(
        server,
        f"{_TXN}{txn_id}",
        arrived=now_ms,
        digest=taken.digest,
        answer=taken.answer,
        prev_ids=list(prev_ids) if prev_ids is not None else None,
        expires=now_ms // 1000 + _KEPT_S,
    ).save()


def last_taken(server: str) -> str:
    """The last transaction that was taken from a server; empty if there is none.

    For servers of which it is not noted, once: of more than a hundred transactions it is the last of some hundred.
    """
    found = query_raw(ReceivedTransaction, server, _TXN, _TXN + "\U0010ffff", consistent=True, limit=_LOOKED_THROUGH)
    last = max(found, key=lambda item: int(item["t"]["N"]), default=None)
    return str(last["txn"]["S"]).removeprefix(_TXN) if last is not None else ""


def store_peer(server: str, peer: Peer, *, now_ms: int) -> None:
    """Write what is known of a server's order. Who writes it last wins: a gap may be noted anew, and is asked for once.

    The values are set each for itself, so that a worker that ends a gap and a request that names the last transaction
    do not undo what the other did not change.
    """
    missing = list(peer.missing)[:_MOST_MISSING]
    actions: list[Action] = [
        ReceivedTransaction.arrived.set(now_ms),
        ReceivedTransaction.last.set(peer.last),
        ReceivedTransaction.expires.set(now_ms // 1000 + _KEPT_S),
    ]
    if missing:
        actions += [
            ReceivedTransaction.missing.set(missing),
            ReceivedTransaction.since.set(peer.since),
            ReceivedTransaction.noted.set(peer.noted_ms),
        ]
    ReceivedTransaction(server, _PEER).update(actions)


def end_gap(server: str, peer: Peer, *, pull_at_ms: int, unsupported_ms: int = 0) -> None:
    """What `peer` misses was had, or will never be: it is left alone until a time. A gap that grew since stays."""
    actions: list[Action] = [
        ReceivedTransaction.missing.remove(),
        ReceivedTransaction.since.remove(),
        ReceivedTransaction.noted.remove(),
        ReceivedTransaction.failures.remove(),
        ReceivedTransaction.pull_at.set(pull_at_ms),
    ]
    if unsupported_ms:
        actions.append(ReceivedTransaction.unsupported.set(unsupported_ms))
    try:
        ReceivedTransaction(server, _PEER).update(actions, ReceivedTransaction.missing == list(peer.missing))
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise


def note_failure(server: str, *, failures: int, pull_at_ms: int) -> None:
    """A server did not answer what is missing of it."""
    ReceivedTransaction(server, _PEER).update(
        [ReceivedTransaction.failures.set(failures), ReceivedTransaction.pull_at.set(pull_at_ms)]
    )


def _peer(item: ReceivedTransaction) -> Peer:
    return Peer(
        item.last or "",
        tuple(item.missing or ()),
        item.since or "",
        int(item.noted or 0),
        int(item.pull_at or 0),
        int(item.failures or 0),
        int(item.unsupported or 0),
    )


def packed_answer(answer: Mapping[str, Any]) -> bytes:
    """An answer as it is stored."""
    return orjson.dumps(dict(answer))


def unpacked_answer(taken: Taken) -> dict[str, Any]:
    """The answer that a transaction was given."""
    answer: dict[str, Any] = orjson.loads(taken.answer)
    return answer
