"""Rejecting invitations to rooms elsewhere: the other server is told, or at least the user is rid of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from functions.federating import LOOPBACK
from functions.foreign_room import ForeignRoom
from functions.harness import Answer, User, register
from functions.membership_work import Worker, crash
from functions.resident_peer import Refusal, ResidentPeer
from functions.rooms import create_room, make, membership, path, post, request, set_state, state
from functions.syncing import sync
from homeserver.adapters.federation_http import close_connections
from homeserver.services import inbound_wakes, remote_leave
from homeserver.services.membership import leave_all_rooms
from homeserver.services.membership_requests import WAIT_S
from homeserver.services.stub_rooms import record_out_of_band
from homeserver.storage.room_items import LocalMember, Membership

pytestmark = pytest.mark.usefixtures("set_up")
VERSIONS = ["1", "2", "6", "9", "10", "11", "12"]


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


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def invited(user: User, peer: ResidentPeer, **more: str) -> ForeignRoom:
    """A room of the peer that the user is invited to."""
    room = peer.room(**more)
    assert record_out_of_band(room.invite(user.user_id), room.stripped(), invite_from=peer.name)
    return room


def row(user: User, room_id: str) -> str:
    found = LocalMember.fetch(room_id, f"local/{user.user_id}")
    by_user = Membership.fetch(user.user_id, room_id)
    assert found is not None
    assert by_user is not None
    assert (found.membership, found.event_id) == (by_user.membership, by_user.event_id)
    return str(found.membership)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_rejected_invitation_is_told_to_the_room(alice: User, peer: ResidentPeer, version: str) -> None:
    room = invited(alice, peer, version=version)
    since = sync(alice)["next_batch"]
    assert post(alice, room.id, "leave", {"reason": "no time"}).json == {}
    (sent,) = peer.sent["send_leave"]
    assert sent["content"] == {"membership": "leave", "reason": "no time"}
    assert room.state["m.room.member", alice.user_id].content["membership"] == "leave"
    assert row(alice, room.id) == "leave"
    assert set(sync(alice, since)["rooms"]) == {"leave"}
    assert "invite" not in sync(alice).get("rooms", {})


def test_an_invitation_that_was_rejected_is_rejected_once(alice: User, peer: ResidentPeer) -> None:
    room = invited(alice, peer)
    for _ in range(2):
        assert post(alice, room.id, "leave").json == {}
    assert len(peer.sent["send_leave"]) == 1
    assert post(alice, room.id, "forget").json == {}


def test_an_old_server_is_told_at_the_old_endpoint(alice: User, peer: ResidentPeer) -> None:
    room = invited(alice, peer)
    peer.refuse["v2/send_leave"] = Refusal(404, "M_UNRECOGNIZED")
    assert post(alice, room.id, "leave").json == {}
    assert room.state["m.room.member", alice.user_id].content["membership"] == "leave"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_invitation_of_a_dead_server_is_rejected_here(alice: User, peer: ResidentPeer, version: str) -> None:
    room = ForeignRoom("localhost:1", peer.key, version=version)
    record_out_of_band(room.invite(alice.user_id), room.stripped(), invite_from="localhost:1")
    assert post(alice, room.id, "leave").json == {}
    assert row(alice, room.id) == "leave"
    assert "invite" not in sync(alice).get("rooms", {})


@pytest.mark.parametrize(
    "refused", [Refusal(403, "M_FORBIDDEN"), Refusal(404, "M_NOT_FOUND"), Refusal(500, "M_UNKNOWN")]
)
@pytest.mark.parametrize("endpoint", ["make_leave", "send_leave"])
def test_whatever_the_other_server_says_the_user_is_rid_of_the_invitation(
    alice: User, peer: ResidentPeer, refused: Refusal, endpoint: str
) -> None:
    room = invited(alice, peer)
    peer.refuse[endpoint] = refused
    assert post(alice, room.id, "leave").json == {}
    assert row(alice, room.id) == "leave"


def test_a_template_for_something_else_is_not_signed(alice: User, peer: ResidentPeer) -> None:
    room = invited(alice, peer)
    peer.twist["make_leave"] = lambda answer: {
        **answer,
        "event": {**answer["event"], "content": {"membership": "join"}},
    }
    assert post(alice, room.id, "leave").json == {}
    assert "send_leave" not in peer.sent
    assert row(alice, room.id) == "leave"


def test_without_federation_an_invitation_can_still_be_rejected(
    alice: User, peer: ResidentPeer, server: Callable[..., None]
) -> None:
    room = invited(alice, peer)
    server(FEDERATION="off")
    assert post(alice, room.id, "leave").json == {}
    assert row(alice, room.id) == "leave"
    assert peer.paths() == []


def test_an_invitation_is_rejected_as_a_state_event(alice: User, peer: ResidentPeer) -> None:
    room = invited(alice, peer)
    answer = set_state(alice, room.id, "m.room.member", {"membership": "leave", "org.example": 1}, alice.user_id)
    assert answer.json == {"event_id": room.state["m.room.member", alice.user_id].event_id}
    assert peer.sent["send_leave"][0]["content"] == {"membership": "leave", "org.example": 1}


def test_who_is_not_invited_has_nothing_to_leave(alice: User, bob: User, peer: ResidentPeer) -> None:
    room = invited(alice, peer)
    assert refusal(post(bob, room.id, "leave")) == (403, "M_FORBIDDEN")
    assert refusal(set_state(bob, room.id, "m.room.member", {"membership": "leave"}, bob.user_id)) == (
        403,
        "M_FORBIDDEN",
    )
    assert peer.paths() == []


@pytest.mark.parametrize("action", ["invite", "kick", "ban", "unban"])
def test_who_is_only_invited_does_nothing_to_others(alice: User, bob: User, peer: ResidentPeer, action: str) -> None:
    room = invited(alice, peer)
    assert refusal(post(alice, room.id, action, {"user_id": bob.user_id})) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    "point", ["membership_job.begun", "remote_leave.signed", "remote_leave.answered", "membership_job.performed"]
)
def test_a_rejection_that_was_cut_off_is_made_in_the_end(
    alice: User, peer: ResidentPeer, worker: Worker, point: str
) -> None:
    room = invited(alice, peer)
    with crash(point):
        assert post(alice, room.id, "leave").status == 500
    worker.work()
    assert row(alice, room.id) == "leave"
    assert room.state["m.room.member", alice.user_id].content["membership"] == "leave"
    assert len(peer.sent["send_leave"]) == 1


def test_a_request_that_ended_before_the_worker_was_woken_is_made_good_by_the_next(
    alice: User, peer: ResidentPeer, worker: Worker
) -> None:
    room = invited(alice, peer)
    with crash("membership_job.written"):
        assert post(alice, room.id, "leave").status == 500
    assert worker.messages == []
    assert post(alice, room.id, "leave").json == {}
    assert row(alice, room.id) == "leave"


def test_who_ends_their_account_is_out_of_everything(alice: User, peer: ResidentPeer, worker: Worker) -> None:
    room, here = invited(alice, peer), create_room(alice)
    worker.held = True
    leave_all_rooms(alice.user_id)
    membership_here = LocalMember.fetch(here, f"local/{alice.user_id}")
    assert membership_here is not None
    assert membership_here.membership == "leave"
    assert row(alice, room.id) == "invite"
    worker.work()
    assert row(alice, room.id) == "leave"
    assert len(peer.sent["send_leave"]) == 1


def test_the_time_for_telling_others_is_less_than_what_a_request_waits() -> None:
    assert remote_leave._LEAVE_S < WAIT_S


def test_a_room_of_this_server_is_left_as_before(alice: User, peer: ResidentPeer, worker: Worker) -> None:
    bob = register()
    room_id = make(alice, invite=[bob.user_id]).json["room_id"]
    assert post(bob, room_id, "leave").json == {}
    assert membership(alice, room_id, bob) == "leave"
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {"membership": "leave"}
    assert worker.messages == []
    assert request("client_rooms", "GET", path("joined_rooms"), token=bob.token).json == {"joined_rooms": []}
