"""What a follower does with memberships: every user's rows, the invitations of local users.

Everything comes from the difference of two state roots, never from event types: so it is right whatever changed the
state. What a local user did to themselves stood in the commit already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.matrix import state_tree
from homeserver.matrix.client_event import STRIPPED_STATE_TYPES, client_event, stripped_state_event
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import domain_of
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.observability import fault_point
from homeserver.settings import settings
from homeserver.storage import invites
from homeserver.storage.room_items import Head, Membership
from homeserver.storage.rooms import fetch_state_events, load_room
from homeserver.storage.state_nodes import StateNodes


@dataclass(frozen=True, slots=True)
class MembershipChange:
    """A membership that differs between two roots. `position` is that of the new event (of the head, if none)."""

    user_id: str
    old: Event | None
    new: Event | None
    position: int

    @property
    def is_local(self) -> bool:
        return domain_of(self.user_id) == settings().server_name


def membership_changes(head: Head, root: bytes) -> list[MembershipChange]:
    """The memberships in which the head's state differs from that of an earlier root."""
    differences = state_tree.diff(StateNodes(head.room), root, bytes(head.root))
    changed = {key[1]: ids for key, ids in differences.items() if key[0] == "m.room.member"}
    wanted = [event_id for ids in changed.values() for event_id in ids if event_id is not None]
    events = fetch_state_events(head.room, wanted, ROOM_VERSIONS[head.room_version]) if wanted else {}
    return [
        MembershipChange(
            user_id,
            events[old_id].event if old_id is not None else None,
            events[new_id].event if new_id is not None else None,
            events[new_id].position if new_id is not None else int(head.position),
        )
        for user_id, (old_id, new_id) in changed.items()
    ]


def follow_memberships(room_id: str, changes: Sequence[MembershipChange]) -> None:
    """Write the rows by user, and tell local users of invitations. Repeating it changes nothing."""
    for change in changes:
        if not (change.is_local and change.new is not None and change.new.sender == change.user_id):
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
    if after == "invite" and new is not None:
        invites.tell(user_id, room_id, change.position, "invite", stripped_state(room_id, new))
    elif before == "invite" and after == "join":
        invites.drop(user_id, room_id, change.position)
    elif before == "invite" and new is not None:
        invites.tell(user_id, room_id, change.position, "leave", [client_event(new.event_id, None, new.pdu)])


def stripped_state(room_id: str, invitation: Event) -> list[dict[str, Any]]:
    """What an invitation shows of the room, the invitation itself and who sent it included."""
    keys = [(event_type, "") for event_type in STRIPPED_STATE_TYPES]
    view, _ = load_room(room_id, [*keys, ("m.room.member", invitation.sender)])
    events = [entry.event for entry in view.state.values()] if view else []
    return [stripped_state_event(event.pdu) for event in (*events, invitation)]
