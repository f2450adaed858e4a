"""What a transaction of another server brings: PDUs go to the worker of their rooms, EDUs to where they belong.

Whether a room takes anything from the server is asked here, for all rooms in one round: this server must be in it, and
its server ACL let the other take part. Everything else is asked by the worker, when it puts the PDU into the room.

Source: server-server API v1.19, "Transactions", "PDUs", "EDUs", "Server Access Control Lists (ACLs)".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix.canonical_json import NotCanonical
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.event_format import check_event_format
from homeserver.matrix.hashes import event_id_of
from homeserver.matrix.identifiers import is_room_id
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersionRules
from homeserver.matrix.server_acl import allows
from homeserver.observability import fault_point, log
from homeserver.services.clock import now_ms
from homeserver.services.inbound_wakes import wake_rooms
from homeserver.services.received_edus import receive_edus, rooms_of_edus
from homeserver.services.server_access import ACL, acl_in_row, acl_row_key
from homeserver.services.stub_rooms import may_be_out_of_band
from homeserver.storage.connection import Key, batch_get
from homeserver.storage.room_items import HEAD, Head
from homeserver.storage.rooms import load_room
from homeserver.storage.staging import Arrivals

_MOST_ROOMS = 100  # that are looked at for the EDUs of one transaction
_MOST_KEY_CHARACTERS = 600  # of what an answer names a PDU by
_NEWEST_FORMAT = ROOM_VERSIONS["11"]  # to name events of rooms whose version nobody here knows
UNKNOWN = "This server is not in this room."
BANNED = "The server ACL of this room shuts your server out."


@dataclass(frozen=True, slots=True)
class Gate:
    """A room's door: its version, and the content of its server ACL, if it has one."""

    room_version: str
    acl: Mapping[str, Any] | None

    @property
    def rules(self) -> RoomVersionRules:
        return ROOM_VERSIONS[self.room_version]


@dataclass(frozen=True, slots=True)
class Gates:
    """The rooms that this server is in, of those that were asked for; `extras`: other items that came along.

    `outside`: the versions of rooms that it is not in but knows, by an invitation, a knock, or from before.
    """

    rooms: Mapping[str, Gate]
    outside: Mapping[str, RoomVersionRules] = field(default_factory=dict)
    extras: Mapping[Key, Any] = field(default_factory=dict)

    def version_of(self, room_id: str) -> str:
        """The version of a room that is known."""
        gate = self.rooms.get(room_id)
        return gate.room_version if gate is not None else self.outside[room_id].version

    def refusal(self, room_id: str, origin: str) -> str:
        """Why a room takes nothing from a server; empty if it does."""
        gate = self.rooms.get(room_id)
        if gate is None:
            return UNKNOWN
        if not allows(gate.acl, origin):
            log.info("refused %s in %s: server ACL", origin, room_id)
            return BANNED
        return ""


def read_gates(pdus: Iterable[Any], edus: Iterable[Any], *, extras: Sequence[Key] = ()) -> Gates:
    """The doors of the rooms that PDUs and EDUs are about: one round, however many there are."""
    wanted = {pdu["room_id"]: None for pdu in pdus if isinstance(pdu, dict) and is_room_id(pdu.get("room_id"))}
    for room_id in rooms_of_edus(edus):
        if len(wanted) >= _MOST_ROOMS:
            break
        wanted[room_id] = None
    keys: list[Key] = []
    for room_id in wanted:
        keys += [(Head, room_id, HEAD), acl_row_key(room_id)]
    found = batch_get([*keys, *extras], consistent=True) if keys or extras else {}
    gates = {room_id: _gate(room_id, found) for room_id in wanted}
    heads = {room_id: found.get((Head, room_id, HEAD)) for room_id, gate in gates.items() if gate is None}
    return Gates(
        {room_id: gate for room_id, gate in gates.items() if gate is not None},
        {room_id: ROOM_VERSIONS[head.room_version] for room_id, head in heads.items() if head is not None},
        {key: found[key] for key in extras if key in found},
    )


