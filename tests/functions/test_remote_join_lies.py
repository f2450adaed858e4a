"""Servers that lie to who joins through them: templates are not signed, and of their answers nothing is stored."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.federating import LOOPBACK
from functions.foreign_room import ForeignRoom
from functions.harness import Answer, User
from functions.membership_work import Worker
from functions.remote_server import state_of
from functions.resident_peer import ResidentPeer
from functions.rooms import path, request, state
from homeserver.adapters.federation_http import close_connections
from homeserver.matrix.signing import SigningKey
from homeserver.services import inbound_wakes, remote_join
from homeserver.storage.room_items import HEAD, EventRecord, Head, LocalMember

pytestmark = pytest.mark.usefixtures("set_up")


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


# ── Hostile templates ────────────────────────────────────────────────────────────────────────────────


def change(**fields: Any) -> Callable[[Any], Any]:
    return lambda answer: {**answer, "event": {**answer["event"], **fields}}


def content(**fields: Any) -> Callable[[Any], Any]:
    return lambda answer: {
        **answer,
        "event": {**answer["event"], "content": {**answer["event"]["content"], **fields}},
    }


@pytest.mark.parametrize(
    "twist",
    [
        lambda _: [],
        lambda _: {},
        lambda _: {"room_version": "10"},
        lambda answer: {**answer, "room_version": "99"},
        lambda answer: {**answer, "room_version": 10},
        lambda answer: {"event": answer["event"]},  # then it would be of version 1
        change(room_id="!other:example.org"),
        change(sender="@bob:example.org"),
        change(state_key="@bob:example.org"),
        change(type="m.room.power_levels"),
        change(content={"membership": "ban"}),
        change(content={"membership": "leave"}),
        change(content={}),
        change(content=None),
        change(prev_events=[]),
        change(prev_events=["$" + "x" * 43] * 21),
        change(prev_events=["x"]),
        change(prev_events="$" + "x" * 43),
        change(prev_events=[["$" + "x" * 43, {"sha256": "y"}]]),
        change(auth_events=["$" + "x" * 43] * 11),
        change(auth_events=None),
        content(join_authorised_via_users_server="@bob:example.org"),
        content(join_authorised_via_users_server="nobody"),
        content(join_authorised_via_users_server=5),
    ],
)
def test_a_hostile_template_is_not_signed(alice: User, peer: ResidentPeer, twist: Callable[[Any], Any]) -> None:
    room = public(peer, version="10")
    peer.twist["make_join"] = twist
    assert refusal(join(alice, room.id, peer.name)) == (502, "M_UNKNOWN")
    assert "send_join" not in peer.sent
    assert nothing_stored(room)


def test_what_a_template_adds_is_not_signed(alice: User, peer: ResidentPeer) -> None:
    room = public(peer, version="10")

    def adding(answer: Any) -> Any:
        event = {**answer["event"], "redacts": "$x", "org.example": 1, "origin_server_ts": 5, "unsigned": {"a": 1}}
        event["content"] = {**event["content"], "displayname": "Mallory", "org.example": 1}
        return {**answer, "event": event}

    peer.twist["make_join"] = adding
    assert join(alice, room.id, peer.name).json == {"room_id": room.id}
    (sent,) = peer.sent["send_join"]
    assert sent["content"] == {"membership": "join", "displayname": "alice"}
    assert set(sent) == {
        "auth_events",
        "content",
        "depth",
        "hashes",
        "origin_server_ts",
        "prev_events",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
    }
    assert sent["origin_server_ts"] > 5


@pytest.mark.parametrize("depth", [-1, 2**53, 2**70, "deep", None, 1.5])
def test_a_senseless_depth_makes_no_senseless_event(alice: User, peer: ResidentPeer, depth: Any) -> None:
    room = public(peer, version="10")
    peer.twist["make_join"] = change(depth=depth)
    assert join(alice, room.id, peer.name).json == {"room_id": room.id}
    (sent,) = peer.sent["send_join"]
    assert 1 <= sent["depth"] <= 2**53 - 1


# ── Hostile answers ──────────────────────────────────────────────────────────────────────────────────


def of_type(answer: Any, event_type: str) -> Any:
    return next(event for event in answer["state"] if event["type"] == event_type)


def without(event_type: str, *where: str) -> Callable[[Any], Any]:
    """An answer without the events of a type."""

    def twist(answer: Any) -> Any:
        kept = {name: [event for event in answer[name] if event["type"] != event_type] for name in where}
        return {**answer, **kept}

    return twist


def unsigned(event_type: str) -> Callable[[Any], Any]:
    """An answer whose events of a type nobody signed."""

    def bare(events: Any) -> Any:
        return [{**event, "signatures": {}} if event["type"] == event_type else event for event in events]

    return lambda answer: {**answer, "state": bare(answer["state"]), "auth_chain": bare(answer["auth_chain"])}


def forged(event_type: str, **fields: Any) -> Callable[[Any], Any]:
    """An answer whose events of a type say something else than what was signed."""

    def changed(events: Any) -> Any:
        return [{**event, **fields} if event["type"] == event_type else event for event in events]

    return lambda answer: {**answer, "state": changed(answer["state"]), "auth_chain": changed(answer["auth_chain"])}


@pytest.mark.parametrize(
    "twist",
    [
        lambda _: {},
        lambda _: [],
        lambda answer: {**answer, "state": {}},
        lambda answer: {**answer, "auth_chain": None},
        lambda answer: {**answer, "members_omitted": True},
        lambda answer: {**answer, "state": [], "auth_chain": []},
        lambda answer: {**answer, "state": [5, None, "x", []]},
        without("m.room.create", "state", "auth_chain"),
        without("m.room.create", "state"),
        unsigned("m.room.create"),
        forged("m.room.create", sender="@owner:example.org"),
        forged("m.room.create", room_id="!other:example.org"),
        forged("m.room.join_rules", content={"join_rule": "public", "x": "y"}, hashes={"sha256": "A" * 43}),
        unsigned("m.room.join_rules"),
    ],
)
def test_a_hostile_answer_stores_nothing(alice: User, peer: ResidentPeer, twist: Callable[[Any], Any]) -> None:
    room = public(peer, version="10")
    known = dict(room.state)
    peer.twist["send_join"] = twist
    assert refusal(join(alice, room.id, peer.name)) == (502, "M_UNKNOWN")
    assert Head.fetch(room.id, HEAD) is None
    assert {EventRecord.fetch(event.event_id) for event in known.values()} == {None}
    assert LocalMember.fetch(room.id, f"local/{alice.user_id}") is None


def test_state_that_nobody_signed_is_left_out(alice: User, peer: ResidentPeer) -> None:
    room = public(peer, version="10")
    peer.twist["send_join"] = unsigned("m.room.name")
    assert join(alice, room.id, peer.name).json == {"room_id": room.id}
    assert state(alice, room.id, "m.room.name").status == 404
    assert state(alice, room.id, "m.room.join_rules").json == {"join_rule": "public"}


def test_the_state_of_another_room_is_not_taken(alice: User, peer: ResidentPeer) -> None:
    room = public(peer, version="12")
    other = ForeignRoom("other.test", peer.key, version="12", join_rule="public")
    pdus = [event.pdu for event in other.state.values()]
    peer.twist["send_join"] = lambda answer: {**answer, "state": pdus, "auth_chain": pdus}
    assert refusal(join(alice, room.id, peer.name)) == (502, "M_UNKNOWN")
    assert Head.fetch(room.id, HEAD) is None
    assert Head.fetch(other.id, HEAD) is None


def test_events_that_claim_the_users_of_another_server_are_left_out(alice: User, peer: ResidentPeer) -> None:
    room = public(peer, version="10")
    stranger = room.make(
        "m.room.member",
        {"membership": "join"},
        sender="@victim:example.org",
        state_key="@victim:example.org",
        server="example.org",
        key=SigningKey.generate("test", b"m" * 32),
    )
    peer.twist["send_join"] = lambda answer: {**answer, "state": [*answer["state"], stranger.pdu]}
    assert join(alice, room.id, peer.name).json == {"room_id": room.id}
    assert ("m.room.member", "@victim:example.org") not in state_of(room.id)


def test_an_answer_that_is_too_long_is_not_read(
    alice: User, peer: ResidentPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = public(peer, version="10")
    monkeypatch.setattr(remote_join, "most_answer_bytes", lambda: 2000)
    assert refusal(join(alice, room.id, peer.name)) == (502, "M_UNKNOWN")
    assert Head.fetch(room.id, HEAD) is None


def test_how_much_is_read_goes_by_the_memory_of_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
    assert 40_000_000 < remote_join.most_answer_bytes() < 48_000_000
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "2048")
    assert 170_000_000 < remote_join.most_answer_bytes() < 180_000_000
