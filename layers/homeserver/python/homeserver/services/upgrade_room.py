"""Replacing a room by one of another version, or of the same.

Source: client-server API v1.19, "Room Upgrades".

The steps: the new room with the state that moves along; the aliases; the tombstone, and power levels that close the
old room; the entry in the published directory; what the user who upgrades had set up for the room. The transaction
that makes the new room also notes in the old one what is being done. So a crash leaves nothing half-done for ever:
the same request goes on where the last one stopped, every step can be repeated, and until the tombstone nobody else
notices anything. Ordinary members cannot speak in the new room before it is whole: its join rules and power levels
come last.

What moves: the state that the specification recommends, the children and parents of spaces, bans (as far as they are
found among the first members), and the aliases of this server with the canonical alias that names them. Memberships
stay, as nobody else can be made to join; so does what other spaces say of the old room, which clients change.
"""

import secrets
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from homeserver.matrix.errors import (
    AuthRuleViolation,
    BadJson,
    Forbidden,
    InvalidParam,
    LimitExceeded,
    MatrixError,
    TooLarge,
)
from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.identifiers import is_user_id
from homeserver.matrix.power_levels import PowerLevels
from homeserver.matrix.room_facts import FACT_KEYS
from homeserver.matrix.room_upgrade import (
    MOVED_RELATION_TYPES,
    MOVED_TYPES,
    closed_power_levels,
    create_content,
    moved_join_rules,
    moved_power_levels,
    replacement_of,
)
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersionRules
from homeserver.observability import fault_point, log
from homeserver.services import rate_limits
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.membership import member_profile
from homeserver.services.room_draft import Raced, RoomDraft
from homeserver.services.room_listing import store_listing
from homeserver.services.send_event import NOT_IN_ROOM, check_room_id, keys_for, local_users_of
from homeserver.services.upgraded_settings import carry_settings
from homeserver.settings import settings
from homeserver.storage.connection import Key, Transaction, TransactionCancelled
from homeserver.storage.inbox import Counters
from homeserver.storage.inbox_shards import COUNTERS
from homeserver.storage.profiles import Profile
from homeserver.storage.room_previews import preview_key
from homeserver.storage.room_upgrades import (
    RoomUpgrade,
    begin,
    finish,
    local_aliases,
    move_alias,
    state_rows,
    still,
    upgrade_key,
)
from homeserver.storage.rooms import RoomView, current_state, entry_of_row, load_room

# A repeat within a day is the same request again, as with transaction IDs; later it is another upgrade.
_SAME_REQUEST_MS = 24 * 3600 * 1000
# Somebody else's upgrade that has not come to its end by then never will, unless it is repeated.
_GIVEN_UP_AFTER_MS = 60_000
_DRAFTS_AT_ONCE = 20
_ALIASES_AT_ONCE = 20  # three items each, in the transaction that closes the old room
_MOST_RELATIONS = 2_000
# Bans stand among all members' rows. Reading these is the only step that grows with the members, up to this number.
_MOST_MEMBERS_READ = 10_000
_CREATE, _LEVELS = ("m.room.create", ""), ("m.room.power_levels", "")
_TOMBSTONE, _CANONICAL_ALIAS = ("m.room.tombstone", ""), ("m.room.canonical_alias", "")
_JOIN_RULES = ("m.room.join_rules", "")
_REPLACED = "This room has been replaced."


def upgrade_room(requester: Requester, room_id: str, new_version: str, additional_creators: Sequence[str] = ()) -> str:
    """Replace a room; returns the ID of the new one. Repeating it within a day returns the same room.

    `additional_creators` count for versions that have them, and for nothing else. Raises MatrixError with
    M_UNSUPPORTED_ROOM_VERSION, InvalidParam for creators that are no user IDs, Forbidden for who may not send the
    tombstone, LimitExceeded while somebody else upgrades the room.
    """
    check_room_id(room_id)
    rules = ROOM_VERSIONS.get(new_version)
    if rules is None:
        raise MatrixError("This server does not know this room version.", errcode="M_UNSUPPORTED_ROOM_VERSION")
    if not rules.creators_have_infinite_power:
        additional_creators = ()
    elif not all(is_user_id(user_id) for user_id in additional_creators):
        raise InvalidParam("additional_creators must be an array of user IDs.")
    upgrade = _begun(requester, room_id, rules, list(dict.fromkeys(additional_creators)))
    if upgrade.done is None:
        fault_point("upgrade.begun")
        _fill(upgrade)
        _close(upgrade)
        fault_point("upgrade.closed")
        _move_listing(upgrade)
        carry_settings(upgrade.sender, room_id, upgrade.replacement)
        finish(upgrade, now_ms())
    return str(upgrade.replacement)


