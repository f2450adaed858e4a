"""Users of this server are invited to rooms of other servers."""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from federation_peer import Peer
from functions.federating import LOOPBACK
from functions.foreign_room import ForeignRoom
from functions.handshakes import Guest, path
from functions.harness import PASSWORD, Answer, User
from functions.remote_server import KEY, RemoteServer, head_of, state_of
from functions.rooms import V3, call, create_room, set_state
from functions.syncing import sync
from homeserver.adapters.signing_key import signing_key
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.matrix.signing import SigningKey, verify_event_signature
from homeserver.services.stub_rooms import stub_of
from homeserver.storage.room_items import HEAD, Head

pytestmark = pytest.mark.usefixtures("set_up")
OTHER_KEY = SigningKey.generate("r1", b"o" * 32)
VERSIONS = ["3", "6", "9", "10", "11", "12"]


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK)
    with Peer(tmp_path, key=KEY) as running:
        yield running


@pytest.fixture
def guest(checked: Callable[..., Answer], peer: Peer) -> Guest:
    return Guest(checked, peer)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def foreign(guest: Guest, version: str = "11", **more: Any) -> ForeignRoom:
    return ForeignRoom(guest.name, KEY, version=version, **more)


def whole(room: ForeignRoom) -> list[dict[str, Any]]:
    """What an invitation shows of the room, as whole events."""
    return [dict(room.state[event_type, ""].pdu) for event_type in ("m.room.create", "m.room.name")]


def check_signed(event: dict[str, Any], version: str) -> None:
    key = signing_key()
    verify_event_signature(event, ROOM_VERSIONS[version], "example.org", {key.key_id: key.verify_key})


@pytest.mark.parametrize("version", VERSIONS)
def test_an_invitation_is_signed_and_shown_to_the_user(guest: Guest, alice: User, version: str) -> None:
    room = foreign(guest, version)
    since = sync(alice)["next_batch"]
    invitation = room.invite(alice.user_id, reason="come in")
    answer = guest.invite(invitation, whole(room))
    assert answer.status == 200, answer
    signed = answer.json["event"]
    assert set(signed["signatures"]) == {guest.name, "example.org"}
    assert {**signed, "signatures": invitation.pdu["signatures"]} == dict(invitation.pdu)
    check_signed(signed, version)
    for body in (sync(alice), sync(alice, since)):
        events = body["rooms"]["invite"][room.id]["invite_state"]["events"]
        assert [event["type"] for event in events] == ["m.room.create", "m.room.name", "m.room.member"]
        assert events[-1]["content"] == {"membership": "invite", "reason": "come in"}
    stub = stub_of(room.id, alice.user_id)
    assert stub is not None
    assert (stub.membership, stub.event, stub.servers) == ("invite", invitation, (guest.name,))
    # It is kept as it was signed, for who has to show it to others.
    assert stub.event.pdu["signatures"] == signed["signatures"]


def test_the_same_invitation_again_is_answered_the_same_and_shown_once(guest: Guest, alice: User) -> None:
    room = foreign(guest)
    invitation = room.invite(alice.user_id)
    first = guest.invite(invitation, whole(room))
    since = sync(alice)["next_batch"]
    assert guest.invite(invitation, whole(room)).json == first.json
    assert "rooms" not in sync(alice, since)
    assert int(head_of(room.id).position) == 1


@pytest.mark.parametrize("version", ["1", "2"])
def test_an_invitation_of_the_first_endpoint_is_of_the_first_room_versions(
    guest: Guest, alice: User, version: str
) -> None:
    room = foreign(guest, version)
    invitation = room.invite(alice.user_id)
    body = {**invitation.pdu, "unsigned": {"age": 5, "invite_room_state": room.stripped()}}
    answer = guest.ask("PUT", path("v1", "invite", room.id, invitation.event_id), body)
    assert answer.status == 200, answer
    status, signed = answer.json
    assert status == 200
    assert signed["event"]["unsigned"] == body["unsigned"]
    check_signed(signed["event"], version)
    (shown,) = sync(alice)["rooms"]["invite"].values()
    assert [event["type"] for event in shown["invite_state"]["events"]][:2] == ["m.room.create", "m.room.name"]
    newer = foreign(guest, "11")
    other = newer.invite(alice.user_id)
    answer = guest.ask("PUT", path("v1", "invite", newer.id, other.event_id), dict(other.pdu))
    assert refusal(answer) == (400, "M_INVALID_PARAM")


