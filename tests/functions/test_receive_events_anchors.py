"""Events whose parents are unknown, but not the states after these: anchors; and where received events come from."""

import logging

import pytest

from functions.harness import User
from functions.remote_server import RemoteServer, head_of, rows_of, state_of
from functions.rooms import create_room, follow, post, say, set_state
from homeserver.matrix import state_tree
from homeserver.matrix.event import Event
from homeserver.services.receive_events import Outcome, Verdict, receive_events
from homeserver.services.receive_outliers import receive_outliers
from homeserver.storage.event_places import read_places
from homeserver.storage.inbox import read_inbox
from homeserver.storage.room_items import Membership, TimelineEntry, bucket_of
from homeserver.storage.state_nodes import StateNodes
from homeserver.storage.timeline import read_positions

pytestmark = pytest.mark.usefixtures("set_up")
CAROL = "@carol:remote.test"


@pytest.fixture(params=["1", "11", "12"])
def remote(alice: User, request: pytest.FixtureRequest) -> RemoteServer:
    room_id = create_room(alice, preset="public_chat", room_version=request.param)
    server = RemoteServer(room_id)
    server.accepted(server.join(CAROL))
    # Creators of version 12 have their power without being named.
    server.accepted(server.power(alice.user_id, {CAROL: 50}))
    return server


def root_after(remote: RemoteServer, event: Event) -> bytes:
    """The state after an event that is not delivered, as if somebody had told it: stored, with its root."""
    state = remote.after[event.event_id]
    receive_outliers(remote.room_id, [remote.events[event_id] for event_id in state.values()])
    nodes = StateNodes(remote.room_id)
    tree = state_tree.build(state)
    nodes.add(tree.new_nodes)
    nodes.write()
    return tree.root


def line(remote: RemoteServer, position: int) -> TimelineEntry:
    found = TimelineEntry.fetch(bucket_of(remote.room_id, position), position)
    assert found is not None
    return found


def received(remote: RemoteServer, *events: Event, **more: object) -> list[Outcome]:
    outcomes = receive_events(remote.room_id, events, **more)  # type: ignore[arg-type]  # origin and states, as given
    return [outcomes[event.event_id] for event in events]


def test_an_event_after_an_unknown_one_is_an_anchor_with_the_state_that_was_given(remote: RemoteServer) -> None:
    before = head_of(remote.room_id)
    parent = remote.topic(CAROL, "unknown")
    event = remote.say(CAROL, "hello", prev=[parent.event_id])
    assert received(remote, event) == [Outcome(Verdict.MISSING, prev=(parent.event_id,))]
    (outcome,) = received(remote, event, states_after={parent.event_id: root_after(remote, parent)})
    assert outcome.verdict is Verdict.ACCEPTED
    marker, anchor = read_positions(remote.room_id, int(before.position) + 1, int(before.position) + 5)
    assert (marker.event_id, anchor.event_id, anchor.gap) == (None, event.event_id, (parent.event_id,))
    assert state_of(remote.room_id, anchor.own_root) == remote.after[event.event_id]
    # The parent has no place, and yet it is known on what it follows: nothing of that is an extremity any more.
    assert remote.tips() == [event.event_id]
    assert state_of(remote.room_id) == remote.after[event.event_id]
    follow()
    assert rows_of(remote.room_id) == state_of(remote.room_id)
    assert received(remote, event) == [Outcome(Verdict.KNOWN)]


def test_known_and_given_parents_resolve_together(remote: RemoteServer, alice: User) -> None:
    tip = remote.tips()
    unknown = remote.topic(CAROL, "theirs", prev=tip)
    assert set_state(alice, remote.room_id, "m.room.name", {"name": "ours"}).status == 200
    event = remote.say(CAROL, "both", prev=[unknown.event_id, *remote.tips()])
    (outcome,) = received(remote, event, states_after={unknown.event_id: root_after(remote, unknown)})
    assert outcome.verdict is Verdict.ACCEPTED
    anchor = read_positions(remote.room_id, int(head_of(remote.room_id).position), 99)[0]
    assert anchor.gap == (unknown.event_id,)
    assert state_of(remote.room_id, anchor.own_root) == remote.after[event.event_id]
    assert remote.tips() == [event.event_id]
    assert state_of(remote.room_id) == remote.after[event.event_id]


def test_what_is_not_given_is_still_missing(remote: RemoteServer) -> None:
    tip = remote.tips()
    given, other = remote.topic(CAROL, "a", prev=tip), remote.say(CAROL, "b", prev=tip)
    event = remote.say(CAROL, "c", prev=[given.event_id, other.event_id])
    position = int(head_of(remote.room_id).position)
    (outcome,) = received(remote, event, states_after={given.event_id: root_after(remote, given)})
    assert outcome == Outcome(Verdict.MISSING, prev=(other.event_id,))
    assert int(head_of(remote.room_id).position) == position


