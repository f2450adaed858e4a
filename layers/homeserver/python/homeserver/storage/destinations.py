"""The other servers that this one sends to: the table DESTINATIONS.

    <server>   destination       how it is doing; there is none of a server that never failed and was never asked
    <server>   behind/<room>     the first position of a room that it has not been sent yet
    <server>   sent/<slot>       its last transactions (storage.sent_transactions)
    -dead      d/<server>        it does not answer: nobody sends to it but who tries again
    -dead      version           how often that list has changed

A healthy server has no `behind` item, and costs no write. The order of writes is what the outbound protocol rests on
(docs/architecture.md, "Sending to other servers"): who goes by the list of the dead reads its version consistently, and
every change of the list is complete before the version moves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Any

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import DeleteError, PutError, UpdateError
from pynamodb.expressions.update import Action

from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, batch_get, connection, query_raw

FORMAT = 1
_DESTINATION = "destination"
_BEHIND = "behind/"
_DEAD, _DEAD_PREFIX, _VERSION = "-dead", "d/", "version"
_END = "\U0010ffff"


class _DestinationItem(Item):
    class Meta:
        table_name = table_name("DESTINATIONS")

    server = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)


class DestinationItem(_DestinationItem):
    """The item `destination`. Times in milliseconds."""

    f = NumberAttribute(default=FORMAT)
    failures = NumberAttribute(attr_name="fl", null=True)
    # When its schedule tries again; only of one that does not answer
    retry_at = NumberAttribute(attr_name="rt", null=True)
    # A sign of life makes nobody try again before this
    not_before = NumberAttribute(attr_name="nb", null=True)
    # Since when it has been answering again, while not everything it missed is sent
    catching_up = NumberAttribute(attr_name="cu", null=True)
    # Name of its software, as it said when it was asked; empty: it said none
    software = UnicodeAttribute(attr_name="sw", null=True)
    # 1: it has sent prev_ids, so it understands them
    capable = NumberAttribute(attr_name="cp", null=True)
    # The last transaction with prev_ids, the one before it, and how many there were
    last = UnicodeAttribute(attr_name="lt", null=True)
    before = UnicodeAttribute(attr_name="lp", null=True)
    sent = NumberAttribute(attr_name="n", null=True)


class BehindItem(_DestinationItem):
    """An item `behind/<room>`."""

    first = NumberAttribute(attr_name="p")


class DeadItem(_DestinationItem):
    """An item of the list of the dead; `since` in milliseconds tells one death from the next."""

    since = NumberAttribute(attr_name="s")


class DeadVersion(_DestinationItem):
    """The item `version` of the list of the dead."""

    version = NumberAttribute(attr_name="v")


@dataclass(frozen=True, slots=True)
class Destination:
    """What is known of a server that this one sends to; see DestinationItem."""

    server: str
    failures: int = 0
    retry_at: int | None = None
    not_before: int = 0
    catching_up: int | None = None
    software: str | None = None
    capable: bool = False
    last: str = ""
    before: str = ""
    sent: int = 0

    @property
    def is_dead(self) -> bool:
        """Whether it did not answer when it was tried last."""
        return self.retry_at is not None

    @property
    def is_behind(self) -> bool:
        """Whether what is to be sent has to wait for what was not sent before."""
        return self.is_dead or self.catching_up is not None


@dataclass(frozen=True, slots=True)
class Behind:
    """A room of which a server has not been sent the events from a position on."""

    room_id: str
    first: int


def _parsed(server: str, item: DestinationItem | None) -> Destination:
    if item is None:
        return Destination(server)
    return Destination(
        server,
        int(item.failures or 0),
        int(item.retry_at) if item.retry_at is not None else None,
        int(item.not_before or 0),
        int(item.catching_up) if item.catching_up is not None else None,
        item.software,
        bool(item.capable),
        item.last or "",
        item.before or "",
        int(item.sent or 0),
    )


def read_destinations(servers: Iterable[str]) -> dict[str, Destination]:
    """All of these servers, consistently, in one round for each hundred."""
    keys: dict[str, Key] = {server: (DestinationItem, server, _DESTINATION) for server in servers}
    found = batch_get(list(keys.values()), consistent=True)
    return {server: _parsed(server, found.get(key)) for server, key in keys.items()}


def read_destination(server: str) -> Destination:
    """One server, consistently."""
    return _parsed(server, DestinationItem.fetch(server, _DESTINATION))


def _update(server: str, *actions: Action) -> None:
    DestinationItem(server, _DESTINATION).update(list(actions))


def note_failure(server: str, failures: int, *, retry_at: int, not_before: int) -> None:
    """It does not answer: from now on senders leave it alone."""
    _update(
        server,
        DestinationItem.failures.set(failures),
        DestinationItem.retry_at.set(retry_at),
        DestinationItem.not_before.set(not_before),
        DestinationItem.catching_up.remove(),
    )


def note_answer(server: str, since: int) -> None:
    """It answers again, and is to be sent first what it missed."""
    _update(
        server,
        DestinationItem.retry_at.remove(),
        DestinationItem.not_before.remove(),
        DestinationItem.catching_up.set(since),
    )


def note_catching_up(server: str, since: int) -> None:
    """What follows has to wait for what was not sent yet, as there was no time."""
    _update(server, DestinationItem.catching_up.set(since))


def note_caught_up(server: str) -> None:
    """It has been sent everything: its failures are forgotten."""
    _update(server, DestinationItem.catching_up.remove(), DestinationItem.failures.remove())


def note_software(server: str, name: str) -> None:
    """What software it says that it is; empty if it says nothing."""
    _update(server, DestinationItem.software.set(name))


def note_capable(server: str) -> None:
    """It understands prev_ids."""
    _update(server, DestinationItem.capable.set(1))


def note_sent(destination: Destination, transaction: str) -> bool:
    """A transaction with prev_ids comes after those before; False if another sender was quicker."""
    sent = destination.sent
    unchanged = DestinationItem.sent == sent if sent else DestinationItem.sent.does_not_exist()
    actions: list[Action] = [
        DestinationItem.last.set(transaction),
        DestinationItem.before.set(destination.last),
        DestinationItem.sent.set(sent + 1),
    ]
    try:
        DestinationItem(destination.server, _DESTINATION).update(actions, unchanged)
    except UpdateError as error:
        _refused(error)
        return False
    return True


# ── Rooms of which something was not sent ────────────────────────────────────────────────────────────


def put_behind(server: str, room_id: str, first: int) -> bool:
    """Note the first position that was not sent; whether that says more than what was noted before."""
    earlier = BehindItem.first.does_not_exist() | (BehindItem.first > first)
    try:
        BehindItem(server, _BEHIND + room_id).update([BehindItem.first.set(first)], earlier)
    except UpdateError as error:
        _refused(error)
        return False
    return True


def read_behind(server: str, *, limit: int | None = None) -> list[Behind]:
    """The rooms of which it has not been sent everything, consistently, in the order of their IDs."""
    rows = query_raw(BehindItem, server, _BEHIND, _BEHIND + _END, consistent=True, limit=limit)
    return [Behind(row["k"]["S"][len(_BEHIND) :], int(row["p"]["N"])) for row in rows]


def behind_in(room_id: str, servers: Iterable[str]) -> dict[str, int]:
    """The first unsent positions of one room, of those among the servers that have one: one round for each hundred."""
    keys: list[Key] = [(BehindItem, server, _BEHIND + room_id) for server in servers]
    found = batch_get(keys, consistent=True) if keys else {}
    return {item.server: int(item.first) for item in found.values()}


def advance_behind(server: str, behind: Behind, first: int) -> None:
    """What lies before a position was sent, unless somebody has noted an earlier one since."""
    _if_unchanged(server, behind, lambda item, same: item.update([BehindItem.first.set(first)], same))


def drop_behind(server: str, behind: Behind) -> None:
    """Everything was sent, unless somebody has noted another position since."""
    _if_unchanged(server, behind, lambda item, same: item.delete(same))


def _if_unchanged(server: str, behind: Behind, write: Any) -> None:
    try:
        write(BehindItem(server, _BEHIND + behind.room_id), BehindItem.first == behind.first)
    except (UpdateError, DeleteError) as error:
        _refused(error)


# ── The list of the dead ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Dead:
    version: int
    since: Mapping[str, int]
    read_at: float  # by the clock that only goes forward


_known = _Dead(-1, {}, float("-inf"))
_reading = Lock()


def dead_servers(*, seconds: float = 0.0) -> Mapping[str, int]:
    """The servers that do not answer, and since when: as the list is now, or was within so many seconds.

    One read of a small item, and the whole list only after it has changed.
    """
    global _known  # noqa: PLW0603 - the process's picture of the list
    if seconds and monotonic() - _known.read_at < seconds:
        return _known.since
    with _reading:
        began = monotonic()
        item = DeadVersion.fetch(_DEAD, _VERSION)
        version = int(item.version) if item is not None else 0
        since = _known.since
        if not version:
            since = {}
        elif version != _known.version:
            rows = query_raw(DeadItem, _DEAD, _DEAD_PREFIX, _DEAD_PREFIX + _END, consistent=True)
            since = {row["k"]["S"][len(_DEAD_PREFIX) :]: int(row["s"]["N"]) for row in rows}
        _known = _Dead(version, since, began)
        return since


def forget_dead_servers() -> None:
    """Forget the list as this process read it."""
    global _known  # noqa: PLW0603 - as above
    _known = _Dead(-1, {}, float("-inf"))


def put_dead(server: str, since: int) -> bool:
    """Put a server into the list; False if it is there. Nobody goes by it before `dead_list_changed`."""
    try:
        DeadItem(_DEAD, _DEAD_PREFIX + server, since=since).save(DeadItem.since.does_not_exist())
    except PutError as error:
        _refused(error)
        return False
    return True


def drop_dead(server: str) -> None:
    """Take a server out of the list. Nobody goes by it before `dead_list_changed`."""
    DeadItem(_DEAD, _DEAD_PREFIX + server).delete()


def dead_list_changed() -> None:
    """From now on who reads the list's version reads the list."""
    DeadVersion(_DEAD, _VERSION).update([DeadVersion.version.add(1)])


