"""Knocking at rooms that this server is not in, through another server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.federating import LOOPBACK
from functions.foreign_room import ForeignRoom
from functions.harness import Answer, User
from functions.membership_work import Worker, crash
from functions.resident_peer import Refusal, ResidentPeer
from functions.rooms import path, post, request
from functions.syncing import sync
from homeserver.adapters.federation_http import close_connections
from homeserver.services import inbound_wakes
from homeserver.services.stub_rooms import record_out_of_band, stub_of
from homeserver.storage.room_items import LocalMember

pytestmark = pytest.mark.usefixtures("set_up")
DEAD = "localhost:1"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker()
    monkeypatch.setattr(inbound_wakes, "send_fifo", worker.take)
    return worker


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None], worker: Worker) -> Iterator[ResidentPeer]:
    server(**LOOPBACK)
    with ResidentPeer(tmp_path) as peer:
        yield peer
        close_connections()


def knock(user: User, room: str, *via: str, **body: Any) -> Answer:
    query = {"via": list(via)}
    return request("client_rooms", "POST", path("knock", room), body, token=user.token, query=query)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def row(user: User, room_id: str) -> str | None:
    found = LocalMember.fetch(room_id, f"local/{user.user_id}")
    return found.membership if found else None


def closed(peer: ResidentPeer, **more: Any) -> ForeignRoom:
    return peer.room(join_rule="knock", **more)


@pytest.mark.parametrize("version", ["7", "9", "10", "11", "12"])
def test_a_knock_reaches_the_room_and_shows_in_sync(alice: User, peer: ResidentPeer, version: str) -> None:
    room = closed(peer, version=version)
    since = sync(alice)["next_batch"]
    assert knock(alice, room.id, peer.name, reason="let me in").json == {"room_id": room.id}
    (sent,) = peer.sent["send_knock"]
    assert sent["content"] == {"membership": "knock", "displayname": "alice", "reason": "let me in"}
    shown = sync(alice, since)["rooms"]["knock"][room.id]["knock_state"]["events"]
    assert [event["content"] for event in shown if event["type"] == "m.room.name"] == [{"name": "Elsewhere"}]
    assert [event["content"]["membership"] for event in shown if event["type"] == "m.room.member"] == ["knock"]
    assert row(alice, room.id) == "knock"


def test_a_knock_that_is_pending_is_not_repeated(alice: User, peer: ResidentPeer) -> None:
    room = closed(peer)
    for _ in range(2):
        assert knock(alice, room.id, peer.name).json == {"room_id": room.id}
    assert len(peer.sent["send_knock"]) == 1


def test_a_room_is_knocked_at_by_its_alias(alice: User, peer: ResidentPeer) -> None:
    room = closed(peer)
    alias = f"#door:{peer.name}"
    peer.aliases[alias] = (room.id, [DEAD, peer.name])
    assert knock(alice, alias).json == {"room_id": room.id}
    assert row(alice, room.id) == "knock"


def test_the_server_in_the_room_id_is_asked_where_nobody_is_named(alice: User, peer: ResidentPeer) -> None:
    room = closed(peer, version="10")
    assert knock(alice, room.id).json == {"room_id": room.id}


def test_a_room_without_a_server_in_its_id_and_nobody_named_is_unknown(alice: User, peer: ResidentPeer) -> None:
    room = closed(peer, version="12")
    assert refusal(knock(alice, room.id)) == (404, "M_NOT_FOUND")
    assert peer.paths() == []


def test_the_next_server_is_asked_where_one_is_dead_or_does_not_know_the_room(
    alice: User, peer: ResidentPeer, tmp_path: Path
) -> None:
    room = closed(peer, version="12")
    with ResidentPeer(tmp_path / "stranger") as stranger:
        assert knock(alice, room.id, DEAD, stranger.name, peer.name).json == {"room_id": room.id}
        assert stranger.count("make_knock") == 1


def test_a_room_that_nobody_may_knock_at_is_refused(alice: User, peer: ResidentPeer) -> None:
    room = peer.room(join_rule="invite")
    assert refusal(knock(alice, room.id, peer.name)) == (403, "M_FORBIDDEN")
    assert row(alice, room.id) is None


def test_a_room_version_without_knocks_is_refused(alice: User, peer: ResidentPeer) -> None:
    room = peer.room(join_rule="public", version="6")
    peer.refuse["make_knock"] = Refusal(400, "M_INCOMPATIBLE_ROOM_VERSION", room_version="6")
    answer = knock(alice, room.id, peer.name)
    assert refusal(answer) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
    assert answer.json["room_version"] == "6"


@pytest.mark.parametrize(
    "twist",
    [
        lambda _: {},
        lambda _: {"knock_room_state": {}},
        lambda answer: [answer],
    ],
)
def test_a_malformed_answer_stores_nothing(alice: User, peer: ResidentPeer, twist: Callable[[Any], Any]) -> None:
    room = closed(peer)
    peer.twist["send_knock"] = twist
    assert refusal(knock(alice, room.id, peer.name)) == (502, "M_UNKNOWN")
    assert row(alice, room.id) is None


def test_what_is_no_state_is_not_shown(alice: User, peer: ResidentPeer) -> None:
    room = closed(peer)
    peer.twist["send_knock"] = lambda answer: {"knock_room_state": [5, "x", {"type": 5}, *answer["knock_room_state"]]}
    assert knock(alice, room.id, peer.name).status == 200
    shown = sync(alice)["rooms"]["knock"][room.id]["knock_state"]["events"]
    assert {event["type"] for event in shown} == {"m.room.create", "m.room.name", "m.room.member"}


def test_a_knock_is_answered_with_an_invitation(alice: User, peer: ResidentPeer) -> None:
    room = closed(peer)
    knock(alice, room.id, peer.name)
    since = sync(alice)["next_batch"]
    assert record_out_of_band(room.invite(alice.user_id), room.stripped(), invite_from=peer.name)
    assert set(sync(alice, since)["rooms"]["invite"]) == {room.id}
    # Who is invited need not knock; the room would refuse it.
    assert refusal(knock(alice, room.id, peer.name)) == (403, "M_FORBIDDEN")


def test_a_knock_is_taken_back(alice: User, peer: ResidentPeer) -> None:
    room = closed(peer)
    knock(alice, room.id, peer.name)
    assert post(alice, room.id, "leave").json == {}
    assert row(alice, room.id) == "leave"
    assert [pdu["content"]["membership"] for pdu in peer.sent["send_leave"]] == ["leave"]


@pytest.mark.parametrize("point", ["membership_job.begun", "remote_knock.signed", "remote_knock.answered"])
def test_a_knock_that_was_cut_off_is_made_in_the_end(
    alice: User, peer: ResidentPeer, worker: Worker, point: str
) -> None:
    room = closed(peer)
    with crash(point):
        assert knock(alice, room.id, peer.name).status == 500
    assert row(alice, room.id) is None
    worker.work()
    assert row(alice, room.id) == "knock"
    assert room.state["m.room.member", alice.user_id].content["membership"] == "knock"


def test_a_knock_that_was_recorded_and_not_reported_is_not_made_twice(
    alice: User, peer: ResidentPeer, worker: Worker
) -> None:
    room = closed(peer)
    with crash("membership_job.performed"):
        knock(alice, room.id, peer.name)
    worker.work()
    assert len(peer.sent["send_knock"]) == 1
    stub = stub_of(room.id, alice.user_id)
    assert stub is not None
    assert (stub.membership, stub.servers) == ("knock", (peer.name,))


def test_a_guest_does_not_knock_elsewhere(peer: ResidentPeer, server: Callable[..., None]) -> None:
    server(GUEST_ACCOUNTS="on")
    room = closed(peer)
    answer = request("client_login", "POST", "/_matrix/client/v3/register", {}, query={"kind": "guest"})
    token = answer.json["access_token"]
    query = {"via": peer.name}
    refused = request("client_rooms", "POST", path("knock", room.id), {}, token=token, query=query)
    assert refusal(refused) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert peer.paths() == []
