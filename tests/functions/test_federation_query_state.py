"""States and auth chains for other servers."""

from typing import Any

import pytest

from federation_peer import Peer
from functions.asking import (
    Asked,
    asked,
    ban_server,
    create_room,
    ids_of,
    members_of,
    peer,
    post,
    refusal,
    running_peers,
    say,
    set_state,
    stranger,
)
from functions.harness import User
from functions.remote_server import RemoteServer, State, state_of
from functions.rooms import redact
from homeserver.observability import metered
from homeserver.services import served_state
from homeserver.services.receive_events import Verdict
from homeserver.services.receive_outliers import receive_outliers
from homeserver.services.served_state import event_auth, state_ids_at
from homeserver.storage.room_items import EventRecord

__all__ = ["asked", "peer", "running_peers", "stranger"]

NOT_FOUND = (404, "M_NOT_FOUND")
FORBIDDEN = (403, "M_FORBIDDEN")
TOO_LARGE = (413, "M_TOO_LARGE")
UNKNOWN = "$" + "A" * 43


@pytest.fixture
def room_id(alice: User) -> str:
    return create_room(alice, preset="public_chat", room_version="11", name="Tea")


@pytest.fixture
def remote(peer: Peer, room_id: str) -> RemoteServer:
    return members_of(peer, room_id)[0]


def chain_of(remote: RemoteServer, event_ids: list[str]) -> set[str]:
    """The auth chains of events, walked on the remote server's own picture of the graph."""
    remote._know(event_ids)
    found: set[str] = set()
    level = {auth_id for event_id in event_ids for auth_id in remote.events[event_id].auth_event_ids}
    while level:
        found |= level
        remote._know(level)
        level = {auth_id for i in level for auth_id in remote.events[i].auth_event_ids} - found
    return found


def before(event_id: str, room_id: str) -> State:
    record = EventRecord.fetch(event_id)
    assert record is not None
    assert record.state_before is not None
    return state_of(room_id, bytes(record.state_before))


def busy(alice: User, bob: User, remote: RemoteServer, room_id: str) -> list[str]:
    """A room whose members and powers have changed: messages said meanwhile."""
    carol = remote.user("carol")
    sent = say(alice, room_id, "one")
    remote.accepted(remote.power(alice.user_id, {carol: 50}))
    assert post(alice, room_id, "invite", {"user_id": bob.user_id}).status == 200
    assert post(bob, room_id, "join").status == 200
    remote.accepted(remote.topic(carol, "first"), remote.power(alice.user_id, {carol: 60}))
    sent += say(alice, room_id, "two")
    assert post(bob, room_id, "leave").status == 200
    remote.accepted(remote.topic(carol, "second"), remote.member(carol, "ban", bob.user_id))
    return sent + say(alice, room_id, "three")


def test_the_state_before_an_event_comes_with_all_that_authorises_it(
    *, asked: Asked, peer: Peer, remote: RemoteServer, alice: User, bob: User, room_id: str
) -> None:
    for event_id in busy(alice, bob, remote, room_id):
        expected = before(event_id, room_id)
        ids = asked(peer, "state_ids", room_id, event_id=event_id)
        assert ids.status == 200
        assert sorted(ids.json["pdu_ids"]) == sorted(expected.values())
        assert sorted(ids.json["auth_chain_ids"]) == sorted(chain_of(remote, list(expected.values())))
        state = asked(peer, "state", room_id, event_id=event_id)
        assert state.status == 200
        assert ids_of(state.json["pdus"]) == ids.json["pdu_ids"]
        assert ids_of(state.json["auth_chain"]) == ids.json["auth_chain_ids"]


