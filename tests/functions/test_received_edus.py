"""EDUs of other servers: what clients are shown, what is kept for later, and what is dropped."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from federation_peer import Peer
from functions.ephemeral import announced, item_of, mark_read, news, receipts_in, type_in, typing_in
from functions.federating import LOOPBACK
from functions.harness import User, register
from functions.remote_server import KEY, RemoteServer
from functions.rooms import create_room, follow, post, say, set_state
from functions.transactions import (
    Elsewhere,
    Federated,
    Inbound,
    cut_off,
    edu,
    pdu_of,
    points_of,
    send,
    staged_keys,
)
from homeserver.services import fanout, received_edus
from homeserver.storage.connection import StoreConnection
from homeserver.storage.room_items import EventRecord


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK)
    with Peer(tmp_path, key=KEY) as running:
        yield running


@pytest.fixture
def room_id(alice: User, inbound: Inbound, elsewhere: Elsewhere) -> str:
    return create_room(alice, preset="public_chat", room_version="11")


@pytest.fixture
def remote(room_id: str, peer: Peer) -> RemoteServer:
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("carol")), remote.join(remote.user("dave")))
    return remote


def typing(room_id: str, user_id: str, is_typing: Any = True) -> dict[str, Any]:
    return edu("m.typing", room_id=room_id, user_id=user_id, typing=is_typing)


def receipt(room_id: str, user_id: str, event_id: str, ts: int = 1_700_000_000_000, **data: Any) -> dict[str, Any]:
    one = {user_id: {"event_ids": [event_id], "data": {"ts": ts, **data}}}
    return {"edu_type": "m.receipt", "content": {room_id: {"m.read": one}}}


# ── Typing ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_of_another_server_types_and_stops(
    checked, peer: Peer, alice: User, room_id: str, remote: RemoteServer
) -> None:
    carol = remote.user("carol")
    assert send(checked, peer, "t1", edus=[typing(room_id, carol)]).json == {"pdus": {}}
    assert typing_in(news(alice, room_id)) == [carol]
    assert announced(alice, room_id) == item_of(room_id).number == 1
    send(checked, peer, "t2", edus=[typing(room_id, carol, is_typing=False)])
    assert typing_in(news(alice, room_id, told=1)) == []
    assert announced(alice, room_id) == 2


def test_a_user_types_for_a_minute_unless_it_is_said_again_which_is_not_announced_again(
    call, peer: Peer, alice: User, room_id: str, remote: RemoteServer
) -> None:
    carol = remote.user("carol")
    send(call, peer, "t1", edus=[typing(room_id, carol)])
    (typer,) = item_of(room_id).typing
    found = news(alice, room_id)
    assert 50_000 < found.typing_until - typer.until + 60_000 <= 60_000
    version = item_of(room_id).version
    send(call, peer, "t2", edus=[typing(room_id, carol)])
    assert (item_of(room_id).version, item_of(room_id).number) == (version, 1)  # it is only a moment later


def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The writes from now on."""
    writes: list[str] = []
    dispatch = StoreConnection._make_api_call

    def noted(self: StoreConnection, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if operation in {"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"}:
            writes.append(operation)
        return dispatch(self, operation, request)

    monkeypatch.setattr(StoreConnection, "_make_api_call", noted)
    return writes


def test_all_that_a_transaction_says_of_a_room_is_one_write_and_one_announcement(
    call, fed: Federated, alice: User, monkeypatch
) -> None:
    carol, dave = fed.remote.user("carol"), fed.remote.user("dave")
    first, second = say(alice, fed.room_id, "one", "two")
    send(call, fed.peer, "t0")
    edus = [
        typing(fed.room_id, carol),
        receipt(fed.room_id, dave, first),
        receipt(fed.room_id, dave, second),
        typing(fed.room_id, dave),
    ]
    writes = written(monkeypatch)
    send(call, fed.peer, "t1", edus=edus)
    assert item_of(fed.room_id).version == 1
    assert typing_in(news(alice, fed.room_id)) == sorted([carol, dave])
    assert receipts_in(news(alice, fed.room_id)) == {(dave, "m.read", ""): second}
    assert announced(alice, fed.room_id) == item_of(fed.room_id).number
    # The room's item, alice's slot, the ledger.
    assert writes == ["UpdateItem", "UpdateItem", "PutItem"]


def test_typing_in_a_room_of_many_local_members_goes_through_the_fanout_queue(
    call, fed: Federated, alice: User, monkeypatch
) -> None:
    bob = register("bob")
    assert post(bob, fed.room_id, "join").status == 200
    parts: list[dict[str, Any]] = []
    monkeypatch.setattr(fanout, "MEMBERS_AT_ONCE", 1)
    monkeypatch.setattr(fanout, "send_json", lambda _variable, part: parts.append(part))
    send(call, fed.peer, "t1", edus=[typing(fed.room_id, fed.remote.user("carol"))])
    assert [[user for user, _ in part["slots"]] for part in parts] == [[bob.user_id]]
    assert announced(alice, fed.room_id) == 1  # the witness, who is told last
    assert announced(bob, fed.room_id) == 0


# ── Receipts ────────────────────────────────────────────────────────────────────────────────────────


def test_a_receipt_of_another_server_is_shown_with_its_thread_and_only_moves_forward(
    checked, peer: Peer, alice: User, room_id: str, remote: RemoteServer
) -> None:
    carol = remote.user("carol")
    first, second = say(alice, room_id, "one", "two")
    send(checked, peer, "t1", edus=[receipt(room_id, carol, second)])
    send(checked, peer, "t2", edus=[receipt(room_id, carol, first)])
    send(checked, peer, "t3", edus=[receipt(room_id, carol, first, thread_id="main")])
    send(checked, peer, "t4", edus=[receipt(room_id, carol, second, thread_id=first)])
    assert receipts_in(news(alice, room_id)) == {
        (carol, "m.read", ""): second,
        (carol, "m.read", "main"): first,
        (carol, "m.read", first): second,
    }
    (event,) = [e for e in news(alice, room_id).events if e["type"] == "m.receipt"][:1]
    assert event["content"][second]["m.read"][carol] == {"ts": 1_700_000_000_000}
    assert announced(alice, room_id) == 3


def test_a_receipt_for_an_event_that_comes_with_it_waits_for_the_event(call, fed: Federated, alice: User) -> None:
    carol, dave = fed.remote.user("carol"), fed.remote.user("dave")
    event = fed.remote.say(carol, "read me")
    send(call, fed.peer, "t1", [pdu_of(event)], [receipt(fed.room_id, dave, event.event_id)])
    assert staged_keys(fed.room_id) == ["late", "pdu"]
    assert receipts_in(news(alice, fed.room_id)) == {}
    fed.inbound.work()
    assert receipts_in(news(alice, fed.room_id)) == {(dave, "m.read", ""): event.event_id}
    assert announced(alice, fed.room_id) == 1
    assert staged_keys(fed.room_id) == []


def test_a_receipt_for_an_event_that_never_comes_is_dropped(call, fed: Federated, alice: User) -> None:
    send(call, fed.peer, "t1", edus=[receipt(fed.room_id, fed.remote.user("carol"), "$" + "a" * 43)])
    assert staged_keys(fed.room_id) == ["late"]
    fed.inbound.work()
    assert staged_keys(fed.room_id) == []
    assert receipts_in(news(alice, fed.room_id)) == {}


def test_receipts_of_many_users_push_each_other_out_of_the_item_and_are_all_kept(
    call, peer: Peer, alice: User, room_id: str, remote: RemoteServer
) -> None:
    users = [remote.user(f"user{number}") for number in range(12)]
    remote.accepted(*(remote.join(user) for user in users))
    (event_id,) = say(alice, room_id, "hello")
    send(call, peer, "t1", edus=[receipt(room_id, user, event_id) for user in users])
    expected = {(user, "m.read", ""): event_id for user in users}
    assert receipts_in(news(alice, room_id)) == expected
    version = item_of(room_id).version
    send(call, peer, "t2", edus=[receipt(room_id, user, event_id) for user in users])
    assert item_of(room_id).version == version
    assert receipts_in(news(alice, room_id)) == expected


def test_a_receipt_from_the_future_is_from_now(call, peer: Peer, alice: User, room_id: str, remote) -> None:
    (event_id,) = say(alice, room_id, "hello")
    send(call, peer, "t1", edus=[receipt(room_id, remote.user("carol"), event_id, ts=2**50)])
    (stored,) = item_of(room_id).receipts
    assert 1_700_000_000_000 < stored.ts < 2**42


def test_other_servers_and_local_users_write_the_same_item_and_neither_loses_anything(
    call, peer: Peer, alice: User, room_id: str, remote: RemoteServer
) -> None:
    carol = remote.user("carol")
    (event_id,) = say(alice, room_id, "hello")
    assert mark_read(alice, room_id, event_id).status == 200
    send(call, peer, "t1", edus=[receipt(room_id, carol, event_id), typing(room_id, carol)])
    assert type_in(alice, room_id).status == 200
    assert receipts_in(news(alice, room_id)) == {
        (carol, "m.read", ""): event_id,
        (alice.user_id, "m.read", ""): event_id,
    }
    assert typing_in(news(alice, room_id)) == sorted([alice.user_id, carol])


# ── Who may say what ────────────────────────────────────────────────────────────────────────────────


def test_typing_and_receipts_of_users_of_others_or_who_are_not_joined_are_dropped(
    call, fed: Federated, alice: User, caplog
) -> None:
    (event_id,) = say(alice, fed.room_id, "hello")
    fed.remote.accepted(fed.remote.member(fed.remote.user("dave"), "leave", fed.remote.user("dave")))
    strangers = [
        alice.user_id,
        "@carol:other.test",
        fed.remote.user("stranger"),
        fed.remote.user("dave"),
        "carol",
        None,
        5,
    ]
    with caplog.at_level("INFO", "eigenserver"):
        send(call, fed.peer, "t1", edus=[typing(fed.room_id, user) for user in strangers])  # type: ignore[arg-type]
        send(call, fed.peer, "t2", edus=[receipt(fed.room_id, str(user), event_id) for user in strangers])
    assert news(alice, fed.room_id).events == []
    assert item_of(fed.room_id).version == 0
    assert "is no user of" in caplog.text
    assert "not joined" in caplog.text


def test_a_server_that_the_rooms_acl_bans_shows_nothing_in_it(
    call, peer: Peer, alice: User, room_id: str, remote: RemoteServer
) -> None:
    (event_id,) = say(alice, room_id, "hello")
    assert set_state(alice, room_id, "m.room.server_acl", {"allow": ["*.test"]}).status == 200
    carol = remote.user("carol")
    send(call, peer, "t1", edus=[typing(room_id, carol), receipt(room_id, carol, event_id)])
    assert news(alice, room_id).events == []
    assert item_of(room_id).version == 0


@pytest.mark.parametrize(
    "wrong",
    [
        None, "text", 5, [], {}, {"edu_type": "m.typing"}, {"edu_type": 5, "content": {}},
        {"edu_type": "m.unheard_of", "content": {"any": "thing"}}, {"edu_type": "m.typing", "content": []},
        {"edu_type": "m.receipt", "content": {"!r:x": []}}, {"edu_type": "m.receipt", "content": {"no room": {}}},
        {"edu_type": "m.presence", "content": {}}, {"edu_type": "m.presence", "content": {"push": [5, {}]}},
        {"edu_type": "m.direct_to_device", "content": {}}, {"edu_type": "m.device_list_update", "content": {}},
        {"edu_type": "m.signing_key_update", "content": {}}, {"edu_type": "m.presence_invite", "content": {}},
    ],
)  # fmt: skip
def test_an_edu_that_is_unknown_or_wrong_stops_no_other(call, fed: Federated, alice: User, wrong: Any) -> None:
    carol = fed.remote.user("carol")
    assert send(call, fed.peer, "t1", edus=[wrong, typing(fed.room_id, carol)]).status == 200
    assert typing_in(news(alice, fed.room_id)) == [carol]


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_ids": []}, {"event_ids": "x"}, {"event_ids": ["x"]}, {"event_ids": [5]}, {}, [], "x",
        {"event_ids": ["$" + "a" * 43], "data": []}, {"event_ids": ["$" + "a" * 43], "data": {"thread_id": "no"}},
        {"event_ids": ["$" + "a" * 43], "data": {"thread_id": 5}},
    ],
)  # fmt: skip
def test_a_wrong_receipt_stops_no_other(call, fed: Federated, alice: User, wrong: Any) -> None:
    (event_id,) = say(alice, fed.room_id, "hello")
    carol, dave = fed.remote.user("carol"), fed.remote.user("dave")
    content = {fed.room_id: {"m.read": {carol: wrong, dave: {"event_ids": [event_id], "data": {}}}}}
    assert send(call, fed.peer, "t1", edus=[{"edu_type": "m.receipt", "content": content}]).status == 200
    assert receipts_in(news(alice, fed.room_id)) == {(dave, "m.read", ""): event_id}


