"""Rooms that this server is not in, as its users know them: invitations and knocks, and how these end.

Of such a room there is nothing but a stub head, whose positions count what the room's local users are told, and for
each of them a row, the membership event, and what `/sync` shows. A join over federation continues the head. A room
that this server was in once has a full head and keeps it: its state is then as it was when the last user left.

Everything is one transaction: who repeats it after a crash finds it done, or not begun.

Source: server-server API v1.19, "Inviting to a room", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)";
client-server API, "Syncing", "Stripped state".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from homeserver.matrix import state_tree
from homeserver.matrix.client_event import STRIPPED_STATE_TYPES, client_event, stripped_state_event
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.event import Event
from homeserver.matrix.identifiers import domain_of, is_user_id
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.observability import log
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.services.followed_memberships import is_small, stripped_membership
from homeserver.services.room_rows import is_local, is_remote
from homeserver.storage import invites
from homeserver.storage.commit import Commit, LocalChange, NewEntry, write_commit
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.out_of_band import OutOfBand, out_of_band_item, out_of_band_key
from homeserver.storage.room_items import HEAD, Head, LocalMember
from homeserver.storage.room_lease import wait_for_lease
from homeserver.storage.rooms import RoomView, load_room

PENDING = frozenset({"invite", "knock"})
_ENDED = frozenset({"leave", "ban"})
_MEMBER = "m.room.member"
_MOST_SHOWN_BYTES = 16_384  # of a room's state, as another server tells it to somebody who is not in it
_MOST_SERVERS = 8
_MOST_BEFORE = 10


@dataclass(frozen=True, slots=True)
class Stub:
    """What a local user is in a room that this server is not in, by which event, and which servers to ask.

    `servers`: the best to ask first; never this one; empty where nobody is known.
    """

    membership: str
    event: Event
    servers: tuple[str, ...]

    @property
    def rules(self) -> RoomVersionRules:
        """The rules of the room's version, as the server that told of the room has it."""
        return self.event.rules


@dataclass(frozen=True, slots=True)
class _Known:
    """A room and one local user there, as far as there is anything."""

    view: RoomView | None
    row: LocalMember | None
    item: OutOfBand | None

    @property
    def is_in_room(self) -> bool:
        """Whether this server is in the room: then what happens there comes as the room's events."""
        return is_in_room(self.view.head if self.view is not None else None)

    @property
    def is_beside_state(self) -> bool:
        """Whether the user has an invitation or a knock that the room's state, as it is known, says nothing of."""
        if self.view is None or self.row is None or self.row.membership not in PENDING:
            return False
        event = self.view.event(_MEMBER, _user_of(self.row))
        return event is None or event.event_id != self.row.event_id

    @property
    def repeated(self) -> frozenset[str]:
        """The IDs of the user's membership events that are known to have been in force, the last one too."""
        before = list(self.item.before) if self.item is not None else []
        last = [self.item.event_id] if self.item is not None else []
        return frozenset([*before, *last, *([self.row.event_id] if self.row is not None else [])])


def is_in_room(head: Head | None) -> bool:
    """Whether this server is in a room: whether it has a joined member there."""
    return head is not None and head.kind == "full" and int(head.local_members) > 0


def record_out_of_band(event: Event, room_state: Sequence[Mapping[str, Any]], *, invite_from: str) -> bool:
    """Make a membership event the membership of its local user in a room that this server is not in, and tell them.

    `room_state`: what `/sync` is to show of the room with an invitation or a knock, stripped or whole events as another
    server told them; nothing of it is believed. `invite_from`: a server to ask about the room.

    Returns False, and does nothing, where this server is in the room: then the event has to come as one of the room's.
    An event that was recorded before changes nothing. Raises Forbidden where this server knows the room under another
    version, LimitExceeded where others change the same things all the time.
    """
    user_id, membership = str(event.state_key), str(event.content.get("membership"))
    if event.type != _MEMBER or not is_local(user_id) or membership not in PENDING | _ENDED:
        raise ValueError("only an invitation, a knock, or the end of one, of a local user is recorded so")
    for _ in attempts("The room"):
        known = _read(event.room_id, user_id)
        if event.event_id in known.repeated:
            return True
        if known.is_in_room and not (known.is_beside_state and membership in _ENDED):
            return False
        if known.view is not None:
            head = known.view.head
            if head.kind == "full" and head.room_version != event.rules.version:
                raise Forbidden(f"This room has the version {head.room_version}.")
            if wait_for_lease(head, None):
                continue
        try:
            _commit(known, event, membership, room_state, invite_from)
        except TransactionCancelled:
            continue
        return True
    raise AssertionError("attempts() never ends by itself")


def may_be_out_of_band(pdu: Mapping[str, Any]) -> bool:
    """Whether a PDU, of which nothing was checked, may be the end of an invitation or a knock of a local user."""
    content, user_id = pdu.get("content"), pdu.get("state_key")
    if pdu.get("type") != _MEMBER or not isinstance(user_id, str) or not isinstance(content, dict):
        return False
    membership = content.get("membership")
    return isinstance(membership, str) and membership in _ENDED and is_local(user_id)


