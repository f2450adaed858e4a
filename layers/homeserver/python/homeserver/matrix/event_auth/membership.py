"""Rules M1 to M9: who may change whose membership, and to what.

Source: the rule on `m.room.member` in the room versions' authorisation rules; restricted joins: room versions 8 to 10;
knocking: room versions 7 and 10.
"""

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth.state import AuthState
from homeserver.matrix.event_auth.third_party_invite import ThirdPartyVerifier, check_third_party_invite
from homeserver.matrix.identifiers import is_user_id


def check_membership(event: Event, state: AuthState, *, verify_third_party: ThirdPartyVerifier | None) -> None:
    """Whether an `m.room.member` event may follow on this state. Raises AuthRuleViolation.

    That the server of `join_authorised_via_users_server` signed the event (the other half of M2) is checked with the
    event's signatures.
    """
    content, rules = event.content, event.rules
    target = event.state_key
    # M1: it is about a user, and says what becomes of them.
    if target is None or "membership" not in content:
        raise AuthRuleViolation("M1", "a membership event has a state key and a membership")
    # M2 (v8 and later): whoever is said to have authorised a join is a user, whose server can sign for it.
    authoriser = content.get("join_authorised_via_users_server")
    if rules.restricted_joins and "join_authorised_via_users_server" in content and not is_user_id(authoriser):
        raise AuthRuleViolation("M2", "join_authorised_via_users_server is a user ID")
    match content["membership"]:
        case "join":
            check_join(event, target, state)
        case "invite" if "third_party_invite" in content:
            check_third_party_invite(event, target, state, verify=verify_third_party)
        case "invite":
            check_invite(event, target, state)
        case "leave":
            check_leave(event, target, state)
        case "ban":
            check_ban(event, target, state)
        case "knock" if rules.knocking:
            check_knock(event, target, state)
        case _:
            # M9: there is no other membership (before v7, `knock` is none either).
            raise AuthRuleViolation("M9", "the membership is unknown")


def check_join(event: Event, target: str, state: AuthState) -> None:
    """Rule M3: a user enters the room, or changes how they appear in it."""
    rules, sender = event.rules, event.sender
    # M3.1: the creator enters right after the create event, whatever the join rule.
    if event.prev_event_ids == [state.create.event_id] and target == _first_member(state):
        return
    # M3.2: nobody can make another join.
    if sender != target:
        raise AuthRuleViolation("M3.2", "users can only join for themselves")
    membership = state.membership(target)
    # M3.3: the banned stay outside.
    if membership == "ban":
        raise AuthRuleViolation("M3.3", "the user is banned from the room")
    join_rule, was_asked_in = state.join_rule, membership in ("invite", "join")
    # M3.4: where an invitation is needed (`invite`; from v7 also `knock`), it is enough.
    if join_rule in rules.invite_join_rules:
        if not was_asked_in:
            raise AuthRuleViolation("M3.4", "the user is not invited to the room")
        return
    # M3.5 (v8 and later; `knock_restricted` from v10): an invitation does here too, or the word of a joined user who
    # may invite. Whether the user meets one of the room's conditions is for that user's server to know.
    if join_rule in rules.restricted_join_rules:
        if not was_asked_in and not _is_authorised_by_member(event, state):
            raise AuthRuleViolation("M3.5", "no member who may invite has authorised the join")
        return
    # M3.6: a public room is open. M3.7: under any other rule nobody joins.
    if join_rule != "public":
        raise AuthRuleViolation("M3.7", "the join rule lets nobody join")


def _first_member(state: AuthState) -> object:
    create = state.create
    return create.sender if create.rules.creator_is_sender else create.content.get("creator")


def _is_authorised_by_member(event: Event, state: AuthState) -> bool:
    # M2 has seen that it is a user ID if it is there at all.
    authoriser = event.content.get("join_authorised_via_users_server", "")
    return state.is_joined(authoriser) and state.power_levels.user_level(authoriser) >= state.power_levels.invite


def check_invite(event: Event, target: str, state: AuthState) -> None:
    """Rule M5: a member asks someone in."""
    # M5.1: only members invite.
    if not state.is_joined(event.sender):
        raise AuthRuleViolation("M5.1", "only members of the room can invite")
    # M5.2: who is inside needs no invitation, who is banned gets none.
    if state.membership(target) in ("join", "ban"):
        raise AuthRuleViolation("M5.2", "the user is a member of the room or banned from it")
    # M5.3: inviting takes power.
    if state.power_levels.user_level(event.sender) < state.power_levels.invite:
        raise AuthRuleViolation("M5.3", "the sender has too little power to invite")


def check_leave(event: Event, target: str, state: AuthState) -> None:
    """Rule M6: a user leaves, turns an invitation down or takes a knock back; or is kicked, or a ban is lifted."""
    sender, levels = event.sender, state.power_levels
    # M6.1: one can leave what one is in, invited to or (v7 and later) knocking at. A ban cannot be left.
    if sender == target:
        membership = state.membership(sender)
        if membership not in ("invite", "join") and not (event.rules.knocking and membership == "knock"):
            raise AuthRuleViolation("M6.1", "the user is not in the room")
        return
    # M6.2: only members make others leave.
    if not state.is_joined(sender):
        raise AuthRuleViolation("M6.2", "only members of the room can make others leave")
    power = levels.user_level(sender)
    # M6.3: lifting a ban takes the power to ban.
    if state.membership(target) == "ban" and power < levels.ban:
        raise AuthRuleViolation("M6.3", "the sender has too little power to lift a ban")
    # M6.4: making others leave takes power.
    if power < levels.kick:
        raise AuthRuleViolation("M6.4", "the sender has too little power to make others leave")
    # M6.5: and more of it than they have.
    if levels.user_level(target) >= power:
        raise AuthRuleViolation("M6.5", "the user has as much power as the sender")


def check_ban(event: Event, target: str, state: AuthState) -> None:
    """Rule M7: a user is shut out."""
    levels = state.power_levels
    # M7.1: only members ban.
    if not state.is_joined(event.sender):
        raise AuthRuleViolation("M7.1", "only members of the room can ban")
    power = levels.user_level(event.sender)
    # M7.2: banning takes power.
    if power < levels.ban:
        raise AuthRuleViolation("M7.2", "the sender has too little power to ban")
    # M7.3: and more of it than the banned has.
    if levels.user_level(target) >= power:
        raise AuthRuleViolation("M7.3", "the user has as much power as the sender")


def check_knock(event: Event, target: str, state: AuthState) -> None:
    """Rule M8 (v7 and later): a user asks to be let in."""
    # M8.1: the room has a door to knock at (`knock`; from v10 also `knock_restricted`).
    if state.join_rule not in event.rules.knockable_join_rules:
        raise AuthRuleViolation("M8.1", "the room does not allow knocking")
    # M8.2: nobody knocks for another.
    if event.sender != target:
        raise AuthRuleViolation("M8.2", "users can only knock for themselves")
    # M8.3: those inside, invited or banned have nothing to ask for.
    if state.membership(target) in ("ban", "invite", "join"):
        raise AuthRuleViolation("M8.3", "the user is invited, a member or banned")