def _begun(requester: Requester, room_id: str, rules: RoomVersionRules, additional: Sequence[str]) -> RoomUpgrade:
    """The upgrade that is asked for: one that was begun before, or one whose room is made now."""
    user_id = requester.user_id
    counters_key: Key = (Counters, user_id, COUNTERS)
    profile_key: Key = (Profile, user_id, None)
    tombstone = EventDraft(_TOMBSTONE[0], {"body": _REPLACED, "replacement_room": room_id}, _TOMBSTONE[1])
    rate_limits.take_send(user_id)
    for _ in attempts("The room"):
        extras = [upgrade_key(room_id), counters_key, profile_key]
        view, found = load_room(room_id, keys_for(tombstone, user_id), extras=extras)
        create = view.event(*_CREATE) if view is not None else None
        if view is None or create is None or view.membership(user_id) != "join":
            raise Forbidden(NOT_IN_ROOM)
        RoomDraft(view, view.rules).trial().add(tombstone, user_id)  # "check if the user has permission"
        before: RoomUpgrade | None = found.get(upgrade_key(room_id))
        if before is not None and before.is_for(user_id, rules.version, additional):
            if before.done is None:
                return before
            points_there = replacement_of(view.event(*_TOMBSTONE)) == before.replacement
            if points_there and now_ms() - int(before.started) < _SAME_REQUEST_MS:
                return before
        elif before is not None and before.done is None and now_ms() - int(before.started) < _GIVEN_UP_AFTER_MS:
            raise LimitExceeded("Somebody else is upgrading this room.", retry_after_ms=_GIVEN_UP_AFTER_MS)
        content = create_content(create, _last_event(view), rules, creator=user_id, additional_creators=additional)
        own_id = None if rules.room_id_is_create_hash else f"!{secrets.token_urlsafe(18)}:{settings().server_name}"
        room = RoomDraft(None, rules, room_id=own_id, counters={user_id: found.get(counters_key)})
        room.add(EventDraft("m.room.create", content, ""), user_id)
        profile = member_profile(found.get(profile_key))
        room.add(EventDraft("m.room.member", {**profile, "membership": "join"}, user_id), user_id)
        upgrade = RoomUpgrade(
            room_id,
            replacement=room.room_id,
            sender=user_id,
            version=rules.version,
            additional_creators=list(additional) or None,
            started=now_ms(),
        )
        room.extras.append(partial(begin, upgrade=upgrade, before=before))
        try:
            room.commit()
        except Raced:
            continue
        return upgrade
    raise AssertionError("attempts() never ends by itself")


def _last_event(view: RoomView) -> str:
    extremity = view.head.extremities[0]
    return str(extremity if isinstance(extremity, str) else extremity[0])


def _fill(upgrade: RoomUpgrade) -> None:
    """Give the new room everything that moves along and that it does not have yet."""
    pending = _moved(upgrade)
    while pending:
        pending = pending[_commit_some(upgrade, pending[:_DRAFTS_AT_ONCE]) :]