def test_versions_that_nobody_knows_are_refused_with_their_name(guest: Guest, alice: User) -> None:
    room = foreign(guest)
    answer = guest.invite(room.invite(alice.user_id), version="org.example.99")
    assert refusal(answer) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
    assert answer.json["room_version"] == "org.example.99"
    where = path("v2", "invite", room.id, "$" + "a" * 43)
    assert refusal(guest.ask("PUT", where, {"event": {}})) == (400, "M_MISSING_PARAM")
    assert refusal(guest.ask("PUT", where, {"event": 5, "room_version": "11"})) == (400, "M_BAD_JSON")
    assert refusal(guest.ask("PUT", where, {"event": {}, "room_version": "11"})) == (400, "M_INVALID_PARAM")


def refused(guest: Guest, room: ForeignRoom, event: Event, **more: Any) -> None:
    answer = guest.invite(event, more.pop("state", None) or whole(room), **more)
    assert refusal(answer) == (400, "M_INVALID_PARAM"), event.pdu


def test_nothing_is_signed_but_an_invitation_of_a_user_of_this_server(guest: Guest, alice: User) -> None:
    room = foreign(guest)
    other = f"@owner:{guest.name}"
    for event in (
        room.make("m.room.message", {"membership": "invite"}, state_key=alice.user_id),
        room.member(other, "join", alice.user_id),
        room.member(other, "leave", alice.user_id),
        room.member(other, "invite", "@bob:elsewhere.test"),
        room.member(other, "invite", f"@bob:{guest.name}"),
        room.make("m.room.member", {"membership": "invite"}, state_key=None),
        room.member("@owner:elsewhere.test", "invite", alice.user_id),
        room.member(alice.user_id, "invite", alice.user_id),
        room.member(other, "invite", alice.user_id, key=OTHER_KEY),
        room.member(other, "invite", alice.user_id, server="elsewhere.test"),
    ):
        refused(guest, room, event)
    right = room.member(other, "invite", alice.user_id)
    refused(guest, room, right, event_id="$" + "a" * 43)
    refused(guest, room, right, event_id="nothing")
    refused(guest, room, right, room_id="!other:elsewhere.test")
    refused(guest, room, right, room_id="other")
    refused(guest, room, right, version="3")
    refused(guest, room, right, version="12")
    changed = Event(right.event_id, room.id, {**right.pdu, "content": {"membership": "invite", "x": 1}}, room.rules)
    refused(guest, room, changed)
    assert Head.fetch(room.id, HEAD) is None
    assert "rooms" not in sync(alice)


def test_a_third_party_invite_needs_the_inviters_server_to_sign_too(guest: Guest, alice: User) -> None:
    room = foreign(guest)
    said = {"display_name": "a", "signed": {"mxid": alice.user_id, "token": "t", "signatures": {}}}
    forged = room.member(
        room.owner, "invite", alice.user_id, content={"third_party_invite": said}, server="elsewhere.test"
    )
    refused(guest, room, forged)
    wrong = room.member(room.owner, "invite", alice.user_id, content={"third_party_invite": said}, key=OTHER_KEY)
    refused(guest, room, wrong)
    right = room.member(room.owner, "invite", alice.user_id, content={"third_party_invite": said})
    assert guest.invite(right, whole(room)).status == 200


