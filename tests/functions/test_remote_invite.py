"""Users of other servers are invited: their server signs the invitation before the room has it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from functions.federating import LOOPBACK
from functions.harness import SERVER_NAME, Answer, User
from functions.membership_work import crash
from functions.remote_server import RemoteServer, head_of, state_of
from functions.resident_peer import Refusal, ResidentPeer
from functions.rooms import create_room, events_of, make, path, post, request, say, set_state, state
from homeserver.adapters.federation_http import close_connections
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.hashes import event_id_of
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import SigningKey, sign_event, verify_event_signature
from homeserver.services.access_tokens import Requester
from homeserver.services.membership import invite, kick
from homeserver.services.room_draft import RoomDraft
from homeserver.services.send_event import send_message_event, send_state_event
from homeserver.storage.room_items import EventRecord, TimelineEntry, bucket_of
from homeserver.storage.rooms import fetch_state_events

pytestmark = pytest.mark.usefixtures("set_up")
VERSIONS = ["1", "2", "3", "6", "9", "10", "11", "12"]


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[ResidentPeer]:
    server(**LOOPBACK)
    with ResidentPeer(tmp_path) as peer:
        yield peer
        close_connections()


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def ask(user: User, room_id: str, whom: str, **more: Any) -> Answer:
    return post(user, room_id, "invite", {"user_id": whom, **more})


def stored(room_id: str, whom: str) -> Any:
    """The invitation in the room's state."""
    event_id = state_of(room_id)["m.room.member", whom]
    rules = ROOM_VERSIONS[head_of(room_id).room_version]
    return fetch_state_events(room_id, [event_id], rules)[event_id].event


def not_invited(user: User, room_id: str, whom: str) -> bool:
    return state(user, room_id, "m.room.member", whom).status == 404


# ── The good path ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", VERSIONS)
def test_an_invitation_is_signed_by_both_servers_and_then_in_the_room(
    alice: User, peer: ResidentPeer, version: str
) -> None:
    room_id, bob = create_room(alice, room_version=version), f"@bob:{peer.name}"
    assert ask(alice, room_id, bob, reason="come").json == {}
    assert state(alice, room_id, "m.room.member", bob).json == {"membership": "invite", "reason": "come"}
    event = stored(room_id, bob)
    rules = ROOM_VERSIONS[version]
    (sent,) = peer.sent["invite"]
    assert event_id_of(sent["event"], rules) == event.event_id
    assert set(event.pdu["signatures"]) == {SERVER_NAME, peer.name}
    verify_event_signature(event.pdu, rules, peer.name, {peer.key.key_id: peer.key.verify_key})
    assert "unsigned" not in event.pdu


def test_the_other_server_is_told_the_version_and_whole_events_of_the_room(alice: User, peer: ResidentPeer) -> None:
    room_id, bob = create_room(alice, name="Tea", topic="Black"), f"@bob:{peer.name}"
    ask(alice, room_id, bob)
    (sent,) = peer.sent["invite"]
    assert sent["room_version"] == "12"
    shown = {(event["type"], event["state_key"]) for event in sent["invite_room_state"]}
    assert shown == {
        ("m.room.create", ""),
        ("m.room.name", ""),
        ("m.room.topic", ""),
        ("m.room.join_rules", ""),
        ("m.room.member", alice.user_id),
    }
    assert all(event["signatures"] and event["hashes"] for event in sent["invite_room_state"])
    (path_asked,) = [asked for asked in peer.paths() if "/invite/" in asked]
    assert path_asked.startswith("PUT /_matrix/federation/v2/invite/")


def test_the_commit_is_for_all_servers_of_the_room(alice: User, peer: ResidentPeer) -> None:
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    ask(alice, room_id, bob)
    position = int(head_of(room_id).position)
    entry = TimelineEntry.fetch(bucket_of(room_id, position), position)
    assert entry is not None
    assert (entry.event_id, entry.origin) == (stored(room_id, bob).event_id, "relay")


def test_who_is_invited_already_is_not_asked_again(alice: User, peer: ResidentPeer) -> None:
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    ask(alice, room_id, bob)
    assert ask(alice, room_id, bob).json == {}
    assert len(peer.sent["invite"]) == 1


