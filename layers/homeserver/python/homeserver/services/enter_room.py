"""Entering a room through another server: its state elsewhere becomes the room here, and the user is in it.

The other server answers a join with the state before it, and with what authorises that. Everything is judged first, in
memory, so an answer that is wrong leaves nothing behind. Then the events are stored as outliers, then the tree of the
state; and then one commit makes the room (or goes on with what was known of it), with the join as an anchor: its
parents are unknown. Whoever is cut off begins again; what is stored by then is found.

Source: Matrix v1.19, server-server API, "Joining Rooms", "Checks performed on receipt of a PDU".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.adapters.federation_http import BadAnswer
from homeserver.matrix import state_tree
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, check_event_auth
from homeserver.matrix.event_builder import Edge
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.observability import fault_point, log
from homeserver.services.attempts import attempts
from homeserver.services.receive_events import Verdict, receive_events
from homeserver.services.receive_outliers import judge_outliers, receive_outliers, wanted_by
from homeserver.services.received_batch import CREATE, check_by_authority
from homeserver.services.room_draft import RoomDraft
from homeserver.services.room_placement import Placement, Raced
from homeserver.services.room_rows import is_joined, is_local
from homeserver.services.stub_rooms import is_in_room
from homeserver.storage.auth_events import cover_for, known_events
from homeserver.storage.connection import Key
from homeserver.storage.event_places import EventPlace, read_places
from homeserver.storage.inbox import Counters
from homeserver.storage.inbox_shards import COUNTERS
from homeserver.storage.room_items import EventRecord
from homeserver.storage.rooms import RoomView, StateKey, load_room
from homeserver.storage.state_nodes import StateNodes


def enter_room(  # noqa: PLR0917 - a join, and the answer to it in its parts
    room_id: str, rules: RoomVersionRules, join: Event, state: Sequence[Event], auth_chain: Sequence[Event], via: str
) -> None:
    """Make a join that another server let through, `via`, the beginning of the room here; or take it into the room.

    The caller has checked format, signatures and hashes of all events (`pdu_checks`). `state` is the room's before the
    join, `auth_chain` what authorises it, as the other server has them; events that the rules reject are left out, and
    so is what names events that are not there. Where somebody else of this server is in the room, the join is an event
    of it as any other. Repeating it is safe.

    Raises BadAnswer where that is not the state of this room, Forbidden where it does not let the user join: then
    nothing was stored. LimitExceeded where others change the room all the time.
    """
    if not (is_joined(join) and join.sender == join.state_key and is_local(join.sender)):
        raise ValueError("only the join of a local user enters a room")
    told = list({event.event_id: event for event in (*auth_chain, *state) if event != join}.values())
    before = _state_before(_Answer(room_id, rules, join, [event for event in state if event != join], told, via))
    view, place = _read(room_id, join)[:2]
    if _is_done(place):
        return
    if view is not None and view.head.kind == "full" and view.head.room_version != rules.version:
        raise BadAnswer(via, f"it says that {room_id} has another version than it has")
    receive_outliers(room_id, told)
    fault_point("enter.outliers_stored")
    root = _store_tree(room_id, before)
    fault_point("enter.tree_stored")
    for _ in attempts("The room"):
        view, place, counters = _read(room_id, join)
        if _is_done(place):
            return
        if view is not None and is_in_room(view.head):
            _receive(join, root, via)
            return
        try:
            _commit(_Entrance(view, join, root, place, counters))
        except Raced:
            fault_point("enter.raced")
            continue
        return
    raise AssertionError("attempts() never ends by itself")


# ── Judging the answer ───────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Answer:
    """A state, and all that was told, that state too; of which room, for which join, and by which server."""

    room_id: str
    rules: RoomVersionRules
    join: Event
    state: Sequence[Event]
    told: Sequence[Event]
    via: str

    def wrong(self, reason: str) -> BadAnswer:
        return BadAnswer(self.via, f"its state of {self.room_id} {reason}")


def _state_before(answer: _Answer) -> dict[StateKey, str]:
    """The event IDs of the state before the join, by key, without what is rejected. Raises BadAnswer, Forbidden."""
    room_id, join = answer.room_id, answer.join
    _check_shape(answer)
    stored = known_events(wanted_by([*answer.told, join], room_id), answer.rules)
    outcomes, known = judge_outliers(room_id, answer.told, stored)
    kept: dict[StateKey, Event] = {}
    for event in answer.state:
        one = known.get(event.event_id)
        if one is not None and one.event is not None and not one.event.rejected and one.room_id == room_id:
            kept[event.key] = one.event
    if len(kept) < len(answer.state):
        refused = {i: o for i, o in outcomes.items() if o.verdict in {Verdict.MISSING, Verdict.REJECTED}}
        number = len(answer.state) - len(kept)
        log.warning("%d events of the state of %s are left out; %s", number, room_id, _first(refused))
    create = kept.get(CREATE)
    if create is None:
        raise answer.wrong("has no create event that is valid")
    if create.content.get("room_version", "1") != answer.rules.version:
        raise answer.wrong("is of another room version than it said")
    if any(event.type == "m.room.create" and event != create for event in answer.told):
        raise answer.wrong("goes back to two create events")
    missing = [event_id for event_id in join.auth_event_ids if event_id not in known]
    if missing:
        raise answer.wrong(f"lacks {missing[0]}, which authorises the join")
    check_by_authority(join, known, create)
    check_event_auth(join, AuthState(kept))
    return {key: event.event_id for key, event in kept.items()}


def _check_shape(answer: _Answer) -> None:
    told, version = answer.told, answer.rules.version
    if any(event.room_id != answer.room_id or event.rules.version != version for event in told):
        raise answer.wrong("has events of another room")
    if not all(event.is_state for event in told):
        raise answer.wrong("has an event that is no state")
    if len({event.key for event in answer.state}) < len({event.event_id for event in answer.state}):
        raise answer.wrong("has two events for one key")


def _first(refused: Mapping[str, object]) -> str:
    return next((f"{event_id}: {outcome}" for event_id, outcome in refused.items()), "")


# ── Entering ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Entrance:
    """The room as it is known here, if it is; the join, and the root of the state before it.

    `place`: of the join, if it is an outlier. `counters`: of the user's inbox.
    """

    view: RoomView | None
    join: Event
    root: bytes
    place: EventPlace | None
    counters: Counters | None


def _read(room_id: str, join: Event) -> tuple[RoomView | None, EventPlace | None, Counters | None]:
    record: Key = (EventRecord, join.event_id, None)
    counters: Key = (Counters, join.sender, COUNTERS)
    view, found = load_room(room_id, local_users=[join.sender], extras=[record, counters])
    item = found.get(record)
    return view, EventPlace.of_record(item) if item is not None else None, found.get(counters)


def _is_done(place: EventPlace | None) -> bool:
    """Whether the room has the join. Raises Forbidden if it was refused when it came another way."""
    if place is None or place.is_outlier:
        return False
    if place.position is None:
        raise Forbidden("The room has refused this join.")
    return True


def _store_tree(room_id: str, state: Mapping[StateKey, str]) -> bytes:
    tree = state_tree.build(state)
    nodes = StateNodes(room_id)
    nodes.add(tree.new_nodes)
    nodes.write()
    return tree.root


def _gap(join: Event) -> list[str]:
    """The parents of the join that have no place here."""
    places = read_places(join.prev_event_ids)
    return [i for i in join.prev_event_ids if i not in places or places[i].is_outlier]


def _receive(join: Event, root: bytes, via: str) -> None:
    """Take the join into a room in which somebody else of this server is by now."""
    states_after = dict.fromkeys(_gap(join), root)
    outcome = receive_events(join.room_id, [join], states_after=states_after)[join.event_id]
    if outcome.verdict is Verdict.MISSING:
        raise BadAnswer(via, f"it does not tell what authorises {join.event_id}")
    if outcome.verdict not in {Verdict.ACCEPTED, Verdict.KNOWN}:
        raise Forbidden(f"The room refuses the join: {outcome.reason}")


def _commit(entrance: _Entrance) -> None:
    """The head, the anchor, the user's own row and slot: all or nothing. Raises Raced."""
    join, root = entrance.join, entrance.root
    draft = RoomDraft(entrance.view, join.rules, room_id=join.room_id, counters={join.sender: entrance.counters})
    update = state_tree.update(draft.nodes, root, {join.key: join.event_id})
    draft.nodes.add(update.new_nodes)
    authority = known_events([*join.auth_event_ids, join.event_id], join.rules)
    if entrance.place is not None:
        cover, item = authority[join.event_id].cover, None
    else:
        by = [authority[event_id] for event_id in join.auth_event_ids]
        made, item = cover_for(join, [(known.event, known.cover) for known in by if known.event is not None])
        cover = made.pack() if made is not None else None
    draft.place(
        join,
        Placement(
            root,
            update.root,
            update.root,
            [Edge.to(join)],
            cover=cover,
            chain_item=item,
            was_outlier=entrance.place is not None,
            gap=_gap(join),
        ),
    )
    fault_point("enter.before_commit")
    draft.commit()
