"""Making an event of this server: from what a user wants to say to a hashed, signed and checked PDU.

Source: Matrix v1.19, server-server API, "PDUs", "Adding hashes and signatures to outgoing events"; "Event format" of
each room version.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from homeserver.matrix import unpadded_base64
from homeserver.matrix.canonical_json import MAX_INTEGER, NotCanonical
from homeserver.matrix.errors import BadJson
from homeserver.matrix.event import Event
from homeserver.matrix.event_format import check_event_format
from homeserver.matrix.hashes import (
    content_hash,
    event_id_from_hash,
    reference_bytes,
    reference_hash,
    room_id_of_create,
)
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.matrix.signing import SigningKey


@dataclass(frozen=True, slots=True)
class EventDraft:
    """What the event is to say. `state_key` is None for a message event; `redacts` is for redactions only."""

    type: str
    content: Mapping[str, Any]
    state_key: str | None = None
    redacts: str | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """An event that the new one refers to; `sha256` is its reference hash in base64, for room versions 1 and 2."""

    event_id: str
    depth: int = 0
    sha256: str | None = None

    @classmethod
    def to(cls, event: Event) -> "Edge":
        """The edge to a whole event, which computes its reference hash where the room version wants it."""
        digest = unpadded_base64.encode(reference_hash(event.pdu, event.rules)) if event.rules.hashed_edges else None
        return cls(event.event_id, event.depth, digest)


def next_depth(prev_events: Iterable[Edge], rules: RoomVersionRules) -> int:
    """One more than the deepest previous event, clamped at the room version's limit; 1 for the first event."""
    limit = MAX_INTEGER if rules.strict_canonical_json else 2**63 - 1
    return min(max((edge.depth for edge in prev_events), default=0) + 1, limit)


def build_event(
    draft: EventDraft,
    *,
    rules: RoomVersionRules,
    room_id: str | None,
    sender: str,
    prev_events: Sequence[Edge],
    auth_events: Sequence[Edge],
    origin_server_ts: int,
    server_name: str,
    key: SigningKey,
    opaque_id: str | None = None,
) -> Event:
    """The event of a draft, with hashes, this server's signature, event ID and room ID.

    `room_id` is None for the create event of room version 12, which makes it. `opaque_id` is the localpart of the
    event ID in room versions 1 and 2, and of no use later. `origin_server_ts` is in milliseconds since 1970. The
    content is not copied and must not be changed afterwards.

    Raises BadJson and TooLarge where the event would not be a valid one, ValueError for a call that no draft excuses.
    """
    pdu: dict[str, Any] = {
        "type": draft.type,
        "sender": sender,
        "content": draft.content,
        "origin_server_ts": origin_server_ts,
        "depth": next_depth(prev_events, rules),
        "prev_events": _edges(prev_events, rules),
        "auth_events": _edges(auth_events, rules),
    }
    makes_the_room = rules.room_id_is_create_hash and draft.type == "m.room.create"
    if (room_id is None) != makes_the_room:
        raise ValueError("a room ID is given for every event but the create event of room version 12")
    if room_id is not None:
        pdu["room_id"] = room_id
    if draft.state_key is not None:
        pdu["state_key"] = draft.state_key
    if draft.redacts is not None:
        if rules.redacts_in_content:
            pdu["content"] = {**draft.content, "redacts": draft.redacts}
        else:
            pdu["redacts"] = draft.redacts
    if rules.hashed_edges:
        if not opaque_id:
            raise ValueError("events of room versions 1 and 2 need an opaque ID")
        pdu["event_id"] = f"${opaque_id}:{server_name}"
    if not rules.strict_canonical_json:
        _refuse_rounded_numbers(pdu["content"])

    try:
        pdu["hashes"] = {"sha256": content_hash(pdu, rules)}
        message = reference_bytes(pdu, rules)
    except NotCanonical as error:
        raise BadJson(f"The event is not canonical JSON: {error}") from None
    pdu["signatures"] = {server_name: {key.key_id: key.sign(message)}}
    check_event_format(pdu, rules)

    # What was signed is what the reference hash is made over, so nothing is serialised a third time.
    event_id = pdu["event_id"] if rules.hashed_edges else event_id_from_hash(sha256(message).digest(), rules)
    return Event(event_id, room_id_of_create(event_id) if room_id is None else room_id, pdu, rules)


def _edges(edges: Sequence[Edge], rules: RoomVersionRules) -> list[Any]:
    if not rules.hashed_edges:
        return [edge.event_id for edge in edges]
    if any(edge.sha256 is None for edge in edges):
        raise ValueError("the edges of room versions 1 and 2 need reference hashes")
    return [[edge.event_id, {"sha256": edge.sha256}] for edge in edges]


def _refuse_rounded_numbers(content: Any) -> None:
    # Room versions 1 to 5 bear floats and integers of any size. Beyond 2^53 a float no longer tells which number was
    # meant, and few clients read the integer: not from us.
    pending: list[Any] = [content]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, float | int) and not abs(item) <= MAX_INTEGER:
            raise BadJson("The event has a number that is too large to be exact")
