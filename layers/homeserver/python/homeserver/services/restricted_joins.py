"""Restricted joins: being let in because one is in another room, on the word of a member who may invite.

Source: client-server API v1.19, "Restricted rooms", `m.room.join_rules`; room versions 8 and 10; server-server API,
"Restricted rooms" for the error codes.

Who gives their word. Any joined user of this server whose power suffices to invite will do, and the room's members are
not read to find one: first the room's creators and the users whom `m.room.power_levels` names, the most powerful
first; only if none of them can, and everybody may invite, a few of the room's local members in the order of their IDs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.matrix import state_tree
from homeserver.matrix.errors import Forbidden, MatrixError
from homeserver.matrix.event_auth import AuthState
from homeserver.matrix.identifiers import domain_of, is_room_id, is_user_id
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.settings import settings
from homeserver.storage.connection import Key, Transaction, query_range
from homeserver.storage.room_items import HEAD, Head, LocalMember, StateRow, state_key
from homeserver.storage.rooms import RoomView, StateKey, entry_of_row, fetch_state_events
from homeserver.storage.state_nodes import StateNodes

# A join rule may list any number of rooms, and power levels any number of users: one read takes no more than these.
MOST_CONDITIONS = 40
MOST_CANDIDATES = 20

# Reads the room again, with more of its state and other items: what `load_room` does.
Reload = Callable[[Sequence[StateKey], Sequence[Key]], tuple[RoomView | None, dict[Key, Any]]]


@dataclass(frozen=True, slots=True)
class Grant:
    """A join that this server can vouch for.

    `view` is the room as it was read for it, with the membership of `authoriser`, which goes into the join as
    `join_authorised_via_users_server`; `through` is the room that the user is in, at this head.
    """

    view: RoomView
    found: Mapping[Key, Any]
    authoriser: str
    user_id: str
    through: Head

    def hold(self, transaction: Transaction) -> None:
        """Let a transaction happen only while the user is still in the other room."""
        other = self.through
        if other.rows_root != other.root:
            # Its rows say nothing certain: then it must not have moved.
            transaction.check("condition", Head, other.room, HEAD, Head.version == int(other.version))
        elif domain_of(self.user_id) == settings().server_name:
            joined = LocalMember.membership == "join"
            transaction.check("condition", LocalMember, other.room, f"local/{self.user_id}", joined)


def needs_grant(view: RoomView, user_id: str) -> bool:
    """Whether a join of this user needs somebody's word: the room is restricted, and they were not asked in."""
    state = _auth_state(view)
    return state.join_rule in view.rules.restricted_join_rules and view.membership(user_id) not in {
        "invite",
        "join",
        "ban",  # which no word lifts: the rules refuse the join
    }


def find_grant(view: RoomView, user_id: str, reload: Reload) -> Grant | None:
    """Whoever lets the user in. None where the room changed meanwhile: read it again, and ask again.

    `view` has create, power levels, join rules and the user's membership. Costs one round; one or two more where none
    of the powerful is there any more. Raises Forbidden for a local user who meets no condition; MatrixError with
    M_UNABLE_TO_AUTHORISE_JOIN where this server cannot see whether a user of another server does, and with
    M_UNABLE_TO_GRANT_JOIN where no member of this server can invite (another server may have one who can).
    """
    conditions = _conditions(view)
    asked = [key for room_id in conditions for key in _condition_keys(room_id, user_id)]
    for candidates in _candidates(view):
        now, found = reload([("m.room.member", candidate) for candidate in candidates], asked)
        if now is None or not needs_grant(now, user_id) or _conditions(now) != conditions:
            return None
        through = _room_that_lets_in(conditions, user_id, found)
        authoriser = _first_who_can(now, candidates)
        if authoriser is not None:
            return Grant(now, found, authoriser, user_id, through)
    raise MatrixError("Nobody on this server can let you into the room.", errcode="M_UNABLE_TO_GRANT_JOIN", status=403)


def _auth_state(view: RoomView) -> AuthState:
    return AuthState({key: entry.event for key, entry in view.state.items()})