def _gate(room_id: str, found: Mapping[Key, Any]) -> Gate | None:
    head: Head | None = found.get((Head, room_id, HEAD))
    if head is None or head.kind != "full":
        return None
    if not head.local_members and head.rows_root == head.root:  # else the rows may not have counted all yet
        return None
    is_current, content = acl_in_row(head, found.get(acl_row_key(room_id)))
    if is_current:
        return Gate(head.room_version, content)
    # The row is older or newer than the head that was read with it.
    view, _ = load_room(room_id, [ACL])
    event = view.event(*ACL) if view is not None else None
    return Gate(head.room_version, event.content if event is not None else None)


# ── PDUs ─────────────────────────────────────────────────────────────────────────────────────────────────


def take_pdus(origin: str, txn_id: str, pdus: Sequence[Any], gates: Gates) -> dict[str, Any]:
    """Stage PDUs and wake the workers of their rooms; returns `{}` or `{"error": ...}` for each, by event ID.

    What is no JSON object has no name and no answer. What this refuses is not stored.
    """
    results: dict[str, Any] = {}
    arrivals = Arrivals(origin, txn_id, now_ms())
    for pdu in pdus:
        if not isinstance(pdu, dict):
            log.info("dropped something of %s by check 1: it is not an object", origin)
            continue
        name, error = _look_at(origin, pdu, gates)
        if error:
            log.info("refused %s of %s: %s", name or "a PDU without ID", origin, error)
        elif name not in results:
            room_id: str = pdu["room_id"]
            arrivals.add_pdu(room_id, pdu, gates.version_of(room_id))
        if name:
            results.setdefault(name, {"error": error} if error else {})
    fault_point("pdus.before_staging")
    arrivals.store()
    fault_point("pdus.staged")
    wake_rooms(arrivals.rooms)
    fault_point("pdus.woken")
    return results


def _look_at(origin: str, pdu: Mapping[str, Any], gates: Gates) -> tuple[str, str]:
    """What a PDU is called in the answer (empty: it has no name), and why it is refused (empty: it is not)."""
    if _is_of_the_draft(pdu):
        sender = pdu.get("origin")
        name = f"{pdu['pdu_id']}@{sender if isinstance(sender, str) else origin}"
        return name[:_MOST_KEY_CHARACTERS], "unsupported unsigned PDU format"
    room_id = pdu.get("room_id")
    if not isinstance(room_id, str) or not is_room_id(room_id):
        return _event_id(pdu, _NEWEST_FORMAT), "The event has no room ID."
    gate, outside = gates.rooms.get(room_id), gates.outside.get(room_id)
    rules = gate.rules if gate is not None else outside or _NEWEST_FORMAT
    name = _event_id(pdu, rules)
    if gate is not None or outside is None or not may_be_out_of_band(pdu):
        refusal = gates.refusal(room_id, origin)
        if refusal:
            return name, refusal
    try:
        check_event_format(pdu, rules)
    except MatrixError as error:
        return name, f"check 1: {error.message}"
    return name, ""


def _is_of_the_draft(pdu: Mapping[str, Any]) -> bool:
    """Whether this is a PDU of 2014: unsigned, and named by its server instead of its hash."""
    return isinstance(pdu.get("pdu_id"), str) and ("prev_pdus" in pdu or "pdu_type" in pdu or "context" in pdu)


def _event_id(pdu: Mapping[str, Any], rules: RoomVersionRules) -> str:
    try:
        event_id = event_id_of(pdu, rules)
    except (NotCanonical, MatrixError, TypeError, KeyError, AttributeError):
        named = pdu.get("event_id")  # versions 1 and 2, or nothing that has an ID
        event_id = named if isinstance(named, str) else ""
    return event_id[:_MOST_KEY_CHARACTERS]


# ── EDUs ─────────────────────────────────────────────────────────────────────────────────────────────────


def take_edus(origin: str, txn_id: str, edus: Sequence[Any], gates: Gates) -> None:
    """Show or store what is in the EDUs of a transaction.

    A receipt for an event that is not known yet waits for what is staged, as the event may be among it.
    """
    open_rooms = {room_id for room_id in gates.rooms if not gates.refusal(room_id, origin)} if edus else set()
    late = receive_edus(origin, edus, open_rooms)
    if not late:
        return
    arrivals = Arrivals(origin, f"{txn_id} edus", now_ms())
    for receipt in late:
        arrivals.add_receipt(receipt.room_id, (receipt.user_id, receipt.thread, receipt.event_id, receipt.ts))
    arrivals.store()
    fault_point("edus.staged")
    wake_rooms(arrivals.rooms)
