"""The items of a room: head, current state, members, servers, cursors; timeline, event records, tree nodes.

Attribute names are one or two letters because DynamoDB bills them with each item. Every item that outlives a
deployment carries its format number `f`; existing items are changed by update actions only, so that old code
never erases what new code added.
"""

from typing import ClassVar

from pynamodb.attributes import BinaryAttribute, JSONAttribute, ListAttribute, NumberAttribute, UnicodeAttribute

from homeserver.settings import table_name
from homeserver.storage.connection import Item

FORMAT = 1
BUCKET_POSITIONS = 100  # positions in one partition of the timeline
HEAD = "head"


class _RoomItem(Item):
    class Meta:
        table_name = table_name("ROOMS")

    room = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)


class Head(_RoomItem):
    """Where a room stands; each commit is conditional on its version."""

    f = NumberAttribute(default=FORMAT)
    version = NumberAttribute(attr_name="v")
    # The last position that is taken. Positions count from 1 without gaps.
    position = NumberAttribute(attr_name="p")
    room_version = UnicodeAttribute(attr_name="rv")
    # "full", or "stub" for a room this server is not in (an invitation, a knock)
    kind = UnicodeAttribute(attr_name="st", default="full")
    # [event ID, ...]; in room versions 1 and 2 [[event ID, reference hash], ...]
    extremities = JSONAttribute(attr_name="ex")
    depth = NumberAttribute(attr_name="d")
    # Root of the state tree that is the current state, and of the state that the rows show.
    root = BinaryAttribute(attr_name="r", legacy_encoding=False)
    rows_root = BinaryAttribute(attr_name="rr", legacy_encoding=False)
    # Position of the commit with which the rows fell behind last
    rows_late_since = NumberAttribute(attr_name="rl", null=True)
    # IDs of the authorising state, by the letters of AUTHORISING
    authorising = JSONAttribute(attr_name="au")
    # Positions of the last change of state and of the last redaction: keys of caches
    state_position = NumberAttribute(attr_name="sp")
    redaction_position = NumberAttribute(attr_name="rd", default=0)
    # Position of the last change of what relates to an event (storage.relations): the aggregates of timeline entries
    aggregate_position = NumberAttribute(attr_name="ra", default=0)
    # Milliseconds: when the last event arrived, and the last one that moves the room up in a list
    arrived = NumberAttribute(attr_name="ta")
    bumped = NumberAttribute(attr_name="tb")
    local_members = NumberAttribute(attr_name="lm", default=0)
    remote_servers = NumberAttribute(attr_name="rs", default=0)
    # Position from which the room concerns other servers: what the outbound router begins with. Never taken back
    federated_since = NumberAttribute(attr_name="fs", null=True)
    # Who merges a fork alone, and until when in milliseconds: others wait meanwhile (services.receive_events)
    lease_holder = UnicodeAttribute(attr_name="lh", null=True)
    lease_until = NumberAttribute(attr_name="lu", null=True)


# The state that authorises events and that every send needs: named on the head by these letters.
AUTHORISING = {
    "c": ("m.room.create", ""),
    "p": ("m.room.power_levels", ""),
    "j": ("m.room.join_rules", ""),
    "h": ("m.room.history_visibility", ""),
    "a": ("m.room.server_acl", ""),
    "o": ("m.room.policy", ""),
}


class StateRow(_RoomItem):
    """One entry of the current state, with the event whole."""

    event_id = UnicodeAttribute(attr_name="e")
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False)
    position = NumberAttribute(attr_name="p")
    # Packed chain-cover coordinates and cover (storage.chain_cover) of events that may authorise others
    cover = BinaryAttribute(attr_name="cv", legacy_encoding=False, null=True)


class LocalMember(_RoomItem):
    """What a local user is in the room: `local/<user>`; kept for ever, so that a rejoin finds its slot."""

    membership = UnicodeAttribute(attr_name="m")
    event_id = UnicodeAttribute(attr_name="e")
    position = NumberAttribute(attr_name="p")  # of that event
    slot = NumberAttribute(attr_name="sl", null=True)
    # Position from which the user has been joined without a break; position of the event that ended it
    joined_since = NumberAttribute(attr_name="js", null=True)
    left_at = NumberAttribute(attr_name="la", null=True)
    forgotten = NumberAttribute(attr_name="fg", null=True)


class RemoteServer(_RoomItem):
    """A server with joined members: `server/<name>`."""

    members = NumberAttribute(attr_name="n")
    joined_since = NumberAttribute(attr_name="js")
    left_at = NumberAttribute(attr_name="la", null=True)


INBOX_CURSOR = "cursor/inbox"  # the inbox follower's


class Cursor(_RoomItem):
    """How far a follower has worked: `cursor/<follower>`; `root` is the state it saw there."""

    position = NumberAttribute(attr_name="p")
    root = BinaryAttribute(attr_name="r", legacy_encoding=False)
    # 1 while the inboxes of the room's local members do not follow it, see large_rooms (inbox follower only)
    large = NumberAttribute(attr_name="lg", null=True)


class RoomGuest(_RoomItem):
    """A guest account that joined the room: `room_guest/<user>`. `room_guest` itself counts these items."""

    listed = NumberAttribute(attr_name="n", null=True)


class RoomAlias(_RoomItem):
    """An alias of this server that points to the room: `alias/<alias>`, the other end of an Alias."""


