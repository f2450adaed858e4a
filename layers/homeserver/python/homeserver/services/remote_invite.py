"""Inviting a user of another server: their server signs the invitation before the room has it.

The invitation has its place in the room's graph before it goes out, and keeps it: meanwhile the room may change. So it
is committed as events of other servers are, where it stands, and the room's state is what comes of both. To make
another one would ask the other server again for as long as the room is busy, and leave it with invitations that are in
no room. If the room refuses it by then, as the inviter was removed, it is refused.

A crash between the signature and the commit leaves the invited user with an invitation that the room does not have.
Nobody can come in with it; to invite again makes it good.

Source: Matrix v1.19, server-server API, "Inviting to a room"; client-server API, "Inviting users to a room".
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from homeserver.adapters.federation_http import BadAnswer, FederationClient, FederationError, HttpError, federation_path
from homeserver.matrix.client_event import STRIPPED_STATE_TYPES
from homeserver.matrix.errors import BadJson, Forbidden, LimitExceeded, MatrixError, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.event_format import check_event_format
from homeserver.matrix.hashes import reference_hash
from homeserver.matrix.identifiers import domain_of
from homeserver.matrix.server_keys import MOST_KEYS
from homeserver.matrix.signing import SignatureError, signature_key_ids, verify_event_signature
from homeserver.observability import fault_point, log
from homeserver.services import rate_limits
from homeserver.services.receive_events import Verdict, receive_events
from homeserver.services.remote_handshake import told
from homeserver.services.server_keys import verify_keys
from homeserver.settings import settings
from homeserver.storage.rooms import RoomView, StateKey

SHOWN_STATE: tuple[StateKey, ...] = tuple((event_type, "") for event_type in STRIPPED_STATE_TYPES)
_ASK_S = 15.0
_MOST_BYTES = 512 * 1024
_MOST_SHOWN_BYTES = 128 * 1024
# An invitation makes another server write and show something: enough for a party, too little for spam.
_PER_SECOND, _BURST = 0.5, 30


def check_can_be_invited(view: RoomView, target: str) -> None:
    """Raises Forbidden where nobody of another server can come in, or this server talks to no other one."""
    create = view.event("m.room.create")
    if not settings().federation:
        raise Forbidden("This server does not talk to other servers.")
    if create is not None and create.content.get("m.federate") is False:
        raise Forbidden(f"This room is only for users of its own server, which {target} is not.")


def invite_elsewhere(view: RoomView, event: Event) -> Event:
    """Let the invited user's server sign an invitation, and commit it; returns it with both signatures.

    `event` is the invitation, authorised and signed by this server, and not committed; `view` is the room that it was
    made from, with `SHOWN_STATE` and the inviter's membership. Raises what the other server refuses it with,
    MatrixError (502) where that cannot be asked or does not sign, Forbidden where the room refuses it by now.
    """
    rate_limits.take(f"remote-invite/{event.sender}", per_second=_PER_SECOND, burst=_BURST)
    signed = _signed(event, _shown(view, event))
    fault_point("remote_invite.signed")
    outcome = receive_events(event.room_id, [signed], origin="relay")[event.event_id]
    if outcome.verdict not in {Verdict.ACCEPTED, Verdict.KNOWN}:
        log.info("the invitation %s is %s by rule %s", event.event_id, outcome.verdict.value, outcome.rule)
        raise Forbidden(outcome.reason or "The room refuses the invitation.")
    return signed


def _shown(view: RoomView, event: Event) -> list[Mapping[str, Any]]:
    """What the invitation shows of the room: whole events, so that the other server can check them."""
    found = [view.event(*key) for key in (*SHOWN_STATE, ("m.room.member", event.sender))]
    shown: list[Mapping[str, Any]] = []
    size = 0
    for one in found:
        if one is None:
            continue
        size += len(str(one.pdu))
        if one.type == "m.room.create" or size <= _MOST_SHOWN_BYTES:
            shown.append({key: value for key, value in one.pdu.items() if key != "unsigned"})
    return shown


def _signed(event: Event, shown: Sequence[Mapping[str, Any]]) -> Event:
    """The invitation with the signature of the invited user's server, and without anything else of its answer."""
    server = domain_of(event.state_key or "")
    try:
        returned = _ask(server, event, shown)
        signed = _with_signature(server, event, returned)
    except HttpError as error:
        raise _refusal(error) from error
    except FederationError as error:
        log.info("%s does not sign the invitation %s: %s", server, event.event_id, error)
        raise MatrixError(f"{server} cannot be reached, or does not sign the invitation.", status=502) from error
    return signed


