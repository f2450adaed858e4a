"""Events of other servers: judged, placed and committed, in a line and in forks."""

from collections.abc import Iterator

import pytest

from functions.harness import User
from functions.remote_server import RemoteServer, head_of, state_of
from functions.rooms import create_room, event, follow, messages, say, set_state, state, sync, texts
from homeserver import observability
from homeserver.services.receive_events import Verdict
from homeserver.storage.event_places import read_places
from homeserver.storage.room_items import HEAD, EventRecord, Head
from homeserver.storage.room_items import RemoteServer as ServerRow

pytestmark = pytest.mark.usefixtures("set_up")
CAROL = "@carol:remote.test"


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    observability.fault_hook = None


@pytest.fixture
def room_id(alice: User) -> str:
    return create_room(alice, preset="public_chat", name="Tea", room_version="11")


@pytest.fixture
def remote(room_id: str) -> RemoteServer:
    """A server elsewhere with one member in the room."""
    server = RemoteServer(room_id)
    server.accepted(server.join(CAROL))
    return server


def test_a_join_and_a_message_are_seen_by_local_members(alice: User, remote: RemoteServer, room_id: str) -> None:
    message = remote.say(CAROL, "hello")
    assert [outcome.verdict for outcome in remote.receive(message)] == [Verdict.ACCEPTED]
    follow()
    assert texts(sync(alice)["rooms"]["join"][room_id]["timeline"]["events"]) == ["hello"]
    assert event(alice, room_id, message.event_id).json["content"]["body"] == "hello"
    head = head_of(room_id)
    assert head.extremities == [message.event_id]
    assert (head.remote_servers, head.rows_root) == (1, head.root)
    row = ServerRow.fetch(room_id, "server/remote.test")
    assert row is not None
    assert (row.members, row.joined_since, row.left_at) == (1, head.position - 1, None)


def test_a_delivery_that_is_repeated_changes_nothing(remote: RemoteServer, room_id: str) -> None:
    message = remote.say(CAROL, "hello")
    remote.accepted(message)
    before = head_of(room_id)
    assert [outcome.verdict for outcome in remote.receive(message, message)] == [Verdict.KNOWN] * 2
    assert head_of(room_id).version == before.version


def test_what_is_missing_is_named_and_nothing_is_kept(remote: RemoteServer, room_id: str) -> None:
    first = remote.say(CAROL, "one")
    second = remote.say(CAROL, "two", prev=[first.event_id])
    third = remote.say(CAROL, "three", prev=[second.event_id])
    profile = remote.make("m.room.member", {"membership": "join", "displayname": "C"}, CAROL, state_key=CAROL)
    late = remote.say(CAROL, "four", auth=[*second.auth_event_ids[:2], profile.event_id])
    outcomes = remote.receive(second, third, late)
    assert [outcome.verdict for outcome in outcomes] == [Verdict.MISSING] * 3
    assert [outcome.prev for outcome in outcomes] == [(first.event_id,), (second.event_id,), ()]
    assert outcomes[2].auth == (profile.event_id,)
    assert EventRecord.fetch(second.event_id) is None
    remote.accepted(first)
    assert [outcome.verdict for outcome in remote.receive(third, second)] == [Verdict.ACCEPTED] * 2


def test_a_batch_is_committed_at_once_in_the_order_of_the_graph(
    alice: User, remote: RemoteServer, room_id: str
) -> None:
    events = [remote.say(CAROL, "0")]
    for number in range(1, 12):
        events.append(remote.say(CAROL, str(number), prev=[events[-1].event_id]))
    version = head_of(room_id).version
    assert {outcome.verdict for outcome in remote.receive(*reversed(events))} == {Verdict.ACCEPTED}
    assert head_of(room_id).version == version + 1
    chunk = messages(alice, room_id, dir="f").json["chunk"]
    assert texts(chunk) == [str(number) for number in range(12)]


def test_an_event_that_its_own_authority_refuses_is_rejected_and_kept(remote: RemoteServer, room_id: str) -> None:
    refused = remote.topic(CAROL, "mine")
    (outcome,) = remote.receive(refused)
    assert (outcome.verdict, outcome.rule) == (Verdict.REJECTED, "R8")
    record = EventRecord.fetch(refused.event_id)
    assert record is not None
    assert (record.flags, record.position, record.state_before) == ("r", None, head_of(room_id).root)
    assert refused.event_id not in head_of(room_id).extremities


def test_what_follows_a_rejected_event_is_judged_on_its_own(alice: User, remote: RemoteServer, room_id: str) -> None:
    refused = remote.topic(CAROL, "mine")
    remote.receive(refused)
    message = remote.say(CAROL, "and now", prev=[refused.event_id])
    remote.accepted(message)
    assert head_of(room_id).extremities == [message.event_id]
    assert texts(messages(alice, room_id).json["chunk"]) == ["and now"]