def test_a_direct_chat_is_made_with_its_invitation(alice: User, peer: ResidentPeer) -> None:
    bob = f"@bob:{peer.name}"
    room_id = create_room(alice, preset="trusted_private_chat", is_direct=True, room_version="10")
    assert not_invited(alice, room_id, bob)
    answer = make(alice, preset="trusted_private_chat", is_direct=True, invite=[bob], room_version="10")
    room_id = answer.json["room_id"]
    assert state(alice, room_id, "m.room.member", bob).json == {"membership": "invite", "is_direct": True}
    assert state(alice, room_id, "m.room.power_levels").json["users"] == {alice.user_id: 100, bob: 100}
    assert peer.sent["invite"][0]["event"]["content"] == {"membership": "invite", "is_direct": True}


def test_a_room_is_made_with_users_of_several_servers(
    alice: User, bob: User, peer: ResidentPeer, tmp_path: Path
) -> None:
    with ResidentPeer(tmp_path / "other") as other:
        there = [f"@{name}:{one.name}" for one in (peer, other) for name in ("carol", "dave")]
        answer = make(alice, invite=[bob.user_id, *there])
        room_id = answer.json["room_id"]
        for user_id in (bob.user_id, *there):
            assert state(alice, room_id, "m.room.member", user_id).json["membership"] == "invite", user_id
    say(alice, room_id, "hello")
    assert len(head_of(room_id).extremities) == 1


def test_a_room_is_made_although_an_invitation_is_refused(alice: User, peer: ResidentPeer) -> None:
    peer.refuse["invite"] = Refusal(403, "M_FORBIDDEN")
    carol = f"@carol:{peer.name}"
    answer = make(alice, invite=[carol, "@nobody:localhost:1"])
    assert answer.status == 200
    assert not_invited(alice, answer.json["room_id"], carol)


def test_an_invitation_can_be_set_as_state(alice: User, peer: ResidentPeer) -> None:
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    answer = set_state(alice, room_id, "m.room.member", {"membership": "invite", "displayname": "Bob"}, bob)
    assert answer.json == {"event_id": stored(room_id, bob).event_id}
    assert state(alice, room_id, "m.room.member", bob).json == {"membership": "invite", "displayname": "Bob"}


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("status", [400, 404])
def test_an_old_server_is_asked_at_the_old_endpoint(alice: User, peer: ResidentPeer, version: str, status: int) -> None:
    peer.refuse["v2/invite"] = Refusal(status, "M_UNRECOGNIZED")
    room_id, bob = create_room(alice, room_version=version, name="Old"), f"@bob:{peer.name}"
    assert ask(alice, room_id, bob).json == {}
    (sent,) = peer.sent["invite"]
    shown = sent["unsigned"]["invite_room_state"]
    assert [event["content"] for event in shown if event["type"] == "m.room.name"] == [{"name": "Old"}]
    assert set(stored(room_id, bob).pdu["signatures"]) == {SERVER_NAME, peer.name}


def test_a_new_room_version_has_no_old_endpoint(alice: User, peer: ResidentPeer) -> None:
    peer.refuse["v2/invite"] = Refusal(404, "M_UNRECOGNIZED")
    room_id, bob = create_room(alice, room_version="10"), f"@bob:{peer.name}"
    assert refusal(ask(alice, room_id, bob)) == (404, "M_NOT_FOUND")
    assert not any("/v1/invite/" in asked for asked in peer.paths())


# ── Refusals ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "errcode", "expected"),
    [
        (403, "M_FORBIDDEN", (403, "M_FORBIDDEN")),
        (403, "M_INVITE_BLOCKED", (403, "M_INVITE_BLOCKED")),
        (403, "M_UNKNOWN_TOKEN", (403, "M_FORBIDDEN")),
        (400, "M_INCOMPATIBLE_ROOM_VERSION", (400, "M_UNSUPPORTED_ROOM_VERSION")),
        (400, "M_INVALID_PARAM", (502, "M_UNKNOWN")),
        (400, "M_MISSING_PARAM", (502, "M_UNKNOWN")),
        (400, "M_BAD_JSON", (400, "M_UNKNOWN")),
        (401, "M_UNAUTHORIZED", (502, "M_UNKNOWN")),
        (404, "M_NOT_FOUND", (404, "M_NOT_FOUND")),
        (429, "M_LIMIT_EXCEEDED", (429, "M_LIMIT_EXCEEDED")),
        (500, "M_UNKNOWN", (502, "M_UNKNOWN")),
    ],
)
def test_a_refusal_is_told_and_nothing_is_stored(
    alice: User, peer: ResidentPeer, status: int, errcode: str, expected: tuple[int, str]
) -> None:
    peer.refuse["invite"] = Refusal(status, errcode)
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    before = int(head_of(room_id).position)
    assert refusal(ask(alice, room_id, bob)) == expected
    assert int(head_of(room_id).position) == before


