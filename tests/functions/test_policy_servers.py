"""A room with a policy server: nothing is sent that it has not signed."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from federation_peer import Peer
from functions.federating import LOOPBACK
from functions.harness import User
from functions.remote_server import RemoteServer
from functions.rooms import create_room, messages, post, redact, send, set_state, texts
from homeserver.matrix import unpadded_base64
from homeserver.matrix.event import Event
from homeserver.matrix.hashes import event_from_pdu
from homeserver.matrix.policy_server import KEY_ID, PolicyServer, is_signed_by, policy_server_of
from homeserver.matrix.room_versions import V12
from homeserver.matrix.signing import SigningKey, sign_event
from homeserver.storage.timeline import read_positions

SIGN = "/_matrix/policy/v1/sign"
POLICY_KEY = SigningKey.generate("policy_server", b"q" * 32)
OTHER_KEY = SigningKey.generate("policy_server", b"o" * 32)


class PolicyPeer(Peer):
    """Signs every event whose body has no `spam` in it."""

    key_in_use = POLICY_KEY
    asked_about: list[dict[str, Any]]

    def respond(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        if path != SIGN:
            return super().respond(method, path, query, body)
        pdu = json.loads(body)
        self.asked_about.append(pdu)
        if "spam" in str(pdu["content"].get("body")):
            return 400, {"errcode": "M_FORBIDDEN", "error": "The message appears to contain possible spam"}
        signed = sign_event({**pdu, "signatures": {}}, V12, self.name, self.key_in_use)
        return 200, signed["signatures"]


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[PolicyPeer]:
    server(**LOOPBACK)
    with PolicyPeer(tmp_path) as running:
        running.asked_about = []
        yield running


def content_for(peer: Peer) -> dict[str, Any]:
    return {"via": peer.name, "public_keys": {"ed25519": unpadded_base64.encode(POLICY_KEY.verify_key)}}


def guarded_room(alice: User, peer: Peer) -> str:
    """A room that the peer's server has a member in and whose policy server it is."""
    room_id = create_room(alice, preset="public_chat")
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(remote.user("policy")))
    assert set_state(alice, room_id, "m.room.policy", content_for(peer)).status == 200
    return room_id


def last_event(room_id: str) -> Event:
    entry = read_positions(room_id, 1, 100)[-1]
    assert entry.pdu is not None
    return event_from_pdu(entry.pdu, V12)


def test_what_is_sent_has_the_policy_servers_signature(alice: User, peer: PolicyPeer) -> None:
    room_id = guarded_room(alice, peer)
    assert peer.asked_about == []  # not about the policy itself
    assert send(alice, room_id, "hello", "t1").status == 200
    server = PolicyServer(peer.name, POLICY_KEY.verify_key)
    sent = last_event(room_id)
    assert is_signed_by(sent, server)
    assert set(sent.pdu["signatures"]) == {peer.name, "example.org"}
    assert [pdu["content"]["body"] for pdu in peer.asked_about] == ["hello"]
    assert set_state(alice, room_id, "m.room.topic", {"topic": "guarded"}).status == 200
    assert is_signed_by(last_event(room_id), server)
    assert redact(alice, room_id, sent.event_id).status == 200
    assert is_signed_by(last_event(room_id), server)
    assert len(peer.asked_about) == 3


def test_a_refusal_is_told_to_the_client_and_nothing_is_sent(alice: User, peer: PolicyPeer) -> None:
    room_id = guarded_room(alice, peer)
    refused = send(alice, room_id, "buy spam", "t1")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert refused.json["error"] == "The message appears to contain possible spam"
    assert send(alice, room_id, "no such thing", "t2").status == 200
    assert texts(messages(alice, room_id, dir="b").json["chunk"]) == ["no such thing"]


def test_a_policy_server_that_cannot_be_asked_is_said_so_and_the_transaction_may_be_repeated(
    alice: User, peer: PolicyPeer
) -> None:
    room_id = guarded_room(alice, peer)
    for instead in (
        (500, b"{}", {}),
        (404, b'{"errcode": "M_NOT_FOUND", "error": "Unknown room"}', {}),
        (200, b"[]", {}),
    ):
        peer.instead[SIGN] = instead
        answer = send(alice, room_id, "hello", "t1")
        assert (answer.status, answer.errcode) == (503, "M_UNKNOWN"), instead
        assert answer.json["retry_after_ms"] > 0
    peer.instead[SIGN] = (429, b'{"errcode": "M_LIMIT_EXCEEDED", "error": "slow", "retry_after_ms": 2000}', {})
    answer = send(alice, room_id, "hello", "t1")
    assert (answer.status, answer.errcode, answer.json["retry_after_ms"]) == (429, "M_LIMIT_EXCEEDED", 2000)
    del peer.instead[SIGN]
    assert send(alice, room_id, "hello", "t1").status == 200
    assert texts(messages(alice, room_id, dir="b").json["chunk"]) == ["hello"]


def test_a_signature_by_another_key_is_none(alice: User, peer: PolicyPeer) -> None:
    room_id = guarded_room(alice, peer)
    peer.key_in_use = OTHER_KEY
    assert send(alice, room_id, "hello", "t1").status == 503


def test_clearing_the_policy_needs_nobodys_signature(alice: User, peer: PolicyPeer) -> None:
    room_id = guarded_room(alice, peer)
    peer.instead[SIGN] = (500, b"{}", {})
    assert set_state(alice, room_id, "m.room.policy", {}).status == 200
    assert send(alice, room_id, "free", "t1").status == 200


def test_a_policy_server_without_a_member_in_the_room_is_none(alice: User, peer: PolicyPeer) -> None:
    room_id = create_room(alice, preset="public_chat")
    assert set_state(alice, room_id, "m.room.policy", content_for(peer)).status == 200
    assert send(alice, room_id, "nobody is asked", "t1").status == 200
    assert peer.asked_about == []


def test_memberships_are_signed_too(alice: User, bob: User, peer: PolicyPeer) -> None:
    room_id = guarded_room(alice, peer)
    assert post(bob, room_id, "join").status == 200
    assert is_signed_by(last_event(room_id), PolicyServer(peer.name, POLICY_KEY.verify_key))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"via": 5, "public_keys": {"ed25519": unpadded_base64.encode(b"k" * 32)}},
        {"via": "policy.test", "public_keys": {}},
        {"via": "policy.test", "public_keys": {"ed25519": "AAAA"}},
        {"via": "policy.test", "public_keys": {"ed25519": "*"}},
        {"via": "no server", "public_keys": {"ed25519": unpadded_base64.encode(b"k" * 32)}},
        {"via": "policy.test", "public_keys": []},
    ],
)
def test_an_invalid_policy_names_no_server(content: dict[str, Any]) -> None:
    assert policy_server_of(content) is None


def test_the_key_id_is_the_policy_servers_own() -> None:
    assert KEY_ID == "ed25519:policy_server"
