"""Joining a room of another server: what its answer makes of the room here, and what it does not get past."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from functions.backfilling import HistoryRoom
from functions.foreign_pdus import KEY, know_keys
from functions.gap_peer import answer_to, enter
from functions.harness import User
from functions.remote_server import head_of, rows_of, state_of
from functions.rooms import follow, get, membership, messages, post, say, send, texts
from functions.syncing import sync
from homeserver import observability
from homeserver.adapters.federation_http import BadAnswer
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import Edge, EventDraft, build_event
from homeserver.matrix.hashes import content_hash
from homeserver.matrix.room_versions import V10, V11
from homeserver.matrix.signing import sign_event
from homeserver.services.enter_room import enter_room
from homeserver.services.pdu_checks import check_pdus
from homeserver.services.stub_rooms import record_out_of_band
from homeserver.storage.inbox import read_inbox
from homeserver.storage.room_items import HEAD, EventRecord, Head, LocalMember, Membership, TreeNode
from homeserver.storage.timeline import read_positions

pytestmark = pytest.mark.usefixtures("set_up")
REMOTE = "remote.test"
CAROL = f"@carol:{REMOTE}"


class Crash(Exception):
    """The process is gone."""


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    observability.fault_hook = None


@pytest.fixture
def room() -> HistoryRoom:
    made = HistoryRoom(REMOTE)
    made.topic(CAROL, "tea")
    made.says(3)
    return made


def nothing_stored(room: HistoryRoom) -> bool:
    stored = [*EventRecord.scan(), *TreeNode.scan()]
    return Head.fetch(room.room_id, HEAD) is None and not stored


def in_step(room: HistoryRoom, last: str) -> None:
    """The state is that after an event, and so are its rows, once they have followed."""
    assert state_of(room.room_id) == room.after[last]
    follow()
    head = head_of(room.room_id)
    assert head.rows_root == head.root
    assert rows_of(room.room_id) == room.after[last]


# ── Into a room that nobody here knows ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["1", "3", "6", "11", "12"])
def test_the_user_is_in_the_room_at_once_and_it_has_the_state_that_was_told(alice: User, version: str) -> None:
    room = HistoryRoom(REMOTE, version=version)
    room.topic(CAROL, "tea")
    room.says(3)
    join = enter(room, alice.user_id, REMOTE)
    head = head_of(room.room_id)
    assert (head.kind, head.room_version, int(head.position), int(head.local_members)) == ("full", version, 2, 1)
    assert int(head.depth) == join.depth
    member = LocalMember.fetch(room.room_id, f"local/{alice.user_id}")
    assert member is not None
    assert (member.membership, member.event_id, member.slot, member.joined_since) == ("join", join.event_id, 0, 2)
    row = Membership.fetch(alice.user_id, room.room_id)
    assert row is not None
    assert (row.membership, row.event_id) == ("join", join.event_id)
    assert read_inbox(alice.user_id, consistent=True).slots[0].position == 2
    in_step(room, join.event_id)
    answer = sync(alice)
    shown = answer["rooms"]["join"][room.room_id]
    assert shown["timeline"]["limited"]
    assert shown["timeline"]["events"][-1]["event_id"] == join.event_id
    # What a user says next follows on the join.
    answered = send(alice, room.room_id, "hello", "t1")
    assert answered.status == 200, answered
    record = EventRecord.fetch(answered.json["event_id"])
    assert record is not None
    assert int(record.depth) == join.depth + 1


def test_the_join_is_an_anchor_that_names_its_parents(alice: User, room: HistoryRoom) -> None:
    join = enter(room, alice.user_id, REMOTE)
    marker, anchor = read_positions(room.room_id, 1, 5)
    assert (marker.event_id, anchor.event_id) == (None, join.event_id)
    assert anchor.gap == tuple(join.prev_event_ids)
    assert state_of(room.room_id, marker.room_root) == room.before(join)
    assert state_of(room.room_id, anchor.own_root) == room.after[join.event_id]


def test_everybody_in_the_room_is_seen_there(alice: User, room: HistoryRoom) -> None:
    for number in range(40):
        room.join(room.user(f"u{number}"))
    join = enter(room, alice.user_id, REMOTE)
    # Before the rows have followed, too.
    members = get(alice, "rooms", room.room_id, "joined_members").json["joined"]
    assert len(members) == 42
    in_step(room, join.event_id)
    assert get(alice, "rooms", room.room_id, "joined_members").json["joined"] == members
    assert int(head_of(room.room_id).remote_servers) == 1
    other = Membership.fetch(room.user("u7"), room.room_id)
    assert other is not None
    assert other.membership == "join"


def test_repeating_it_changes_nothing(alice: User, room: HistoryRoom) -> None:
    join = enter(room, alice.user_id, REMOTE)
    before = head_of(room.room_id).attribute_values
    enter(room, alice.user_id, REMOTE, join=join)
    assert head_of(room.room_id).attribute_values == before
    follow()
    enter(room, alice.user_id, REMOTE, join=join)
    in_step(room, join.event_id)


STEPS = [
    "outliers.before",
    "outliers.after",
    "enter.outliers_stored",
    "enter.tree_stored",
    "enter.before_commit",
    "commit.before",
    "commit.after",
    "follower.before_inboxes",
    "rows.between_chunks",
]


@pytest.mark.parametrize("point", STEPS)
def test_a_crash_at_any_step_is_made_good_by_the_next_try(alice: User, room: HistoryRoom, point: str) -> None:
    for number in range(60):
        room.join(room.user(f"u{number}"))
    join = room.join(alice.user_id)

    def crash(name: str) -> None:
        if name == point:
            observability.fault_hook = None
            raise Crash

    observability.fault_hook = crash
    with suppress(Crash):
        enter(room, alice.user_id, REMOTE, join=join)
        follow()
    assert observability.fault_hook is None
    head = Head.fetch(room.room_id, HEAD)
    assert head is None or state_of(room.room_id) == room.after[join.event_id]
    enter(room, alice.user_id, REMOTE, join=join)
    assert int(head_of(room.room_id).position) == 2
    in_step(room, join.event_id)
    assert sync(alice)["rooms"]["join"].keys() == {room.room_id}


# ── Into a room that is known ───────────────────────────────────────────────────────────────────────


def test_an_invitation_becomes_the_room(alice: User) -> None:
    room = HistoryRoom(REMOTE)
    room.make("m.room.join_rules", {"join_rule": "invite"}, CAROL, state_key="")
    invitation = room.member(CAROL, "invite", alice.user_id)
    assert record_out_of_band(invitation, [], invite_from=REMOTE)
    follow()
    assert room.room_id in sync(alice)["rooms"]["invite"]
    stub = head_of(room.room_id)
    assert stub.kind == "stub"
    join = enter(room, alice.user_id, REMOTE)
    head = head_of(room.room_id)
    assert (head.kind, int(head.position)) == ("full", int(stub.position) + 2)
    assert int(head.version) == int(stub.version) + 1
    in_step(room, join.event_id)
    answer = sync(alice)
    assert room.room_id in answer["rooms"]["join"]
    assert room.room_id not in answer["rooms"].get("invite", {})
    assert send(alice, room.room_id, "hello", "t1").status == 200


def test_a_room_that_all_had_left_goes_on_and_keeps_its_history(alice: User, room: HistoryRoom) -> None:
    enter(room, alice.user_id, REMOTE)
    said = say(alice, room.room_id, "before")
    assert post(alice, room.room_id, "leave").status == 200
    follow()
    left = head_of(room.room_id)
    assert int(left.local_members) == 0
    # Elsewhere it went on without this server.
    room.member(CAROL, "leave", alice.user_id)
    room.topic(CAROL, "coffee")
    room.says(2)
    join = enter(room, alice.user_id, REMOTE)
    head = head_of(room.room_id)
    assert int(head.position) == int(left.position) + 2
    assert head.extremities == [join.event_id]
    in_step(room, join.event_id)
    member = LocalMember.fetch(room.room_id, f"local/{alice.user_id}")
    assert member is not None
    assert (member.slot, member.joined_since, member.left_at) == (0, int(head.position), None)
    assert get(alice, "rooms", room.room_id, "event", said[0]).json["content"]["body"] == "before"
    assert messages(alice, room.room_id).json["chunk"][0]["event_id"] == join.event_id


def test_where_somebody_else_of_this_server_is_the_join_is_received(alice: User, bob: User, room: HistoryRoom) -> None:
    enter(room, bob.user_id, REMOTE)
    follow()
    room.topic(CAROL, "coffee")
    room.says(2)
    join = enter(room, alice.user_id, REMOTE)
    follow()
    head = head_of(room.room_id)
    assert (int(head.local_members), head.rows_root) == (2, head.root)
    assert state_of(room.room_id) == room.after[join.event_id]
    assert membership(bob, room.room_id, alice) == "join"
    row = Membership.fetch(alice.user_id, room.room_id)
    assert row is not None
    assert row.membership == "join"
    entries = [entry for entry in read_positions(room.room_id, 1, 9) if entry.event_id is not None]
    assert entries[-1].event_id == join.event_id
    assert entries[-1].gap == tuple(join.prev_event_ids)
    say(bob, room.room_id, "hello")
    follow()
    assert texts(sync(alice)["rooms"]["join"][room.room_id]["timeline"]["events"])[-1] == "hello"


def test_two_who_enter_at_the_same_time_are_both_in(alice: User, bob: User, room: HistoryRoom) -> None:
    first = room.join(alice.user_id)
    second = room.join(bob.user_id)

    def meddle(point: str) -> None:
        if point == "enter.before_commit":
            observability.fault_hook = None
            enter(room, bob.user_id, REMOTE, join=second)

    observability.fault_hook = meddle
    enter(room, alice.user_id, REMOTE, join=first)
    follow()
    assert int(head_of(room.room_id).local_members) == 2
    assert state_of(room.room_id) == room.after[second.event_id]
    assert {membership(alice, room.room_id, bob), membership(bob, room.room_id, alice)} == {"join"}


# ── What is no state of the room ────────────────────────────────────────────────────────────────────


def refused(room: HistoryRoom, join: Event, state: list[Event], chain: list[Event], error: type[Exception]) -> str:
    with pytest.raises(error) as raised:
        enter_room(room.room_id, room.rules, join, state, chain, REMOTE)
    assert nothing_stored(room)
    return str(raised.value)


def without(events: list[Event], *types: str) -> list[Event]:
    return [event for event in events if event.type not in types]


def create_event(room: HistoryRoom, content: dict[str, Any], sender: str = CAROL) -> Event:
    return build_event(
        EventDraft("m.room.create", content, ""),
        rules=room.rules,
        room_id=None if room.rules.room_id_is_create_hash else room.room_id,
        sender=sender,
        prev_events=[],
        auth_events=[],
        origin_server_ts=1,
        server_name=REMOTE,
        key=room.keys[REMOTE],
    )


def test_an_answer_without_a_create_event_is_refused(alice: User, room: HistoryRoom) -> None:
    join = room.join(alice.user_id)
    state, chain = answer_to(room, join)
    # As it is when its signature is wrong: then `pdu_checks` drops it.
    why = refused(room, join, without(state, "m.room.create"), without(chain, "m.room.create"), BadAnswer)
    assert why.endswith("has no create event that is valid")
    # What authorises the state may have it; the state itself must.
    assert "no create event" in refused(room, join, without(state, "m.room.create"), chain, BadAnswer)
    assert "no create event" in refused(room, join, [], [], BadAnswer)


@pytest.mark.parametrize("content", [{}, {"room_version": "10"}, {"room_version": 11}, {"room_version": "99"}])
def test_a_create_event_of_another_room_version_is_refused(alice: User, room: HistoryRoom, content: Any) -> None:
    room.events.clear()
    room.after.clear()
    room.tip = []
    create = create_event(room, content)
    room._enter_graph(create, {})
    room.join(CAROL)
    room.make("m.room.join_rules", {"join_rule": "public"}, CAROL, state_key="")
    join = room.join(alice.user_id)
    why = refused(room, join, *answer_to(room, join), BadAnswer)
    assert "another room version" in why or "no create event that is valid" in why


def test_a_create_event_of_another_domain_or_with_parents_is_refused(alice: User, room: HistoryRoom) -> None:
    join = room.join(alice.user_id)
    state, chain = answer_to(room, join)
    foreign = create_event(room, {"room_version": "11"}, sender="@mallory:elsewhere.test")
    wrong = [foreign, *without(state, "m.room.create")]
    assert "no create event that is valid" in refused(room, join, wrong, without(chain, "m.room.create"), BadAnswer)
    parents = {**room.create.pdu, "prev_events": [join.event_id]}
    child = Event("$" + "c" * 43, room.room_id, parents, room.rules)
    wrong = [child, *without(state, "m.room.create")]
    assert "no create event that is valid" in refused(room, join, wrong, without(chain, "m.room.create"), BadAnswer)


def test_a_state_that_goes_back_to_two_create_events_is_refused(alice: User, room: HistoryRoom) -> None:
    join = room.join(alice.user_id)
    state, chain = answer_to(room, join)
    second = create_event(room, {"room_version": "11"}, sender="@mallory:remote.test")
    assert "two create events" in refused(room, join, state, [*chain, second], BadAnswer)


def test_a_room_id_of_version_12_is_that_of_its_create_event(alice: User) -> None:
    room, other = HistoryRoom(REMOTE, version="12"), HistoryRoom(REMOTE, version="12", start=1_600_000_000_000)
    join = room.join(alice.user_id)
    state, chain = answer_to(room, join)
    wrong = [other.create, *without(state, "m.room.create")]
    assert "events of another room" in refused(room, join, wrong, without(chain, "m.room.create"), BadAnswer)


def test_events_of_another_room_or_version_are_refused(alice: User, room: HistoryRoom) -> None:
    join = room.join(alice.user_id)
    state, chain = answer_to(room, join)
    other = HistoryRoom(REMOTE, start=1_600_000_000_000)
    topic = other.topic(CAROL, "elsewhere")
    assert "events of another room" in refused(room, join, [*state, topic], chain, BadAnswer)
    older = [replace(event, rules=V10) for event in state]
    assert "events of another room" in refused(room, join, older, chain, BadAnswer)


def test_two_events_for_one_key_and_messages_are_no_state(alice: User, room: HistoryRoom) -> None:
    join = room.join(alice.user_id)
    state, chain = answer_to(room, join)
    assert "two events for one key" in refused(room, join, [*state, room.topic(CAROL, "x")], chain, BadAnswer)
    message = room.say(CAROL, "no state")
    assert "no state" in refused(room, join, [*state, message], chain, BadAnswer)
    assert "no state" in refused(room, join, state, [*chain, message], BadAnswer)


def test_who_may_not_join_does_not_get_in(alice: User) -> None:
    room = HistoryRoom(REMOTE)
    room.member(CAROL, "ban", alice.user_id)
    join = room.join(alice.user_id)
    assert "banned" in refused(room, join, *answer_to(room, join), Forbidden)
    # Neither with a state from before the ban: the join itself names it.
    state, chain = answer_to(room, join)
    state = [event for event in state if event.state_key != alice.user_id]
    assert "banned" in refused(room, join, state, chain, Forbidden)


def test_what_authorises_the_join_must_be_told(alice: User, room: HistoryRoom) -> None:
    join = room.join(alice.user_id)
    state, chain = answer_to(room, join)
    kept = without(state, "m.room.join_rules"), without(chain, "m.room.join_rules")
    assert "which authorises the join" in refused(room, join, *kept, BadAnswer)


def test_what_the_rules_reject_or_nobody_authorises_is_left_out(alice: User, room: HistoryRoom) -> None:
    room.join(room.user("mallory"))
    mallory = room.user("mallory")
    forged_power = room.make("m.room.power_levels", {"users": {mallory: 100}}, mallory, state_key="")
    by_forged = room.make(
        "m.room.name",
        {"name": "mine"},
        mallory,
        state_key="",
        auth=[room.create.event_id, forged_power.event_id, room.after[room.tip[0]]["m.room.member", mallory]],
    )
    lost = room.make(
        "m.room.avatar", {"url": "mxc://a/b"}, CAROL, state_key="", auth=[room.create.event_id, by_forged.event_id]
    )
    join = room.join(alice.user_id)
    state, chain = answer_to(room, join)
    chain = [event for event in chain if event not in {forged_power, by_forged, lost}]
    enter_room(room.room_id, room.rules, join, [*state, by_forged, lost], [*chain, forged_power], REMOTE)
    told = state_of(room.room_id)
    assert told == {key: i for key, i in room.after[join.event_id].items() if i != lost.event_id}
    assert not {by_forged.event_id, lost.event_id} & set(told.values())
    record = EventRecord.fetch(forged_power.event_id)
    assert record is not None
    assert record.flags == "or"
    follow()
    assert ("m.room.name", "") not in rows_of(room.room_id)


def test_an_answer_with_unsigned_state_is_taken_without_it_or_not_at_all(
    alice: User, room: HistoryRoom, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="eigenserver")
    know_keys(REMOTE, KEY)
    join = room.join(alice.user_id)

    def enter_with(unsigned: Event) -> None:
        told = []
        for events in answer_to(room, join):
            pdus = [{**event.pdu, "signatures": {}} if event == unsigned else event.pdu for event in events]
            told.append([one.event for one in check_pdus(pdus, V11, room.room_id) if one.event is not None])
        enter_room(room.room_id, room.rules, join, *told, REMOTE)

    state = room.before(join)
    for event_type in ("m.room.create", "m.room.power_levels", "m.room.join_rules"):
        event = room.events[state[event_type, ""]]
        with pytest.raises(BadAnswer):
            enter_with(event)
        assert nothing_stored(room)
        assert (
            f"event {event.event_id} is dropped by check 2: There is no Ed25519 signature by {REMOTE}"
            in caplog.messages
        )
    topic = room.events[state["m.room.topic", ""]]
    enter_with(topic)
    assert ("m.room.topic", "") not in state_of(room.room_id)
    assert EventRecord.fetch(topic.event_id) is None


def test_the_state_may_have_the_join_itself(alice: User, room: HistoryRoom) -> None:
    join = room.join(alice.user_id)
    state, chain = answer_to(room, join)
    enter_room(room.room_id, room.rules, join, [*state, join], [*chain, join], REMOTE)
    in_step(room, join.event_id)


def test_a_room_does_not_change_its_version(alice: User, room: HistoryRoom) -> None:
    enter(room, alice.user_id, REMOTE)
    assert post(alice, room.room_id, "leave").status == 200
    before = head_of(room.room_id).attribute_values
    again = HistoryRoom(REMOTE, version="10")
    assert again.room_id == room.room_id
    join = again.join(alice.user_id)
    with pytest.raises(BadAnswer, match="another version"):
        enter_room(room.room_id, again.rules, join, *answer_to(again, join), REMOTE)
    assert head_of(room.room_id).attribute_values == before


def test_only_a_local_user_who_joins_enters(alice: User, room: HistoryRoom) -> None:
    for event in (room.join(room.user("dan")), room.member(CAROL, "invite", alice.user_id)):
        with pytest.raises(ValueError, match="only the join of a local user"):
            enter_room(room.room_id, room.rules, event, *answer_to(room, event), REMOTE)


def test_the_events_of_these_tests_are_right() -> None:
    room = HistoryRoom(REMOTE)
    pdu = {key: value for key, value in room.create.pdu.items() if key not in {"hashes", "signatures"}}
    pdu = {**pdu, "hashes": {"sha256": content_hash(pdu, V11)}}
    assert sign_event(pdu, V11, REMOTE, room.keys[REMOTE]) == room.create.pdu
    assert Edge.to(room.create).event_id == room.create.event_id