def test_a_server_that_is_not_there_is_told_so(alice: User, peer: ResidentPeer) -> None:
    room_id = create_room(alice)
    assert refusal(ask(alice, room_id, "@bob:localhost:1")) == (502, "M_UNKNOWN")
    assert not_invited(alice, room_id, "@bob:localhost:1")


def test_who_may_not_invite_lets_nobody_be_asked(alice: User, bob: User, peer: ResidentPeer) -> None:
    room_id = create_room(alice, bob, power_level_content_override={"invite": 50})
    assert refusal(ask(bob, room_id, f"@carol:{peer.name}")) == (403, "M_FORBIDDEN")
    assert "invite" not in peer.sent


def test_a_room_of_its_own_server_takes_nobody_of_another(alice: User, peer: ResidentPeer) -> None:
    room_id = create_room(alice, creation_content={"m.federate": False})
    assert refusal(ask(alice, room_id, f"@carol:{peer.name}")) == (403, "M_FORBIDDEN")
    assert "invite" not in peer.sent


def unsigned(answer: Any) -> Any:
    event = answer["event"]
    return {"event": {**event, "signatures": {SERVER_NAME: event["signatures"][SERVER_NAME]}}}


def changed(answer: Any) -> Any:
    """The invitation becomes a ban, and is signed anew."""
    return {"event": {**answer["event"], "content": {"membership": "ban"}, "hashes": {"sha256": "A" * 43}}}


@pytest.mark.parametrize(
    "twist",
    [
        unsigned,
        changed,
        lambda _: {},
        lambda _: {"event": None},
        lambda _: {"event": []},
        lambda _: [],
        lambda answer: {"event": {**answer["event"], "signatures": {}}},
        lambda answer: {"event": {**answer["event"], "signatures": 5}},
        lambda answer: {"event": {**answer["event"], "depth": 2**60}},
    ],
)
def test_an_answer_that_is_not_the_signed_invitation_stores_nothing(
    alice: User, peer: ResidentPeer, twist: Callable[[Any], Any]
) -> None:
    peer.twist["invite"] = twist
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    assert refusal(ask(alice, room_id, bob)) == (502, "M_UNKNOWN")
    assert not_invited(alice, room_id, bob)


def test_a_signature_with_a_key_that_the_server_does_not_publish_counts_nothing(
    alice: User, peer: ResidentPeer
) -> None:
    stranger = SigningKey.generate("peer", b"q" * 32)
    rules = ROOM_VERSIONS["12"]

    def forged(answer: Any) -> Any:
        event = answer["event"]
        bare = {**event, "signatures": {SERVER_NAME: event["signatures"][SERVER_NAME]}}
        return {"event": sign_event(bare, rules, peer.name, stranger)}

    peer.twist["invite"] = forged
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    assert refusal(ask(alice, room_id, bob)) == (502, "M_UNKNOWN")
    assert not_invited(alice, room_id, bob)


def test_what_a_server_adds_to_the_invitation_is_not_taken(alice: User, peer: ResidentPeer) -> None:
    def added(answer: Any) -> Any:
        event = answer["event"]
        signatures = {**event["signatures"], "evil.test": {"ed25519:x": "A" * 86}}
        return {"event": {**event, "signatures": signatures, "unsigned": {"x": 1}, "org.example": "more"}}

    peer.twist["invite"] = added
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    assert ask(alice, room_id, bob).json == {}
    event = stored(room_id, bob)
    assert set(event.pdu["signatures"]) == {SERVER_NAME, peer.name}
    assert "org.example" not in event.pdu
    assert "unsigned" not in event.pdu


# ── Races and crashes ────────────────────────────────────────────────────────────────────────────────