def _commit_some(upgrade: RoomUpgrade, drafts: Sequence[EventDraft]) -> int:
    """Commit the first of the drafts, as many as fit; how many were dealt with."""
    sender = upgrade.sender
    keys = [key for draft in drafts for key in keys_for(draft, sender)]
    users = local_users_of(draft.state_key or "" for draft in drafts if draft.type == "m.room.member")
    for _ in attempts("The room"):
        view, _found = load_room(upgrade.replacement, keys, local_users=users)
        if view is None:
            raise LookupError(f"{upgrade.replacement}, which replaces {upgrade.room}, is gone")
        room = RoomDraft(view, view.rules)
        count = 0
        for draft in drafts:
            if room.is_full:
                break
            count += 1
            current = view.event(draft.type, draft.state_key or "")
            if current is None or current.content != draft.content:
                _add_if_possible(room, draft, sender)
        if room.events:
            try:
                room.commit()
            except Raced:
                continue
        return count
    raise AssertionError("attempts() never ends by itself")


def _add_if_possible(room: RoomDraft, draft: EventDraft, sender: str) -> None:
    try:
        room.add(draft, sender)
    except (AuthRuleViolation, BadJson, TooLarge) as error:
        # What the one version bears the other may refuse: floats, or a ban that would take more power.
        log.info("%s of %s was left out of an upgrade: %s", draft.type, room.room_id, error)


def _moved(upgrade: RoomUpgrade) -> list[EventDraft]:
    """The state that moves along, as it is now, in the order in which the new room gets it.

    Nothing once the old room is closed: its levels are no longer those that it had, and the new room is whole.
    """
    keys = [
        _CREATE,
        _TOMBSTONE,
        _LEVELS,
        _JOIN_RULES,
        _CANONICAL_ALIAS,
        *((event_type, "") for event_type in MOVED_TYPES),
    ]
    view, _found = load_room(upgrade.room, keys)
    if view is None:
        raise LookupError(f"{upgrade.room}, which is being upgraded, is gone")
    if replacement_of(view.event(*_TOMBSTONE)) == upgrade.replacement:
        return []
    old_create = view.event(*_CREATE)
    rules = ROOM_VERSIONS[upgrade.version]
    drafts = [
        EventDraft(event_type, event.content, "")
        for event_type in MOVED_TYPES
        # What was redacted, or set to nothing, is not there.
        if (event := view.event(event_type)) is not None and event.content
    ]
    for event_type in MOVED_RELATION_TYPES:
        found = _state_of_type(view, event_type, _MOST_RELATIONS)
        # Without `via` it is a relation that was taken back.
        drafts += [EventDraft(event_type, e.content, e.state_key) for e in found if "via" in e.content]
    for event in _state_of_type(view, "m.room.member", _MOST_MEMBERS_READ):
        if event.content.get("membership") == "ban" and event.state_key != upgrade.sender:
            reason = event.content.get("reason")
            content = {"membership": "ban", **({"reason": reason} if isinstance(reason, str) else {})}
            drafts.append(EventDraft("m.room.member", content, event.state_key))
    if (alias := view.event(*_CANONICAL_ALIAS)) is not None:
        ours = {*local_aliases(upgrade.room), *local_aliases(upgrade.replacement)}
        content = _canonical_alias(alias, ours, keep=True)
        if content:
            drafts.append(EventDraft(_CANONICAL_ALIAS[0], content, ""))
    if (join_rules := view.event(*_JOIN_RULES)) is not None:
        drafts.append(EventDraft(_JOIN_RULES[0], moved_join_rules(join_rules.content, rules), ""))
    old = PowerLevels.from_events(view.event(*_LEVELS), old_create, view.rules)
    new_creators = frozenset({upgrade.sender, *(upgrade.additional_creators or ())})
    drafts.append(EventDraft(_LEVELS[0], moved_power_levels(old, rules, new_creators), ""))
    return drafts


def _state_of_type(view: RoomView, event_type: str, most: int) -> list[Event]:
    head = view.head
    if head.rows_root != head.root:  # the rows lag behind: only the whole state is right
        state = current_state(head, view.rules)
        return [entry.event for key, entry in state.items() if key[0] == event_type][:most]
    rows = state_rows(head.room, f"state/{event_type}/", most=most)
    return [entry_of_row(row, view.rules).event for row in rows]


