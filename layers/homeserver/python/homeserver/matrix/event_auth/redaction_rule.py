"""Rule R11, and when a redaction takes effect.

Source: the rule on `m.room.redaction` of room versions 1 and 2; "Handling redactions" of room version 3 and later.
"""

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth.state import AuthState
from homeserver.matrix.identifiers import domain_of


def check_redaction(event: Event, state: AuthState) -> None:
    """Rule R11: in room versions 1 and 2 a redaction takes power, or the same server. Raises AuthRuleViolation."""
    # R11.1: with the power to redact, anything can be redacted. R11.2: without, what one's own server made.
    if not _has_redact_level(event, state) and not _event_ids_share_server(event):
        raise AuthRuleViolation("R11", "the sender has too little power to redact what another server sent")


def may_redact(redaction: Event, target: Event, state: AuthState) -> bool:
    """Whether an accepted redaction takes effect on its target.

    state: the room's state before the redaction. Until this is answered with true, clients must not be shown the
    redaction; ask again when the one of the two that was missing has arrived.
    """
    if redaction.type != "m.room.redaction" or redaction.redacts != target.event_id:
        return False
    if redaction.rejected or target.rejected or redaction.room_id != target.room_id:
        return False
    if _has_redact_level(redaction, state):
        return True
    # v1 and v2 have answered this when the redaction was accepted, by the servers in the event IDs.
    if redaction.rules.redaction_is_auth_rule:
        return _event_ids_share_server(redaction)
    return domain_of(redaction.sender) == domain_of(target.sender)


def _has_redact_level(redaction: Event, state: AuthState) -> bool:
    return state.power_levels.user_level(redaction.sender) >= state.power_levels.redact


def _event_ids_share_server(redaction: Event) -> bool:
    redacts = redaction.redacts
    return redacts is not None and ":" in redacts and domain_of(redacts) == domain_of(redaction.event_id)