class TimelineEntry(Item):
    """What happened at one position: an event, or a marker (no event) where only the state moved."""

    class Meta:
        table_name = table_name("TIMELINE")

    bucket = UnicodeAttribute(hash_key=True)
    position = NumberAttribute(range_key=True, attr_name="pos")
    f = NumberAttribute(default=FORMAT)
    event_id = UnicodeAttribute(attr_name="e", null=True)
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False, null=True)
    # The resolved current state after this position; and the event's own state after it, where that differs
    room_root = BinaryAttribute(attr_name="r", legacy_encoding=False)
    own_root = BinaryAttribute(attr_name="or", legacy_encoding=False, null=True)
    # "local", "relay" or "remote": where the event came from
    origin = UnicodeAttribute(attr_name="o", default="local")
    # Milliseconds when this server took the event
    arrived = NumberAttribute(attr_name="t")
    # "<device>\n<transaction ID>" of the local sender
    transaction = UnicodeAttribute(attr_name="x", null=True)
    # The state event that this one replaced, and its packed content
    replaces = UnicodeAttribute(attr_name="pe", null=True)
    previous = BinaryAttribute(attr_name="pc", legacy_encoding=False, null=True)
    # The packed redaction event that pruned this one
    redacted_because = BinaryAttribute(attr_name="rb", legacy_encoding=False, null=True)
    # An anchor: its parents were unknown when it came, and these backward extremities are still to be fetched
    gap: ListAttribute[str] = ListAttribute(null=True)
    # How many offsets before an anchor are taken by what was backfilled for it
    backfilled = NumberAttribute(attr_name="bf", null=True)


class EventRecord(Item):
    """An event's place in the graph; the body too where no timeline entry has it, and for every state event."""

    class Meta:
        table_name = table_name("EVENTS")

    event_id = UnicodeAttribute(hash_key=True, attr_name="event")
    f = NumberAttribute(default=FORMAT)
    room = UnicodeAttribute(null=True)
    position = NumberAttribute(attr_name="p", null=True)
    # 0, or how far behind its anchor a backfilled event lies (negative)
    offset = NumberAttribute(attr_name="of", null=True)
    prev = BinaryAttribute(attr_name="pr", legacy_encoding=False, null=True)
    auth = BinaryAttribute(attr_name="ae", legacy_encoding=False, null=True)
    depth = NumberAttribute(attr_name="d", null=True)
    state_before = BinaryAttribute(attr_name="sb", legacy_encoding=False, null=True)
    state_after = BinaryAttribute(attr_name="sa", legacy_encoding=False, null=True)
    # "o" outlier, "r" rejected, "s" soft-failed, "h" a redaction hidden from clients, "or" both; absent: none
    flags = UnicodeAttribute(attr_name="fl", null=True)
    cover = BinaryAttribute(attr_name="cv", legacy_encoding=False, null=True)
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False, null=True)
    # [rel_type, parent's event ID] of an event that relates to another
    relates = JSONAttribute(attr_name="re", null=True)
    # For an item `chain/<chain>/<number>`: the event with these chain-cover coordinates
    at = UnicodeAttribute(attr_name="at", null=True)
    # For an item `redacts/<event ID>`: redactions that came before the event they redact
    waiting: ListAttribute[str] = ListAttribute(attr_name="w", null=True)


class TreeNode(Item):
    """A node of a state tree: immutable, named by its content, kept under its room."""

    class Meta:
        table_name = table_name("STATE")

    room = UnicodeAttribute(hash_key=True)
    node = BinaryAttribute(range_key=True, legacy_encoding=False)
    data = BinaryAttribute(attr_name="d", legacy_encoding=False)


class Membership(Item):
    """A user's membership of one room, remote users too; for local users `forgotten` hides a left room."""

    class Meta:
        table_name = table_name("MEMBERS")

    user = UnicodeAttribute(hash_key=True)
    room = UnicodeAttribute(range_key=True)
    membership = UnicodeAttribute(attr_name="m")
    event_id = UnicodeAttribute(attr_name="e")
    position = NumberAttribute(attr_name="p")


class ClientTransaction(Item):
    """The event that a client's transaction ID made: `<user>/<device>`; forgotten after a day."""

    class Meta:
        table_name = table_name("TRANSACTIONS")

    LIFETIME_S: ClassVar[int] = 24 * 3600

    device = UnicodeAttribute(hash_key=True)
    txn = UnicodeAttribute(range_key=True)
    event_id = UnicodeAttribute(attr_name="e")
    expires = NumberAttribute()


class Alias(Item):
    """A room alias of this server."""

    class Meta:
        table_name = table_name("DIRECTORY")

    alias = UnicodeAttribute(hash_key=True)
    room = UnicodeAttribute()
    creator = UnicodeAttribute(attr_name="u")
    created = NumberAttribute(attr_name="t")


def state_key(event_type: str, key: str) -> str:
    """The sort key of a state row. Types and keys may hold any character, slashes too."""
    return "state/" + event_type.replace("~", "~0").replace("/", "~1") + "/" + key


def parse_state_key(k: str) -> tuple[str, str]:
    """The (type, state key) of a state row's sort key."""
    _, event_type, key = k.split("/", 2)
    return event_type.replace("~1", "/").replace("~0", "~"), key


def bucket_of(room_id: str, position: int) -> str:
    """The timeline partition that holds a position."""
    return f"{room_id}#{(position - 1) // BUCKET_POSITIONS}"


def line_of(room_id: str, position: int, offset: int = 0) -> tuple[str, int]:
    """Partition and sort key of the timeline's line at a place.

    What was backfilled for an anchor has partitions of its own; its offsets count down from -1.
    """
    if offset:
        return f"{room_id}~{position}#{(-offset - 1) // BUCKET_POSITIONS}", offset
    return bucket_of(room_id, position), position
