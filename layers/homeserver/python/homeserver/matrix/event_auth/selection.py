"""Which state events an event names as its authority, and whether the ones it names are right (rules R2 and R3).

Source: server-server API v1.19, "Auth events selection"; rules 2 and 3 of the room versions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import RoomVersionRules


def auth_event_keys(
    event_type: str, sender: str, state_key: str | None, content: Mapping[str, Any], rules: RoomVersionRules
) -> list[tuple[str, str]]:
    """The `(type, state_key)` of the state events that authorise such an event, each once.

    `state_key` is None for a message event. Keys of events that the room does not have are simply not named by the
    event. The create event names nothing and is named by all, but for room version 12, where the room ID names it.
    """
    if event_type == "m.room.create":
        return []
    keys: dict[tuple[str, str], None] = {}
    if not rules.room_id_is_create_hash:
        keys["m.room.create", ""] = None
    keys["m.room.power_levels", ""] = None
    keys["m.room.member", sender] = None
    if event_type == "m.room.member" and state_key is not None:
        keys.update(dict.fromkeys(_member_keys(state_key, content, rules)))
    return list(keys)


def _member_keys(target: str, content: Mapping[str, Any], rules: RoomVersionRules) -> list[tuple[str, str]]:
    """What a membership event names besides."""
    membership = content.get("membership")
    keys = [("m.room.member", target)]
    if membership in ("join", "invite", "knock"):
        keys.append(("m.room.join_rules", ""))
    if membership == "invite":
        token = _third_party_token(content)
        if token is not None:
            keys.append(("m.room.third_party_invite", token))
    if membership == "join" and rules.restricted_joins:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str):
            keys.append(("m.room.member", authoriser))
    return keys


def _third_party_token(content: Mapping[str, Any]) -> str | None:
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, Mapping) else None
    token = signed.get("token") if isinstance(signed, Mapping) else None
    return token if isinstance(token, str) else None


def check_auth_events(event: Event, auth_events: Sequence[Event], *, create: Event | None = None) -> None:
    """Rules R2 and R3: whether the events that an event names in `auth_events` may be its authority.

    auth_events: what `event.auth_event_ids` names, in that order, each known to the caller.
    create: the event that the room ID names; only room version 12 asks for it.
    Raises AuthRuleViolation. The create event itself is judged by R1 alone.
    """
    if event.type == "m.room.create":
        return
    rules = event.rules
    # R2 (v12): the room ID is the ID of a create event that was accepted.
    if rules.room_id_is_create_hash and (
        create is None
        or create.type != "m.room.create"
        or create.rejected
        or event.room_id != "!" + create.event_id.removeprefix("$")
    ):
        raise AuthRuleViolation("R2", "the room ID is not that of an accepted create event")
    selected = set(auth_event_keys(event.type, event.sender, event.state_key, event.content, rules))
    seen: set[tuple[str, str]] = set()
    for auth_event in auth_events:
        # R3.2: only what the selection asks for may be named; a message event never is.
        if not auth_event.is_state or auth_event.key not in selected:
            raise AuthRuleViolation("R3.2", f"an event of type {auth_event.type} does not authorise this one")
        # R3.1: each key of the state is named once.
        if auth_event.key in seen:
            raise AuthRuleViolation("R3.1", f"two events of type {auth_event.type} with one state key are named")
        seen.add(auth_event.key)
        # R3.3: what was refused cannot authorise anything.
        if auth_event.rejected:
            raise AuthRuleViolation("R3.3", "an event that was rejected is named")
        # R3.5: authority does not reach from one room into another.
        if auth_event.room_id != event.room_id:
            raise AuthRuleViolation("R3.5", "an event of another room is named")
    # R3.4 (v1 to v11): the create event is among them.
    if not rules.room_id_is_create_hash and ("m.room.create", "") not in seen:
        raise AuthRuleViolation("R3.4", "the create event is not named")
