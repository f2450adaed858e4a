"""Account data over HTTP, and the stream that announces it."""

import pytest

from functions.harness import invoke, register
from functions.test_client_user_profile import as_user
from homeserver.services import account_data
from homeserver.storage import user_data
from homeserver.storage.connection import TransactionCancelled
from homeserver.storage.inbox import read_inbox

FUNCTION = "client_user"
ALICE = "/_matrix/client/v3/user/@alice:example.org"
ROOM = "!726s6s6q:example.org"


def stored(user) -> list[tuple]:
    return [(item.n, item.room_id, item.type, item.content) for item in user_data.all_of(user.user_id)]


def announced(user) -> int:
    return read_inbox(user.user_id, consistent=True).streams.get("account_data", 0)


def test_the_recorded_payloads_store_and_read_account_data(alice):
    assert invoke(FUNCTION, as_user("client_user_account_data", alice))[:2] == (200, {})
    answer = invoke(FUNCTION, as_user("client_user_account_data_get", alice))
    assert answer[:2] == (200, {"@bob:example.org": ["!abcdefgh:example.org"]})


@pytest.mark.parametrize("version", ["r0", "v3"])
@pytest.mark.parametrize("scope", ["", f"/rooms/{ROOM}", "/rooms/!Ac9d2vP3gB8Qy7nTzXk1LwRs5uE0iJmH4oFfCtVbN6-"])
def test_what_was_set_is_read_back(checked, alice, version, scope):
    path = f"{ALICE.replace('v3', version)}{scope}/account_data/org.example.custom.config"
    content = {"a": [1, {"b": None}], "ö": "ü", "half": 0.5}
    assert checked(FUNCTION, "PUT", path, content, token=alice.token)[:2] == (200, {})
    assert checked(FUNCTION, "GET", path, token=alice.token)[:2] == (200, content)
    changed = {"a": []}
    assert checked(FUNCTION, "PUT", path, changed, token=alice.token)[:2] == (200, {})
    assert checked(FUNCTION, "GET", path, token=alice.token)[:2] == (200, changed)


def test_data_of_the_account_and_of_rooms_do_not_mix(call, alice):
    other = "!other:example.org"
    for scope, value in (("", 0), (f"/rooms/{ROOM}", 1), (f"/rooms/{other}", 2)):
        call(FUNCTION, "PUT", f"{ALICE}{scope}/account_data/org.example.a", {"v": value}, token=alice.token)
    assert stored(alice) == [
        (1, None, "org.example.a", {"v": 0}),
        (2, ROOM, "org.example.a", {"v": 1}),
        (3, other, "org.example.a", {"v": 2}),
    ]


def test_each_change_takes_the_next_number_of_the_stream_and_is_announced(call, alice, bob):
    for number, data_type in enumerate(["org.example.a", "org.example.b", "org.example.a"], start=1):
        call(FUNCTION, "PUT", f"{ALICE}/account_data/{data_type}", {"v": number}, token=alice.token)
        assert announced(alice) == number
    assert [item.n for item in user_data.changes_since(alice.user_id, 0)] == [2, 3]
    assert [(item.n, item.type) for item in user_data.changes_since(alice.user_id, 2)] == [(3, "org.example.a")]
    assert user_data.changes_since(alice.user_id, 3) == []
    assert (announced(bob), stored(bob)) == (0, [])


def test_content_that_is_there_already_is_not_written_again(call, alice):
    path = f"{ALICE}/account_data/org.example.a"
    call(FUNCTION, "PUT", path, '{"a": 1, "b": {"c": 2, "d": 3}}', token=alice.token)
    answer = call(FUNCTION, "PUT", path, '{"b":{"d":3,"c":2},"a":1}', token=alice.token)
    assert (answer.status, announced(alice)) == (200, 1)
    call(FUNCTION, "PUT", path, '{"a": true, "b": {"c": 2, "d": 3}}', token=alice.token)
    assert announced(alice) == 2


def test_a_writer_who_read_an_old_number_reads_again_and_loses_nothing(call, alice, monkeypatch):
    path = f"{ALICE}/account_data/org.example"
    call(FUNCTION, "PUT", f"{path}.a", {"v": 1}, token=alice.token)
    load = user_data.load_with_stream
    stale = load(alice.user_id, None, "org.example.b")
    call(FUNCTION, "PUT", f"{path}.a", {"v": 2}, token=alice.token)
    reads = [stale]
    monkeypatch.setattr(user_data, "load_with_stream", lambda *key: reads.pop() if reads else load(*key))
    assert call(FUNCTION, "PUT", f"{path}.b", {"v": 3}, token=alice.token).status == 200
    assert reads == []
    assert stored(alice) == [(2, None, "org.example.a", {"v": 2}), (3, None, "org.example.b", {"v": 3})]
    assert announced(alice) == 3


def test_a_number_that_is_taken_writes_neither_the_data_nor_the_number(alice):
    user_data.store(alice.user_id, None, "org.example.a", b"{}", number=1)
    for wrong in (1, 3):
        with pytest.raises(TransactionCancelled) as lost:
            user_data.store(alice.user_id, None, "org.example.b", b"{}", number=wrong)
        assert lost.value.failed("stream account_data")
    assert stored(alice) == [(1, None, "org.example.a", {})]
    assert announced(alice) == 1


