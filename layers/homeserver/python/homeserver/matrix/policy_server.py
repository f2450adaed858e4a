"""A room's policy server: which one it uses, and whether it has signed an event.

Source: Matrix v1.19, client-server API, "Policy Servers", `m.room.policy`; server-server API, "Policy Servers".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.matrix import unpadded_base64
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import is_server_name
from homeserver.matrix.signing import SignatureError, verify_event_signature

POLICY = ("m.room.policy", "")
KEY_ID = "ed25519:policy_server"  # the one under which a policy server signs, whatever its server's own keys are
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """The server that must sign what is said in a room, and the Ed25519 key (32 bytes) with which it does."""

    name: str
    key: bytes


def policy_server_of(content: Mapping[str, Any] | None) -> PolicyServer | None:
    """The policy server that the content of a room's `m.room.policy` names; None where it is invalid or absent.

    That the server has a joined user in the room, without which the room uses none, is for the caller to see.
    """
    via = content.get("via") if content else None
    keys = content.get("public_keys") if content else None
    encoded = keys.get("ed25519") if isinstance(keys, dict) else None
    if not isinstance(via, str) or not is_server_name(via) or not isinstance(encoded, str):
        return None
    try:
        key = unpadded_base64.decode(encoded)
    except ValueError:
        return None
    return PolicyServer(via, key) if len(key) == _KEY_BYTES else None


def needs_signature(event: Event) -> bool:
    """Whether a policy server is asked about an event: about every one but those that name the policy server."""
    return not (event.is_state and event.key == POLICY)


def is_signed_by(event: Event, server: PolicyServer) -> bool:
    """Whether the event has the policy server's signature, under its key ID and with the room's key."""
    signatures = event.pdu.get("signatures")
    own = signatures.get(server.name) if isinstance(signatures, dict) else None
    if not isinstance(own, dict) or KEY_ID not in own:
        return False
    alone = {**event.pdu, "signatures": {server.name: {KEY_ID: own[KEY_ID]}}}
    try:
        verify_event_signature(alone, event.rules, server.name, {KEY_ID: server.key})
    except SignatureError:
        return False
    return True


def with_signature(event: Event, server: PolicyServer, answer: Any) -> Event | None:
    """The event with the signature of a policy server's answer, beside those it has; None where that is not valid."""
    signed = answer.get(server.name) if isinstance(answer, dict) else None
    signature = signed.get(KEY_ID) if isinstance(signed, dict) else None
    if not isinstance(signature, str):
        return None
    signatures = event.pdu.get("signatures", {})
    # The event's own server may be the policy server: what it signed itself stays.
    own = {**signatures.get(server.name, {}), KEY_ID: signature}
    pdu = {**event.pdu, "signatures": {**signatures, server.name: own}}
    found = Event(event.event_id, event.room_id, pdu, event.rules, event.rejected)
    return found if is_signed_by(found, server) else None