def test_what_happens_in_the_room_while_the_server_is_asked_stays(alice: User, peer: ResidentPeer) -> None:
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    said: list[str] = []
    requester = Requester(alice.user_id, "D", "")

    def meanwhile(answer: Any) -> Any:  # in a thread of the other server, which has no event loop for handlers
        drafts = [EventDraft("m.room.message", {"n": number}) for number in range(2)]
        said.extend(send_message_event(requester, room_id, draft, f"t{n}") for n, draft in enumerate(drafts))
        send_state_event(requester, room_id, EventDraft("m.room.topic", {"topic": "meanwhile"}, ""))
        return answer

    peer.twist["invite"] = meanwhile
    assert ask(alice, room_id, bob).json == {}
    assert len(peer.sent["invite"]) == 1
    assert state(alice, room_id, "m.room.member", bob).json["membership"] == "invite"
    assert state(alice, room_id, "m.room.topic").json["topic"] == "meanwhile"
    record = EventRecord.fetch(said[-1])
    assert record is not None
    assert record.position is not None
    # Both are forward extremities, until the next event refers to both.
    assert len(head_of(room_id).extremities) == 2
    say(alice, room_id, "three")
    assert len(head_of(room_id).extremities) == 1


def test_an_invitation_by_somebody_who_was_removed_meanwhile_is_refused(
    alice: User, bob: User, peer: ResidentPeer
) -> None:
    room_id, carol = create_room(alice, bob), f"@carol:{peer.name}"

    def meanwhile(answer: Any) -> Any:
        kick(Requester(alice.user_id, "D", ""), room_id, bob.user_id, reason=None)
        return answer

    peer.twist["invite"] = meanwhile
    assert refusal(ask(bob, room_id, carol)) == (403, "M_FORBIDDEN")
    assert not_invited(alice, room_id, carol)


def test_two_who_invite_the_same_user_at_once_both_succeed(alice: User, bob: User, peer: ResidentPeer) -> None:
    room_id, carol = create_room(alice, bob), f"@carol:{peer.name}"
    peer.slow["invite"] = 0.3
    with ThreadPoolExecutor(2) as threads:
        calls = [
            threads.submit(invite, Requester(who.user_id, "", ""), room_id, carol, reason=None) for who in (alice, bob)
        ]
        assert [call.result() for call in calls] == [None, None]
    assert len(peer.sent["invite"]) == 2
    assert state(alice, room_id, "m.room.member", carol).json["membership"] == "invite"


@pytest.mark.parametrize("point", ["remote_invite.signed", "receive.before_commit", "commit.before"])
def test_after_a_crash_the_invitation_can_be_repeated(alice: User, peer: ResidentPeer, point: str) -> None:
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    before = int(head_of(room_id).position)
    with crash(point):
        ask(alice, room_id, bob)
    assert int(head_of(room_id).position) == before
    assert ask(alice, room_id, bob).json == {}
    assert state(alice, room_id, "m.room.member", bob).json["membership"] == "invite"


def test_a_crash_after_the_commit_leaves_the_user_invited(alice: User, peer: ResidentPeer) -> None:
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    with crash("commit.after"):
        ask(alice, room_id, bob)
    assert ask(alice, room_id, bob).json == {}
    assert len(peer.sent["invite"]) == 1
    assert events_of(alice, room_id)[-1] == ("m.room.member", bob)


def test_an_invited_user_can_be_removed_again(alice: User, peer: ResidentPeer) -> None:
    room_id, bob = create_room(alice), f"@bob:{peer.name}"
    ask(alice, room_id, bob)
    assert post(alice, room_id, "kick", {"user_id": bob}).json == {}
    assert state(alice, room_id, "m.room.member", bob).json == {"membership": "leave"}


def test_the_invited_user_comes_in(alice: User, peer: ResidentPeer) -> None:
    room_id, bob = create_room(alice, room_version="11"), f"@bob:{peer.name}"
    ask(alice, room_id, bob)
    remote = RemoteServer(room_id, peer.name)
    remote.accepted(remote.join(bob))
    assert state(alice, room_id, "m.room.member", bob).json == {"membership": "join"}


def test_a_draft_is_never_committed_without_the_other_signature(
    alice: User, peer: ResidentPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id, bob = create_room(alice), f"@bob:{peer.name}"

    def commit(_self: RoomDraft) -> None:
        raise AssertionError("committed")

    monkeypatch.setattr(RoomDraft, "commit", commit)
    peer.twist["invite"] = unsigned
    assert refusal(ask(alice, room_id, bob)) == (502, "M_UNKNOWN")
    assert request("client_rooms", "GET", path("joined_rooms"), token=alice.token).json == {"joined_rooms": [room_id]}