# ── For the sweep ────────────────────────────────────────────────────────────────────────────────────


def scan_stranded(overdue_ms: int) -> set[str]:
    """Servers that nobody would try again: a scan of the table.

    Those that should have been tried before `overdue_ms`, that stopped in the middle of catching up, and that are
    listed as dead, or have rooms they were not sent, although they answered last.
    """
    request: dict[str, Any] = {
        "TableName": DestinationItem.Meta.table_name,
        "FilterExpression": "#k = :destination OR begins_with(#k, :behind) OR begins_with(#k, :dead)",
        "ProjectionExpression": "#s, #k, rt, cu",
        "ExpressionAttributeNames": {"#s": "server", "#k": "k"},
        "ExpressionAttributeValues": {
            ":destination": {"S": _DESTINATION},
            ":behind": {"S": _BEHIND},
            ":dead": {"S": _DEAD_PREFIX},
        },
    }
    waiting: set[str] = set()
    stranded: set[str] = set()
    owing: set[str] = set()
    while True:
        answer = connection().dispatch("Scan", dict(request))
        for item in answer["Items"]:
            server, k = item["server"]["S"], item["k"]["S"]
            if server == _DEAD:
                owing.add(k[len(_DEAD_PREFIX) :])
            elif k != _DESTINATION:
                owing.add(server)
            elif "cu" in item or ("rt" in item and int(item["rt"]["N"]) < overdue_ms):
                stranded.add(server)
            elif "rt" in item:
                waiting.add(server)
        if "LastEvaluatedKey" not in answer:
            return stranded | (owing - waiting)
        request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def _refused(error: PutError | UpdateError | DeleteError) -> None:
    if error.cause_response_code != "ConditionalCheckFailedException":
        raise error
