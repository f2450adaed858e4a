"""What a follower does for those who look for rooms and people: previews, the published directory, the user index.

Source: client-server API v1.19, "Published room directory", "User Directory".
"""

from collections.abc import Sequence

from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.matrix.room_facts import FACT_KEYS
from homeserver.observability import fault_point
from homeserver.services.followed_memberships import MembershipChange
from homeserver.services.room_listing import keep_listing
from homeserver.services.user_index import index_user
from homeserver.storage.connection import batch_get
from homeserver.storage.room_items import Head
from homeserver.storage.room_previews import RoomPreview, preview_key
from homeserver.storage.state_nodes import StateNodes

_FACTS = frozenset(FACT_KEYS)


def follow_directory(head: Head, root: bytes, position: int, changes: Sequence[MembershipChange]) -> None:
    """Follow a room from a position, whose state had this root, to its head. Repeating it changes nothing.

    An event that changes no state costs nothing. A membership costs one read, and a write where the number of members
    is due (see room_listing); a change of the room's facts, or a redaction, one read of them and what it changes.
    """
    if head.kind != "full":
        return
    for change in changes:
        if not change.is_local and change.new is not None and _joined(change.new):
            index_user(change.user_id, change.new.content)
    fault_point("follower.before_listing")
    if _facts_may_differ(head, root, position) or (_count_differs(changes) and _count_is_kept(head)):
        keep_listing(head.room)


def _facts_may_differ(head: Head, root: bytes, position: int) -> bool:
    if int(head.redaction_position) > position:
        return True  # which takes content away, and leaves the root as it was
    # Its nodes were read a moment ago, for the memberships.
    return head.root != root and not _FACTS.isdisjoint(state_tree.diff(StateNodes(head.room), root, bytes(head.root)))


def _joined(event: Event | None) -> bool:
    return event is not None and event.content.get("membership") == "join"


def _count_differs(changes: Sequence[MembershipChange]) -> bool:
    return any(_joined(change.old) != _joined(change.new) for change in changes)


def _count_is_kept(head: Head) -> bool:
    """Whether the room's preview has to follow its members: other rooms' readers take the number from the head."""
    if int(head.remote_servers):
        return True
    key = preview_key(head.room)
    preview: RoomPreview | None = batch_get([key], consistent=True).get(key)
    return preview is None or bool(preview.published) or bool(preview.remote)
