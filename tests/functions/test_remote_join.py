"""Joining rooms that this server is not in: the good path, the fallback from server to server, crashes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from functions.federating import LOOPBACK
from functions.foreign_room import ForeignRoom
from functions.harness import SERVER_NAME, Answer, User, register
from functions.membership_work import Worker, crash
from functions.remote_server import head_of, rows_of, state_of
from functions.resident_peer import Refusal, ResidentPeer
from functions.rooms import create_room, follow, get, membership, path, post, request, say, set_state, state
from functions.syncing import sync
from homeserver.adapters.federation_http import close_connections
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services import inbound_wakes, remote_join
from homeserver.services.access_tokens import Requester
from homeserver.services.membership import join_room
from homeserver.services.membership_requests import Elsewhere
from homeserver.services.receive_events import ACCEPTED, receive_events
from homeserver.services.stub_rooms import record_out_of_band
from homeserver.storage.room_items import HEAD, EventRecord, Head, TimelineEntry, bucket_of
from homeserver.storage.rooms import fetch_state_events

pytestmark = pytest.mark.usefixtures("set_up")
VERSIONS = ["1", "2", "6", "9", "10", "11", "12"]
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


def join(user: User, room: str, *via: str, **body: Any) -> Answer:
    query = {"via": list(via)}
    return request("client_rooms", "POST", path("join", room), body, token=user.token, query=query)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def public(peer: ResidentPeer, **more: str) -> ForeignRoom:
    return peer.room(join_rule="public", **more)


def nothing_stored(room: ForeignRoom) -> bool:
    """Whether neither the room nor any of its events is known."""
    events = [EventRecord.fetch(event.event_id) for event in room.state.values()]
    return Head.fetch(room.id, HEAD) is None and events == [None] * len(events)


# ── The good path ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", VERSIONS)
def test_a_room_is_joined_with_its_state(alice: User, peer: ResidentPeer, version: str) -> None:
    room = public(peer, version=version, name="Far away")
    assert join(alice, room.id, peer.name, reason="curious").json == {"room_id": room.id}
    (sent,) = peer.sent["send_join"]
    assert sent["content"] == {"membership": "join", "displayname": "alice", "reason": "curious"}
    assert state_of(room.id) == {key: event.event_id for key, event in room.state.items()}
    assert state(alice, room.id, "m.room.name").json == {"name": "Far away"}
    assert head_of(room.id).room_version == version
    assert request("client_rooms", "GET", path("joined_rooms"), token=alice.token).json["joined_rooms"] in (
        [room.id],
        [],  # the row by user is the follower's
    )
    follow()
    assert request("client_rooms", "GET", path("joined_rooms"), token=alice.token).json == {"joined_rooms": [room.id]}
    assert rows_of(room.id) == state_of(room.id)


@pytest.mark.parametrize("version", ["6", "10", "12"])
def test_who_joined_sees_the_room_in_sync_and_can_talk(alice: User, peer: ResidentPeer, version: str) -> None:
    room = public(peer, version=version)
    since = sync(alice)["next_batch"]
    join(alice, room.id, peer.name)
    follow()
    shown = sync(alice, since)["rooms"]["join"][room.id]
    assert shown["timeline"]["events"][-1]["state_key"] == alice.user_id
    assert shown["timeline"]["limited"] is True
    say(alice, room.id, "hello")
    position = int(head_of(room.id).position)
    entry = TimelineEntry.fetch(bucket_of(room.id, position), position)
    assert entry is not None
    assert entry.origin == "local"


def test_all_members_are_asked_for_and_all_versions_are_offered(alice: User, peer: ResidentPeer) -> None:
    room = public(peer)
    join(alice, room.id, peer.name)
    made, sent = (asked for asked in peer.paths() if "_join/" in asked)
    assert made.endswith("?" + "&".join(f"ver={n}" for n in range(1, 13)))
    assert sent.endswith("?omit_members=false")
    assert sent.startswith("PUT /_matrix/federation/v2/send_join/")


def test_a_room_is_joined_by_its_alias(alice: User, peer: ResidentPeer) -> None:
    room = public(peer, version="12")
    alias = f"#far:{peer.name}"
    peer.aliases[alias] = (room.id, [SERVER_NAME, peer.name, "no server name"])
    assert join(alice, alias).json == {"room_id": room.id}
    assert membership(alice, room.id, alice) == "join"


def test_servers_are_named_as_older_clients_do_it(alice: User, peer: ResidentPeer) -> None:
    room = public(peer, version="12")
    where = f"{path('join', room.id)}?server_name={peer.name}"
    assert request("client_rooms", "POST", where, {}, token=alice.token).json == {"room_id": room.id}


def test_an_invitation_is_accepted_through_who_sent_it(alice: User, peer: ResidentPeer) -> None:
    room = peer.room(join_rule="invite", version="12")
    record_out_of_band(room.invite(alice.user_id), room.stripped(), invite_from=peer.name)
    since = sync(alice)["next_batch"]
    assert post(alice, room.id, "join").json == {"room_id": room.id}
    follow()
    body = sync(alice, since)["rooms"]
    assert set(body) == {"join"}
    assert set(body["join"]) == {room.id}
    assert "invite" not in sync(alice)["rooms"]


def test_the_second_user_joins_without_another_server(alice: User, bob: User, peer: ResidentPeer) -> None:
    room = public(peer)
    join(alice, room.id, peer.name)
    asked = len(peer.asked)
    assert join(bob, room.id, peer.name).json == {"room_id": room.id}
    assert len(peer.asked) == asked
    assert membership(alice, room.id, bob) == "join"


def test_two_users_who_join_at_once_are_both_in(alice: User, bob: User, peer: ResidentPeer, worker: Worker) -> None:
    room = public(peer)
    worker.held = True
    with ThreadPoolExecutor(2) as threads:
        elsewhere = Elsewhere([peer.name])
        calls = [
            threads.submit(join_room, Requester(user.user_id, "", ""), room.id, elsewhere=elsewhere)
            for user in (alice, bob)
        ]
        while len(worker.messages) < 2:
            pass
        worker.work()
        assert [call.result() for call in calls] == [None, None]
    assert len(peer.sent["send_join"]) == 1
    assert {membership(alice, room.id, user) for user in (alice, bob)} == {"join"}
    assert int(head_of(room.id).local_members) == 2


def test_a_room_that_everybody_left_is_joined_again_through_who_is_still_there(alice: User, peer: ResidentPeer) -> None:
    room = public(peer, version="12")
    join(alice, room.id, peer.name)
    post(alice, room.id, "leave")
    # What the other server knows by now, and what happened there since.
    room.take(_event_of(room.id, alice))
    room.add("m.room.name", {"name": "Renamed"})
    assert post(alice, room.id, "join").json == {"room_id": room.id}
    assert len(peer.sent["send_join"]) == 2
    assert state(alice, room.id, "m.room.name").json == {"name": "Renamed"}


def _event_of(room_id: str, user: User) -> Event:
    event_id = state_of(room_id)["m.room.member", user.user_id]
    return fetch_state_events(room_id, [event_id], ROOM_VERSIONS[head_of(room_id).room_version])[event_id].event


# ── Restricted rooms ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", ["8", "9", "10", "12"])
def test_a_restricted_room_is_joined_on_the_word_of_its_server(alice: User, peer: ResidentPeer, version: str) -> None:
    room = peer.room(join_rule="restricted", version=version)
    assert join(alice, room.id, peer.name).json == {"room_id": room.id}
    event = _event_of(room.id, alice)
    assert event.content["join_authorised_via_users_server"] == f"@owner:{peer.name}"
    assert set(event.pdu["signatures"]) == {SERVER_NAME, peer.name}


def without_signature(answer: Any) -> Any:
    event = answer["event"]
    return {**answer, "event": {**event, "signatures": {SERVER_NAME: event["signatures"][SERVER_NAME]}}}


@pytest.mark.parametrize(
    "twist",
    [
        without_signature,
        lambda answer: {key: value for key, value in answer.items() if key != "event"},
        lambda answer: {**answer, "event": answer["state"][0]},
        lambda answer: {**answer, "event": {**answer["event"], "depth": 3}},
        lambda answer: {**answer, "event": "x"},
    ],
)
def test_without_the_word_of_the_server_a_restricted_room_is_not_entered(
    alice: User, peer: ResidentPeer, twist: Callable[[Any], Any]
) -> None:
    room = peer.room(join_rule="restricted")
    known = dict(room.state)
    peer.twist["send_join"] = twist
    assert refusal(join(alice, room.id, peer.name)) == (502, "M_UNKNOWN")
    assert Head.fetch(room.id, HEAD) is None
    assert {EventRecord.fetch(event.event_id) for event in known.values()} == {None}


def test_a_user_is_let_in_by_another_server_where_nobody_of_this_one_can_do_it(
    alice: User, bob: User, peer: ResidentPeer
) -> None:
    lounge = create_room(alice, bob)
    room = peer.room(join_rule="public", version="10")
    join(alice, room.id, peer.name)
    allow = [{"type": "m.room_membership", "room_id": lounge}]
    # Alice cannot invite there, so nobody of this server can give their word.
    for event in (
        room.add("m.room.power_levels", {"users": {room.owner: 100}, "invite": 50}),
        room.add("m.room.join_rules", {"join_rule": "restricted", "allow": allow}),
    ):
        receive(room, event)
    assert join(bob, room.id).json == {"room_id": room.id}
    assert _event_of(room.id, bob).content["join_authorised_via_users_server"] == room.owner
    assert membership(alice, room.id, bob) == "join"
    assert int(head_of(room.id).local_members) == 2
    assert len(head_of(room.id).extremities) == 1


def receive(room: ForeignRoom, event: Event) -> None:
    assert receive_events(room.id, [event]) == {event.event_id: ACCEPTED}


def test_a_server_that_cannot_grant_the_join_is_followed_by_one_that_can(
    alice: User, peer: ResidentPeer, tmp_path: Path
) -> None:
    room = peer.room(join_rule="restricted", version="12")
    with ResidentPeer(tmp_path / "other") as other:
        other.take_in(room)
        other.refuse["make_join"] = Refusal(400, "M_UNABLE_TO_GRANT_JOIN")
        assert join(alice, room.id, other.name, peer.name).json == {"room_id": room.id}
        assert other.count("make_join") == 1


# ── Refusals, and the next server ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("endpoint", ["make_join", "send_join"])
@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (Refusal(403, "M_FORBIDDEN"), (403, "M_FORBIDDEN")),
        (Refusal(403, "M_GUEST_ACCESS_FORBIDDEN"), (403, "M_FORBIDDEN")),
        (Refusal(400, "M_INCOMPATIBLE_ROOM_VERSION", room_version="99"), (400, "M_INCOMPATIBLE_ROOM_VERSION")),
        (Refusal(400, "M_UNABLE_TO_AUTHORISE_JOIN"), (400, "M_UNABLE_TO_AUTHORISE_JOIN")),
        (Refusal(400, "M_UNABLE_TO_GRANT_JOIN"), (400, "M_UNABLE_TO_GRANT_JOIN")),
        (Refusal(400, "M_BAD_JSON"), (400, "M_UNKNOWN")),
        (Refusal(400, "M_INVALID_PARAM"), (502, "M_UNKNOWN")),
        (Refusal(400, "M_MISSING_PARAM"), (502, "M_UNKNOWN")),
        (Refusal(401, "M_UNKNOWN_TOKEN"), (502, "M_UNKNOWN")),
        (Refusal(404, "M_NOT_FOUND"), (404, "M_NOT_FOUND")),
        (Refusal(429, "M_LIMIT_EXCEEDED"), (502, "M_UNKNOWN")),
        (Refusal(500, "M_UNKNOWN"), (502, "M_UNKNOWN")),
    ],
)
def test_a_refusal_is_told_and_nothing_is_stored(
    alice: User, peer: ResidentPeer, endpoint: str, refused: Refusal, expected: tuple[int, str]
) -> None:
    room = public(peer)
    peer.refuse[endpoint] = refused
    answer = join(alice, room.id, peer.name)
    assert refusal(answer) == expected
    assert answer.json.get("room_version") == refused.answer[1].get("room_version")
    assert nothing_stored(room)


def test_a_server_is_asked_at_the_old_endpoint_if_it_has_no_other(alice: User, peer: ResidentPeer) -> None:
    room = public(peer, version="6")
    peer.refuse["v2/send_join"] = Refusal(404, "M_UNRECOGNIZED")
    assert join(alice, room.id, peer.name).json == {"room_id": room.id}
    assert [asked.split("/")[3] for asked in peer.paths() if "/send_join/" in asked] == ["v2", "v1"]


@pytest.mark.parametrize("errcode", ["M_FORBIDDEN", "M_INCOMPATIBLE_ROOM_VERSION"])
def test_what_holds_for_the_room_is_asked_once(alice: User, peer: ResidentPeer, tmp_path: Path, errcode: str) -> None:
    room = public(peer, version="12")
    with ResidentPeer(tmp_path / "other") as other:
        other.take_in(room)
        other.refuse["make_join"] = Refusal(403 if errcode == "M_FORBIDDEN" else 400, errcode)
        assert join(alice, room.id, other.name, peer.name).errcode == errcode
    assert peer.paths() == []


def lie(answer: Any) -> Any:
    return {**answer, "event": {**answer["event"], "type": "m.room.power_levels"}}


def test_of_three_servers_one_is_dead_and_one_lies(alice: User, peer: ResidentPeer, tmp_path: Path) -> None:
    room = public(peer, version="12")
    with ResidentPeer(tmp_path / "liar") as liar:
        liar.take_in(room)
        liar.twist["make_join"] = lie
        assert join(alice, room.id, DEAD, liar.name, peer.name).json == {"room_id": room.id}
        assert (liar.count("make_join"), liar.count("send_join"), peer.count("send_join")) == (1, 0, 1)


def test_a_server_that_lies_in_its_last_answer_is_followed_by_another(
    alice: User, peer: ResidentPeer, tmp_path: Path
) -> None:
    room = public(peer, version="12")
    with ResidentPeer(tmp_path / "liar") as liar:
        liar.take_in(room)
        liar.twist["send_join"] = lambda answer: {**answer, "state": []}
        assert join(alice, room.id, liar.name, peer.name).json == {"room_id": room.id}
        assert (liar.count("send_join"), peer.count("send_join")) == (1, 1)
    assert state_of(room.id) == {key: event.event_id for key, event in room.state.items()}


def test_nobody_can_be_reached(alice: User, peer: ResidentPeer) -> None:
    assert refusal(join(alice, f"!x:{DEAD}")) == (502, "M_UNKNOWN")


def test_neither_this_server_nor_what_is_no_server_is_asked(alice: User, peer: ResidentPeer, worker: Worker) -> None:
    room = public(peer, version="12")
    assert refusal(join(alice, room.id, SERVER_NAME, "no server", "")) == (404, "M_NOT_FOUND")
    assert worker.messages == []


def test_only_so_many_servers_are_asked(alice: User, peer: ResidentPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def made(kind: str, server: str, *_: Any) -> Any:
        asked.append(server)
        raise remote_join.BadAnswer(server, "nothing")

    monkeypatch.setattr(remote_join, "make", made)
    names = [f"s{n}.test" for n in range(40)]
    assert refusal(join(alice, "!x:home.test", *names, names[0])) == (502, "M_UNKNOWN")
    assert asked == [*names[:5], "home.test"]


def test_a_guest_does_not_join_elsewhere(peer: ResidentPeer, server: Callable[..., None]) -> None:
    server(GUEST_ACCOUNTS="on")
    room = public(peer)
    answer = request("client_login", "POST", "/_matrix/client/v3/register", {}, query={"kind": "guest"})
    where = path("join", room.id)
    refused = request("client_rooms", "POST", where, {}, token=answer.json["access_token"], query={"via": peer.name})
    assert refusal(refused) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert peer.paths() == []


def test_a_room_is_not_entered_by_setting_state(alice: User, peer: ResidentPeer) -> None:
    room = public(peer, version="10")
    content = {"membership": "join"}
    assert refusal(set_state(alice, room.id, "m.room.member", content, alice.user_id)) == (403, "M_FORBIDDEN")
    assert peer.paths() == []


# ── Crashes ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "point",
    [
        "membership_job.begun",
        "remote_join.signed",
        "remote_join.answered",
        "enter.outliers_stored",
        "enter.tree_stored",
        "enter.before_commit",
        "commit.before",
        "commit.after",
        "remote_join.entered",
        "membership_job.performed",
    ],
)
@pytest.mark.parametrize("version", ["6", "12"])
def test_a_join_that_was_cut_off_ends_right(
    alice: User, peer: ResidentPeer, worker: Worker, point: str, version: str
) -> None:
    room = public(peer, version=version)
    with crash(point):
        assert join(alice, room.id, peer.name).status == 500
    worker.work()
    assert membership(alice, room.id, alice) == "join"
    assert state_of(room.id) == {key: event.event_id for key, event in room.state.items()}
    assert int(head_of(room.id).local_members) == 1
    assert join(alice, room.id, peer.name).json == {"room_id": room.id}
    say(alice, room.id, "hello")
    follow()
    assert room.id in sync(alice)["rooms"]["join"]


def test_members_are_listed_after_a_join(alice: User, peer: ResidentPeer) -> None:
    room = public(peer)
    carol = f"@carol:{peer.name}"
    room.add("m.room.member", {"membership": "join", "displayname": "Carol"}, sender=carol, state_key=carol)
    join(alice, room.id, peer.name)
    follow()
    joined = get(alice, "rooms", room.id, "joined_members").json["joined"]
    assert set(joined) == {alice.user_id, carol, room.owner}
    assert register("late").user_id not in joined