def test_an_event_with_a_rejected_authority_is_rejected(remote: RemoteServer) -> None:
    mallory = "@mallory:remote.test"
    refused = remote.member(CAROL, "ban", mallory)
    (outcome,) = remote.receive(refused)
    assert outcome.verdict is Verdict.REJECTED
    create, power = remote.say(CAROL, "x").auth_event_ids[:2]
    follow_up = remote.say(CAROL, "y", auth=[create, power, refused.event_id])
    (outcome,) = remote.receive(follow_up)
    assert (outcome.verdict, outcome.rule) == (Verdict.REJECTED, "R3.2")
    join = remote.join(mallory)
    named = remote.join(mallory, auth=[*join.auth_event_ids, refused.event_id])
    (outcome,) = remote.receive(named)
    assert (outcome.verdict, outcome.rule) == (Verdict.REJECTED, "R3.3")


def test_what_a_banned_user_says_late_is_soft_failed(alice: User, remote: RemoteServer, room_id: str) -> None:
    old = remote.tips()
    banned = set_state(alice, room_id, "m.room.member", {"membership": "ban"}, CAROL)
    assert banned.status == 200
    late = remote.say(CAROL, "I was first", prev=old)
    (outcome,) = remote.receive(late)
    assert (outcome.verdict, outcome.rule) == (Verdict.SOFT_FAILED, "R6")
    assert texts(messages(alice, room_id).json["chunk"]) == []
    assert event(alice, room_id, late.event_id).status == 404
    assert head_of(room_id).extremities == [banned.json["event_id"]]
    # Whoever refers to it brings the branch into the room; the event itself stays hidden.
    heads = [banned.json["event_id"], late.event_id]
    dave = "@dave:remote.test"
    remote.accepted(remote.join(dave, prev=heads))
    assert state_of(room_id)["m.room.member", CAROL] == banned.json["event_id"]
    assert texts(messages(alice, room_id).json["chunk"]) == []


def test_an_event_that_only_a_soft_failed_one_hides_behind_ends_its_extremity(
    alice: User, remote: RemoteServer, room_id: str
) -> None:
    (tip,) = remote.tips()
    (mine,) = say(alice, room_id, "mine")
    set_state(alice, room_id, "m.room.member", {"membership": "ban"}, CAROL)
    late = remote.say(CAROL, "late", prev=[tip])
    remote.receive(late)
    eve = remote.join("@eve:remote.test", prev=[late.event_id])
    remote.accepted(eve)
    assert set(head_of(room_id).extremities) >= {eve.event_id}
    assert late.event_id not in head_of(room_id).extremities
    assert mine not in head_of(room_id).extremities


def test_a_fork_of_messages_keeps_both_ends_and_a_local_event_joins_them(
    alice: User, remote: RemoteServer, room_id: str
) -> None:
    (tip,) = remote.tips()
    one, two = remote.say(CAROL, "one", prev=[tip]), remote.say(CAROL, "two", prev=[tip])
    remote.accepted(one, two)
    assert head_of(room_id).extremities == [one.event_id, two.event_id]
    (joined,) = say(alice, room_id, "three")
    assert head_of(room_id).extremities == [joined]
    assert set(read_places([joined])[joined].prev) == {one.event_id, two.event_id}


def test_a_local_event_refers_to_twenty_extremities_and_leaves_the_others(
    alice: User, remote: RemoteServer, room_id: str
) -> None:
    (tip,) = remote.tips()
    forks = [remote.say(CAROL, str(number), prev=[tip]) for number in range(23)]
    remote.accepted(*forks)
    (mine,) = say(alice, room_id, "mine")
    assert list(read_places([mine])[mine].prev) == [fork.event_id for fork in forks[3:]]
    assert head_of(room_id).extremities == [*(fork.event_id for fork in forks[:3]), mine]
    (last,) = say(alice, room_id, "last")
    assert head_of(room_id).extremities == [last]


def test_two_changes_of_one_key_in_a_fork_resolve_to_the_later_one(
    alice: User, remote: RemoteServer, room_id: str
) -> None:
    power = remote.power(alice.user_id, {CAROL: 50})
    # Alice's server would have made it; here the other server delivers it, as after a backup was restored.
    remote.accepted(power)
    (tip,) = remote.tips()
    early, late = remote.topic(CAROL, "early", prev=[tip]), remote.topic(CAROL, "late", prev=[tip])
    remote.accepted(late, early)
    assert state_of(room_id)["m.room.topic", ""] == late.event_id
    assert state(alice, room_id, "m.room.topic").json == {"topic": "late"}
    head = head_of(room_id)
    assert (head.rows_root, set(head.extremities)) == (head.root, {early.event_id, late.event_id})
    assert set_state(alice, room_id, "m.room.topic", {"topic": "last"}).status == 200
    assert state(alice, room_id, "m.room.topic").json == {"topic": "last"}
    fetched = Head.fetch(room_id, HEAD)
    assert fetched is not None
    assert len(fetched.extremities) == 1
