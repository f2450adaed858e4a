"""Events whose parents, or what authorises them, this server does not have: found elsewhere, or left missing."""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from federation_peer import free_port
from functions.backfilling import HistoryRoom
from functions.federating import LOOPBACK
from functions.foreign_pdus import OTHER_KEY
from functions.gap_peer import GapPeer, enter
from functions.harness import User
from functions.remote_server import head_of, rows_of, state_of
from functions.rooms import follow, messages, texts
from homeserver import observability
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import V11
from homeserver.matrix.signing import sign_event
from homeserver.services import missing_events
from homeserver.services.missing_events import receive_with_missing
from homeserver.services.receive_events import Outcome, Verdict
from homeserver.storage.event_places import read_places
from homeserver.storage.room_items import EventRecord
from homeserver.storage.timeline import Entry, read_positions

pytestmark = pytest.mark.usefixtures("set_up")


class Crash(Exception):
    """The process is gone."""


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    observability.fault_hook = None


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[GapPeer]:
    server(**LOOPBACK)
    with GapPeer(tmp_path / "peer") as running:
        yield running


@pytest.fixture
def room(peer: GapPeer, alice: User) -> HistoryRoom:
    """A room of the peer's in which Alice is; both have the same picture of it."""
    made = peer.tells(HistoryRoom(peer.name))
    enter(made, alice.user_id, peer.name)
    peer.asked.clear()
    return made


def received(room: HistoryRoom, *events: Event, origin: str | None = None, **more: Any) -> list[Outcome]:
    outcomes = receive_with_missing(room.room_id, events, origin or room.name, **more)
    return [outcomes[event.event_id] for event in events]


def verdict(room: HistoryRoom, *events: Event, **more: Any) -> Verdict:
    return received(room, *events, **more)[-1].verdict


def entries(room: HistoryRoom) -> list[Entry]:
    return [entry for entry in read_positions(room.room_id, 1, 600) if entry.event_id is not None]


def same(room: HistoryRoom, last: Event) -> None:
    """The state is that after an event, by the root and by the rows."""
    assert state_of(room.room_id) == room.after[last.event_id]
    follow()
    assert rows_of(room.room_id) == room.after[last.event_id]


def asked(peer: GapPeer) -> dict[str, int]:
    """How often each endpoint was asked for events."""
    endpoints = ("get_missing_events", "event_auth", "event", "state_ids", "state")
    return {name: count for name in endpoints if (count := peer.count(name))}


# ── What lies between ───────────────────────────────────────────────────────────────────────────────


def test_what_needs_nothing_asks_nobody(room: HistoryRoom, peer: GapPeer) -> None:
    assert verdict(room, room.say(room.user("carol"), "hello")) is Verdict.ACCEPTED
    assert peer.asked == []


