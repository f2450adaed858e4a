"""Whether a PDU is an event of its room version at all: shape, grammar and size.

Source: Matrix v1.19, client-server API, "Size limits"; server-server API, "PDUs" and check 1 of "Checks performed on
receipt of a PDU"; "Event format" of each room version. What fails here is dropped, or refused to the client.
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.canonical_json import MAX_INTEGER, NotCanonical, encode_for_room
from homeserver.matrix.errors import BadJson, TooLarge
from homeserver.matrix.identifiers import (
    MAX_IDENTIFIER_BYTES,
    is_event_id,
    is_room_id_of_hash,
    is_room_id_with_domain,
    is_user_id,
)
from homeserver.matrix.room_versions import EventIdFormat, RoomVersionRules

MAX_EVENT_BYTES = 65_536
MAX_AUTH_EVENTS = 10
MAX_PREV_EVENTS = 20


def check_event_format(pdu: Mapping[str, Any], rules: RoomVersionRules) -> None:
    """Check an event in the federation format, with hashes and signatures; `unsigned` is looked at by nobody.

    Raises BadJson for a wrong shape or a value without canonical JSON, TooLarge for more than 65,536 bytes or a
    field of more than 255.
    """
    # First the whole value: afterwards it is known to be shallow, of JSON types and, from version 6, free of floats.
    _check_size(pdu, rules)
    for key in ("type", "sender"):
        if not isinstance(pdu.get(key), str):
            raise BadJson(f"{key} is missing or is not a string")
    for key in ("state_key", "redacts"):
        if key in pdu and not isinstance(pdu[key], str):
            raise BadJson(f"{key} is not a string")
    for key in ("content", "hashes", "signatures"):
        if not isinstance(pdu.get(key), dict):
            raise BadJson(f"{key} is missing or is not an object")
    for key in ("type", "sender", "state_key", "room_id", "event_id"):
        _check_field_size(pdu, key)
    if not is_user_id(pdu["sender"]):
        raise BadJson("sender is not a user ID")
    _check_room_id(pdu, rules)
    if rules.event_id_format is EventIdFormat.OPAQUE and not is_event_id(pdu.get("event_id"), EventIdFormat.OPAQUE):
        raise BadJson("event_id is missing or malformed")
    max_depth = MAX_INTEGER if rules.strict_canonical_json else 2**63 - 1
    if not (_is_integer(pdu.get("depth")) and 0 <= pdu["depth"] <= max_depth):
        raise BadJson(f"depth is not an integer from 0 to {max_depth}")
    if not _is_integer(pdu.get("origin_server_ts")):
        raise BadJson("origin_server_ts is missing or is not an integer")
    _check_edges(pdu, "auth_events", MAX_AUTH_EVENTS, rules)
    _check_edges(pdu, "prev_events", MAX_PREV_EVENTS, rules)
    if not isinstance(pdu["hashes"].get("sha256"), str):
        raise BadJson("hashes.sha256 is missing or is not a string")
    for signatures in pdu["signatures"].values():
        if not (isinstance(signatures, dict) and all(isinstance(value, str) for value in signatures.values())):
            raise BadJson("signatures is not an object of objects of strings")


def _check_size(pdu: Mapping[str, Any], rules: RoomVersionRules) -> None:
    if not isinstance(pdu, dict):
        raise BadJson("The event is not an object")
    counted = {key: value for key, value in pdu.items() if key != "unsigned"} if "unsigned" in pdu else pdu
    try:
        size = len(encode_for_room(counted, rules))
    except NotCanonical as error:
        raise BadJson(f"The event is not canonical JSON: {error}") from None
    if size > MAX_EVENT_BYTES:
        raise TooLarge(f"The event has {size} bytes; {MAX_EVENT_BYTES} are allowed")


def _check_field_size(pdu: Mapping[str, Any], key: str) -> None:
    value = pdu.get(key)
    if isinstance(value, str) and len(value.encode()) > MAX_IDENTIFIER_BYTES:
        raise TooLarge(f"{key} has more than {MAX_IDENTIFIER_BYTES} bytes")


def _check_room_id(pdu: Mapping[str, Any], rules: RoomVersionRules) -> None:
    if not rules.room_id_is_create_hash:
        if not is_room_id_with_domain(pdu.get("room_id")):
            raise BadJson("room_id is missing or malformed")
    elif pdu["type"] == "m.room.create":
        if "room_id" in pdu:
            raise BadJson("A create event of this room version has no room_id")
    elif not is_room_id_of_hash(pdu.get("room_id")):
        raise BadJson("room_id is missing or malformed")


def _check_edges(pdu: Mapping[str, Any], key: str, limit: int, rules: RoomVersionRules) -> None:
    edges = pdu.get(key)
    if not isinstance(edges, list):
        raise BadJson(f"{key} is missing or is not an array")
    if len(edges) > limit:
        raise BadJson(f"{key} has more than {limit} entries")
    for edge in edges:
        event_id = edge
        if rules.hashed_edges:
            if not (
                isinstance(edge, list)
                and len(edge) == 2
                and isinstance(edge[1], dict)
                and isinstance(edge[1].get("sha256"), str)
            ):
                raise BadJson(f"{key} is not an array of event IDs with their hashes")
            event_id = edge[0]
        if not is_event_id(event_id, rules.event_id_format):
            raise BadJson(f"{key} holds something that is not an event ID of this room version")


def _is_integer(value: Any) -> bool:
    return type(value) is int
