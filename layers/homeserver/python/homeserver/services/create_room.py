"""Creating a room: presets, initial state, name, topic, alias, power levels and the first invitations.

Source: client-server API v1.19, "Creation"; room version 12 for what creators are.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from homeserver.matrix.errors import AuthRuleViolation, BadJson, InvalidParam, MatrixError
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.identifiers import is_user_id
from homeserver.matrix.room_versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS, RoomVersionRules
from homeserver.observability import log
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.aliases import add_alias, check_local_alias
from homeserver.services.attempts import attempts
from homeserver.services.first_invites import invite_all
from homeserver.services.invite_permissions import check_wants_invites, permission_key
from homeserver.services.membership import member_profile
from homeserver.services.notice_rooms import notices_user
from homeserver.services.request_transactions import RequestClaim
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.services.send_event import check_can_invite, keys_for, local_users_of
from homeserver.services.third_party_invites import AddressInvite, invite_stranger, take_invite, user_behind
from homeserver.settings import settings
from homeserver.storage.connection import Key, TransactionCancelled, batch_get, in_parallel
from homeserver.storage.inbox import Counters
from homeserver.storage.inbox_shards import COUNTERS
from homeserver.storage.profiles import Profile
from homeserver.storage.room_items import Alias
from homeserver.storage.room_previews import publish_new
from homeserver.storage.rooms import load_room


@dataclass(frozen=True, slots=True)
class Preset:
    """What a preset sets. Source: "createRoom", `preset`."""

    join_rule: str
    history_visibility: str
    guest_access: str
    trusted: bool = False


PRESETS = {
    "private_chat": Preset("invite", "shared", "can_join"),
    "trusted_private_chat": Preset("invite", "shared", "can_join", trusted=True),
    "public_chat": Preset("public", "shared", "forbidden"),
}
# Keys of m.room.create that the server alone decides.
_SERVER_KEYS = frozenset({"creator", "room_version"})
_MOST_INVITES = 100
_MOST_ADDRESSES = 5  # each is up to three questions to an identity server
_MOST_INITIAL_STATE = 200


@dataclass(frozen=True, slots=True)
class RoomRequest:
    """What a client asked for; the HTTP layer has checked the JSON types."""

    preset: str | None = None
    visibility: str = "private"
    room_version: str = DEFAULT_ROOM_VERSION
    alias_localpart: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: Sequence[str] = ()
    invite_3pid: Sequence[AddressInvite] = ()
    is_direct: bool = False
    initial_state: Sequence[Mapping[str, Any]] = ()
    creation_content: Mapping[str, Any] = field(default_factory=dict)
    power_level_override: Mapping[str, Any] = field(default_factory=dict)
    # What else is written when the room is made, and only then: called with the transaction and `room_id`
    also: Callable[..., None] | None = None
    # The request that the room is made for: nothing is made if it was answered before (`also` writes its answer)
    claim: RequestClaim | None = None


def create_room(requester: Requester, request: RoomRequest) -> str:
    """Make a room and return its ID.

    One commit holds everything up to about 25 events. What goes beyond (long initial states, many invitations) is
    authorised before anything is written and follows in further commits. Invited users of this server need not exist
    (see `check_can_invite`); naming one twice, or oneself, changes nothing. Identity servers are asked for users of
    addresses before the room is made, and to keep invitations for the others once there is a room to invite to; so are
    the servers of other users who are invited: if that fails then, the room is there without the invitation.

    Raises M_INVITE_BLOCKED if one of the invited wants no invitations, what `user_behind` raises, MatrixError with
    M_UNSUPPORTED_ROOM_VERSION, M_ROOM_IN_USE (the alias exists), M_INVALID_ROOM_STATE (the initial state contradicts
    itself), or what is wrong with a parameter.
    """
    rules = ROOM_VERSIONS.get(request.room_version)
    if rules is None:
        raise MatrixError("This server does not know this room version.", errcode="M_UNSUPPORTED_ROOM_VERSION")
    preset = PRESETS[request.preset or ("public_chat" if request.visibility == "public" else "private_chat")]
    alias = _alias(request.alias_localpart)
    _check(request, rules)

    user_id = requester.user_id
    bound, strangers = _behind_addresses(requester, request.invite_3pid)
    invited = list(dict.fromkeys(user for user in (*request.invite, *bound) if user != user_id))
    counters_key: Key = (Counters, user_id, COUNTERS)
    alias_key: list[Key] = [(Alias, alias, None)] if alias else []
    invited_here = local_users_of(invited)
    permissions = {user: permission_key(user) for user in invited_here}
    profile_keys: list[Key] = [(Profile, user, None) for user in (user_id, *invited_here)]
    claim_key: list[Key] = [request.claim.key] if request.claim is not None else []
    keys: list[Key] = [counters_key, *alias_key, *profile_keys, *permissions.values(), *claim_key]
    for attempt in attempts("The server"):
        found, _ = in_parallel(
            lambda: batch_get(keys, consistent=True),
            (lambda: None) if attempt or user_id == notices_user() else (lambda: rate_limits.take_send(user_id)),
        )
        if request.claim is not None:
            request.claim.check(found)
        if any(key in found for key in alias_key):
            raise _alias_in_use(alias)
        for permission in permissions.values():
            check_wants_invites(found.get(permission))
        profiles = {user: member_profile(found.get((Profile, user, None))) for user in (user_id, *invited)}
        drafts = _drafts(user_id, request, preset, rules, alias=alias, invited=invited, profiles=profiles)
        room = RoomDraft(None, rules, room_id=_new_room_id(rules), counters={user_id: found.get(counters_key)})
        rest = _add_all(room, drafts, user_id)
        if alias:
            room.extras.append(partial(add_alias, alias=alias, room_id=room.room_id or "", creator=user_id))
        if request.visibility == "public":
            room.extras.append(partial(publish_new, room_id=room.room_id or ""))
        if request.also is not None:
            room.extras.append(partial(request.also, room_id=room.room_id or ""))
        try:
            room.commit()
        except Raced as raced:
            cause = raced.__cause__
            # A twin of the request took the alias with the room: the next try finds its answer.
            if isinstance(cause, TransactionCancelled) and cause.failed("alias") and not cause.failed("request"):
                raise _alias_in_use(alias) from raced
            continue
        break
    room_id = room.room_id or ""
    while rest:
        rest = _commit_more(room_id, rest, user_id)
    for address in strangers:
        try:
            invite_stranger(requester, room_id, address)
        except MatrixError as error:
            log.warning("%s made %s without an invitation by address: %s", user_id, room_id, error)
    invite_all(requester, room_id, [user for user in invited if user not in invited_here], is_direct=request.is_direct)
    return room_id


def _behind_addresses(requester: Requester, invites: Sequence[AddressInvite]) -> tuple[list[str], list[AddressInvite]]:
    """The users who bound the addresses, and the addresses that nobody bound."""
    bound, strangers = [], []
    for invite in invites:
        take_invite(requester)
        user_id = user_behind(invite)
        if user_id is None:
            strangers.append(invite)
        else:
            check_can_invite(user_id)
            bound.append(user_id)
    return bound, strangers


def _check(request: RoomRequest, rules: RoomVersionRules) -> None:
    if len(request.invite) > _MOST_INVITES:
        raise InvalidParam(f"At most {_MOST_INVITES} users can be invited while a room is made.")
    if len(request.invite_3pid) > _MOST_ADDRESSES:
        raise InvalidParam(f"At most {_MOST_ADDRESSES} addresses can be invited while a room is made.")
    if len(request.initial_state) > _MOST_INITIAL_STATE:
        raise InvalidParam(f"At most {_MOST_INITIAL_STATE} events can be in initial_state.")
    for user_id in request.invite:
        check_can_invite(user_id)
    for event in request.initial_state:
        if event["type"] in _NOT_INITIAL:
            raise BadJson(f"initial_state cannot have an event of type {event['type']}.")
        if event["type"] == "m.room.member" and event["content"].get("membership") == "invite":
            check_can_invite(event["state_key"])
            if not local_users_of([event["state_key"]]):
                raise InvalidParam("Users of other servers are invited with `invite`: their servers have to be asked.")
    creators = request.creation_content.get("additional_creators", [])
    if rules.creators_have_infinite_power and not (
        isinstance(creators, list) and all(is_user_id(user) for user in creators)
    ):
        raise BadJson("additional_creators must be an array of user IDs.")


def _alias(localpart: str | None) -> str | None:
    if localpart is None:
        return None
    alias = f"#{localpart}:{settings().server_name}"
    if ":" in localpart or not localpart:
        raise InvalidParam("room_alias_name is only the part between # and :")
    check_local_alias(alias)
    return alias


def _alias_in_use(alias: str | None) -> MatrixError:
    return MatrixError(f"The alias {alias} is taken.", errcode="M_ROOM_IN_USE")


def _new_room_id(rules: RoomVersionRules) -> str | None:
    return None if rules.room_id_is_create_hash else f"!{secrets.token_urlsafe(18)}:{settings().server_name}"


def _drafts(
    user_id: str,
    request: RoomRequest,
    preset: Preset,
    rules: RoomVersionRules,
    *,
    alias: str | None,
    invited: Sequence[str],
    profiles: Mapping[str, Mapping[str, Any]],
) -> list[EventDraft]:
    """The events of the new room, in the order that the specification gives."""
    create = _create_content(user_id, request, preset, rules, invited)
    drafts = [
        EventDraft("m.room.create", create, ""),
        EventDraft("m.room.member", {**profiles[user_id], "membership": "join"}, user_id),
        EventDraft("m.room.power_levels", _power_levels(user_id, request, preset, rules, invited), ""),
    ]
    if alias:
        drafts.append(EventDraft("m.room.canonical_alias", {"alias": alias}, ""))
    drafts += [
        EventDraft("m.room.join_rules", {"join_rule": preset.join_rule}, ""),
        EventDraft("m.room.history_visibility", {"history_visibility": preset.history_visibility}, ""),
        EventDraft("m.room.guest_access", {"guest_access": preset.guest_access}, ""),
    ]
    overridden = {"m.room.name": request.name is not None, "m.room.topic": request.topic is not None}
    for event in request.initial_state:
        draft = EventDraft(event["type"], event["content"], event.get("state_key", ""))
        if draft.state_key == "" and overridden.get(draft.type):
            continue
        # Initial state takes precedence over the preset's event of the same kind.
        drafts = [
            d for d in drafts if d.type in _FIRST_EVENTS or (d.type, d.state_key) != (draft.type, draft.state_key)
        ]
        drafts.append(draft)
    if request.name is not None:
        drafts.append(EventDraft("m.room.name", {"name": request.name}, ""))
    if request.topic is not None:
        rich = {"m.text": [{"body": request.topic, "mimetype": "text/plain"}]}
        drafts.append(EventDraft("m.room.topic", {"topic": request.topic, "m.topic": rich}, ""))
    direct = {"is_direct": True} if request.is_direct else {}
    drafts += [
        EventDraft("m.room.member", {**profiles[user], "membership": "invite", **direct}, user)
        for user in local_users_of(invited)
    ]
    return drafts


_FIRST_EVENTS = frozenset({"m.room.create", "m.room.member", "m.room.power_levels"})
_NOT_INITIAL = frozenset({"m.room.create", "m.room.redaction"})


def _create_content(
    user_id: str, request: RoomRequest, preset: Preset, rules: RoomVersionRules, invited: Sequence[str]
) -> dict[str, Any]:
    content = {key: value for key, value in request.creation_content.items() if key not in _SERVER_KEYS}
    content["room_version"] = rules.version
    if not rules.creator_is_sender:
        content["creator"] = user_id
    if rules.creators_have_infinite_power and preset.trusted:
        content["additional_creators"] = list(dict.fromkeys([*content.get("additional_creators", []), *invited]))
    return content


def _power_levels(
    user_id: str, request: RoomRequest, preset: Preset, rules: RoomVersionRules, invited: Sequence[str]
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "ban": 50,
        "events": {
            "m.room.name": 50,
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.encryption": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": 100,
        },
        "events_default": 0,
        "invite": 0,
        "kick": 50,
        "redact": 50,
        "state_default": 50,
        "users": {},
        "users_default": 0,
    }
    if not rules.creators_have_infinite_power:
        trusted = invited if preset.trusted else ()
        content["users"] = dict.fromkeys((user_id, *trusted), 100)
    content.update(request.power_level_override)
    if rules.creators_have_infinite_power:
        _guard_upgrades(content, request.power_level_override.get("events"))
    return content


def _guard_upgrades(content: dict[str, Any], override: Any) -> None:
    """From room version 12 an upgrade takes more than `state_default`, unless the client itself says how much.

    Values that are no levels are left to the authorisation rules.
    """
    events, state_default = content["events"], content["state_default"]
    is_named = isinstance(override, dict) and "m.room.tombstone" in override
    if isinstance(events, dict) and not is_named:
        above = state_default + 1 if type(state_default) is int else 0
        content["events"] = {**events, "m.room.tombstone": max(150, above)}


def _add_all(room: RoomDraft, drafts: Sequence[EventDraft], user_id: str) -> list[EventDraft]:
    """Add the drafts that fit into one commit; returns those that did not, each authorised nevertheless."""
    try:
        for number, draft in enumerate(drafts):
            if room.is_full:
                trial = room.trial()
                for later in drafts[number:]:
                    trial.add(later, user_id)
                return list(drafts[number:])
            room.add(draft, user_id)
    except AuthRuleViolation as error:
        message = f"The room would refuse its own {draft.type} event: {error.message}."
        raise MatrixError(message, errcode="M_INVALID_ROOM_STATE") from error
    return []


def _commit_more(room_id: str, drafts: Sequence[EventDraft], user_id: str) -> list[EventDraft]:
    """Commit as many further drafts as fit into one commit; returns the rest."""
    keys = [key for draft in drafts for key in keys_for(draft, user_id)]
    users = local_users_of(draft.state_key or "" for draft in drafts if draft.type == "m.room.member")
    for _ in attempts("The room"):
        view, _found = load_room(room_id, keys, local_users=users)
        if view is None:
            raise AssertionError("a room that was just made is gone")
        room = RoomDraft(view, view.rules)
        rest = _add_all(room, drafts, user_id)
        try:
            room.commit()
        except Raced:
            continue
        return rest
    raise AssertionError("attempts() never ends by itself")
