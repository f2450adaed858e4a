"""Redactions from other servers: before and after what they redact, with and without the right to."""

import pytest

from functions.harness import User
from functions.remote_server import RemoteServer, head_of, rows_of, state_of
from functions.rooms import create_room, event, follow, messages, post, say, set_state, state, texts
from functions.syncing import Device, ids
from homeserver.matrix.event import Event
from homeserver.services.receive_events import Verdict
from homeserver.storage.room_items import EventRecord

pytestmark = pytest.mark.usefixtures("set_up")
CAROL, DAVE = "@carol:remote.test", "@dave:remote.test"


@pytest.fixture(params=["11", "6", "1"])
def remote(alice: User, request: pytest.FixtureRequest) -> RemoteServer:
    """Carol has 50, Dave nothing."""
    room_id = create_room(alice, preset="public_chat", room_version=request.param)
    server = RemoteServer(room_id)
    server.accepted(server.join(CAROL), server.join(DAVE))
    server.accepted(server.power(alice.user_id, {CAROL: 50}))
    return server


def redaction(remote: RemoteServer, sender: str, target: str, prev: list[str] | None = None) -> Event:
    return remote.make("m.room.redaction", {"reason": "spam"}, sender, redacts=target, prev=prev)


def types(user: User, room_id: str) -> list[str]:
    return [found["type"] for found in messages(user, room_id, dir="f").json["chunk"]]


def test_a_message_is_redacted_in_every_copy(alice: User, remote: RemoteServer) -> None:
    room_id = remote.room_id
    message = remote.say(DAVE, "secret")
    remote.accepted(message)
    follow()
    phone = Device(alice)
    phone.sync()
    pruning = redaction(remote, CAROL, message.event_id)
    remote.accepted(pruning)
    shown = event(alice, room_id, message.event_id).json
    assert shown["content"] == {}
    assert shown["unsigned"]["redacted_because"]["event_id"] == pruning.event_id
    follow()
    assert pruning.event_id in ids(phone.sync()["rooms"]["join"][room_id]["timeline"]["events"])
    assert head_of(room_id).redaction_position == head_of(room_id).position


def test_the_current_state_is_redacted_in_its_row_too(alice: User, remote: RemoteServer) -> None:
    topic = remote.topic(CAROL, "secret")
    remote.accepted(topic)
    assert state(alice, remote.room_id, "m.room.topic").json == {"topic": "secret"}
    remote.accepted(redaction(remote, CAROL, topic.event_id))
    assert state(alice, remote.room_id, "m.room.topic").json == {}
    assert rows_of(remote.room_id) == state_of(remote.room_id)
    assert set_state(alice, remote.room_id, "m.room.topic", {"topic": "new"}).status == 200
    newest = messages(alice, remote.room_id, limit=1).json["chunk"][0]
    assert "secret" not in str(newest)


def test_without_the_right_to_it_a_redaction_redacts_nothing_and_is_not_shown(
    alice: User, remote: RemoteServer
) -> None:
    room_id = remote.room_id
    (mine,) = say(alice, room_id, "mine")
    pruning = redaction(remote, DAVE, mine)
    (outcome,) = remote.receive(pruning)
    if remote.rules.redaction_is_auth_rule:
        assert (outcome.verdict, outcome.rule) == (Verdict.REJECTED, "R11")
    else:
        assert outcome.verdict is Verdict.ACCEPTED
        assert head_of(room_id).extremities == [pruning.event_id]
    assert event(alice, room_id, mine).json["content"]["body"] == "mine"
    assert event(alice, room_id, pruning.event_id).status == 404
    assert "m.room.redaction" not in types(alice, room_id)


def test_a_redaction_that_comes_first_waits_and_is_shown_with_its_target(alice: User, remote: RemoteServer) -> None:
    room_id, tip = remote.room_id, remote.tips()
    message = remote.say(DAVE, "secret", prev=tip)
    pruning = redaction(remote, CAROL, message.event_id, prev=tip)
    remote.accepted(pruning)
    assert "m.room.redaction" not in types(alice, room_id)
    follow()
    phone = Device(alice)
    phone.sync()
    assert pruning.event_id not in phone.timelines[room_id]
    remote.accepted(message)
    shown = event(alice, room_id, message.event_id).json
    assert shown["content"] == {}
    assert shown["unsigned"]["redacted_because"]["event_id"] == pruning.event_id
    assert types(alice, room_id)[-2:] == ["m.room.redaction", "m.room.message"]
    follow()
    told = phone.sync()["rooms"]["join"][room_id]["timeline"]["events"]
    assert [found["content"] for found in told] == [{}]
    record = EventRecord.fetch(pruning.event_id)
    assert record is not None
    assert record.flags is None


