"""Receipts and typing users of this server, as other servers are told of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from functions.ephemeral import mark_read, say_in_thread, type_in
from functions.federating import LOOPBACK
from functions.harness import User
from functions.rooms import say
from functions.sending import Outbox, Receiver, shared_room
from homeserver.observability import metered
from homeserver.services import outbound_route, outgoing_edus
from homeserver.storage.ephemeral import EPHEMERAL, EphemeralItem, Receipt, Typer, parse, store

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture
def outbox(server: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Outbox:
    server(**LOOPBACK)
    return Outbox(monkeypatch)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path) as running:
        yield running


def flow(outbox: Outbox, room_id: str) -> None:
    outbox.route(room_id)
    outbox.send()


def test_a_public_receipt_goes_to_the_other_servers_and_a_private_one_to_nobody(
    outbox: Outbox, alice: User, bob: User, peer: Receiver
) -> None:
    from functions.rooms import post

    room_id, _ = shared_room(outbox, alice, peer)
    assert post(bob, room_id, "join").status == 200
    (event_id,) = say(alice, room_id, "hello")
    outbox.flow()
    mark_read(bob, room_id, event_id, "m.read.private")
    flow(outbox, room_id)
    assert peer.edus("m.receipt") == []
    mark_read(bob, room_id, event_id)
    flow(outbox, room_id)
    (content,) = peer.edus("m.receipt")
    data = content[room_id]["m.read"][bob.user_id]["data"]
    assert content == {room_id: {"m.read": {bob.user_id: {"data": data, "event_ids": [event_id]}}}}
    assert set(data) == {"ts"}
    assert peer.transactions()[-1]["pdus"] == []
    flow(outbox, room_id)
    assert len(peer.edus("m.receipt")) == 1


def test_threaded_receipts_of_one_user_go_out_each_in_an_edu_of_its_own(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    (root,) = say(alice, room_id, "root")
    reply = say_in_thread(alice, room_id, root, "reply")
    mark_read(alice, room_id, root, thread="main")
    mark_read(alice, room_id, reply, thread=root)
    outbox.flow()
    told = [content[room_id]["m.read"][alice.user_id] for content in peer.edus("m.receipt")]
    assert [(t["event_ids"], t["data"]["thread_id"]) for t in told] == [([root], "main"), ([reply], root)]


def test_receipts_ride_along_with_events_in_one_transaction(outbox: Outbox, alice: User, peer: Receiver) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    (event_id,) = say(alice, room_id, "hello")
    mark_read(alice, room_id, event_id)
    outbox.flow()
    (transaction,) = peer.transactions()
    assert (len(transaction["pdus"]), len(transaction["edus"])) == (1, 1)


def test_typing_is_told_when_it_begins_and_when_it_ends(outbox: Outbox, alice: User, peer: Receiver) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    type_in(alice, room_id, timeout=30_000)
    flow(outbox, room_id)
    flow(outbox, room_id)
    type_in(alice, room_id, typing=False)
    flow(outbox, room_id)
    type_in(alice, room_id, timeout=30_000)
    flow(outbox, room_id)
    assert peer.edus("m.typing") == [
        {"room_id": room_id, "user_id": alice.user_id, "typing": typing} for typing in (True, False, True)
    ]
    assert len(peer.transactions()) == 3


def test_who_types_on_is_told_of_again_after_a_while(
    outbox: Outbox, alice: User, peer: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    type_in(alice, room_id, timeout=30_000)
    flow(outbox, room_id)
    monkeypatch.setattr(outgoing_edus, "TYPING_AGAIN_MS", 0)
    flow(outbox, room_id)
    assert [edu["typing"] for edu in peer.edus("m.typing")] == [True, True]
    assert len(peer.transactions()) == 2  # the same content at another time is another transaction


def test_nothing_of_users_of_other_servers_is_told(outbox: Outbox, alice: User, peer: Receiver) -> None:
    room_id, remotes = shared_room(outbox, alice, peer)
    (event_id,) = say(alice, room_id, "hello")
    outbox.flow()
    carol = remotes[peer.name].user("carol")
    before = parse(room_id, EphemeralItem.fetch(room_id, EPHEMERAL))
    after = before.with_receipt(Receipt(carol, "m.read", "", event_id, 1, 1))
    assert store(before, after.with_typing([Typer(carol, 1 << 50)], announced=True))
    flow(outbox, room_id)
    assert peer.edus("m.receipt") == peer.edus("m.typing") == []


def test_in_a_room_with_many_servers_receipts_alone_go_out_at_intervals_and_with_events_at_once(
    outbox: Outbox, alice: User, peer: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound_route, "SERVERS_AT_ONCE", 0)
    monkeypatch.setattr(outbound_route, "MS_PER_SERVER", 3_600_000)
    room_id, _ = shared_room(outbox, alice, peer)
    one, two = say(alice, room_id, "one", "two")
    outbox.flow()
    mark_read(alice, room_id, one)
    flow(outbox, room_id)
    assert len(peer.edus("m.receipt")) == 1  # the first for an hour
    mark_read(alice, room_id, two)
    with metered() as meter:
        flow(outbox, room_id)
    assert len(peer.edus("m.receipt")) == 1
    assert meter.wru == 0
    say(alice, room_id, "three")
    flow(outbox, room_id)
    assert [c[room_id]["m.read"][alice.user_id]["event_ids"] for c in peer.edus("m.receipt")] == [[one], [two]]


def test_who_catches_up_is_told_the_current_receipts_and_of_nobody_who_typed(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    peer.fails()
    one, two = say(alice, room_id, "one", "two")
    mark_read(alice, room_id, one)
    type_in(alice, room_id, timeout=30_000)
    outbox.flow()
    mark_read(alice, room_id, two)
    flow(outbox, room_id)
    peer.fails(None)
    outbox.fire(peer.name)
    outbox.send()
    assert peer.bodies() == ["one", "two"]
    assert [c[room_id]["m.read"][alice.user_id]["event_ids"] for c in peer.edus("m.receipt")] == [[two]]
    assert peer.edus("m.typing") == []


def test_a_receipt_that_alone_was_not_sent_is_told_when_the_server_answers_again(
    outbox: Outbox, alice: User, peer: Receiver
) -> None:
    room_id, _ = shared_room(outbox, alice, peer)
    (event_id,) = say(alice, room_id, "one")
    outbox.flow()
    peer.fails()
    mark_read(alice, room_id, event_id)
    flow(outbox, room_id)
    peer.fails(None)
    outbox.fire(peer.name)
    outbox.send()
    assert len(peer.edus("m.receipt")) == 1
    assert peer.bodies() == ["one"]
