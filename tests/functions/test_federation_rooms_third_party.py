"""Invitations by address that find their user on another server."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from federation_peer import Peer
from functions.federating import LOOPBACK
from functions.handshakes import (
    FUNCTION,
    Guest,
    InvitedServer,
    address_invite,
    exchange_request,
    notice,
    path,
    pending,
    statement,
)
from functions.harness import Answer, User, invoke, payload
from functions.remote_server import KEY, RemoteServer, head_of, state_of
from functions.rooms import create_room, follow, set_state
from functions.syncing import sync
from homeserver.matrix.event_codec import unpack
from homeserver.matrix.signing import SigningKey
from homeserver.storage.room_items import EventRecord

pytestmark = pytest.mark.usefixtures("set_up")
OTHER_KEY = SigningKey.generate("0", b"o" * 32)
ONBIND = "/_matrix/federation/v1/3pid/onbind"


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[InvitedServer]:
    server(**LOOPBACK)
    with InvitedServer(tmp_path, key=KEY) as running:
        yield running


@pytest.fixture
def guest(checked: Callable[..., Answer], peer: Peer) -> Guest:
    return Guest(checked, peer)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def room_with_invite(user: User, token: str = "token") -> str:
    """A room in which an address is invited, by a key that nobody has to be asked about."""
    room_id = create_room(user, preset="private_chat", room_version="11", name="Lobby")
    assert set_state(user, room_id, "m.room.third_party_invite", address_invite(), token).status == 200
    return room_id


def exchange(guest: Guest, room_id: str, body: dict[str, Any]) -> Answer:
    return guest.ask("PUT", path("v1", "exchange_third_party_invite", room_id), body)


def member(room_id: str, user: str) -> dict[str, Any] | None:
    event_id = state_of(room_id).get(("m.room.member", user))
    record = EventRecord.fetch(event_id) if event_id else None
    return unpack(record.packed) if record is not None and record.packed is not None else None


def test_a_bound_address_becomes_an_invitation_that_the_users_server_signs(
    call, guest: Guest, peer: InvitedServer, alice: User
) -> None:
    room_id, carol = room_with_invite(alice), guest.user("carol")
    for _ in range(2):  # repeating it changes nothing
        answer = exchange(guest, room_id, exchange_request(room_id, alice.user_id, carol))
        assert (answer.status, answer.json) == (200, {})
    invitation = member(room_id, carol)
    assert invitation is not None
    assert invitation["sender"] == alice.user_id
    assert invitation["content"]["membership"] == "invite"
    assert invitation["content"]["third_party_invite"] == {"display_name": "c...@e...", "signed": statement(carol)}
    assert set(invitation["signatures"]) == {"example.org", guest.name}
    assert [asked.split("/")[4] for asked in peer.paths() if asked.startswith("PUT")] == ["invite"]
    # And with it they come in.
    assert Guest(call, peer).enter("join", room_id, carol).status == 200


def test_only_what_the_room_knows_and_the_identity_server_signed_becomes_an_invitation(
    guest: Guest, alice: User, bob: User
) -> None:
    room_id, carol = room_with_invite(alice), guest.user("carol")
    position = int(head_of(room_id).position)

    def wrong(signed: dict[str, Any], **change: Any) -> Answer:
        invitation = {"display_name": "c...", "signed": signed}
        content = {"membership": "invite", "third_party_invite": invitation}
        return exchange(guest, room_id, {**exchange_request(room_id, alice.user_id, carol, content=content), **change})

    right = statement(carol)
    assert refusal(wrong(statement(carol, key=OTHER_KEY))) == (403, "M_FORBIDDEN")
    assert refusal(wrong(statement(carol, token="other"))) == (403, "M_FORBIDDEN")
    assert refusal(wrong(right, sender=bob.user_id)) == (403, "M_FORBIDDEN")
    assert refusal(wrong(right, sender=guest.user("dave"))) == (403, "M_FORBIDDEN")
    assert refusal(wrong(statement(guest.user("dave")))) == (400, "M_INVALID_PARAM")
    assert refusal(wrong({**right, "token": 5})) == (400, "M_BAD_JSON")
    assert refusal(wrong({**right, "signatures": []})) == (400, "M_BAD_JSON")
    assert refusal(wrong(right, type="m.room.name")) == (400, "M_INVALID_PARAM")
    assert refusal(wrong(right, room_id="!other:example.org")) == (400, "M_INVALID_PARAM")
    assert refusal(wrong(right, content={"membership": "join"})) == (400, "M_INVALID_PARAM")
    assert refusal(wrong(right, content="x")) == (400, "M_INVALID_PARAM")
    other = exchange_request(room_id, alice.user_id, "@dave:elsewhere.test")
    other["content"]["third_party_invite"]["signed"] = statement("@dave:elsewhere.test")
    assert refusal(exchange(guest, room_id, other)) == (403, "M_FORBIDDEN")
    nowhere = exchange_request("!nowhere:example.org", alice.user_id, carol)
    assert refusal(exchange(guest, "!nowhere:example.org", nowhere)) == (404, "M_NOT_FOUND")
    assert int(head_of(room_id).position) == position


def test_an_invitation_that_was_withdrawn_is_over(guest: Guest, alice: User) -> None:
    room_id, carol = room_with_invite(alice), guest.user("carol")
    assert set_state(alice, room_id, "m.room.third_party_invite", {}, "token").status == 200
    assert refusal(exchange(guest, room_id, exchange_request(room_id, alice.user_id, carol))) == (403, "M_FORBIDDEN")
    assert member(room_id, carol) is None


def test_a_server_that_the_acl_bans_exchanges_nothing(guest: Guest, alice: User) -> None:
    room_id, carol = room_with_invite(alice), guest.user("carol")
    acl = {"allow": ["*"], "deny": ["localhost"], "allow_ip_literals": True}
    assert set_state(alice, room_id, "m.room.server_acl", acl).status == 200
    assert refusal(exchange(guest, room_id, exchange_request(room_id, alice.user_id, carol))) == (403, "M_FORBIDDEN")


# ── Notices of identity servers ──────────────────────────────────────────────────────────────────────


def test_a_user_of_this_server_is_invited_to_a_room_that_it_is_in(checked, peer: Peer, alice: User, bob: User) -> None:
    room_id = room_with_invite(alice)
    follow()
    since = sync(bob)["next_batch"]
    answer = checked(FUNCTION, "PUT", ONBIND, notice(bob.user_id, pending(room_id, alice.user_id, bob.user_id)))
    assert (answer.status, answer.json) == (200, {})
    invitation = member(room_id, bob.user_id)
    assert invitation is not None
    assert (invitation["sender"], invitation["content"]["membership"]) == (alice.user_id, "invite")
    follow()
    assert set(sync(bob, since)["rooms"]["invite"]) == {room_id}
    assert peer.asked == []


def test_the_inviter_may_be_of_another_server(checked, guest: Guest, alice: User, bob: User) -> None:
    room_id, carol = create_room(alice, preset="public_chat", room_version="11"), guest.user("carol")
    maker = RemoteServer(room_id, guest.name)
    maker.accepted(maker.join(carol))
    maker.accepted(maker.make("m.room.third_party_invite", address_invite(), carol, state_key="token"))
    told = notice(bob.user_id, pending(room_id, carol, bob.user_id))
    assert checked(FUNCTION, "PUT", ONBIND, told).status == 200
    invitation = member(room_id, bob.user_id)
    assert invitation is not None
    assert (invitation["sender"], set(invitation["signatures"])) == (carol, {"example.org"})


def test_the_inviters_server_is_asked_where_this_one_is_not_in_the_room(checked, guest: Guest, bob: User) -> None:
    room_id, carol = f"!far:{guest.name}", guest.user("carol")
    told = notice(bob.user_id, pending(room_id, carol, bob.user_id))
    assert checked(FUNCTION, "PUT", ONBIND, told).status == 200
    (asked,) = guest.peer.asked
    assert asked[0] == "PUT"
    assert asked[1] == path("v1", "exchange_third_party_invite", room_id)
    body = json.loads(asked[3])
    assert (body["sender"], body["state_key"], body["room_id"]) == (carol, bob.user_id, room_id)
    assert body["content"]["third_party_invite"]["signed"] == statement(bob.user_id)


def test_what_comes_to_nothing_is_nobodys_business(checked, peer: Peer, alice: User, bob: User) -> None:
    room_id = room_with_invite(alice)
    good = pending(room_id, alice.user_id, bob.user_id)
    told = notice(
        bob.user_id,
        {**good, "signed": statement(alice.user_id)},
        {**good, "signed": {"token": "x"}},
        {**good, "signed": {**statement(bob.user_id), "x": 0.5}},
        {**good, "mxid": alice.user_id, "signed": statement(alice.user_id)},
        {**good, "signed": statement(bob.user_id, key=OTHER_KEY)},
        {**good, "room_id": "nowhere"},
        {**good, "room_id": "!far:elsewhere.invalid", "sender": "@x:elsewhere.invalid"},
    )
    told["invites"].append("no invitation")
    assert checked(FUNCTION, "PUT", ONBIND, told).status == 200
    assert member(room_id, bob.user_id) is None
    told["invites"].append(good)
    assert checked(FUNCTION, "PUT", ONBIND, told).status == 200
    assert member(room_id, bob.user_id) is not None


def test_a_notice_that_makes_no_sense_is_refused(checked, peer: Peer, alice: User, bob: User, server) -> None:
    def answered(**change: Any) -> tuple[int, str | None]:
        body = {key: value for key, value in {**notice(bob.user_id), **change}.items() if value is not None}
        return refusal(checked(FUNCTION, "PUT", ONBIND, body))

    assert answered() == (200, None)
    assert answered(mxid="@bob:elsewhere.test") == (404, "M_NOT_FOUND")
    assert answered(mxid="@nobody:example.org") == (404, "M_NOT_FOUND")
    assert answered(mxid="bob") == (404, "M_NOT_FOUND")
    assert answered(mxid=None) == (400, "M_MISSING_PARAM")
    assert answered(medium=5) == (400, "M_BAD_JSON")
    assert answered(invites=None) == (400, "M_MISSING_PARAM")
    assert answered(invites=[{}] * 21) == (400, "M_INVALID_PARAM")
    server(RATE_LIMITS="on")
    assert [answered()[0] for _ in range(11)] == [200] * 10 + [429]


def test_the_recorded_notice_is_of_a_user_whom_nobody_knows(peer: Peer) -> None:
    assert refusal(invoke(FUNCTION, payload("federation_rooms_onbind"))) == (404, "M_NOT_FOUND")
