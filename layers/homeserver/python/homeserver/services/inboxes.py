"""The inbox follower: what was committed to a room goes into the inboxes of its local members.

A wake names a room, never a range: the follower works from its own cursor to the head, so repeats are harmless and a
wake that got lost is made good by the next one, or by the sweep.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pynamodb.exceptions import UpdateError, VerboseClientError
from pynamodb.expressions.update import Action

from homeserver.adapters.queues import send_json
from homeserver.matrix import state_tree
from homeserver.matrix.client_event import STRIPPED_STATE_TYPES, client_event, stripped_state_event
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import domain_of
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.observability import fault_point
from homeserver.settings import settings
from homeserver.storage import invites
from homeserver.storage.connection import connection, in_parallel, query_raw
from homeserver.storage.inbox_shards import advance_request
from homeserver.storage.room_items import HEAD, Cursor, Head, LocalMember, Membership
from homeserver.storage.rooms import fetch_state_events, load_room
from homeserver.storage.state_nodes import StateNodes

CURSOR = "cursor/inbox"
FANOUT_QUEUE = "INBOX_FANOUT_QUEUE"
MEMBERS_AT_ONCE = 50  # beyond it the queue spreads the writes over several workers


@dataclass(frozen=True, slots=True)
class _Room:
    """A head with the follower's cursor and the local members, from one Query."""

    head: Head
    position: int
    root: bytes
    members: list[LocalMember]


def _read(room_id: str) -> _Room | None:
    head: Head | None = None
    position, root = 0, state_tree.EMPTY_ROOT
    members = []
    # cursor/inbox, head and local/... lie next to each other in the order of sort keys.
    for raw in query_raw(Head, room_id, CURSOR, "local0", consistent=True):
        key = raw["k"]["S"]
        if key == CURSOR:
            cursor = Cursor.from_raw_data(raw)
            position, root = int(cursor.position), bytes(cursor.root)
        elif key == HEAD:
            head = Head.from_raw_data(raw)
        elif key.startswith("local/"):
            members.append(LocalMember.from_raw_data(raw))
    return None if head is None else _Room(head, position, root, members)


def follow_room(room_id: str) -> None:
    """Bring inboxes, memberships and invitations of a room up to its head, and move the cursor there."""
    room = _read(room_id)
    if room is None or room.head.position <= room.position:
        return
    if room.head.root != room.root:
        _follow_memberships(room)
    fault_point("follower.before_inboxes")
    if len(room.members) > MEMBERS_AT_ONCE:
        for start in range(0, len(room.members), MEMBERS_AT_ONCE):
            part = room.members[start : start + MEMBERS_AT_ONCE]
            send_json(FANOUT_QUEUE, {"room": room_id, "from": room.position, "users": [m.k[6:] for m in part]})
    else:
        _advance(room.members, room.head, room.position)
    fault_point("follower.before_cursor")
    _move_cursor(room)
    fault_point("follower.after_cursor")


def follow_members(room_id: str, position: int, user_ids: Sequence[str]) -> None:
    """One part of a large room: bring the inboxes of some local members from a position to the head."""
    room = _read(room_id)
    if room is not None:
        wanted = set(user_ids)
        _advance([member for member in room.members if member.k[6:] in wanted], room.head, position)


def _move_cursor(room: _Room) -> None:
    actions: list[Action] = [Cursor.position.set(int(room.head.position)), Cursor.root.set(bytes(room.head.root))]
    ahead = Cursor.position.does_not_exist() | (Cursor.position < int(room.head.position))
    try:
        Cursor(room.head.room, CURSOR).update(actions, ahead)
    except UpdateError as error:
        # Another run of the follower was quicker, and has done at least as much.
        _ignore_failed_condition(error)


def _advance(members: Iterable[LocalMember], head: Head, position: int) -> None:
    """Move the slots of members to the head, and of those who left since `position` to where they left."""
    calls: list[Callable[[], None]] = []
    for member in members:
        if member.slot is None:
            continue
        user_id = member.k.removeprefix("local/")
        if member.membership == "join":
            target = int(head.position)
        elif member.left_at is not None and member.left_at > position:
            target = int(member.left_at)
        else:
            continue
        request = advance_request(user_id, int(member.slot), target, int(head.arrived))
        calls.append(partial(_update_unless_ahead, request))
    in_parallel(*calls)


def _update_unless_ahead(request: dict[str, Any]) -> None:
    try:
        connection().dispatch("UpdateItem", request)
    except VerboseClientError as error:
        if error.response["Error"].get("Code") != "ConditionalCheckFailedException":
            raise
    fault_point("follower.between_inboxes")


def _ignore_failed_condition(error: UpdateError) -> None:
    if error.cause_response_code != "ConditionalCheckFailedException":
        raise error


def _follow_memberships(room: _Room) -> None:
    """Every membership that differs between two roots: the rows by user, and the invitations of local users."""
    head = room.head
    rules = ROOM_VERSIONS[head.room_version]
    changed = {
        key[1]: ids
        for key, ids in state_tree.diff(StateNodes(head.room), room.root, bytes(head.root)).items()
        if key[0] == "m.room.member"
    }
    wanted = [event_id for ids in changed.values() for event_id in ids if event_id is not None]
    events = fetch_state_events(head.room, wanted, rules) if wanted else {}
    for user_id, (old_id, new_id) in changed.items():
        old = events[old_id].event if old_id is not None else None
        new = events[new_id].event if new_id is not None else None
        position = events[new_id].position if new_id is not None else int(head.position)
        is_local = domain_of(user_id) == settings().server_name
        # What a local user did to themselves stands in the commit already.
        if not (is_local and new is not None and new.sender == user_id):
            _set_membership(user_id, head.room, new, position)
        if is_local:
            _follow_invitation(user_id, head.room, old, new)


def _set_membership(user_id: str, room_id: str, event: Event | None, position: int) -> None:
    membership = str(event.content.get("membership")) if event else "leave"
    actions: list[Action] = [
        Membership.membership.set(membership),
        Membership.event_id.set(event.event_id if event else ""),
        Membership.position.set(position),
    ]
    later = Membership.position.does_not_exist() | (Membership.position < position)
    try:
        Membership(user_id, room_id).update(actions, later)
    except UpdateError as error:
        _ignore_failed_condition(error)


def _follow_invitation(user_id: str, room_id: str, old: Event | None, new: Event | None) -> None:
    before = old.content.get("membership") if old else "leave"
    after = new.content.get("membership") if new else "leave"
    if after == "invite" and new is not None:
        invites.tell(user_id, room_id, new.event_id, "invite", stripped_state(room_id, new))
    elif before == "invite" and after == "join":
        invites.drop(user_id, room_id)
    elif before == "invite" and new is not None:
        invites.tell(user_id, room_id, new.event_id, "leave", [client_event(new.event_id, None, new.pdu)])


def stripped_state(room_id: str, invitation: Event) -> list[dict[str, Any]]:
    """What an invitation shows of the room, the invitation itself and who sent it included."""
    keys = [(event_type, "") for event_type in STRIPPED_STATE_TYPES]
    view, _ = load_room(room_id, [*keys, ("m.room.member", invitation.sender)])
    events = [entry.event for entry in view.state.values()] if view else []
    return [stripped_state_event(event.pdu) for event in (*events, invitation)]
