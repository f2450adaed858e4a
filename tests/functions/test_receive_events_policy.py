"""Check 7: what other servers send into a room with a policy server counts only with its signature."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from functions.federating import LOOPBACK
from functions.harness import User
from functions.remote_server import RemoteServer, head_of
from functions.rooms import messages, set_state, texts
from functions.test_policy_servers import POLICY_KEY, SIGN, PolicyPeer, content_for, guarded_room
from homeserver import observability
from homeserver.matrix.policy_server import PolicyServer, is_signed_by
from homeserver.services.receive_events import Outcome, Verdict
from homeserver.storage.event_places import read_places
from homeserver.storage.rooms import fetch_state_events

pytestmark = pytest.mark.usefixtures("set_up")
UNSIGNED = Outcome(Verdict.SOFT_FAILED, "7", "the room's policy server has not signed it")


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[PolicyPeer]:
    server(**LOOPBACK)
    with PolicyPeer(tmp_path) as running:
        running.asked_about = []
        yield running
    observability.fault_hook = None


@pytest.fixture
def remote(alice: User, peer: PolicyPeer) -> RemoteServer:
    made = RemoteServer(guarded_room(alice, peer), peer.name)
    peer.asked_about.clear()
    return made


def test_what_the_policy_server_signs_is_accepted_with_its_signature(remote: RemoteServer, peer: PolicyPeer) -> None:
    topic = remote.join(remote.user("dan"))
    remote.accepted(topic)
    stored = fetch_state_events(remote.room_id, [topic.event_id], remote.rules)[topic.event_id].event
    assert is_signed_by(stored, PolicyServer(peer.name, POLICY_KEY.verify_key))
    assert stored.pdu["signatures"][peer.name].keys() >= topic.pdu["signatures"][peer.name].keys()
    assert len(peer.asked_about) == 1


def test_what_it_does_not_sign_is_soft_failed(remote: RemoteServer, peer: PolicyPeer, alice: User) -> None:
    spam = remote.say(remote.user("policy"), "spam, spam")
    assert remote.receive(spam) == [UNSIGNED]
    place = read_places([spam.event_id])[spam.event_id]
    assert (place.flags, place.position) == ("s", None)
    tips = remote.tips()
    after = remote.say(remote.user("policy"), "no more", prev=[spam.event_id])
    remote.accepted(after)
    assert tips != remote.tips() == [after.event_id]
    assert texts(messages(alice, remote.room_id).json["chunk"]) == ["no more"]


def test_it_is_asked_once_however_often_the_room_has_to_be_read(
    remote: RemoteServer, peer: PolicyPeer, alice: User
) -> None:
    message = remote.say(remote.user("policy"), "hello")

    def meddle(point: str) -> None:
        if point == "receive.before_commit":
            observability.fault_hook = None
            assert set_state(alice, remote.room_id, "m.room.name", {"name": "tea"}).status == 200

    observability.fault_hook = meddle
    remote.accepted(message)
    assert [pdu["type"] for pdu in peer.asked_about] == ["m.room.message", "m.room.name"]


def test_a_new_policy_counts_for_what_comes_with_it(alice: User, peer: PolicyPeer) -> None:
    remote = RemoteServer(guarded_room(alice, peer), peer.name)
    assert set_state(alice, remote.room_id, "m.room.policy", {}).status == 200
    policy = remote.user("policy")
    remote.accepted(remote.power(alice.user_id, {policy: 100}))
    assert remote.receive(remote.say(policy, "spam before")) == [Outcome(Verdict.ACCEPTED)]
    before = int(head_of(remote.room_id).position)
    peer.asked_about.clear()
    named = remote.make("m.room.policy", content_for(peer), policy, state_key="")
    said = remote.say(policy, "hello", prev=[named.event_id])
    spam = remote.say(policy, "spam after", prev=[said.event_id])
    assert remote.receive(named, said, spam) == [Outcome(Verdict.ACCEPTED), Outcome(Verdict.ACCEPTED), UNSIGNED]
    assert int(head_of(remote.room_id).position) == before + 2
    assert [pdu["content"].get("body") for pdu in peer.asked_about] == ["hello", "spam after"]
    assert peer.paths().count(f"POST {SIGN}") >= 2