def test_the_state_is_that_before_the_event_itself(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    first = set_state(alice, room_id, "m.room.topic", {"topic": "first"}).json["event_id"]
    second = set_state(alice, room_id, "m.room.topic", {"topic": "second"}).json["event_id"]
    ids = asked(peer, "state_ids", room_id, event_id=second).json["pdu_ids"]
    assert (first in ids, second in ids) == (True, False)
    create = before(first, room_id)["m.room.create", ""]
    answer = asked(peer, "state", room_id, event_id=create)
    assert (answer.status, answer.json) == (200, {"pdus": [], "auth_chain": []})


def test_the_state_in_a_fork_is_the_forks_own(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    carol = remote.user("carol")
    remote.accepted(remote.power(alice.user_id, {carol: 50}))
    tip = remote.tips()
    here = set_state(alice, room_id, "m.room.topic", {"topic": "here"}).json["event_id"]
    there = remote.topic(carol, "there", prev=tip)
    said = remote.say(carol, "in the fork", prev=[there.event_id])
    remote.accepted(there, said)
    ids = asked(peer, "state_ids", room_id, event_id=said.event_id).json["pdu_ids"]
    assert (there.event_id in ids, here in ids) == (True, False)


def test_the_auth_chain_of_an_event_is_whole(
    *, asked: Asked, peer: Peer, remote: RemoteServer, alice: User, bob: User, room_id: str
) -> None:
    busy(alice, bob, remote, room_id)
    message = remote.say(remote.user("carol"), "hello")
    remote.accepted(message)
    member = state_of(room_id)["m.room.member", bob.user_id]
    for event_id in (message.event_id, member):
        remote._know([event_id])
        answer = asked(peer, "event_auth", room_id, event_id)
        assert answer.status == 200
        found = ids_of(answer.json["auth_chain"])
        assert (len(found), set(found)) == (len(set(found)), chain_of(remote, [event_id]))
    create = state_of(room_id)["m.room.create", ""]
    assert asked(peer, "event_auth", room_id, create).json == {"auth_chain": []}


def test_outliers_have_an_auth_chain_and_no_state(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    outlier = remote.topic(alice.user_id, "elsewhere")
    assert receive_outliers(room_id, [outlier])[outlier.event_id].verdict is Verdict.ACCEPTED
    found = ids_of(asked(peer, "event_auth", room_id, outlier.event_id).json["auth_chain"])
    assert set(found) == chain_of(remote, [outlier.event_id])
    for question in ("state", "state_ids"):
        assert refusal(asked(peer, question, room_id, event_id=outlier.event_id)) == NOT_FOUND


def test_redacted_state_comes_as_it_is_now(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    topic = set_state(alice, room_id, "m.room.topic", {"topic": "regretted"}).json["event_id"]
    assert redact(alice, room_id, topic).status == 200
    (last,) = say(alice, room_id, "later")
    found = asked(peer, "state", room_id, event_id=last, loosely=True).json["pdus"]
    (pruned,) = [pdu for pdu in found if pdu["type"] == "m.room.topic"]
    assert (pruned["content"], "unsigned" in pruned, ids_of([pruned])) == ({}, False, [topic])


def test_room_version_12_has_its_create_event_in_the_state_alone(asked: Asked, peer: Peer, alice: User) -> None:
    room_id = create_room(alice, preset="public_chat", room_version="12")
    remote, carol = members_of(peer, room_id)
    message = remote.say(carol, "hello")
    remote.accepted(message)
    state = asked(peer, "state", room_id, event_id=message.event_id).json
    create = "$" + room_id.removeprefix("!")
    assert create in ids_of(state["pdus"], "12")
    assert create not in ids_of(state["auth_chain"], "12")
    assert all("room_id" in pdu or pdu["type"] == "m.room.create" for pdu in state["pdus"])


def test_room_version_1_has_its_own_event_ids(asked: Asked, peer: Peer, alice: User) -> None:
    room_id = create_room(alice, preset="public_chat", room_version="1")
    remote, carol = members_of(peer, room_id)
    message = remote.say(carol, "hello")
    remote.accepted(message)
    state = asked(peer, "state", room_id, event_id=message.event_id).json
    assert {pdu["event_id"] for pdu in state["pdus"]} == set(before(message.event_id, room_id).values())
    found = asked(peer, "backfill", room_id, v=message.event_id, limit=2).json["pdus"]
    assert [pdu["event_id"] for pdu in found] == [message.event_id, message.pdu["prev_events"][0][0]]


# ── What fits into an answer ────────────────────────────────────────────────────────────────────────


def test_what_does_not_fit_into_an_answer_is_refused_clearly(
    *,
    asked: Asked,
    peer: Peer,
    remote: RemoteServer,
    alice: User,
    bob: User,
    room_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last = busy(alice, bob, remote, room_id)[-1]
    ids = asked(peer, "state_ids", room_id, event_id=last).json
    monkeypatch.setattr(served_state, "MOST_BYTES", 3000)
    assert asked(peer, "state_ids", room_id, event_id=last).json == ids
    assert refusal(asked(peer, "state", room_id, event_id=last)) == TOO_LARGE
    assert refusal(asked(peer, "event_auth", room_id, last)) == TOO_LARGE
    monkeypatch.setattr(served_state, "MOST_BYTES", 100)
    assert refusal(asked(peer, "state_ids", room_id, event_id=last)) == TOO_LARGE


@pytest.mark.parametrize("most", [5, 12])
def test_what_cannot_fit_is_refused_before_its_events_are_read(
    *,
    asked: Asked,
    peer: Peer,
    remote: RemoteServer,
    alice: User,
    bob: User,
    room_id: str,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    last = busy(alice, bob, remote, room_id)[-1]
    monkeypatch.setattr(served_state, "_MOST_EVENTS", most)

    def never(*_: object, **__: object) -> dict[str, Any]:
        raise AssertionError("events were read")

    monkeypatch.setattr(served_state, "fetch_state_events", never)
    assert refusal(asked(peer, "state", room_id, event_id=last)) == TOO_LARGE


def test_auth_chains_take_as_many_rounds_whatever_their_length(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    def rounds(text: str) -> tuple[int, int]:
        (last,) = say(alice, room_id, text)
        asked(peer, "state_ids", room_id, event_id=last)  # what the leaves reach is worked out once
        with metered() as state:
            state_ids_at(room_id, peer.name, last)
        with metered() as chain:
            event_auth(room_id, peer.name, last)
        return state.rounds, chain.rounds

    for number in (1, 2):
        remote.accepted(remote.power(alice.user_id, {remote.user("carol"): number}))
    short = rounds("short")
    for number in range(20):
        remote.accepted(remote.power(alice.user_id, {remote.user("carol"): number}))
    assert rounds("long") == short
    assert max(short) <= 5


# ── Who may ask ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("question", ["state", "state_ids"])
def test_a_state_needs_an_event_of_the_room(
    *, asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str, question: str
) -> None:
    assert refusal(asked(peer, question, room_id)) == (400, "M_MISSING_PARAM")
    assert refusal(asked(peer, question, room_id, event_id="hello")) == (400, "M_INVALID_PARAM")
    assert refusal(asked(peer, question, room_id, event_id=UNKNOWN)) == NOT_FOUND
    secret = create_room(alice, preset="private_chat")
    (elsewhere,) = say(alice, secret, "secret")
    assert refusal(asked(peer, question, room_id, event_id=elsewhere)) == NOT_FOUND
    rejected = remote.topic(remote.user("carol"), "mine")
    assert [outcome.verdict for outcome in remote.receive(rejected)] == [Verdict.REJECTED]
    assert refusal(asked(peer, question, room_id, event_id=rejected.event_id)) == NOT_FOUND


def test_an_auth_chain_needs_an_event_of_the_room(
    asked: Asked, peer: Peer, remote: RemoteServer, alice: User, room_id: str
) -> None:
    assert refusal(asked(peer, "event_auth", room_id, "hello")) == (400, "M_INVALID_PARAM")
    assert refusal(asked(peer, "event_auth", room_id, UNKNOWN)) == NOT_FOUND
    secret = create_room(alice, preset="private_chat")
    (elsewhere,) = say(alice, secret, "secret")
    assert refusal(asked(peer, "event_auth", room_id, elsewhere)) == NOT_FOUND
    assert refusal(asked(peer, "event_auth", secret, elsewhere)) == FORBIDDEN


@pytest.mark.parametrize("question", ["state", "state_ids", "event_auth"])
def test_only_servers_in_the_room_get_its_state(
    *, asked: Asked, peer: Peer, stranger: Peer, remote: RemoteServer, alice: User, room_id: str, question: str
) -> None:
    (event_id,) = say(alice, room_id, "hello")

    def ask(by: Peer, where: str = room_id) -> tuple[int, str | None]:
        if question == "event_auth":
            return refusal(asked(by, question, where, event_id))
        return refusal(asked(by, question, where, event_id=event_id))

    assert ask(peer) == (200, None)
    assert ask(stranger) == FORBIDDEN
    assert ask(peer, "!unknown:example.org") == NOT_FOUND
    assert ask(peer, "room") == (400, "M_INVALID_PARAM")
    ban_server(alice, room_id, peer)
    assert ask(peer) == FORBIDDEN
    assert set_state(alice, room_id, "m.room.server_acl", {"allow": ["*"]}).status == 200
    carol = remote.user("carol")
    remote.accepted(remote.member(carol, "leave", carol))
    assert ask(peer) == FORBIDDEN
