"""What goes to which servers: the outbound router and the sender together, on peers over TLS."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from functions.federating import LOOPBACK
from functions.harness import User, payload
from functions.remote_server import RemoteServer, head_of
from functions.rooms import create_room, post, redact, say, set_state
from functions.sending import Outbox, Receiver, shared_room
from homeserver.observability import metered
from homeserver.services.outbound_route import route_room
from homeserver.storage.outbound import OUTBOUND_CURSOR, OutboundCursor

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture
def outbox(server: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Outbox:
    server(**LOOPBACK)
    return Outbox(monkeypatch)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path) as running:
        yield running


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path) as running:
        yield running


def cursor_of(room_id: str) -> int:
    cursor = OutboundCursor.fetch(room_id, OUTBOUND_CURSOR)
    return int(cursor.position) if cursor is not None else 0


def test_a_message_goes_to_each_of_the_other_servers_signed_as_it_was_made(
    outbox: Outbox, alice: User, peer: Receiver, other: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer, other)
    (event_id,) = say(alice, room_id, "hello")
    outbox.flow()
    for receiver in (peer, other):
        (pdu,) = [pdu for pdu in receiver.pdus() if pdu["type"] == "m.room.message"]
        assert (pdu["sender"], pdu["content"]["body"]) == (alice.user_id, "hello")
        assert set(pdu["signatures"]) == {"example.org"}
        assert "unsigned" not in pdu
        assert "event_id" not in pdu
        transaction = receiver.transactions()[-1]
        assert transaction["origin"] == "example.org"
        assert set(transaction) == {"origin", "origin_server_ts", "pdus"}
    assert cursor_of(room_id) == int(head_of(room_id).position)
    assert event_id not in json.dumps(peer.transactions())  # the ID is a hash of the event


def test_history_before_a_server_joined_is_not_pushed_to_it(
    outbox: Outbox, alice: User, peer: Receiver, other: Receiver
) -> None:
    room_id = create_room(alice, preset="public_chat")
    say(alice, room_id, "before everybody")
    first = RemoteServer(room_id, peer.name)
    first.accepted(first.join(first.user("carol")))
    say(alice, room_id, "between")
    second = RemoteServer(room_id, other.name)
    second.accepted(second.join(second.user("dave")))
    say(alice, room_id, "after")
    outbox.flow()
    assert peer.bodies() == ["between", "after"]
    assert other.bodies() == ["after"]


def test_a_room_that_never_concerned_another_server_is_not_looked_at(outbox: Outbox, alice: User) -> None:
    room_id = create_room(alice, preset="public_chat")
    assert head_of(room_id).federated_since is None
    with metered() as meter:
        route_room(room_id)
    assert (meter.calls, meter.wru) == (1, 0)
    assert outbox.waiting() == []


def test_the_head_says_from_which_commit_on_a_room_concerns_others_and_keeps_it(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id = create_room(alice, preset="public_chat")
    before = int(head_of(room_id).position)
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("carol")))
    assert int(head_of(room_id).federated_since or 0) == before + 1
    remote.accepted(remote.member(remote.user("carol"), "leave", remote.user("carol")))
    assert int(head_of(room_id).remote_servers) == 0
    assert int(head_of(room_id).federated_since or 0) == before + 1


def test_events_of_other_servers_are_not_sent_on_by_this_one(
    outbox: Outbox, alice: User, peer: Receiver, other: Receiver
) -> None:
    _, remotes = shared_room(outbox, alice, peer, other)
    remote = remotes[peer.name]
    remote.accepted(remote.say(remote.user("carol"), "from elsewhere"))
    outbox.flow()
    assert (peer.tries, other.tries) == (0, 0)


def test_a_kick_reaches_the_server_of_who_is_kicked_and_nothing_that_comes_later_does(
    outbox: Outbox, alice: User, peer: Receiver, other: Receiver
) -> None:
    room_id, remotes = shared_room(outbox, alice, peer, other)
    carol = remotes[peer.name].user("carol")
    assert post(alice, room_id, "kick", {"user_id": carol}).status == 200
    say(alice, room_id, "good riddance")
    outbox.flow()
    (kick,) = [pdu for pdu in peer.pdus() if pdu["type"] == "m.room.member"]
    assert (kick["state_key"], kick["content"]["membership"]) == (carol, "leave")
    assert peer.bodies() == []
    assert other.bodies() == ["good riddance"]


def test_a_server_that_left_gets_nothing_after_its_leave_until_it_joins_again(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, remotes = shared_room(outbox, alice, peer)
    remote = remotes[peer.name]
    carol = remote.user("carol")
    say(alice, room_id, "one")
    remote.accepted(remote.member(carol, "leave", carol))
    say(alice, room_id, "two")
    outbox.flow()
    remote.accepted(remote.join(carol))
    say(alice, room_id, "three")
    outbox.flow()
    assert peer.bodies() == ["one", "three"]


def test_taking_back_an_invitation_reaches_a_server_that_is_not_in_the_room(
    outbox: Outbox, alice: User, peer: Receiver, other: Receiver
) -> None:
    room_id, remotes = shared_room(outbox, alice, other)
    guest = f"@guest:{peer.name}"
    invited = remotes[other.name].member(remotes[other.name].user("carol"), "invite", guest)
    remotes[other.name].accepted(invited)
    assert post(alice, room_id, "kick", {"user_id": guest}).status == 200
    say(alice, room_id, "not for the guest")
    outbox.flow()
    assert [(p["type"], p["content"].get("membership")) for p in peer.pdus()] == [("m.room.member", "leave")]
    assert other.bodies() == ["not for the guest"]


def test_turning_down_a_knock_reaches_the_server_of_who_knocked_though_nobody_of_it_ever_joined(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id = create_room(alice, preset="private_chat")
    assert set_state(alice, room_id, "m.room.join_rules", {"join_rule": "knock"}).status == 200
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.member(remote.user("carol"), "knock", remote.user("carol")))
    assert post(alice, room_id, "kick", {"user_id": remote.user("carol")}).status == 200
    outbox.flow()
    assert [pdu["content"]["membership"] for pdu in peer.pdus()] == ["leave"]


def test_what_was_redacted_before_it_was_sent_is_sent_without_its_content(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    (event_id,) = say(alice, room_id, "a secret")
    assert set_state(alice, room_id, "m.room.topic", {"topic": "another secret"}).status == 200
    topic_id = set_state(alice, room_id, "m.room.topic", {"topic": "no secret"}).json["event_id"]
    assert redact(alice, room_id, event_id, "r1").status == 200
    assert redact(alice, room_id, topic_id, "r2").status == 200
    outbox.flow()
    sent = json.dumps(peer.transactions())
    assert "a secret" not in sent
    assert "no secret" not in sent
    assert "redacted_because" not in sent
    assert [pdu["type"] for pdu in peer.pdus()] == [
        "m.room.message",
        "m.room.topic",
        "m.room.topic",
        "m.room.redaction",
        "m.room.redaction",
    ]


def test_of_more_than_a_thousand_positions_the_newest_are_sent(
    outbox: Outbox, alice: User, peer: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeserver.services import outbound_route

    monkeypatch.setattr(outbound_route, "MOST_POSITIONS", 3)
    room_id, _ = shared_room(outbox, alice, peer)
    say(alice, room_id, *"abcdef")
    outbox.flow()
    assert peer.bodies() == ["d", "e", "f"]


def test_messages_of_one_room_that_wait_together_are_one_transaction_and_of_many_a_few(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    rooms = [shared_room(outbox, alice, peer)[0] for _ in range(3)]
    for number in range(4):
        for room_id in rooms:
            say(alice, room_id, f"{number}")
            outbox.route(room_id)
    outbox.send()
    assert [len(transaction["pdus"]) for transaction in peer.transactions()] == [10, 2]
    say(alice, rooms[0], *(f"m{number}" for number in range(60)))
    outbox.flow()
    assert [len(transaction["pdus"]) for transaction in peer.transactions()[2:]] == [50, 10]


def test_servers_whose_rows_come_late_get_everything_since_they_are_there(
    outbox: Outbox, alice: User, peer: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeserver.services import room_changes
    from homeserver.services.rows_follow import follow_rows

    room_id = create_room(alice, preset="public_chat")
    say(alice, room_id, "before")
    remote = RemoteServer(room_id, peer.name)
    with monkeypatch.context() as patch:
        patch.setattr(room_changes, "MOST_ROWS", 0)
        remote.accepted(remote.join(remote.user("carol")))
        say(alice, room_id, "one", "two")
        outbox.flow()
        assert peer.bodies() == []
        say(alice, room_id, "three")
    assert head_of(room_id).rows_root != head_of(room_id).root
    assert follow_rows(room_id)
    outbox.flow()
    assert peer.bodies() == ["one", "two", "three"]


@pytest.mark.parametrize(
    "point",
    [
        "outbound.before_messages",
        "outbound.after_messages",
        "outbound.before_cursor",
        "outbound.after_cursor",
    ],
)
def test_a_router_that_is_cut_off_anywhere_loses_nothing_and_sends_in_order(
    outbox: Outbox, alice: User, peer: Receiver, point: str
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    say(alice, room_id, "one", "two")
    assert outbox.crashing(partial(outbox.route, room_id), point)
    say(alice, room_id, "three")
    outbox.flow()
    assert peer.bodies() == ["one", "two", "three"]
    assert len(peer.pdus()) == 3


def test_a_room_that_cannot_be_routed_is_put_aside_and_the_sweep_worker_repeats_it(
    outbox: Outbox, alice: User, peer: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    bad, _ = shared_room(outbox, alice, peer)
    good, _ = shared_room(outbox, alice, peer)
    say(alice, bad, "late")
    say(alice, good, "in time")

    def refuse(room_id: str) -> None:
        if room_id == bad:
            raise RuntimeError("no")
        route_room(room_id)

    router = import_module("outbound_router.app")
    with monkeypatch.context() as patch:
        patch.setattr(router, "route_room", refuse)
        assert outbox.route(bad, good) == {"batchItemFailures": []}
        outbox.send()
        assert peer.bodies() == ["in time"]
        patch.delenv("FAILED_RECORDS_QUEUE")
        assert outbox.route(bad) == {"batchItemFailures": [{"itemIdentifier": "0"}]}
    (message,) = outbox.sqs.receive_message(QueueUrl=outbox.failed_url)["Messages"]
    (record,) = payload("room_sweep_worker_outbound")["Records"]
    event = {"Records": [{**record, "body": message["Body"]}]}
    assert import_module("room_sweep_worker.app").lambda_handler(event, None) == {"batchItemFailures": []}
    outbox.send()
    assert peer.bodies() == ["in time", "late"]


def test_the_recorded_stream_record_wakes_the_router_and_a_room_that_is_gone_is_no_failure(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    from importlib import import_module

    handler = import_module("outbound_router.app").lambda_handler
    assert handler(payload("outbound_router"), None) == {"batchItemFailures": []}
    room_id, _ = shared_room(outbox, alice, peer)
    say(alice, room_id, "hello")
    event = json.loads(json.dumps(payload("outbound_router")).replace(payload_room(), room_id))
    assert handler(event, None) == {"batchItemFailures": []}
    outbox.send()
    assert peer.bodies() == ["hello"]


def payload_room() -> str:
    room_id: str = payload("outbound_router")["Records"][0]["dynamodb"]["Keys"]["room"]["S"]
    return room_id


def test_the_sweep_routes_what_no_stream_did(outbox: Outbox, alice: User, peer: Receiver) -> None:
    from functions.rooms import follow

    room_id, _ = shared_room(outbox, alice, peer)
    say(alice, room_id, "hello")
    follow()
    outbox.send()
    assert peer.bodies() == ["hello"]


def test_without_federation_nothing_is_sent_and_nothing_is_lost(
    outbox: Outbox, alice: User, peer: Receiver, server: Callable[..., None]
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    server(FEDERATION="off")
    say(alice, room_id, "hello")
    outbox.route(room_id)
    assert outbox.waiting() == []
    server(FEDERATION="on")
    outbox.flow()
    assert peer.bodies() == ["hello"]
