"""Users of other servers join a room through this server.

A server that joins gets the whole state before the join, with the auth chains of all of it; one that asks for it, the
state without the members. An answer has everything or is refused, before the join is in the room: Lambda hands on no
more than 6 MB, which is a room of some 3,000 members. A server that can go on without members is let into larger ones.

Source: server-server API v1.19, "Joining Rooms", "Restricted rooms".
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from homeserver.matrix.errors import MatrixError, TooLarge
from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.event_ids import unpack_event_ids
from homeserver.services.attempts import attempts
from homeserver.services.restricted_joins import Grant, find_grant, needs_grant
from homeserver.services.room_summary import counts_of
from homeserver.services.send_event import keys_for
from homeserver.services.served_events import MOST_BYTES, pdu_of, size_of
from homeserver.services.served_handshakes import (
    Handshake,
    check_event_id,
    check_is_of,
    check_version,
    known_record,
    open_room,
    record_of,
    returned_event,
    take_in,
    template,
)
from homeserver.settings import settings
from homeserver.storage.auth_chains import auth_chain_of_event, auth_chain_of_state
from homeserver.storage.auth_events import known_events
from homeserver.storage.connection import Key, query_range
from homeserver.storage.room_items import EventRecord, RemoteServer
from homeserver.storage.rooms import RoomView, StateKey, fetch_state_events
from homeserver.storage.state_cache import state_of_few, whole_state
from homeserver.storage.state_nodes import StateNodes, entry_count

_AUTHORISER = "join_authorised_via_users_server"
_HEROES = 5
_NAMES = (("m.room.name", "", "name"), ("m.room.canonical_alias", "", "alias"))
_SERVERS = "server/"
_LEAST_EVENT_BYTES = 250  # no event takes less
_MOST_EVENTS = MOST_BYTES // _LEAST_EVENT_BYTES
_TOO_LARGE = (
    "The state of this room is more than this server can put into one answer: join through another server, or with "
    "omit_members."
)
_READ_AT_ONCE = 1000


def make_join(origin: str, room_id: str, user_id: str, versions: Collection[str]) -> dict[str, Any]:
    """The body of `GET /make_join/{roomId}/{userId}`; `versions`: the room versions that the other server knows.

    In a restricted room it names a user of this server who lets the user in, where the conditions are met. Raises as
    `open_room`, `check_is_of` and `check_version` do; AuthRuleViolation where the room refuses the user; what
    `find_grant` raises, and LimitExceeded.
    """
    check_is_of(user_id, origin)
    draft = EventDraft("m.room.member", {"membership": "join"}, user_id)
    for _ in attempts("The room"):
        view = open_room(room_id, origin, keys_for(draft, user_id))
        check_version(view, versions)
        if not needs_grant(view, user_id):
            return template(view, draft, user_id)
        grant = _grant(view, origin, user_id, keys_for(draft, user_id))
        if grant is not None:
            content = {**draft.content, _AUTHORISER: grant.authoriser}
            return template(grant.view, replace(draft, content=content), user_id)
    raise AssertionError("attempts() never ends by itself")


def send_join(origin: str, room_id: str, event_id: str, pdu: Any, *, omit_members: bool = False) -> dict[str, Any]:
    """Take in the join that `PUT /send_join/{roomId}/{eventId}` brings; the body of the answer.

    Repeating it changes nothing, and is answered the same. Raises as `open_room` and `returned_event` do; Forbidden
    where the room refuses the join, what `find_grant` raises where a user of this server is to let the user in;
    TooLarge, and then the join is not in the room.
    """
    check_event_id(event_id)
    view = open_room(room_id, origin, extras=[(EventRecord, event_id, None)])
    event, vouches = returned_event(Handshake("join", origin, room_id, event_id), view.rules, pdu)
    record = known_record(view, event_id)
    if record is not None:
        return _answer(view, record, origin, omit_members=omit_members)
    if vouches:
        _check_conditions(origin, event)
    # What does not fit now does not fit afterwards: then the user must not be in the room without its server.
    now = _room_at(view, bytes(view.head.root), _of_room(view, event.auth_event_ids), omit_members=omit_members)
    _check_size(now, event)
    take_in(event)
    record = record_of(event)
    return _answer(view, record, origin, omit_members=omit_members, known=now)


# ── Restricted rooms ─────────────────────────────────────────────────────────


def _grant(view: RoomView, origin: str, user_id: str, keys: Sequence[StateKey]) -> Grant | None:
    """Whoever lets the user in; None where the room changed meanwhile. Raises what `find_grant` does."""

    def reload(more: Sequence[StateKey], others: Sequence[Key]) -> tuple[RoomView | None, dict[Key, Any]]:
        now = open_room(view.room_id, origin, [*keys, *more], others)
        return now, now.extras

    try:
        return find_grant(view, user_id, reload)
    except MatrixError as error:
        if error.errcode == "M_UNABLE_TO_GRANT_JOIN":
            # Between servers it is 400: another one is to be asked, which 403 would say is in vain.
            raise MatrixError(error.message, errcode=error.errcode, status=400) from error
        raise


def _check_conditions(origin: str, event: Event) -> None:
    """Whether this server may vouch for a join: the user is invited or in the room already, or meets a condition.

    Whether the user who lets them in can do so is for the authorisation rules to say. Raises what `find_grant` does.
    """
    keys = keys_for(EventDraft(event.type, event.content, event.state_key), event.sender)
    for _ in attempts("The room"):
        view = open_room(event.room_id, origin, keys)
        if not needs_grant(view, event.sender) or _grant(view, origin, event.sender, keys) is not None:
            return
    raise AssertionError("attempts() never ends by itself")


# ── The answer ───────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Room:
    """A state of the room as it goes into an answer: its events, the IDs and events of the auth chains."""

    root: bytes
    state: list[dict[str, Any]]
    auth_chain: list[dict[str, Any]]
    is_without_members: bool

    @property
    def size(self) -> int:
        return sum(map(size_of, (*self.state, *self.auth_chain)))


def _answer(
    view: RoomView, record: EventRecord, origin: str, *, omit_members: bool, known: _Room | None = None
) -> dict[str, Any]:
    """The body for a join that is in the room: the state before it, whatever has happened since."""
    root = bytes(record.state_before)
    auth = unpack_event_ids(bytes(record.auth)) if record.auth is not None else []
    room = known if known is not None and known.root == root else _room_at(view, root, auth, omit_members=omit_members)
    event = pdu_of(unpack(record.packed))
    body: dict[str, Any] = {"state": room.state, "auth_chain": room.auth_chain, "event": event}
    servers = _servers(view, origin, int(record.position or 0)) if room.is_without_members else []
    if room.size + size_of(event) + sum(len(server) + 3 for server in servers) > MOST_BYTES:
        raise TooLarge(_TOO_LARGE)
    return body | ({"members_omitted": True, "servers_in_room": servers} if room.is_without_members else {})


def _of_room(view: RoomView, event_ids: Sequence[str]) -> list[str]:
    """Those of the events that are of the room: nothing has judged yet what the join says of itself."""
    known = known_events(event_ids, view.rules)
    return [event_id for event_id in event_ids if event_id in known and known[event_id].room_id == view.room_id]


def _check_size(room: _Room, event: Event) -> None:
    # Some room for the list of servers, which is read later.
    if room.size + size_of(event.pdu) > MOST_BYTES * 9 // 10:
        raise TooLarge(_TOO_LARGE)


def _room_at(view: RoomView, root: bytes, auth: Sequence[str], *, omit_members: bool) -> _Room:
    """The state with a root, and the auth chains of all that is told of it and of a join with these auth events.

    Raises TooLarge, if it can without having read all of it.
    """
    if omit_members:
        return _without_members(view, root, auth)
    nodes = StateNodes(view.room_id)
    if entry_count(nodes, root) > _MOST_EVENTS:
        raise TooLarge(_TOO_LARGE)
    state = whole_state(view.head, view.rules, root)
    ids = dict.fromkeys(auth_chain_of_state(nodes, view.rules, root, most=_MOST_EVENTS))
    ids |= dict.fromkeys(auth_chain_of_event(view.room_id, view.rules, auth, most=_MOST_EVENTS))
    events = {event.event_id: event for event in state.values()}
    chain = _events(view, ids, events)
    return _Room(root, [pdu_of(event.pdu) for event in state.values()], chain, is_without_members=False)


def _without_members(view: RoomView, root: bytes, auth: Sequence[str]) -> _Room:
    """The same without members, but for those whom the room is named after; the auth chain has nothing twice."""
    state = state_of_few(view.head, view.rules, root, ())
    if not any(_names(state.get((event_type, key)), name) for event_type, key, name in _NAMES):
        state |= state_of_few(view.head, view.rules, root, _heroes(view), state)
    is_without = entry_count(StateNodes(view.room_id), root) > len(state)
    told = {event.event_id: event for event in state.values()}
    wanted = dict.fromkeys([*auth, *(auth_id for event in state.values() for auth_id in event.auth_event_ids)])
    ids = auth_chain_of_event(view.room_id, view.rules, wanted, most=_MOST_EVENTS)
    chain = _events(view, [event_id for event_id in ids if event_id not in told], {})
    return _Room(root, [pdu_of(event.pdu) for event in state.values()], chain, is_without)


def _names(event: Event | None, name: str) -> bool:
    return event is not None and bool(event.content.get(name))


def _heroes(view: RoomView) -> list[str]:
    counts, _ = counts_of(view.head, view.rules)
    return counts.heroes("", _HEROES)


def _events(view: RoomView, event_ids: Collection[str], known: dict[str, Event]) -> list[dict[str, Any]]:
    """Events of auth chains as PDUs; `known` need not be read. Raises TooLarge as soon as they are too much."""
    missing = [event_id for event_id in event_ids if event_id not in known]
    found, size = dict(known), 0
    redacted = int(view.head.redaction_position) > 0
    for start in range(0, len(missing), _READ_AT_ONCE):
        some = fetch_state_events(view.room_id, missing[start : start + _READ_AT_ONCE], view.rules, consistent=redacted)
        found |= {event_id: entry.event for event_id, entry in some.items()}
        size += sum(size_of(entry.event.pdu) for entry in some.values())
        if size > MOST_BYTES:
            raise TooLarge(_TOO_LARGE)
    return [pdu_of(found[event_id].pdu) for event_id in event_ids]


def _servers(view: RoomView, origin: str, position: int) -> list[str]:
    """The servers with members in the room before the join at a position."""
    rows = query_range(RemoteServer, view.room_id, _SERVERS, consistent=True)
    there = [
        row.k.removeprefix(_SERVERS)
        for row in rows
        if int(row.members) > 0 and not (row.k == _SERVERS + origin and int(row.joined_since) >= position)
    ]
    return [settings().server_name, *there]