def test_users_who_do_not_exist_or_want_no_invitations_are_not_invited(guest: Guest, alice: User, bob: User) -> None:
    room = foreign(guest)
    assert refusal(guest.invite(room.invite("@nobody:example.org"), whole(room))) == (404, "M_NOT_FOUND")
    where = f"{V3}/user/{quote(alice.user_id)}/account_data/m.invite_permission_config"
    blocked = call("client_user", "PUT", where, {"default_action": "block"}, token=alice.token)
    assert blocked.status == 200
    assert refusal(guest.invite(room.invite(alice.user_id), whole(room))) == (403, "M_INVITE_BLOCKED")
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}, "password": PASSWORD}
    gone = call("client_account", "POST", f"{V3}/account/deactivate", {"auth": auth}, token=bob.token)
    assert gone.status == 200
    assert refusal(guest.invite(room.invite(bob.user_id), whole(room))) == (404, "M_NOT_FOUND")
    assert Head.fetch(room.id, HEAD) is None


def test_a_room_that_is_not_federated_invites_nobody_here(guest: Guest, alice: User) -> None:
    room = foreign(guest)
    create = {**room.state["m.room.create", ""].pdu, "content": {"room_version": "11", "m.federate": False}}
    assert refusal(guest.invite(room.invite(alice.user_id), [create])) == (403, "M_FORBIDDEN")


def test_a_room_of_version_12_shows_the_create_event_that_makes_its_id(guest: Guest, alice: User) -> None:
    room, other = foreign(guest, "12"), foreign(guest, "12", name="Other")
    invitation = room.invite(alice.user_id)
    create, name = whole(room)
    refused(guest, room, invitation, state=[name])
    refused(guest, room, invitation, state=[dict(other.state["m.room.create", ""].pdu), name])
    refused(guest, room, invitation, state=[{**create, "content": {**create["content"], "type": "m.space"}}, name])
    refused(guest, room, invitation, state=[create, {**name, "signatures": {}}])
    refused(guest, room, invitation, state=[create, {**name, "content": {"name": "changed"}}])
    assert Head.fetch(room.id, HEAD) is None
    assert guest.invite(invitation, [create, name]).status == 200


def test_in_a_room_that_this_server_is_in_the_invitation_is_only_signed(
    call, peer: Peer, alice: User, bob: User
) -> None:
    guest = Guest(call, peer)
    room_id = create_room(alice, preset="public_chat", room_version="11")
    carol = guest.user("carol")
    assert guest.enter("join", room_id, carol).status == 200
    maker = RemoteServer(room_id, guest.name)
    invitation = maker.member(carol, "invite", bob.user_id)
    position = int(head_of(room_id).position)
    answer = guest.invite(invitation)
    assert answer.status == 200
    check_signed(answer.json["event"], "11")
    assert int(head_of(room_id).position) == position
    assert "rooms" not in sync(bob)
    maker.accepted(invitation)
    assert state_of(room_id)[invitation.key] == invitation.event_id


def test_a_server_that_the_acl_of_a_known_room_bans_cannot_invite_to_it(guest: Guest, alice: User, bob: User) -> None:
    room_id = create_room(alice, preset="public_chat", room_version="11")
    maker = RemoteServer(room_id, guest.name)
    carol = guest.user("carol")
    maker.accepted(maker.join(carol))
    invitation = maker.member(carol, "invite", bob.user_id)
    acl = {"allow": ["*"], "deny": ["localhost"], "allow_ip_literals": True}
    assert set_state(alice, room_id, "m.room.server_acl", acl).status == 200
    assert refusal(guest.invite(invitation)) == (403, "M_FORBIDDEN")


def test_an_inbox_cannot_be_filled_with_invitations(
    guest: Guest, alice: User, server: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    server(RATE_LIMITS="on")
    monkeypatch.setattr("homeserver.services.received_invites._BURST", 2)
    rooms = [foreign(guest, "12", name=str(number)) for number in range(3)]
    answers = [guest.invite(room.invite(alice.user_id), whole(room)) for room in rooms]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[-1].errcode == "M_LIMIT_EXCEEDED"
    assert len(sync(alice)["rooms"]["invite"]) == 2