def _conditions(view: RoomView) -> list[str]:
    """The rooms whose members may come in. Conditions of unknown types are none, and count for nothing."""
    event = view.event("m.room.join_rules")
    allow = event.content.get("allow") if event else None
    rooms = [
        condition.get("room_id")
        for condition in (allow if isinstance(allow, list) else [])
        if isinstance(condition, Mapping) and condition.get("type") == "m.room_membership"
    ]
    return [room_id for room_id in dict.fromkeys(map(_room_id, rooms)) if room_id is not None][:MOST_CONDITIONS]


def _room_id(value: object) -> str | None:
    return value if isinstance(value, str) and is_room_id(value) else None


def _condition_keys(room_id: str, user_id: str) -> list[Key]:
    # What this server knows of others it knows from the room's state, if it is in the room at all.
    if domain_of(user_id) == settings().server_name:
        return [(Head, room_id, HEAD), (LocalMember, room_id, f"local/{user_id}")]
    return [(Head, room_id, HEAD), (StateRow, room_id, state_key(*_member(user_id)))]


def _member(user_id: str) -> StateKey:
    return ("m.room.member", user_id)


def _room_that_lets_in(conditions: Sequence[str], user_id: str, found: Mapping[Key, Any]) -> Head:
    is_local = domain_of(user_id) == settings().server_name
    is_seen = is_local
    for room_id in conditions:
        head: Head | None = found.get((Head, room_id, HEAD))
        if head is None or not head.local_members:
            continue
        is_seen = True
        if _membership(head, user_id, found) == "join":
            return head
    if not is_seen:
        raise MatrixError(
            "This server is in none of the rooms whose members may join.", errcode="M_UNABLE_TO_AUTHORISE_JOIN"
        )
    raise Forbidden("You are neither invited to this room nor in a room whose members may join it.")


def _membership(head: Head, user_id: str, found: Mapping[Key, Any]) -> object:
    """What the user is in the room of a head: by its rows, or by its tree while they lag behind."""
    if head.rows_root != head.root:
        ids = state_tree.get_many(StateNodes(head.room), bytes(head.root), [_member(user_id)])
        entries = fetch_state_events(head.room, ids.values(), ROOM_VERSIONS[head.room_version])
        return next((entry.event.content.get("membership") for entry in entries.values()), "leave")
    if domain_of(user_id) == settings().server_name:
        local = found.get((LocalMember, head.room, f"local/{user_id}"))
        return local.membership if local is not None else "leave"
    row = found.get((StateRow, head.room, state_key(*_member(user_id))))
    if row is None:
        return "leave"
    return entry_of_row(row, ROOM_VERSIONS[head.room_version]).event.content.get("membership")


def _candidates(view: RoomView) -> Iterator[list[str]]:
    """Local users who may be able to invite, a list at a time."""
    state = _auth_state(view)
    levels = state.power_levels
    named = {**dict.fromkeys(state.creators, 0), **levels.table("users")}
    strong = [who for who in named if _is_local(who) and levels.user_level(who) >= levels.invite]
    strong.sort(key=lambda who: (-levels.user_level(who), who))
    yield strong[:MOST_CANDIDATES]
    if levels.users_default >= levels.invite:
        rows = query_range(LocalMember, view.room_id, "local/", consistent=True, limit=2 * MOST_CANDIDATES)
        joined = [row.k.removeprefix("local/") for row in rows if row.membership == "join"]
        if others := [who for who in joined if who not in strong[:MOST_CANDIDATES]]:
            yield others[:MOST_CANDIDATES]


def _is_local(user_id: str) -> bool:
    return is_user_id(user_id) and domain_of(user_id) == settings().server_name


def _first_who_can(view: RoomView, candidates: Sequence[str]) -> str | None:
    state = _auth_state(view)
    invite = state.power_levels.invite
    able = (who for who in candidates if state.is_joined(who) and state.power_levels.user_level(who) >= invite)
    return next(able, None)