def test_a_state_event_whose_redaction_came_first_is_stored_as_it_is_left(alice: User, remote: RemoteServer) -> None:
    room_id, tip = remote.room_id, remote.tips()
    topic = remote.topic(CAROL, "secret", prev=tip)
    remote.accepted(redaction(remote, CAROL, topic.event_id, prev=tip))
    remote.accepted(topic)
    assert state(alice, room_id, "m.room.topic").json == {}
    assert state_of(room_id)["m.room.topic", ""] == topic.event_id
    record = EventRecord.fetch(topic.event_id)
    assert record is not None
    assert b"secret" not in str(event(alice, room_id, topic.event_id).json).encode()


def test_of_the_redactions_that_wait_only_one_with_the_right_to_it_counts(alice: User, remote: RemoteServer) -> None:
    if remote.rules.redaction_is_auth_rule:
        pytest.skip("room versions 1 and 2 ask for the right when the redaction comes")
    room_id, tip = remote.room_id, remote.tips()
    message = remote.say(alice.user_id, "secret", prev=tip)
    refused = redaction(remote, DAVE, message.event_id, prev=tip)
    allowed = redaction(remote, CAROL, message.event_id, prev=[refused.event_id])
    assert {outcome.verdict for outcome in remote.receive(refused, allowed)} == {Verdict.ACCEPTED}
    (outcome,) = remote.receive(message)
    assert outcome.verdict is Verdict.ACCEPTED
    shown = event(alice, room_id, message.event_id).json
    # Alice and Dave are of the same server by their signatures' names only where their domains are.
    assert shown["unsigned"]["redacted_because"]["event_id"] == allowed.event_id
    assert event(alice, room_id, refused.event_id).status == 404


def test_target_and_redaction_in_one_batch_in_any_order(alice: User, remote: RemoteServer) -> None:
    room_id, tip = remote.room_id, remote.tips()
    message = remote.say(DAVE, "one", prev=tip)
    other = remote.say(DAVE, "two", prev=tip)
    first = redaction(remote, CAROL, message.event_id, prev=[message.event_id])
    second = redaction(remote, CAROL, other.event_id, prev=[first.event_id])
    assert {outcome.verdict for outcome in remote.receive(second, first, message, other)} == {Verdict.ACCEPTED}
    for target in (message, other):
        assert event(alice, room_id, target.event_id).json["content"] == {}
    assert texts(messages(alice, room_id).json["chunk"]) == [None, None]


def test_what_was_soft_failed_can_be_redacted(alice: User, remote: RemoteServer) -> None:
    room_id, tip = remote.room_id, remote.tips()
    assert post(alice, room_id, "ban", {"user_id": DAVE}).status == 200
    late = remote.make("m.test", {"secret": 1}, CAROL, state_key="", prev=tip)
    assert set_state(alice, room_id, "m.test.other", {}).status == 200
    remote.accepted(late)
    message = remote.say(DAVE, "secret", prev=tip)
    (outcome,) = remote.receive(message)
    assert outcome.verdict is Verdict.SOFT_FAILED
    remote.accepted(redaction(remote, CAROL, message.event_id))
    record = EventRecord.fetch(message.event_id)
    assert record is not None
    assert record.flags == "s"
    from homeserver.matrix.event_codec import unpack

    assert unpack(record.packed)["content"] == {}


def test_reactions_and_edits_from_elsewhere_are_aggregated(alice: User, remote: RemoteServer) -> None:
    room_id = remote.room_id
    (mine,) = say(alice, room_id, "mine")
    message = remote.say(CAROL, "teh")
    edit = remote.make(
        "m.room.message",
        {
            "msgtype": "m.text",
            "body": "* the",
            "m.new_content": {"msgtype": "m.text", "body": "the"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": message.event_id},
        },
        CAROL,
        prev=[message.event_id],
    )
    reference = {"m.relates_to": {"rel_type": "m.reference", "event_id": mine}}
    verification = remote.make("m.room.message", reference, CAROL, prev=[edit.event_id])
    remote.receive(message, edit, verification)
    shown = event(alice, room_id, message.event_id).json
    assert shown["unsigned"]["m.relations"]["m.replace"]["event_id"] == edit.event_id
    shown = event(alice, room_id, mine).json
    assert shown["unsigned"]["m.relations"]["m.reference"]["chunk"] == [{"event_id": verification.event_id}]