def receive_out_of_band(event: Event) -> bool:
    """Take an event that came for a room that this server is not in: the end of an invitation or a knock.

    The caller has checked format, signatures and hashes. Without the room's state nothing says who may remove whom.
    So the event counts only if it names among its auth events the very invitation or knock that it ends, of which
    nobody outside of the room knows the ID. Returns whether the user was told (now, or before); else it is ignored.
    """
    if not may_be_out_of_band(event.pdu) or not is_remote(event.sender):
        return False
    user_id = str(event.state_key)
    known = _read(event.room_id, user_id)
    if known.row is None:
        return False
    if known.row.event_id == event.event_id:
        return True
    if known.row.membership not in PENDING or known.row.event_id not in event.auth_event_ids:
        log.info("ignored %s of %s in a room that this server is not in", event.event_id, user_id)
        return False
    try:
        return record_out_of_band(event, (), invite_from=domain_of(event.sender))
    except Forbidden as wrong_version:
        log.info("ignored %s: %s", event.event_id, wrong_version)
        return False


def stub_of(room_id: str, user_id: str) -> Stub | None:
    """What is known of a room by what a local user is, or was, in it; None where there is nothing. One round.

    Only for a room that this server is not in.
    """
    known = _read(room_id, user_id)
    if known.row is None or known.view is None:
        return None
    membership = known.row.membership
    if known.item is not None and known.item.event_id == known.row.event_id:
        return Stub(membership, known.item.event, tuple(known.item.servers))
    event = known.view.event(_MEMBER, user_id)
    if event is None or event.event_id != known.row.event_id:
        return None
    return Stub(membership, event, tuple(_remote_servers([domain_of(event.sender)])))


def _read(room_id: str, user_id: str) -> _Known:
    key = out_of_band_key(room_id, user_id)
    view, found = load_room(room_id, [(_MEMBER, user_id)], local_users=[user_id], extras=[key])
    return _Known(view, view.locals.get(user_id) if view is not None else None, found.get(key))


def _user_of(row: LocalMember) -> str:
    return row.k.removeprefix("local/")


def _commit(
    known: _Known, event: Event, membership: str, room_state: Sequence[Mapping[str, Any]], invite_from: str
) -> None:
    """One position, without an event, for what the user is from now on. Raises TransactionCancelled."""
    room_id, user_id, row = event.room_id, str(event.state_key), known.row
    before = known.view.head if known.view is not None else None
    after = _next_head(before, event)
    position = int(after.position)
    earlier = [*known.item.before, known.item.event_id] if known.item is not None else []
    servers = [invite_from, domain_of(event.sender), *(known.item.servers if known.item is not None else ())]
    item = out_of_band_item(event, _remote_servers(servers), earlier[-_MOST_BEFORE:])
    extras: list[Callable[[Transaction], None]] = [lambda transaction: transaction.put("out of band", item)]
    if membership in PENDING:
        told = invites.telling(user_id, room_id, position, membership, shown_state(event, room_state))
    else:
        told = invites.telling(user_id, room_id, position, "leave", [_shown_end(event)])
    if told is not None:
        extras.append(told)
    write_commit(
        Commit(
            before=before,
            after=after,
            entries=[NewEntry(position, bytes(after.root), origin="remote")],
            locals=[
                LocalChange(
                    user_id,
                    membership,
                    event.event_id,
                    position,
                    int(row.slot) if row is not None and row.slot is not None else None,
                    new_slot=False,
                    joined_since=int(row.joined_since) if row is not None and row.joined_since is not None else None,
                    left_at=int(row.left_at) if row is not None and row.left_at is not None else None,
                    acting=True,
                )
            ],
            extras=extras,
        )
    )


def _next_head(before: Head | None, event: Event) -> Head:
    """The head with one more position and the same state; a stub's where there is none."""
    if before is None:
        now = now_ms()
        return Head(
            event.room_id,
            HEAD,
            version=1,
            position=1,
            room_version=event.rules.version,
            kind="stub",
            extremities=[],
            depth=0,
            root=state_tree.EMPTY_ROOT,
            rows_root=state_tree.EMPTY_ROOT,
            authorising={},
            state_position=0,
            arrived=now,
            bumped=now,
        )
    others = {name: value for name, value in before.attribute_values.items() if name not in {"room", "k"}}
    moved = {"version": int(before.version) + 1, "position": int(before.position) + 1, "arrived": now_ms()}
    return Head(before.room, HEAD, **{**others, **moved})


def _remote_servers(servers: Iterable[str]) -> list[str]:
    return [server for server in dict.fromkeys(servers) if server and is_remote(f"@:{server}")][:_MOST_SERVERS]


def shown_state(event: Event, room_state: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is shown of a room with an invitation or a knock: what others told of it, and the event itself.

    Of each type of "Stripped state" the last event, and the inviter's membership, as long as they are small.
    """
    keys = [(event_type, "") for event_type in STRIPPED_STATE_TYPES]
    if event.sender != event.state_key:
        keys.append((_MEMBER, event.sender))
    found = {
        (told["type"], told["state_key"]): stripped_state_event(told) for told in room_state if _is_state_event(told)
    }
    shown, size = [], 0
    for key in keys:
        if key in found and is_small(found[key]):
            size += len(orjson.dumps(found[key]))
            if size <= _MOST_SHOWN_BYTES:
                shown.append(found[key])
    return [*shown, stripped_membership(event)]


def _is_state_event(told: object) -> bool:
    return (
        isinstance(told, Mapping)
        and isinstance(told.get("type"), str)
        and isinstance(told.get("state_key"), str)
        and is_user_id(told.get("sender"))
        and isinstance(told.get("content"), dict)
    )


def _shown_end(event: Event) -> dict[str, Any]:
    shown = client_event(event.event_id, None, event.pdu)
    return shown if is_small(shown) else {**shown, "content": {"membership": event.content["membership"]}}
