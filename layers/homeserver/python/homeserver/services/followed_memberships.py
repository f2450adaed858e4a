"""What a follower does with memberships: every user's rows, the invitations and knocks of local users.

Everything comes from the difference of two state roots, never from event types: so it is right whatever changed the
state. What a local user did to themselves stood in the commit already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.matrix import state_tree
from homeserver.matrix.client_event import STRIPPED_STATE_TYPES, client_event, stripped_state_event
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import domain_of, is_user_id
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.observability import fault_point
from homeserver.settings import settings
from homeserver.storage import invites
from homeserver.storage.connection import in_parallel
from homeserver.storage.room_items import Head, Membership
from homeserver.storage.rooms import fetch_state_events, load_room
from homeserver.storage.state_nodes import StateNodes

# Memberships that are told through the inbox, as who has them sees no timeline of the room.
_PENDING = frozenset({"invite", "knock"})
_MOST_SHOWN_BYTES = 8192


ChangedMembers = Mapping[str, tuple[str | None, str | None]]


@dataclass(frozen=True, slots=True)
class MembershipChange:
    """A membership that differs between two roots.

    `position` is that of the new event. Where the state went back to an older event, or to none, it is only known
    that it did so after the first root: then it is the position behind that, and `is_restored`.
    """

    user_id: str
    old: Event | None
    new: Event | None
    position: int
    is_restored: bool = False

    @property
    def is_local(self) -> bool:
        return domain_of(self.user_id) == settings().server_name

    @property
    def is_in_commit(self) -> bool:
        """Whether the row by user was written with the commit: what local users do themselves they see at once."""
        is_own = self.is_local and self.new is not None and self.new.sender == self.user_id
        return is_own and not self.is_restored


def changed_members(head: Head, root: bytes, until: bytes | None = None) -> ChangedMembers:
    """The users whose membership event differs between an earlier root and `until` (the head's), with both IDs."""
    differences = state_tree.diff(StateNodes(head.room), root, bytes(head.root) if until is None else until)
    # Other servers may have put anything under this type: what is no user has no rows.
    return {key[1]: ids for key, ids in differences.items() if key[0] == "m.room.member" and is_user_id(key[1])}


def membership_changes(
    room_id: str, room_version: str, changed: ChangedMembers, position: int
) -> list[MembershipChange]:
    """The changes of memberships since the state at a position, in one round."""
    wanted = [event_id for ids in changed.values() for event_id in ids if event_id is not None]
    events = fetch_state_events(room_id, wanted, ROOM_VERSIONS[room_version]) if wanted else {}
    changes = []
    for user_id, (old_id, new_id) in changed.items():
        old = events[old_id].event if old_id is not None else None
        new = events[new_id] if new_id is not None else None
        is_restored = new is None or new.position <= position
        at = position + 1 if new is None or is_restored else new.position
        changes.append(MembershipChange(user_id, old, new.event if new else None, at, is_restored))
    return changes


def follow_memberships(room_id: str, changes: Sequence[MembershipChange]) -> None:
    """Write the rows by user, and tell local users of invitations and knocks. Repeating it changes nothing."""
    many = [change for change in changes if not change.is_in_commit and not change.is_local]
    in_parallel(*[partial(_set_membership, room_id, change) for change in many])
    for change in changes:
        if change.is_local and not change.is_in_commit:
            _set_membership(room_id, change)
        fault_point("follower.between_memberships")
        if change.is_local:
            _follow_invitation(room_id, change)


def _set_membership(room_id: str, change: MembershipChange) -> None:
    position = change.position
    actions: list[Action] = [
        Membership.membership.set(_membership(change.new)),
        Membership.event_id.set(change.new.event_id if change.new else ""),
        Membership.position.set(position),
    ]
    later = Membership.position.does_not_exist() | (Membership.position < position)
    try:
        Membership(change.user_id, room_id).update(actions, later)
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise


def _membership(event: Event | None) -> str:
    return str(event.content.get("membership")) if event else "leave"


def _follow_invitation(room_id: str, change: MembershipChange) -> None:
    new, user_id = change.new, change.user_id
    before, after = _membership(change.old), _membership(new)
    if after in _PENDING and new is not None:
        invites.tell(user_id, room_id, change.position, after, stripped_state(room_id, new))
    elif before != "join" and after == "join":
        # Also where the room's state has no invitation: it may have come before this server was in the room.
        invites.drop(user_id, room_id, change.position)
    elif before in _PENDING and new is not None:
        invites.tell(user_id, room_id, change.position, "leave", [client_event(new.event_id, None, new.pdu)])


def stripped_state(room_id: str, membership: Event) -> list[dict[str, Any]]:
    """What an invitation or a knock shows of the room, with itself and, of an invitation, who sent it.

    Bounded: state that is too large is left out, but for the create event, and the membership keeps nothing else.
    """
    keys = [(event_type, "") for event_type in STRIPPED_STATE_TYPES]
    if membership.sender != membership.state_key:
        keys.append(("m.room.member", membership.sender))
    view, _ = load_room(room_id, keys)
    events = [entry.event for entry in view.state.values()] if view else []
    shown = [stripped_state_event(event.pdu) for event in events]
    kept = [event for event in shown if event["type"] == "m.room.create" or is_small(event)]
    return [*kept, stripped_membership(membership)]


def stripped_membership(membership: Event) -> dict[str, Any]:
    """A membership event as an invitation or a knock shows it."""
    own = stripped_state_event(membership.pdu)
    return own if is_small(own) else {**own, "content": {"membership": own["content"]["membership"]}}


def is_small(event: Mapping[str, Any]) -> bool:
    """Whether an event is small enough to be shown with an invitation, and can be told at all."""
    # A user may have hundreds of invitations from people they never asked, and reads them all at once.
    try:
        return len(orjson.dumps(event)) <= _MOST_SHOWN_BYTES
    except orjson.JSONEncodeError:
        return False  # an integer beyond 64 bits, which room versions 1 to 5 let pass
