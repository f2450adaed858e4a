"""Joining a room through another server.

Source: Matrix v1.19, server-server API, "Joining Rooms", "Restricted rooms"; client-server API, "Joining rooms".
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from homeserver.adapters.federation_http import BadAnswer, FederationError
from homeserver.matrix.canonical_json import NotCanonical
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.event_format import check_event_format
from homeserver.matrix.hashes import reference_hash
from homeserver.matrix.identifiers import domain_of
from homeserver.matrix.room_versions import V1, V2, RoomVersionRules
from homeserver.matrix.server_keys import MOST_KEYS
from homeserver.matrix.signing import signature_key_ids
from homeserver.observability import fault_point, log
from homeserver.services.enter_room import enter_room
from homeserver.services.pdu_checks import check_pdus
from homeserver.services.remote_handshake import AUTHORISER, Asked, make, membership_event, send

# Servers of large rooms think for a minute or two before they answer with the room; the worker has five.
_JOIN_S, _SEND_S = 200.0, 150.0
# As objects an answer takes about eight times its size, and it is there as bytes and as text beside them.
_BYTES_OF_MEMORY = 1024 * 1024 // 12
_MEMORY_MB = 768  # where nobody says how much there is
_MOST_STATE_EVENTS = 200_000


def most_answer_bytes() -> int:
    """The longest answer to a join that this function has memory for: 42 MB with 512 MB, 85 MB with 1,024."""
    return int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE") or _MEMORY_MB) * _BYTES_OF_MEMORY


def join_elsewhere(room_id: str, user_id: str, content: Mapping[str, Any], servers: Sequence[str]) -> str:
    """Join a room through the first of some servers that lets a local user in; returns the ID of the join.

    `content` is that of the membership event. This server may be in the room: then the join is all that is new there.
    Repeating it is safe: it makes another join of who is in.

    Raises what `Asked` says ends it; MatrixError (502) or NotFound where no server helps. Nothing is stored then.
    """
    asked = Asked("join", seconds=_JOIN_S)
    for server in servers:
        if not asked.has_time():
            break
        try:
            return _join_through(server, room_id, user_id, content, asked)
        except (FederationError, MatrixError) as error:
            asked.failed(server, error)
    raise asked.verdict()


def _join_through(server: str, room_id: str, user_id: str, content: Mapping[str, Any], asked: Asked) -> str:
    template = make("join", server, room_id, user_id, asked)
    event = membership_event(template, room_id, user_id, content)
    fault_point("remote_join.signed")
    answer = send(
        "join",
        server,
        event,
        asked,
        query={"omit_members": False},
        timeout_s=_SEND_S,
        max_bytes=most_answer_bytes(),
    )
    told = _read(server, answer, event, template.rules)
    fault_point("remote_join.answered")
    enter_room(room_id, told.join.rules, told.join, told.state, told.auth_chain, server)
    fault_point("remote_join.entered")
    return told.join.event_id


@dataclass(frozen=True, slots=True)
class _Told:
    """The answer to a join, as far as format, signatures and hashes are right."""

    join: Event
    state: list[Event]
    auth_chain: list[Event]


def _read(server: str, answer: Any, event: Event, rules: RoomVersionRules) -> _Told:
    """Check an answer event by event. What fails is left out: what that does to the room, `enter_room` knows."""
    state, auth_chain = (answer.get(name) if isinstance(answer, dict) else None for name in ("state", "auth_chain"))
    if not isinstance(state, list) or not isinstance(auth_chain, list):
        raise BadAnswer(server, "its answer to the join has no state or no auth chain")
    if answer.get("members_omitted") is True:
        raise BadAnswer(server, "it has left out members, which it was not asked to")
    if len(state) + len(auth_chain) > _MOST_STATE_EVENTS:
        raise BadAnswer(server, "its answer to the join has too many events")
    rules = _rules_of(state, rules)
    join = _signed_join(server, answer.get("event"), event)
    checked, *others = check_pdus([join.pdu, *state, *auth_chain], rules, event.room_id)
    if checked.event is None or checked.event_id != event.event_id or checked.rule:
        raise BadAnswer(server, f"the join as it signed it is none: {checked.reason}")
    dropped = sum(one.event is None for one in others)
    if dropped:
        log.warning("%d of %d events of %s are dropped", dropped, len(others), event.room_id)
    return _Told(
        replace(checked.event, rules=rules),
        [one.event for one in others[: len(state)] if one.event is not None],
        [one.event for one in others[len(state) :] if one.event is not None],
    )


def _rules_of(state: Sequence[Any], rules: RoomVersionRules) -> RoomVersionRules:
    """The rules of the room: of versions 1 and 2 a template need not say which, and the create event does."""
    if not rules.hashed_edges:
        return rules
    for pdu in state:
        if isinstance(pdu, dict) and pdu.get("type") == "m.room.create" and isinstance(pdu.get("content"), dict):
            return V2 if pdu["content"].get("room_version", "1") == "2" else V1
    return rules


def _signed_join(server: str, returned: Any, event: Event) -> Event:
    """The join with the signature of the server whose user vouches for it, if one does; nothing else is taken."""
    authoriser = event.content.get(AUTHORISER)
    if authoriser is None:
        return event
    if not isinstance(returned, dict):
        raise BadAnswer(server, "it does not return the join that it has to sign")
    try:
        check_event_format(returned, event.rules)
        same = reference_hash(returned, event.rules) == reference_hash(event.pdu, event.rules)
    except (MatrixError, NotCanonical) as error:
        raise BadAnswer(server, f"the join that it returns is malformed: {error}") from None
    if not same:
        raise BadAnswer(server, "the join that it returns is another event")
    return with_signatures(event, domain_of(authoriser), returned)


def with_signatures(event: Event, server: str, returned: Mapping[str, Any]) -> Event:
    """An event with the signatures of one more server, as that returned it; they are still to be checked."""
    key_ids = sorted(signature_key_ids(returned, server))[:MOST_KEYS]
    signatures = {key_id: returned["signatures"][server][key_id] for key_id in key_ids}
    pdu = {**event.pdu, "signatures": {**event.pdu["signatures"], server: signatures}}
    return replace(event, pdu=pdu)
