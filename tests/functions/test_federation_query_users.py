"""What other servers learn of this server's users: devices, keys, who an OpenID token belongs to."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from federation_peer import Peer
from functions.asking import FUNCTION, V1, Asked, asked, peer, refusal, running_peers, stranger
from functions.harness import Answer, User, invoke, payload, register
from homeserver.adapters import aws
from homeserver.services import rate_limits
from homeserver.settings import table_name
from homeserver.storage import openid_tokens

__all__ = ["asked", "peer", "running_peers", "stranger"]

NOT_FOUND = (404, "M_NOT_FOUND")
MISSING = (400, "M_MISSING_PARAM")
INVALID = (400, "M_INVALID_PARAM")
BAD_JSON = (400, "M_BAD_JSON")
TOO_LARGE = (413, "M_TOO_LARGE")
UNKNOWN_TOKEN = (401, "M_UNKNOWN_TOKEN")
Checked = Callable[..., Answer]


# ── Devices and keys ────────────────────────────────────────────────────────────────────────────────


def test_a_user_without_keys_has_no_devices_that_one_can_encrypt_to(asked: Asked, peer: Peer, alice: User) -> None:
    answer = asked(peer, "user", "devices", alice.user_id)
    assert (answer.status, answer.json) == (200, {"user_id": alice.user_id, "stream_id": 0, "devices": []})
    answer = asked(peer, "user", "keys", "query", body={"device_keys": {alice.user_id: [alice.device_id]}})
    assert (answer.status, answer.json) == (200, {"device_keys": {alice.user_id: {}}})
    wanted = {alice.user_id: {alice.device_id: "signed_curve25519"}}
    answer = asked(peer, "user", "keys", "claim", body={"one_time_keys": wanted})
    assert (answer.status, answer.json) == (200, {"one_time_keys": {}})


def test_unknown_users_and_users_of_other_servers_have_no_devices_here(asked: Asked, peer: Peer) -> None:
    assert refusal(asked(peer, "user", "devices", "@nobody:example.org")) == NOT_FOUND
    assert refusal(asked(peer, "user", "devices", f"@carol:{peer.name}")) == INVALID
    assert refusal(asked(peer, "user", "devices", "alice")) == INVALID


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, MISSING),
        ([], BAD_JSON),
        ({"device_keys": [], "one_time_keys": []}, BAD_JSON),
        ({"device_keys": {"@a:example.org": "X"}, "one_time_keys": {"@a:example.org": "X"}}, BAD_JSON),
        ({"device_keys": {"@a:example.org": [1]}, "one_time_keys": {"@a:example.org": {"X": 1}}}, BAD_JSON),
        ({"device_keys": {"@a:other.test": []}, "one_time_keys": {"@a:other.test": {}}}, INVALID),
        ({"device_keys": {"alice": []}, "one_time_keys": {"alice": {}}}, INVALID),
        (
            {
                "device_keys": {f"@a{n}:example.org": [] for n in range(3000)},
                "one_time_keys": {f"@a{n}:example.org": {} for n in range(3000)},
            },
            TOO_LARGE,
        ),
    ],
)
@pytest.mark.parametrize("question", ["query", "claim"])
def test_questions_for_keys_must_be_of_users_of_this_server(
    asked: Asked, peer: Peer, question: str, body: Any, expected: tuple[int, str]
) -> None:
    assert refusal(asked(peer, "user", "keys", question, body=body)) == expected


def test_unknown_queries_are_unknown(asked: Asked, peer: Peer) -> None:
    assert refusal(asked(peer, "query", "auth")) == (404, "M_UNRECOGNIZED")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/event/$e"),
        ("GET", "/state/!r:example.org?event_id=$e"),
        ("GET", "/state_ids/!r:example.org?event_id=$e"),
        ("GET", "/event_auth/!r:example.org/$e"),
        ("GET", "/backfill/!r:example.org?v=$e&limit=1"),
        ("POST", "/get_missing_events/!r:example.org"),
        ("GET", "/timestamp_to_event/!r:example.org?ts=1&dir=f"),
        ("GET", "/hierarchy/!r:example.org"),
        ("GET", "/publicRooms"),
        ("POST", "/publicRooms"),
        ("GET", "/query/directory?room_alias=%23a:example.org"),
        ("GET", "/query/profile?user_id=@a:example.org"),
        ("GET", "/query/anything"),
        ("GET", "/user/devices/@a:example.org"),
        ("POST", "/user/keys/query"),
        ("POST", "/user/keys/claim"),
    ],
)
def test_nothing_is_answered_without_a_signature(checked: Checked, server: Any, method: str, path: str) -> None:
    answer = checked(FUNCTION, method, V1 + path, {} if method == "POST" else None)
    assert refusal(answer) == (401, "M_UNAUTHORIZED")
    server(FEDERATION="off")
    assert refusal(checked(FUNCTION, method, V1 + path, {})) == (404, "M_UNRECOGNIZED")


# ── OpenID ──────────────────────────────────────────────────────────────────────────────────────────


def token_of(checked: Checked, user: User, *, of: User | None = None) -> Answer:
    path = f"/_matrix/client/v3/user/{quote((of or user).user_id, safe='')}/openid/request_token"
    return checked("client_user", "POST", path, {}, token=user.token)


def owner_of(checked: Checked, token: str) -> Answer:
    return checked(FUNCTION, "GET", f"{V1}/openid/userinfo", query={"access_token": token})


def test_a_token_tells_anybody_who_its_owner_is(checked: Checked, alice: User) -> None:
    issued = token_of(checked, alice)
    assert issued.status == 200
    token = issued.json.pop("access_token")
    assert issued.json == {"token_type": "Bearer", "matrix_server_name": "example.org", "expires_in": 3600}
    for _ in range(2):
        assert owner_of(checked, token)[:2] == (200, {"sub": alice.user_id})
    assert token_of(checked, alice).json["access_token"] != token


def test_a_token_is_good_for_nothing_else_and_is_stored_as_a_hash(checked: Checked, alice: User) -> None:
    token = token_of(checked, alice).json["access_token"]
    whoami = "/_matrix/client/v3/account/whoami"
    assert refusal(checked("client_account", "GET", whoami, token=token)) == UNKNOWN_TOKEN
    assert refusal(owner_of(checked, alice.token)) == UNKNOWN_TOKEN
    items = aws.client("dynamodb").scan(TableName=table_name("SESSIONS"))["Items"]
    (stored,) = [item for item in items if item["kind"]["S"] == "openid"]
    assert token not in str(stored)
    assert int(stored["expires"]["N"]) <= time.time() + 3600
    # Its item is no session of a login, whatever somebody calls a session.
    body = {
        "auth": {"session": stored["session"]["S"], "type": "m.login.dummy"},
        "username": "eve",
        "password": "x" * 9,
    }
    answer = checked("client_login", "POST", "/_matrix/client/v3/register", body)
    assert answer.status in {400, 401}


def test_a_token_ends_after_an_hour_and_with_its_account(
    checked: Checked, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = token_of(checked, alice).json["access_token"]
    later = time.time() + 3601
    with monkeypatch.context() as patch:
        patch.setattr(openid_tokens.time, "time", lambda: later)
        assert refusal(owner_of(checked, token)) == UNKNOWN_TOKEN
    assert owner_of(checked, token).status == 200
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": alice.password,
    }
    deactivated = checked(
        "client_account", "POST", "/_matrix/client/v3/account/deactivate", {"auth": auth}, token=alice.token
    )
    assert deactivated.status == 200
    assert refusal(owner_of(checked, token)) == UNKNOWN_TOKEN


@pytest.mark.parametrize("token", ["unknown", "x" * 5000, "openid/x", "\u00e9"])
def test_unknown_tokens_have_no_owner(checked: Checked, token: str) -> None:
    assert refusal(owner_of(checked, token)) == UNKNOWN_TOKEN


def test_who_gives_no_token_is_told_so(checked: Checked) -> None:
    assert refusal(checked(FUNCTION, "GET", f"{V1}/openid/userinfo")) == (401, "M_MISSING_TOKEN")
    assert refusal(invoke(FUNCTION, payload("federation_query_openid"))) == UNKNOWN_TOKEN


def test_a_user_gets_a_token_of_their_own_only(checked: Checked, alice: User, bob: User, server: Any) -> None:
    assert refusal(token_of(checked, bob, of=alice)) == (403, "M_FORBIDDEN")
    path = f"/_matrix/client/v3/user/{quote(alice.user_id, safe='')}/openid/request_token"
    assert refusal(checked("client_user", "POST", path, {})) == (401, "M_MISSING_TOKEN")
    assert refusal(checked("client_user", "POST", path, [], token=alice.token)) == BAD_JSON
    server(RATE_LIMITS="on")
    statuses = [token_of(checked, alice).status for _ in range(22)]
    assert (statuses[0], statuses[-1]) == (200, 429)


def test_one_server_asks_about_rooms_only_so_often(
    asked: Asked, peer: Peer, stranger: Peer, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    server(RATE_LIMITS="on")
    few = rate_limits.RateLimit("question-server", per_second=0.01, burst=2)
    monkeypatch.setattr(rate_limits, "QUESTIONS_PER_SERVER", few)
    answers = [asked(peer, "publicRooms").status for _ in range(3)]
    assert answers == [200, 200, 429]
    assert asked(stranger, "publicRooms").status == 200