@pytest.mark.parametrize("page", [3, 20])
def test_the_events_between_come_in_order_and_leave_no_gap(room: HistoryRoom, peer: GapPeer, page: int) -> None:
    peer.page = page
    said = room.says(11)
    room.topic(room.user("carol"), "coffee")
    said += room.says(1)
    last = room.events[room.tip[0]]
    assert verdict(room, last) is Verdict.ACCEPTED
    follow()
    found = entries(room)[1:]
    assert [entry.pdu["content"].get("body") for entry in found if entry.pdu] == [*said[:-1], None, said[-1]]
    assert [entry.gap for entry in found] == [None] * 13
    assert head_of(room.room_id).extremities == [last.event_id]
    same(room, last)
    assert asked(peer) == {"get_missing_events": -(-12 // page)}


def test_a_fork_is_filled_on_both_sides(room: HistoryRoom, peer: GapPeer) -> None:
    carol, base = room.user("carol"), list(room.tip)
    left = room.topic(carol, "left", prev=base)
    left = room.say(carol, "l", prev=[left.event_id])
    right = room.make("m.room.name", {"name": "right"}, carol, state_key="", prev=base)
    last = room.say(carol, "merged", prev=[left.event_id, right.event_id])
    assert verdict(room, last) is Verdict.ACCEPTED
    assert len(entries(room)) == 5
    same(room, last)


def test_what_is_rejected_on_the_way_stays_out_and_the_rest_comes(
    room: HistoryRoom, peer: GapPeer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="eigenserver")
    mallory, carol = room.user("mallory"), room.user("carol")
    room.join(mallory)
    wrong = room.topic(mallory, "mine")
    last = room.say(carol, "after")
    assert verdict(room, last) is Verdict.ACCEPTED
    place = read_places([wrong.event_id])[wrong.event_id]
    assert (place.flags, place.position) == ("r", None)
    same(room, last)
    logged = [record.getMessage() for record in caplog.records if wrong.event_id in record.getMessage()]
    reason = "the sender has too little power to send m.room.topic"
    assert logged == [f"event {wrong.event_id} is rejected by rule R8: {reason}"]


def test_events_that_another_server_signed_falsely_are_not_taken(room: HistoryRoom, peer: GapPeer) -> None:
    between = room.say(room.user("carol"), "between")
    last = room.say(room.user("carol"), "last")
    unsigned = {key: value for key, value in between.pdu.items() if key != "signatures"}
    peer.forged[between.event_id] = sign_event(unsigned, V11, peer.name, OTHER_KEY)
    peer.silent = {"state_ids", "state"}
    (outcome,) = received(room, last)
    assert (outcome.verdict, outcome.prev) == (Verdict.MISSING, (between.event_id,))
    assert EventRecord.fetch(between.event_id) is None
    assert EventRecord.fetch(last.event_id) is None
    # An event with a false hash is taken without what is false.
    peer.forged[between.event_id] = {**between.pdu, "content": {"body": "a lie"}}
    assert verdict(room, last) is Verdict.ACCEPTED
    entry = entries(room)[-2]
    assert entry.pdu is not None
    assert (entry.event_id, entry.pdu["content"]) == (between.event_id, {})


def test_nothing_is_taken_but_what_is_referred_to(room: HistoryRoom, peer: GapPeer) -> None:
    carol, base = room.user("carol"), list(room.tip)
    between = room.say(carol, "between")
    last = room.say(carol, "last")
    beside = room.say(carol, "beside", prev=base)
    other = HistoryRoom(peer.name, start=1_600_000_000_000)
    elsewhere = other.say(carol, "elsewhere")
    pdus = [dict(event.pdu) for event in (beside, elsewhere, between)]
    peer.instead_of["get_missing_events"] = {"events": [*pdus, 7, None, {"type": "nonsense"}, []]}
    assert verdict(room, last) is Verdict.ACCEPTED
    assert [entry.event_id for entry in entries(room)][1:] == [between.event_id, last.event_id]
    assert EventRecord.fetch(beside.event_id) is None
    assert EventRecord.fetch(elsewhere.event_id) is None


@pytest.mark.parametrize("answer", [[], "no", {}, {"events": 7}, {"events": {"a": 1}}, {"events": [[]]}, None])
def test_an_answer_that_is_none_leaves_it_missing(room: HistoryRoom, peer: GapPeer, answer: Any) -> None:
    room.says(2)
    last = room.events[room.tip[0]]
    for endpoint in ("get_missing_events", "event", "state_ids", "state", "event_auth", "backfill"):
        peer.instead_of[endpoint] = answer
    before = head_of(room.room_id).attribute_values
    (outcome,) = received(room, last)
    assert (outcome.verdict, outcome.prev) == (Verdict.MISSING, tuple(last.prev_event_ids))
    assert EventRecord.fetch(last.event_id) is None
    assert head_of(room.room_id).attribute_values == before


def test_an_answer_that_never_ends_is_ended(room: HistoryRoom, peer: GapPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing_events, "_MOST_PAGES", 4)
    peer.page = 2
    room.says(30)
    last = room.events[room.tip[0]]
    assert verdict(room, last) is Verdict.ACCEPTED
    assert peer.count("get_missing_events") == 4
    found = entries(room)
    # The way back is too long: what was found begins with an anchor.
    assert len(found) == 1 + 9
    assert found[1].gap == (room.events[str(found[1].event_id)].prev_event_ids[0],)
    same(room, last)


def test_the_number_of_events_ends(room: HistoryRoom, peer: GapPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing_events, "_MOST_EVENTS", 7)
    peer.page = 50
    room.says(30)
    last = room.events[room.tip[0]]
    assert verdict(room, last) is Verdict.ACCEPTED
    assert len(entries(room)) == 1 + 7
    assert asked(peer) == {"get_missing_events": 1, "event": 1, "state_ids": 1}


def test_the_time_ends(room: HistoryRoom, peer: GapPeer) -> None:
    room.says(3)
    assert verdict(room, room.events[room.tip[0]], seconds=0.0) is Verdict.MISSING
    assert peer.asked == []


# ── States behind a gap ─────────────────────────────────────────────────────────────────────────────


def test_where_nobody_gives_the_events_the_state_behind_them_makes_an_anchor(room: HistoryRoom, peer: GapPeer) -> None:
    peer.silent = {"get_missing_events"}
    room.join(room.user("dan"))
    parent = room.topic(room.user("carol"), "coffee")
    last = room.say(room.user("carol"), "last")
    assert verdict(room, last) is Verdict.ACCEPTED
    anchor = entries(room)[-1]
    assert (anchor.event_id, anchor.gap) == (last.event_id, (parent.event_id,))
    # The room's state knows what happened meanwhile, as what it follows on says.
    assert state_of(room.room_id, anchor.own_root) == room.after[last.event_id]
    assert state_of(room.room_id)["m.room.topic", ""] == parent.event_id
    assert state_of(room.room_id)["m.room.member", room.user("dan")] in room.events
    follow()
    assert rows_of(room.room_id) == state_of(room.room_id)
    place = read_places([parent.event_id])[parent.event_id]
    assert place.is_outlier
    # What comes after it needs nothing any more.
    peer.asked.clear()
    assert verdict(room, room.say(room.user("carol"), "on")) is Verdict.ACCEPTED
    assert peer.asked == []


def test_the_state_after_a_parent_that_was_not_allowed_is_that_before_it(room: HistoryRoom, peer: GapPeer) -> None:
    peer.silent = {"get_missing_events"}
    mallory = room.user("mallory")
    room.join(mallory)
    wrong = room.topic(mallory, "mine")
    last = room.say(room.user("carol"), "last")
    assert verdict(room, last) is Verdict.ACCEPTED
    assert ("m.room.topic", "") not in state_of(room.room_id)
    assert entries(room)[-1].gap == (wrong.event_id,)


def test_where_the_parent_is_not_given_either_the_state_before_the_event_has_to_do(
    room: HistoryRoom, peer: GapPeer
) -> None:
    peer.silent = {"get_missing_events", "event", "backfill"}
    parent = room.topic(room.user("carol"), "coffee")
    last = room.say(room.user("carol"), "last")
    assert verdict(room, last) is Verdict.ACCEPTED
    assert asked(peer) == {"get_missing_events": 1, "event": 2, "state_ids": 1, "state": 1}
    assert entries(room)[-1].gap == (parent.event_id,)
    assert state_of(room.room_id, entries(room)[-1].own_root) == room.after[last.event_id]


def test_a_state_of_which_something_is_held_back_is_none(room: HistoryRoom, peer: GapPeer) -> None:
    peer.silent = {"get_missing_events"}
    ban = room.member(room.user("carol"), "ban", room.user("mallory"))
    parent = room.say(room.user("carol"), "unknown")
    last = room.say(room.user("carol"), "last")
    peer.withheld = {ban.event_id}
    (outcome,) = received(room, last)
    assert (outcome.verdict, outcome.prev) == (Verdict.MISSING, (parent.event_id,))
    assert asked(peer)["state"] == 2
    peer.withheld = set()
    assert verdict(room, last) is Verdict.ACCEPTED
    assert state_of(room.room_id)["m.room.member", room.user("mallory")] == ban.event_id


def test_an_event_of_a_state_with_a_false_signature_is_no_part_of_it(room: HistoryRoom, peer: GapPeer) -> None:
    peer.silent = {"get_missing_events"}
    topic = room.topic(room.user("carol"), "coffee")
    parent = room.say(room.user("carol"), "unknown")
    last = room.say(room.user("carol"), "last")
    unsigned = {key: value for key, value in topic.pdu.items() if key != "signatures"}
    peer.forged[topic.event_id] = sign_event(unsigned, V11, peer.name, OTHER_KEY)
    assert verdict(room, last) is Verdict.ACCEPTED
    assert ("m.room.topic", "") not in state_of(room.room_id)
    assert EventRecord.fetch(topic.event_id) is None
    assert entries(room)[-1].gap == (parent.event_id,)


@pytest.mark.parametrize("lie", ["two for one key", "no create event", "of another room", "not there"])
def test_a_state_that_cannot_be_is_none(room: HistoryRoom, peer: GapPeer, lie: str) -> None:
    peer.silent = {"get_missing_events"}
    carol = room.user("carol")
    parent = room.topic(carol, "coffee")
    last = room.say(carol, "last")
    state = dict(room.before(parent))
    ids = list(state.values())
    if lie == "two for one key":
        ids.append(room.topic(carol, "another", prev=parent.prev_event_ids).event_id)
        ids.append(room.topic(carol, "one more", prev=parent.prev_event_ids).event_id)
    elif lie == "no create event":
        ids.remove(room.create.event_id)
    elif lie == "of another room":
        other = peer.tells(HistoryRoom(peer.name, start=1_600_000_000_000))
        ids = list(other.after[other.tip[0]].values())
    else:
        ids = ["$" + "x" * 43]
    chain = [event.event_id for event in room.chain(i for i in ids if i in room.events)]
    peer.instead_of["state_ids"] = {"pdu_ids": ids, "auth_chain_ids": chain}
    before = head_of(room.room_id).attribute_values
    (outcome,) = received(room, last)
    assert (outcome.verdict, outcome.prev) == (Verdict.MISSING, (parent.event_id,))
    assert head_of(room.room_id).attribute_values == before


# ── What authorises ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("silent", [set(), {"event_auth"}], ids=["event_auth", "event"])
def test_what_authorises_an_event_is_fetched(room: HistoryRoom, peer: GapPeer, silent: set[str]) -> None:
    peer.silent = silent
    carol, base = room.user("carol"), list(room.tip)
    # A membership on a branch that is nowhere else referred to: the join names it, and its parents do not lead to it.
    dan = room.user("dan")
    invitation = room.member(carol, "invite", dan, prev=base)
    auth = [room.create.event_id, invitation.event_id, room.before(invitation)["m.room.join_rules", ""]]
    auth.append(room.before(invitation)["m.room.power_levels", ""])
    join = room.make("m.room.member", {"membership": "join"}, dan, state_key=dan, prev=base, auth=auth)
    assert verdict(room, join) is Verdict.ACCEPTED
    assert read_places([invitation.event_id])[invitation.event_id].is_outlier
    assert asked(peer) == ({"event_auth": 1, "event": 1} if silent else {"event_auth": 1})
    assert state_of(room.room_id)["m.room.member", dan] == join.event_id


def test_an_event_with_authority_that_nobody_has_stays_missing(room: HistoryRoom, peer: GapPeer) -> None:
    carol = room.user("carol")
    before = room.after[room.tip[0]]
    forged = room.power(carol, {carol: 100, room.user("mallory"): 100})
    room.tip = forged.prev_event_ids
    auth = [room.create.event_id, forged.event_id, before["m.room.member", carol]]
    last = room.say(carol, "by my power", auth=auth)
    peer.withheld = {forged.event_id}
    (outcome,) = received(room, last)
    assert (outcome.verdict, outcome.prev, outcome.auth) == (Verdict.MISSING, (), (forged.event_id,))
    assert EventRecord.fetch(last.event_id) is None


def test_forged_authority_is_rejected(room: HistoryRoom, peer: GapPeer) -> None:
    mallory = room.user("mallory")
    joined = room.join(mallory)
    assert verdict(room, joined) is Verdict.ACCEPTED
    base = list(room.tip)
    forged = room.power(mallory, {mallory: 100}, prev=base)
    auth = [room.create.event_id, forged.event_id, joined.event_id]
    topic = room.make("m.room.topic", {"topic": "mine"}, mallory, state_key="", prev=base, auth=auth)
    (outcome,) = received(room, topic)
    assert (outcome.verdict, outcome.rule) == (Verdict.REJECTED, "R3.3")
    assert ("m.room.topic", "") not in state_of(room.room_id)
    record = EventRecord.fetch(forged.event_id)
    assert record is not None
    assert record.flags == "or"


# ── Others, and again ───────────────────────────────────────────────────────────────────────────────


def test_another_server_of_the_room_is_asked_where_the_first_is_gone(room: HistoryRoom, peer: GapPeer) -> None:
    follow()
    room.says(3)
    gone = f"localhost:{free_port()}"
    assert verdict(room, room.events[room.tip[0]], origin=gone) is Verdict.ACCEPTED
    assert len(entries(room)) == 4


def test_this_server_asks_itself_nothing(room: HistoryRoom, peer: GapPeer) -> None:
    follow()
    room.says(3)
    assert verdict(room, room.events[room.tip[0]], origin="example.org") is Verdict.ACCEPTED


STEPS = [
    "missing.fetched",
    "outliers.before",
    "outliers.after",
    "missing.states_stored",
    "receive.before_commit",
    "commit.before",
    "commit.after",
]


@pytest.mark.parametrize("point", STEPS)
def test_a_crash_at_any_step_is_made_good_by_the_next_delivery(
    room: HistoryRoom, peer: GapPeer, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing_events, "_MOST_EVENTS", 3)
    room.join(room.user("dan"))
    room.says(2)
    room.topic(room.user("carol"), "coffee")
    room.says(2)
    last = room.events[room.tip[0]]

    def crash(name: str) -> None:
        if name == point:
            observability.fault_hook = None
            raise Crash

    observability.fault_hook = crash
    with suppress(Crash):
        received(room, last)
    assert observability.fault_hook is None
    assert verdict(room, last) in {Verdict.ACCEPTED, Verdict.KNOWN}
    assert [entry.event_id for entry in entries(room)][1:] == [
        *room.events[last.prev_event_ids[0]].prev_event_ids,
        *last.prev_event_ids,
        last.event_id,
    ]
    assert len(entries(room)[1].gap or ()) == 1
    same(room, last)
    assert verdict(room, last) is Verdict.KNOWN


def test_history_that_a_user_pages_back_to_begins_behind_the_gap(room: HistoryRoom, peer: GapPeer, alice: User) -> None:
    peer.silent = {"get_missing_events"}
    said = room.says(3)
    assert verdict(room, room.events[room.tip[0]]) is Verdict.ACCEPTED
    follow()
    assert texts(messages(alice, room.room_id).json["chunk"]) == said[::-1]


@pytest.mark.parametrize("seed", range(4))
def test_a_tangle_that_is_fetched_from_its_end_has_the_state_that_its_server_has(
    room: HistoryRoom, peer: GapPeer, seed: int
) -> None:
    """Forks with joins, bans, topics and changes of power, of which only the last event is delivered."""
    chance = random.Random(seed)
    carol, dan = room.user("carol"), room.user("dan")
    room.join(dan)
    room.power(carol, {carol: 100, dan: 50})
    recent = list(room.tip)
    for number in range(20):
        prev = chance.sample(recent, min(len(recent), chance.choice((1, 1, 1, 2))))
        what = chance.randrange(5)
        if what == 0:
            event = room.topic(chance.choice((carol, dan)), f"t{number}", prev=prev)
        elif what == 1:
            event = room.power(carol, {carol: 100, dan: chance.choice((0, 50))}, prev=prev)
        elif what == 2:
            user = room.user(f"u{chance.randrange(3)}")
            event = room.member(chance.choice((carol, dan)), chance.choice(("ban", "leave")), user, prev=prev)
        elif what == 3:
            event = room.join(room.user(f"u{chance.randrange(3)}"), prev=prev)
        else:
            event = room.say(chance.choice((carol, dan)), f"m{number}", prev=prev)
        # What its server rejects nobody refers to.
        if room.is_allowed(event, room.before(event)):
            recent = [*recent[-2:], event.event_id]
    last = room.say(carol, "the end", prev=recent)
    peer.page = 7
    assert verdict(room, last) is Verdict.ACCEPTED
    # Whatever is a forward extremity here is one there, and they resolve to the same.
    head = head_of(room.room_id)
    tips = [edge if isinstance(edge, str) else edge[0] for edge in head.extremities]
    assert last.event_id in tips
    assert state_of(room.room_id) == room.resolved([room.after[tip] for tip in tips])
    assert state_of(room.room_id, read_places([last.event_id])[last.event_id].after) == room.after[last.event_id]
    assert all(entry.gap is None for entry in entries(room)[1:])
    follow()
    assert rows_of(room.room_id) == state_of(room.room_id)
