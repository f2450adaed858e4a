"""What every event of another server must pass before a room looks at it: format, signatures, content hash.

The rules' numbers are those of the checks: 1 format (dropped), 2 signatures (dropped), 3 content hash (redacted). What
comes after them, by the rules of the room, is `receive_events`.

Source: Matrix v1.19, server-server API, "Checks performed on receipt of a PDU" (1 to 3), "Validating hashes and
signatures on received events"; "Signing key validity period" of room version 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from homeserver.matrix import policy_server
from homeserver.matrix.canonical_json import NotCanonical
from homeserver.matrix.errors import BadJson, Forbidden, MatrixError, TooLarge
from homeserver.matrix.event import Event
from homeserver.matrix.event_format import check_event_format
from homeserver.matrix.hashes import check_content_hash, event_from_pdu, event_id_of
from homeserver.matrix.identifiers import is_event_id
from homeserver.matrix.redaction import redact_event
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.matrix.server_keys import MOST_KEYS
from homeserver.matrix.signing import (
    SignatureError,
    servers_that_must_sign,
    signature_key_ids,
    verify_event_signature,
)
from homeserver.observability import log
from homeserver.services.pdu_keys import ServerKeys, Signature, fetch_keys

FORMAT, SIGNATURES, CONTENT_HASH = "1", "2", "3"


@dataclass(frozen=True, slots=True)
class CheckedPdu:
    """What the checks say of a PDU.

    `event`: the event, redacted if the content hash is wrong (rule 3); None if it is to be dropped (rules 1 and 2).
    `event_id`: its ID, or the empty string where it has none. `retry`: it would be dropped only because the keys of a
    server that must have signed it cannot be had at the moment: look at it again later.
    """

    event: Event | None
    event_id: str
    rule: str = ""
    reason: str = ""
    retry: bool = False


def check_pdus(
    pdus: Sequence[Any], rules: RoomVersionRules, room_id: str | None, *, seconds: float = 60.0
) -> list[CheckedPdu]:
    """Check PDUs as they came, in their order; `unsigned` is looked at by nobody, and is not in the events.

    room_id: the room that all must be in; None where they may be of any. Keys that are not known are fetched, of all
    servers at the same time, for at most some seconds. What is refused is logged with the rule's number.
    """
    checked = [_check_format(pdu, rules, room_id) for pdu in pdus]
    signers = [_signers(one) for one in checked]
    wanted = [signature for found in signers if isinstance(found, list) for signature in found]
    keys = fetch_keys(wanted, rules, seconds=seconds)
    result = []
    for one, found in zip(checked, signers, strict=True):
        if isinstance(found, CheckedPdu):
            result.append(found)
        else:
            result.append(_check_hash(_check_signatures(one, found, keys)))
    for one in result:
        if one.rule:
            _log(one)
    return result


def check_pdu(pdu: Any, rules: RoomVersionRules, room_id: str | None) -> Event:
    """One event that passes the checks, redacted if its content hash is wrong.

    Raises BadJson for what is no event of this room version or is of another room, Forbidden for a signature that is
    missing or wrong or cannot be checked.
    """
    (checked,) = check_pdus([pdu], rules, room_id)
    if checked.event is None:
        raise BadJson(checked.reason) if checked.rule == FORMAT else Forbidden(checked.reason)
    return checked.event


def _check_format(pdu: Any, rules: RoomVersionRules, room_id: str | None) -> CheckedPdu:
    """Check 1, and whether it is an event of that room."""
    try:
        check_event_format(pdu, rules)
        event = event_from_pdu(pdu, rules, room_id=room_id)
    except TooLarge as error:
        return CheckedPdu(None, "", FORMAT, error.message)
    except BadJson as error:
        return CheckedPdu(None, _id_of(pdu, rules), FORMAT, error.message)
    return CheckedPdu(event, event.event_id)


def _id_of(pdu: Any, rules: RoomVersionRules) -> str:
    """The ID of something that is no event of its room version, to name it in an answer; empty where it has none."""
    try:
        event_id = event_id_of(pdu, rules) if isinstance(pdu, dict) else ""
    except (NotCanonical, MatrixError):
        return ""
    return event_id if is_event_id(event_id) else ""


def _signers(checked: CheckedPdu) -> list[Signature] | CheckedPdu:
    """The signatures that the event needs, as far as they are there; or that it is dropped, because one is not."""
    event = checked.event
    if event is None:
        return checked
    try:
        servers = servers_that_must_sign(event.pdu, event.rules)
    except BadJson as error:
        return _dropped(checked, error.message)
    signatures = []
    for server in sorted(servers):
        # A policy server signs beside the server that it is, with a key that is the room's to know.
        key_ids = signature_key_ids(event.pdu, server) - {policy_server.KEY_ID}
        if not key_ids:
            return _dropped(checked, f"There is no Ed25519 signature by {server}")
        if len(key_ids) > MOST_KEYS:
            return _dropped(checked, f"There are {len(key_ids)} signatures by {server}")
        signatures.append(Signature(server, frozenset(key_ids), event.origin_server_ts))
    return signatures


def _check_signatures(
    checked: CheckedPdu, signatures: Sequence[Signature], keys: Mapping[str, ServerKeys]
) -> CheckedPdu:
    """Check 2."""
    event = checked.event
    if event is None:
        return checked
    retry = ""
    for signature in signatures:
        of_server = keys[signature.server]
        counting = of_server.counting(signature.at_ms)
        try:
            verify_event_signature(event.pdu, event.rules, signature.server, counting)
        except SignatureError as error:
            if counting.keys() & signature.key_ids or of_server.is_certain:
                return _dropped(checked, error.message)
            retry = error.message
    return replace(_dropped(checked, retry), retry=True) if retry else checked


def _dropped(checked: CheckedPdu, reason: str) -> CheckedPdu:
    return replace(checked, event=None, rule=SIGNATURES, reason=reason)


def _check_hash(checked: CheckedPdu) -> CheckedPdu:
    """Check 3: the signature is over what redaction leaves, and nobody has signed the rest."""
    event = checked.event
    if event is None or check_content_hash(event.pdu, event.rules):
        return checked
    return replace(checked, event=redact_event(event), rule=CONTENT_HASH, reason="The content hash is wrong")


def _log(checked: CheckedPdu) -> None:
    what = "redacted" if checked.event else "parked" if checked.retry else "dropped"
    log.info("event %s is %s by check %s: %s", checked.event_id or "without ID", what, checked.rule, checked.reason)