def test_a_writer_who_always_loses_gives_up_and_says_when_to_try_again(call, alice, monkeypatch):
    monkeypatch.setattr("homeserver.services.attempts.ATTEMPT_SECONDS", 0.05)
    monkeypatch.setattr(user_data, "load_with_stream", lambda *_: (None, 41))
    answer = call(FUNCTION, "PUT", f"{ALICE}/account_data/org.example.a", {"v": 1}, token=alice.token)
    assert (answer.status, answer.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert answer.json["retry_after_ms"] > 0
    assert stored(alice) == []


@pytest.mark.parametrize("data_type", ["m.fully_read", "m.push_rules"])
@pytest.mark.parametrize("scope", ["", f"/rooms/{ROOM}"])
def test_types_of_the_server_cannot_be_set(checked, alice, data_type, scope):
    path = f"{ALICE}{scope}/account_data/{data_type}"
    answer = checked(FUNCTION, "PUT", path, {"event_id": "$a"}, token=alice.token)
    assert (answer.status, answer.errcode) == (405, "M_BAD_JSON")
    assert checked(FUNCTION, "GET", path, token=alice.token).errcode == "M_NOT_FOUND"
    assert announced(alice) == 0


@pytest.mark.parametrize("scope", ["", f"/rooms/{ROOM}"])
def test_only_the_owner_reads_and_writes_account_data(checked, alice, bob, scope):
    path = f"{ALICE}{scope}/account_data/org.example.a"
    for method in ("GET", "PUT"):
        body = {} if method == "PUT" else None
        answer = checked(FUNCTION, method, path, body, token=bob.token)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert checked(FUNCTION, method, path, body).errcode == "M_MISSING_TOKEN"
    assert stored(alice) == stored(bob) == []


@pytest.mark.parametrize("scope", ["", f"/rooms/{ROOM}"])
def test_data_that_was_never_set_is_not_found(checked, alice, scope):
    answer = checked(FUNCTION, "GET", f"{ALICE}{scope}/account_data/org.example.a", token=alice.token)
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("room_id", ["@notaroomid:example.org", "!", "!a%20:b c", "room"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_what_is_no_room_id_is_refused(checked, alice, method, room_id):
    body = {} if method == "PUT" else None
    path = f"{ALICE}/rooms/{room_id.replace(' ', '%20')}/account_data/org.example.a"
    answer = checked(FUNCTION, method, path, body, token=alice.token)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("path", [f"{ALICE}/rooms/!a%2Fb:example.org/account_data/t", f"{ALICE}/rooms/!a%3Fb:x.org/t"])
def test_a_room_id_that_the_gateway_cut_is_refused_clearly(call, alice, path):
    answer = call(FUNCTION, "GET", path, token=alice.token)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ("{", 400, "M_NOT_JSON"),
        (b"\xff{}", 400, "M_NOT_JSON"),
        ("NaN", 400, "M_NOT_JSON"),
        ([1], 400, "M_BAD_JSON"),
        ("text", 400, "M_NOT_JSON"),
        ('"text"', 400, "M_BAD_JSON"),
        ('{"a":' + "[" * 300 + "]" * 300 + "}", 400, "M_BAD_JSON"),
        ({"a": "x" * (256 * 1024)}, 413, "M_TOO_LARGE"),
    ],
)
def test_a_body_that_cannot_be_kept_is_refused_and_nothing_is_stored(checked, alice, body, status, errcode):
    answer = checked(FUNCTION, "PUT", f"{ALICE}/account_data/org.example.a", body, token=alice.token)
    assert (answer.status, answer.errcode) == (status, errcode)
    assert stored(alice) == []


def test_types_with_odd_characters_are_kept_apart(call, alice):
    types = ["a b", "a%b", "a/b", "a#b", "ö", "a~1b", "a" * 255]
    for number, data_type in enumerate(types):
        path = f"{ALICE}/account_data/{data_type.replace('%', '%25').replace('/', '%2F').replace('#', '%23')}"
        assert call(FUNCTION, "PUT", path.replace(" ", "%20"), {"v": number}, token=alice.token).status == 200
    assert [(t, c["v"]) for _, _, t, c in stored(alice)] == list(zip(types, range(7), strict=True))
    answer = call(FUNCTION, "PUT", f"{ALICE}/account_data/{'a' * 256}", {}, token=alice.token)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


def test_large_content_is_stored_deflated_and_comes_back_whole(call, alice):
    content = {f"@user{n}:example.org": [f"!room{n}:example.org"] for n in range(3000)}
    call(FUNCTION, "PUT", f"{ALICE}/account_data/m.direct", content, token=alice.token)
    assert call(FUNCTION, "GET", f"{ALICE}/account_data/m.direct", token=alice.token).json == content
    item = user_data.UserData.fetch(alice.user_id, "global/m.direct")
    assert len(item.packed) < 30_000


def test_the_server_itself_may_write_any_type(alice):
    account_data.write_account_data(alice.user_id, ROOM, "m.fully_read", {"event_id": "$a"})
    assert stored(alice) == [(1, ROOM, "m.fully_read", {"event_id": "$a"})]


def test_an_unknown_endpoint_under_user_is_unrecognized(call, alice):
    answer = call(FUNCTION, "POST", f"{ALICE}/openid/other", {}, token=alice.token)
    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")
    answer = call(FUNCTION, "POST", f"{ALICE}/account_data/a", {}, token=alice.token)
    assert (answer.status, answer.errcode, answer.headers["allow"]) == (405, "M_UNRECOGNIZED", "GET, PUT")


def test_a_user_with_a_slash_in_the_name_is_told_that_the_address_cannot_carry_it(call):
    user = register("a/b")
    answer = call(FUNCTION, "PUT", "/_matrix/client/v3/user/@a%2Fb:example.org/account_data/a", {}, token=user.token)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