def _canonical_alias(event: Event, ours: Iterable[str], *, keep: bool) -> dict[str, Any]:
    """The content with only those of its aliases that are (`keep`) or are not among `ours`."""
    ours = set(ours)
    content = {key: value for key, value in event.content.items() if key not in {"alias", "alt_aliases"}}
    alias, others = event.content.get("alias"), event.content.get("alt_aliases")
    if isinstance(alias, str) and (alias in ours) is keep:
        content["alias"] = alias
    kept = [other for other in others if (other in ours) is keep] if isinstance(others, list) else []
    if kept:
        content["alt_aliases"] = kept
    return content if kept or "alias" in content or not keep else {}


def _close(upgrade: RoomUpgrade) -> None:
    """The tombstone, power levels that let nobody speak, and the aliases, in one transaction.

    Of more aliases than fit into it the first move before.
    """
    user_id = upgrade.sender
    content = {"body": _REPLACED, "replacement_room": upgrade.replacement}
    drafts = [EventDraft(_TOMBSTONE[0], content, ""), EventDraft(_LEVELS[0], {}, "")]
    keys = [key for draft in drafts for key in keys_for(draft, user_id)]
    for _ in attempts("The room"):
        aliases = local_aliases(upgrade.room)
        if len(aliases) > _ALIASES_AT_ONCE:
            _move_aliases(upgrade, aliases[:-_ALIASES_AT_ONCE])
            continue
        view, _found = load_room(upgrade.room, [*keys, _CANONICAL_ALIAS])
        if view is None:
            raise LookupError(f"{upgrade.room}, which is being upgraded, is gone")
        if replacement_of(view.event(*_TOMBSTONE)) == upgrade.replacement and not aliases:
            return
        room = RoomDraft(view, view.rules)
        room.add(drafts[0], user_id)
        moved = {*aliases, *local_aliases(upgrade.replacement)}
        alias = view.event(*_CANONICAL_ALIAS)
        if alias is not None and (left := _canonical_alias(alias, moved, keep=False)) != alias.content:
            _add_if_possible(room, EventDraft(_CANONICAL_ALIAS[0], left, ""), user_id)
        levels = PowerLevels.from_events(view.event(*_LEVELS), view.event(*_CREATE), view.rules)
        closed = closed_power_levels(levels)
        if levels.content is None or closed != levels.content:
            _add_if_possible(room, EventDraft(_LEVELS[0], closed, ""), user_id)
        room.extras.append(partial(still, upgrade=upgrade))
        room.extras += [partial(move_alias, alias=a, old=upgrade.room, new=upgrade.replacement) for a in aliases]
        try:
            room.commit()
        except Raced as raced:
            lost = raced.__cause__
            if isinstance(lost, TransactionCancelled) and lost.failed("upgrade"):
                raise LimitExceeded("Somebody else is upgrading this room.", retry_after_ms=1000) from raced
            continue
        return
    raise AssertionError("attempts() never ends by itself")


def _move_aliases(upgrade: RoomUpgrade, aliases: Sequence[str]) -> None:
    for first in range(0, len(aliases), _ALIASES_AT_ONCE):
        transaction = Transaction()
        still(transaction, upgrade)
        for alias in aliases[first : first + _ALIASES_AT_ONCE]:
            move_alias(transaction, alias, upgrade.room, upgrade.replacement)
        try:
            transaction.commit()
        except TransactionCancelled:
            return  # they are read again


def _move_listing(upgrade: RoomUpgrade) -> None:
    """If the old room is in the published directory, the new one takes its place."""
    for _ in attempts("The directory"):
        old, found = load_room(upgrade.room, FACT_KEYS, extras=[preview_key(upgrade.room)])
        listing = found.get(preview_key(upgrade.room))
        if old is None or listing is None or not listing.published:
            return
        new, others = load_room(upgrade.replacement, FACT_KEYS, extras=[preview_key(upgrade.replacement)])
        # First in, then out: after a crash between the two it is done once more.
        if new is None or not store_listing(new, others.get(preview_key(upgrade.replacement)), publish=True):
            continue
        if store_listing(old, listing, publish=False):
            return