def test_private_receipts_and_other_kinds_are_not_taken_from_other_servers(
    call, peer: Peer, alice: User, room_id: str, remote: RemoteServer
) -> None:
    (event_id,) = say(alice, room_id, "hello")
    one = {remote.user("carol"): {"event_ids": [event_id], "data": {"ts": 1}}}
    content = {room_id: {"m.read.private": one, "m.fully_read": one}}
    send(call, peer, "t1", edus=[{"edu_type": "m.receipt", "content": content}])
    assert item_of(room_id).version == 0


def test_receipts_beyond_a_number_are_dropped(call, fed: Federated, alice: User, monkeypatch) -> None:
    monkeypatch.setattr(received_edus, "MOST_RECEIPTS", 1)
    (event_id,) = say(alice, fed.room_id, "hello")
    users = [fed.remote.user("carol"), fed.remote.user("dave")]
    send(call, fed.peer, "t1", edus=[receipt(fed.room_id, user, event_id) for user in users])
    assert receipts_in(news(alice, fed.room_id)) == {(users[0], "m.read", ""): event_id}


# ── Crashes ─────────────────────────────────────────────────────────────────────────────────────────


def test_edus_whose_receiver_is_stopped_anywhere_are_shown_once_they_come_again(
    call, fed: Federated, alice: User
) -> None:
    bob = register("bob")
    assert post(bob, fed.room_id, "join").status == 200
    follow()
    carol, dave = fed.remote.user("carol"), fed.remote.user("dave")

    def transaction(name: str) -> tuple[Callable[[], Any], str, str]:
        (known,) = say(alice, fed.room_id, name)
        event = fed.remote.say(carol, f"{name}!")
        edus = [receipt(fed.room_id, carol, known), receipt(fed.room_id, dave, event.event_id)]
        return lambda: send(call, fed.peer, name.replace(".", "-"), [pdu_of(event)], edus), known, event.event_id

    work, _, _ = transaction("probe")
    points = points_of(work)
    fed.inbound.work()
    assert {"remote_ephemeral.stored", "ephemeral.before_inboxes", "edus.stored", "edus.staged"} <= set(points)
    for point in dict.fromkeys(points):
        work, known, event_id = transaction(point)
        cut_off(point, work)
        fed.inbound.work()
        assert work().status == 200
        fed.inbound.work()
        for user in (alice, bob):
            assert receipts_in(news(user, fed.room_id)) == {
                (carol, "m.read", ""): known,
                (dave, "m.read", ""): event_id,
            }, point
            assert announced(user, fed.room_id) == item_of(fed.room_id).announced, point
        assert staged_keys(fed.room_id) == []


def test_a_refused_event_is_nowhere_that_one_can_have_read(
    call, peer: Peer, alice: User, room_id: str, remote: RemoteServer
) -> None:
    refused = remote.topic(remote.user("carol"), "not mine to change")
    remote.receive(refused)
    record = EventRecord.fetch(refused.event_id)
    assert record is not None
    assert record.flags == "r"
    send(call, peer, "t1", edus=[receipt(room_id, remote.user("dave"), refused.event_id)])
    assert item_of(room_id).version == 0