def _ask(server: str, event: Event, shown: Sequence[Mapping[str, Any]]) -> Any:
    """What a server returns as the signed event. Raises FederationError."""
    body: dict[str, Any] = {
        "room_version": event.rules.version,
        "event": event.pdu,
        "invite_room_state": shown,
    }
    try:
        answer = _put(server, "v2", event, body)
    except HttpError as error:
        # "Senders which receive a 400 or 404 response to this endpoint should retry using the v1 API ..., if the room
        # version is "1" or "2"."
        if error.status not in {400, 404} or not event.rules.hashed_edges:
            raise
        body = {**event.pdu, "unsigned": {"invite_room_state": shown}}
        answers = _put(server, "v1", event, body)
        answer = answers[1] if isinstance(answers, list) and len(answers) == 2 else None
    return answer.get("event") if isinstance(answer, dict) else None


def _put(server: str, version: str, event: Event, body: Mapping[str, Any]) -> Any:
    path = federation_path(version, "invite", event.room_id, event.event_id)
    _, answer = FederationClient().request("PUT", server, path, content=body, timeout_s=_ASK_S, max_bytes=_MOST_BYTES)
    return answer


def _with_signature(server: str, event: Event, returned: Any) -> Event:
    """The event with the server's signatures. Raises BadAnswer where there is none that is right, or another event."""
    try:
        check_event_format(returned, event.rules)
        is_same = reference_hash(returned, event.rules) == reference_hash(event.pdu, event.rules)
    except MatrixError as error:
        raise BadAnswer(server, f"the invitation that it returns is malformed: {error.message}") from None
    if not is_same:
        raise BadAnswer(server, "the invitation that it returns is another event")
    key_ids = sorted(signature_key_ids(returned, server))[:MOST_KEYS]
    keys = verify_keys(server, key_ids, valid_at_ms=event.origin_server_ts, rules=event.rules)
    signatures = {key_id: returned["signatures"][server][key_id] for key_id in key_ids if key_id in keys}
    signed = replace(event, pdu={**event.pdu, "signatures": {**event.pdu["signatures"], server: signatures}})
    try:
        verify_event_signature(signed.pdu, event.rules, server, keys)
        check_event_format(signed.pdu, event.rules)
    except (SignatureError, BadJson) as error:
        raise BadAnswer(server, f"it has not signed the invitation: {error.message}") from None
    return signed


def _refusal(error: HttpError) -> MatrixError:
    """What the client is told of another server's refusal."""
    log.info("an invitation is refused: %s", error)
    if error.errcode in {"M_INCOMPATIBLE_ROOM_VERSION", "M_UNSUPPORTED_ROOM_VERSION"}:
        message = f"{error.destination} does not support this room's version."
        return MatrixError(message, errcode="M_UNSUPPORTED_ROOM_VERSION")
    if error.status == 403:
        return told(error)
    if error.status == 404:
        return NotFound(f"{error.destination} does not know this user.")
    if error.status == 429:
        return LimitExceeded(f"{error.destination} takes no more invitations now.", retry_after_ms=_retry(error))
    if error.status == 400 and error.errcode not in {"M_MISSING_PARAM", "M_INVALID_PARAM"}:
        return told(error)
    return MatrixError(f"{error.destination} does not take the invitation.", status=502)


def _retry(error: HttpError) -> int:
    return min(max(error.retry_after_ms or 1000, 1), 3_600_000)
