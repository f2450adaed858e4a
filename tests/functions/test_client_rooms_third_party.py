"""Invitations to mail addresses: known and unknown ones, what the identity server may do wrong, and redeeming them."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from functions.harness import Answer, User, call, register
from functions.identity_service import PREFIX, TOKEN, IdentityService
from functions.rooms import create_room, events_of, follow, make, membership, path, post, request, set_state, state
from functions.syncing import sync
from homeserver import observability
from homeserver.adapters import identity_server
from homeserver.matrix.event_builder import EventDraft
from homeserver.services.access_tokens import Requester
from homeserver.services.room_state_events import set_room_state

CAROL = "carol@example.com"


@pytest.fixture
def identity(server: Callable[..., None]) -> Iterator[IdentityService]:
    server(FEDERATION_ALLOW_RANGES="127.0.0.0/8", PLAIN_HTTP="loopback")
    service = IdentityService()
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def carol() -> User:
    return register("carol")


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def address(identity: IdentityService, **change: Any) -> dict[str, Any]:
    body = {"medium": "email", "address": CAROL, "id_server": identity.name, "id_access_token": TOKEN}
    return {key: value for key, value in {**body, **change}.items() if value is not None}


def invite(user: User, room_id: str, identity: IdentityService, **change: Any) -> Answer:
    return post(user, room_id, "invite", address(identity, **change))


def join(user: User, room_id: str, signed: Any, **more: Any) -> Answer:
    return post(user, room_id, "join", {"third_party_signed": signed, **more})


def asked(identity: IdentityService) -> list[str]:
    return [where.removeprefix(PREFIX) for _, where, _ in identity.asked]


def test_an_address_that_is_bound_invites_its_user(alice: User, carol: User, identity: IdentityService) -> None:
    identity.bound["email", CAROL] = carol.user_id
    room_id = create_room(alice)
    assert invite(alice, room_id, identity, address="Carol@Example.COM", reason="hello").json == {}
    content = {"membership": "invite", "displayname": "carol", "reason": "hello"}
    assert state(alice, room_id, "m.room.member", carol.user_id).json == content
    assert asked(identity) == ["hash_details", "lookup"]
    ((_, _, question),) = identity.asked[1:]
    assert question["algorithm"] == "sha256"
    assert CAROL not in str(question)
    assert post(carol, room_id, "join").status == 200


def test_an_identity_server_that_cannot_hash_is_asked_in_plain_text(
    alice: User, carol: User, identity: IdentityService
) -> None:
    identity.bound["msisdn", "4915112345678"] = carol.user_id
    identity.algorithms = ["none"]
    room_id = create_room(alice)
    assert invite(alice, room_id, identity, medium="msisdn", address="4915112345678").status == 200
    assert membership(alice, room_id, carol) == "invite"


def test_an_address_that_nobody_bound_gets_an_invitation_that_waits(alice: User, identity: IdentityService) -> None:
    room_id = create_room(alice, name="Tea", room_alias_name="tea", creation_content={"type": "org.example.pot"})
    assert invite(alice, room_id, identity).json == {}
    assert identity.stored == [
        {
            "medium": "email",
            "address": CAROL,
            "room_id": room_id,
            "sender": alice.user_id,
            "sender_display_name": "alice",
            "room_name": "Tea",
            "room_alias": "#tea:example.org",
            "room_join_rules": "invite",
            "room_type": "org.example.pot",
            "token": "token0",
        }
    ]
    url = f"http://{identity.name}{PREFIX}pubkey/isvalid"
    keys = [{"public_key": identity.public_key(key_id), "key_validity_url": url} for key_id in identity.keys]
    assert state(alice, room_id, "m.room.third_party_invite", "token0").json == {
        "display_name": "c...@e...",
        **keys[0],
        "public_keys": keys,
    }


def test_an_address_that_is_bound_between_the_questions_invites_its_user(
    alice: User, carol: User, identity: IdentityService
) -> None:
    identity.bound["email", CAROL] = carol.user_id
    identity.instead["lookup"] = (200, b'{"mappings":{}}', {})
    room_id = create_room(alice)
    assert invite(alice, room_id, identity).status == 200
    assert membership(alice, room_id, carol) == "invite"


def test_a_pepper_that_was_replaced_is_asked_for_once_more(alice: User, carol: User, identity: IdentityService) -> None:
    identity.bound["email", CAROL] = carol.user_id
    identity.instead["hash_details"] = (200, b'{"lookup_pepper":"old","algorithms":["sha256"]}', {})
    room_id = create_room(alice)
    answer = invite(alice, room_id, identity)
    assert refusal(answer) == (403, "M_FORBIDDEN")  # it stays the old one: twice, not for ever
    assert asked(identity) == ["hash_details", "lookup"] * 2


def test_who_may_not_invite_makes_nobody_ask(alice: User, bob: User, carol: User, identity: IdentityService) -> None:
    room_id = create_room(alice, bob, power_level_content_override={"invite": 50})
    for user in (bob, carol):
        assert refusal(invite(user, room_id, identity)) == (403, "M_FORBIDDEN")
    assert refusal(invite(alice, "!unknown:example.org", identity)) == (403, "M_FORBIDDEN")
    assert identity.asked == []


def test_a_blocked_invitation_is_blocked_by_address_too(alice: User, carol: User, identity: IdentityService) -> None:
    identity.bound["email", CAROL] = carol.user_id
    where = path("user", carol.user_id, "account_data", "m.invite_permission_config")
    request("client_user", "PUT", where, {"default_action": "block"}, token=carol.token)
    assert refusal(invite(alice, create_room(alice), identity)) == (403, "M_INVITE_BLOCKED")


@pytest.mark.parametrize(
    ("change", "status", "errcode"),
    [
        ({"id_server": None}, 400, "M_MISSING_PARAM"),
        ({"id_access_token": None}, 400, "M_MISSING_PARAM"),
        ({"address": None}, 400, "M_MISSING_PARAM"),
        ({"address": 1}, 400, "M_BAD_JSON"),
        ({"address": ""}, 400, "M_INVALID_PARAM"),
        ({"address": "x" * 500 + "@example.org"}, 400, "M_INVALID_PARAM"),
        ({"medium": "msisdn"}, 400, "M_INVALID_PARAM"),
        ({"medium": "pigeon"}, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        ({"id_server": "https://id.example"}, 400, "M_INVALID_PARAM"),
        ({"id_server": "id.example/path"}, 400, "M_INVALID_PARAM"),
        ({"id_server": "user@id.example"}, 400, "M_INVALID_PARAM"),
        ({"id_access_token": "a\r\nHost: evil"}, 403, "M_SERVER_NOT_TRUSTED"),
        ({"id_access_token": "wrong"}, 403, "M_FORBIDDEN"),
        ({"reason": 1}, 400, "M_BAD_JSON"),
    ],
)
def test_invitations_that_make_no_sense_are_refused(
    alice: User, identity: IdentityService, change: dict[str, Any], status: int, errcode: str
) -> None:
    room_id = create_room(alice)
    events = events_of(alice, room_id)
    assert refusal(invite(alice, room_id, identity, **change)) == (status, errcode)
    assert events_of(alice, room_id) == events


def drip(handler: Any) -> None:
    """Never ends, and never is silent for long."""
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.02)
    except OSError:
        return


@pytest.mark.parametrize(
    ("where", "instead"),
    [
        ("hash_details", (200, b"<html>", {})),
        ("hash_details", (200, b"[]", {})),
        ("hash_details", (200, b"{}", {})),
        ("hash_details", (200, b'{"lookup_pepper":"' + b"x" * 70_000 + b'","algorithms":["none"]}', {})),
        ("hash_details", drip),
        ("lookup", (302, b"", {"location": "http://127.0.0.1:1/"})),
        ("store-invite", (200, b'{"token":"a b","public_keys":[],"display_name":"x"}', {})),
        ("store-invite", (200, b'{"token":"ab","public_keys":[{"public_key":1}],"display_name":"x"}', {})),
    ],
)
def test_what_an_identity_server_does_wrong_is_a_502_and_no_event(
    alice: User, identity: IdentityService, monkeypatch: pytest.MonkeyPatch, where: str, instead: Any
) -> None:
    monkeypatch.setattr(identity_server, "_SECONDS", 0.5)
    identity.instead[where] = instead
    room_id = create_room(alice)
    events = events_of(alice, room_id)
    started = time.monotonic()
    assert refusal(invite(alice, room_id, identity)) == (502, "M_UNKNOWN")
    assert time.monotonic() - started < 3
    assert events_of(alice, room_id) == events


def test_what_an_identity_server_refuses_is_told_as_it_says(alice: User, identity: IdentityService) -> None:
    room_id = create_room(alice)
    identity.instead["store-invite"] = (403, b'{"errcode":"M_TERMS_NOT_SIGNED","error":"sign"}', {})
    assert refusal(invite(alice, room_id, identity)) == (403, "M_TERMS_NOT_SIGNED")
    identity.instead["lookup"] = (401, b'{"errcode":"M_UNKNOWN_TOKEN","error":"who"}', {})
    assert refusal(invite(alice, room_id, identity)) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    "settings",
    [
        {"FEDERATION_ALLOW_RANGES": "", "PLAIN_HTTP": "loopback"},
        {"FEDERATION_ALLOW_RANGES": "10.0.0.0/8", "PLAIN_HTTP": "loopback"},
    ],
)
def test_addresses_that_are_not_public_are_not_asked(
    alice: User, identity: IdentityService, server: Callable[..., None], settings: dict[str, str]
) -> None:
    server(**settings)
    room_id = create_room(alice)
    port = identity.name.partition(":")[2]
    for name in (
        identity.name,
        f"localhost:{port}",
        "169.254.169.254",
        "10.0.0.1" if "10" not in str(settings) else "[::1]",
    ):
        assert refusal(invite(alice, room_id, identity, id_server=name)) == (403, "M_SERVER_NOT_TRUSTED")
    assert identity.asked == []


def test_without_the_setting_nothing_is_asked_without_tls(
    alice: User, identity: IdentityService, server: Callable[..., None]
) -> None:
    server(PLAIN_HTTP="off")
    assert refusal(invite(alice, create_room(alice), identity)) == (502, "M_UNKNOWN")  # it speaks no TLS
    assert identity.asked == []


def test_invitations_by_address_are_limited(
    alice: User, identity: IdentityService, server: Callable[..., None]
) -> None:
    server(RATE_LIMITS="on")
    room_id = create_room(alice)
    answers = [invite(alice, room_id, identity).status for _ in range(21)]
    assert answers == [200] * 20 + [429]


# ── Redeeming ───────────────────────────────────────────────────────────────────────────────────────


def waiting(user: User, identity: IdentityService, **body: Any) -> str:
    """A room with an invitation that waits for Carol."""
    room_id = create_room(user, **body)
    assert invite(user, room_id, identity).status == 200
    return room_id


@pytest.mark.parametrize("key_id", ["ed25519:0", "ed25519:e"])
@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
@pytest.mark.usefixtures("set_up")
def test_who_proves_the_address_is_invited_and_joins(
    alice: User, carol: User, identity: IdentityService, key_id: str, version: str
) -> None:
    room_id = waiting(alice, identity, room_version=version)
    signed = identity.statement(carol.user_id, key_id)
    assert join(carol, room_id, signed, reason="it is me").json == {"room_id": room_id}
    own = {"membership": "join", "displayname": "carol", "reason": "it is me"}
    assert state(alice, room_id, "m.room.member", carol.user_id).json == own
    chunk = request(
        "client_history", "GET", path("rooms", room_id, "messages"), token=alice.token, query={"dir": "b", "limit": 2}
    ).json["chunk"]
    joined, invited = chunk
    assert (joined["sender"], joined["content"]) == (carol.user_id, own)
    assert (invited["sender"], invited["state_key"]) == (alice.user_id, carol.user_id)
    assert invited["content"] == {
        "membership": "invite",
        "third_party_invite": {"display_name": "c...@e...", "signed": signed},
    }
    follow()
    assert list(sync(carol)["rooms"]) == ["join"]
    assert asked(identity)[-1] == "pubkey/isvalid"


def test_a_room_is_joined_by_alias_with_a_proof_too(alice: User, carol: User, identity: IdentityService) -> None:
    room_id = waiting(alice, identity, room_alias_name="tea")
    body = {"third_party_signed": identity.statement(carol.user_id)}
    answer = request("client_rooms", "POST", path("join", "#tea:example.org"), body, token=carol.token)
    assert answer.json == {"room_id": room_id}


def test_a_proof_is_for_one_user_one_invitation_and_one_sender(
    alice: User, bob: User, carol: User, identity: IdentityService
) -> None:
    room_id = waiting(alice, identity)
    for signed in (
        identity.statement(carol.user_id),
        identity.statement(bob.user_id, token="another"),
        identity.statement(bob.user_id, sender=carol.user_id),
        identity.statement(bob.user_id, sender="@x:else.org"),
        {**identity.statement(carol.user_id), "mxid": bob.user_id},
        {**identity.statement(bob.user_id), "signatures": {}},
        {**identity.statement(bob.user_id), "signatures": {"id.example": {"ed25519:e": "nonsense"}}},
    ):
        assert refusal(join(bob, room_id, signed)) == (403, "M_FORBIDDEN")
    assert "pubkey/isvalid" not in asked(identity)
    assert membership(alice, room_id, bob) == "none"


@pytest.mark.parametrize("key_id", ["ed25519:0", "ed25519:e"])
def test_a_key_that_was_revoked_proves_nothing(
    alice: User, carol: User, identity: IdentityService, key_id: str
) -> None:
    room_id = waiting(alice, identity)
    identity.revoked.add(identity.public_key(key_id))
    assert refusal(join(carol, room_id, identity.statement(carol.user_id, key_id))) == (403, "M_FORBIDDEN")
    identity.revoked.clear()
    assert join(carol, room_id, identity.statement(carol.user_id, key_id)).status == 200


def test_a_key_of_which_nobody_can_say_whether_it_is_valid_is_not_taken(
    alice: User, carol: User, identity: IdentityService
) -> None:
    room_id = waiting(alice, identity)
    identity.instead["pubkey/isvalid"] = (500, b"oops", {})
    assert refusal(join(carol, room_id, identity.statement(carol.user_id))) == (502, "M_UNKNOWN")
    identity.instead["pubkey/isvalid"] = (200, b'{"valid":"yes"}', {})
    assert refusal(join(carol, room_id, identity.statement(carol.user_id))) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "file:///etc/passwd", "http://a b/", "gopher://x", ""]
)
def test_a_room_cannot_make_the_server_ask_anywhere(
    alice: User, carol: User, identity: IdentityService, url: str
) -> None:
    room_id = waiting(alice, identity)
    content = {"display_name": "x", "public_key": identity.public_key("ed25519:e"), "key_validity_url": url}
    assert set_state(alice, room_id, "m.room.third_party_invite", content, "token0").status == 200
    assert refusal(join(carol, room_id, identity.statement(carol.user_id))) == (403, "M_SERVER_NOT_TRUSTED")
    assert "pubkey/isvalid" not in asked(identity)


def test_a_key_without_a_place_to_ask_is_valid(alice: User, carol: User, identity: IdentityService) -> None:
    room_id = waiting(alice, identity)
    content = {"display_name": "x", "public_keys": [{"public_key": identity.public_key("ed25519:e")}]}
    assert set_state(alice, room_id, "m.room.third_party_invite", content, "token0").status == 200
    assert join(carol, room_id, identity.statement(carol.user_id)).status == 200


def test_an_invitation_that_was_withdrawn_is_over(alice: User, carol: User, identity: IdentityService) -> None:
    room_id = waiting(alice, identity)
    assert set_state(alice, room_id, "m.room.third_party_invite", {}, "token0").status == 200
    assert refusal(join(carol, room_id, identity.statement(carol.user_id))) == (403, "M_FORBIDDEN")


def test_an_invitation_that_is_replaced_after_its_check_is_over(
    alice: User, carol: User, identity: IdentityService, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = waiting(alice, identity)
    content = state(alice, room_id, "m.room.third_party_invite", "token0").json
    replacement = EventDraft("m.room.third_party_invite", {**content, "display_name": "another"}, "token0")

    def interrupt(point: str) -> None:
        if point == "commit.before":
            monkeypatch.setattr(observability, "fault_hook", None)
            set_room_state(Requester(alice.user_id, alice.device_id, ""), room_id, replacement)

    monkeypatch.setattr(observability, "fault_hook", interrupt)
    assert refusal(join(carol, room_id, identity.statement(carol.user_id))) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, carol) == "none"


def test_the_banned_cannot_redeem_and_members_need_not(
    alice: User, bob: User, carol: User, identity: IdentityService
) -> None:
    room_id = waiting(alice, identity)
    post(alice, room_id, "ban", {"user_id": carol.user_id})
    assert refusal(join(carol, room_id, identity.statement(carol.user_id))) == (403, "M_FORBIDDEN")
    post(alice, room_id, "unban", {"user_id": carol.user_id})
    post(alice, room_id, "invite", {"user_id": carol.user_id})
    assert join(carol, room_id, identity.statement(carol.user_id)).status == 200
    events = events_of(alice, room_id)
    assert join(carol, room_id, identity.statement(carol.user_id)).status == 200
    assert events_of(alice, room_id) == events


@pytest.mark.parametrize(
    ("signed", "errcode"),
    [
        ("x", "M_BAD_JSON"),
        ({}, "M_BAD_JSON"),
        ({"sender": 1, "mxid": "@c:d", "token": "t", "signatures": {}}, "M_BAD_JSON"),
        ({"sender": "@a:b", "mxid": "@c:d", "token": "t"}, "M_BAD_JSON"),
        ({"sender": "alice", "mxid": "CAROL", "token": "t", "signatures": {}}, "M_INVALID_PARAM"),
        ({"sender": "@a:b", "mxid": "CAROL", "token": "t" * 300, "signatures": {}}, "M_INVALID_PARAM"),
    ],
)
def test_proofs_that_make_no_sense_are_refused(
    alice: User, carol: User, identity: IdentityService, signed: Any, errcode: str
) -> None:
    room_id = waiting(alice, identity)
    if isinstance(signed, dict) and signed.get("mxid") == "CAROL":
        signed = {**signed, "mxid": carol.user_id}
    assert refusal(join(carol, room_id, signed)) == (400, errcode)


# ── Rooms made with invitations by address ──────────────────────────────────────────────────────────


def test_a_room_is_made_with_invitations_by_address(alice: User, carol: User, identity: IdentityService) -> None:
    identity.bound["email", CAROL] = carol.user_id
    invites = [address(identity), address(identity, address="dan@example.com")]
    room_id = make(alice, invite_3pid=invites, is_direct=True).json["room_id"]
    content = {"membership": "invite", "displayname": "carol", "is_direct": True}
    assert state(alice, room_id, "m.room.member", carol.user_id).json == content
    assert state(alice, room_id, "m.room.third_party_invite", "token0").json["display_name"] == "c...@e..."
    assert identity.stored[0]["room_id"] == room_id


def test_no_room_is_made_where_the_identity_server_cannot_be_asked(alice: User, identity: IdentityService) -> None:
    identity.instead["hash_details"] = (500, b"", {})
    assert refusal(make(alice, invite_3pid=[address(identity)])) == (502, "M_UNKNOWN")
    assert call("client_rooms", "GET", path("joined_rooms"), token=alice.token).json == {"joined_rooms": []}


def test_a_room_that_is_made_stays_where_an_invitation_then_fails(alice: User, identity: IdentityService) -> None:
    identity.instead["store-invite"] = (500, b"", {})
    answer = make(alice, invite_3pid=[address(identity)])
    assert answer.status == 200
    assert ("m.room.third_party_invite", "token0") not in events_of(alice, answer.json["room_id"])


@pytest.mark.parametrize(
    ("invites", "errcode"),
    [
        ("x", "M_BAD_JSON"),
        (["x"], "M_BAD_JSON"),
        ([{}], "M_MISSING_PARAM"),
        ([{"medium": "email", "address": "a@b", "id_server": "x", "id_access_token": "t"}] * 6, "M_INVALID_PARAM"),
    ],
)
def test_lists_of_addresses_that_make_no_sense_are_refused(alice: User, invites: Any, errcode: str) -> None:
    assert refusal(make(alice, invite_3pid=invites)) == (400, errcode)