def test_who_follows_on_an_anchor_is_none(remote: RemoteServer, alice: User) -> None:
    tip = remote.tips()
    parent = remote.say(CAROL, "unknown")
    first = remote.say(CAROL, "first", prev=[parent.event_id])
    second = remote.say(CAROL, "second", prev=[first.event_id])
    root = root_after(remote, parent)
    outcomes = received(remote, second, first, states_after={parent.event_id: root})
    assert {outcome.verdict for outcome in outcomes} == {Verdict.ACCEPTED}
    entries = read_positions(remote.room_id, int(head_of(remote.room_id).position) - 1, 99)
    assert [(entry.event_id, entry.gap) for entry in entries] == [
        (first.event_id, (parent.event_id,)),
        (second.event_id, None),
    ]
    # Nothing says that they follow on what the room had.
    assert remote.tips() == [*tip, second.event_id]
    say(alice, remote.room_id, "merged")
    assert len(remote.tips()) == 1


def test_an_anchor_that_the_given_state_refuses_is_rejected_and_one_that_is_banned_now_soft_fails(
    remote: RemoteServer, alice: User
) -> None:
    tip = remote.tips()
    ban = remote.member(alice.user_id, "ban", CAROL, prev=tip)
    after_ban = remote.say(CAROL, "banned there", prev=[ban.event_id])
    parent = remote.say(CAROL, "unknown", prev=tip)
    late = remote.say(CAROL, "banned here", prev=[parent.event_id])
    states = {ban.event_id: root_after(remote, ban), parent.event_id: root_after(remote, parent)}
    assert received(remote, after_ban, states_after=states)[0].verdict is Verdict.REJECTED
    assert post(alice, remote.room_id, "ban", {"user_id": CAROL}).status == 200
    position = int(head_of(remote.room_id).position)
    assert received(remote, late, states_after=states)[0].verdict is Verdict.SOFT_FAILED
    assert int(head_of(remote.room_id).position) == position
    assert read_places([late.event_id])[late.event_id].position is None


def test_an_event_says_whether_it_has_to_be_sent_on(remote: RemoteServer) -> None:
    start = int(head_of(remote.room_id).position)
    join, said = remote.join("@dan:remote.test"), remote.say(CAROL, "hello")
    assert received(remote, join, origin="relay")[0].verdict is Verdict.ACCEPTED
    assert received(remote, said)[0].verdict is Verdict.ACCEPTED
    last = int(head_of(remote.room_id).position)
    origins = {line(remote, n).event_id: line(remote, n).origin for n in range(start + 1, last + 1)}
    assert (origins[join.event_id], origins[said.event_id]) == ("relay", "remote")


def test_what_a_local_user_did_elsewhere_they_see_at_once(remote: RemoteServer, alice: User, bob: User) -> None:
    join = remote.join(bob.user_id)
    assert received(remote, join)[0].verdict is Verdict.ACCEPTED
    head = head_of(remote.room_id)
    row = Membership.fetch(bob.user_id, remote.room_id)
    assert row is not None
    assert (row.membership, row.event_id, int(row.position)) == ("join", join.event_id, int(head.position))
    assert read_inbox(bob.user_id, consistent=True).slots[0].position == int(head.position)
    follow()
    say(alice, remote.room_id, "hello")
    follow()
    assert read_inbox(bob.user_id, consistent=True).slots[0].position == int(head.position) + 1


def test_what_is_refused_is_logged_with_the_number_of_the_rule(
    remote: RemoteServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="eigenserver")
    wrong = remote.power("@mallory:remote.test", {"@mallory:remote.test": 100})
    (outcome,) = received(remote, wrong)
    assert outcome.verdict is Verdict.REJECTED
    logged = [record.getMessage() for record in caplog.records if wrong.event_id in record.getMessage()]
    assert logged == [f"event {wrong.event_id} is rejected by rule {outcome.rule}: {outcome.reason}"]
    assert outcome.rule in {"R6", "R3.2"}
    caplog.clear()
    topic = remote.topic("@mallory:remote.test", "mine", prev=remote.tips())
    receive_outliers(remote.room_id, [topic])
    logged = [record.getMessage() for record in caplog.records if topic.event_id in record.getMessage()]
    assert logged == [f"outlier {topic.event_id} is rejected by rule R6: the sender is not a member of the room"]
