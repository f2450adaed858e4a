"""The rules that depend on state, in the order in which they are asked.

Source: "Authorization rules" of room versions 1 to 12.
"""

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth.create import check_create
from homeserver.matrix.event_auth.membership import check_membership
from homeserver.matrix.event_auth.power_levels_rule import check_power_levels
from homeserver.matrix.event_auth.redaction_rule import check_redaction
from homeserver.matrix.event_auth.state import AuthState
from homeserver.matrix.event_auth.third_party_invite import ThirdPartyVerifier
from homeserver.matrix.identifiers import domain_of


def check_event_auth(event: Event, state: AuthState, *, verify_third_party: ThirdPartyVerifier | None = None) -> None:
    """Whether the authorisation rules let an event follow on a state; returns nothing when they do.

    state: the room before the event: that of its auth events, of its previous events, or the current one.
    verify_third_party: how signatures of third-party invitations are verified; with PyNaCl unless told otherwise.
    Raises AuthRuleViolation with the number of the first rule that refuses it. Signatures and the choice of auth
    events (`check_auth_events`) are judged apart.
    """
    # R1: the create event stands for itself.
    if event.type == "m.room.create":
        check_create(event)
        return
    create = state.create
    # R4: a room that is closed to other servers takes nothing from them.
    if create.content.get("m.federate") is False and domain_of(event.sender) != domain_of(create.sender):
        raise AuthRuleViolation("R4", "the room is closed to other servers")
    # R5 (v1 to v5): a server's aliases are its own business, member or not.
    if event.type == "m.room.aliases" and event.rules.aliases_auth_rule:
        check_aliases(event)
        return
    # M1 to M9: memberships have rules of their own.
    if event.type == "m.room.member":
        check_membership(event, state, verify_third_party=verify_third_party)
        return
    # R6: only members speak.
    if not state.is_joined(event.sender):
        raise AuthRuleViolation("R6", "the sender is not a member of the room")
    levels = state.power_levels
    power = levels.user_level(event.sender)
    # R7: an invitation to a third-party identifier takes the power to invite, and nothing else.
    if event.type == "m.room.third_party_invite":
        if power < levels.invite:
            raise AuthRuleViolation("R7", "the sender has too little power to invite")
        return
    # R8: each type of event takes its level.
    if power < levels.event_level(event.type, is_state=event.is_state):
        raise AuthRuleViolation("R8", f"the sender has too little power to send {event.type}")
    # R9: a state key that looks like a user belongs to that user.
    if event.state_key is not None and event.state_key.startswith("@") and event.state_key != event.sender:
        raise AuthRuleViolation("R9", "the state key is another user")
    if event.type == "m.room.power_levels":
        check_power_levels(event, state)
    elif event.type == "m.room.redaction" and event.rules.redaction_is_auth_rule:
        check_redaction(event, state)
    # R12: whatever is left is allowed.


def check_aliases(event: Event) -> None:
    """Rule R5: the state key of `m.room.aliases` is the server whose aliases they are."""
    # R5.1: it is a state event.
    if event.state_key is None:
        raise AuthRuleViolation("R5.1", "aliases have a state key")
    # R5.2: of the sender's own server.
    if event.state_key != domain_of(event.sender):
        raise AuthRuleViolation("R5.2", "the aliases are those of another server")
