"""Our keys as other servers see them, theirs as we do, and the notary."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from federation_peer import DAY_MS, KEYS, Peer
from functions import harness
from functions.federating import LOOPBACK
from functions.harness import Answer, invoke, payload
from homeserver.adapters import signing_key as adapter
from homeserver.matrix import unpadded_base64
from homeserver.matrix.room_versions import V4, V5
from homeserver.matrix.signing import SigningKey, sign_json, verify_signed_json
from homeserver.services import server_keys
from homeserver.services.clock import now_ms
from homeserver.services.server_keys import forget_keys, verify_keys
from homeserver.storage import server_keys as stored
from homeserver.storage.server_keys import KnownKeys

FUNCTION = "federation_keys"
NEXT = SigningKey.generate("next", b"n" * 32)


@pytest.fixture
def peer(tmp_path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK)
    with Peer(tmp_path) as running:
        yield running


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time in milliseconds, as these tests set it; it starts now."""
    now = [now_ms()]
    monkeypatch.setattr(server_keys, "now_ms", lambda: now[0])
    monkeypatch.setattr("federation_keys.routes.now_ms", lambda: now[0])
    return now


def keys_of(server: str, *key_ids: str, at: int | None = None, rules: Any = None) -> dict[str, bytes]:
    return verify_keys(server, key_ids, valid_at_ms=now_ms() if at is None else at, rules=rules)


def own_keys(answer: Answer) -> dict[str, bytes]:
    return {key_id: unpadded_base64.decode(key["key"]) for key_id, key in answer.json["verify_keys"].items()}


def query(peer_name: str, **parameters: int) -> str:
    more = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"/_matrix/key/v2/query/{quote(peer_name, safe='')}" + (f"?{more}" if more else "")


# ── Our own ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_recorded_payloads_are_answered() -> None:
    assert invoke(FUNCTION, payload("federation_keys_server")).json["server_name"] == harness.SERVER_NAME
    assert invoke(FUNCTION, payload("federation_keys_query")).json == {"server_keys": []}


def test_our_keys_are_signed_by_the_key_in_use(checked) -> None:
    answer = checked(FUNCTION, "GET", KEYS)
    assert (answer.status, answer.json["server_name"]) == (200, harness.SERVER_NAME)
    assert own_keys(answer) == {"ed25519:test": adapter.signing_key().verify_key}
    assert answer.json["old_verify_keys"] == {}
    assert 22 * 3600_000 < answer.json["valid_until_ts"] - now_ms() <= DAY_MS
    assert answer.headers["cache-control"] == "public, max-age=3600"
    verify_signed_json(answer.json, harness.SERVER_NAME, own_keys(answer))
    assert checked(FUNCTION, "GET", KEYS).json == answer.json


def test_a_key_that_was_replaced_is_published_as_an_old_one(checked) -> None:
    before = adapter.signing_key()
    adapter.keep_signing_key(NEXT, generation=2, now_ms=5000)
    answer = checked(FUNCTION, "GET", KEYS)
    assert own_keys(answer) == {"ed25519:next": NEXT.verify_key}
    assert answer.json["old_verify_keys"] == {
        "ed25519:test": {"key": unpadded_base64.encode(before.verify_key), "expired_ts": 5000 + adapter.OVERLAP_MS}
    }
    verify_signed_json(answer.json, harness.SERVER_NAME, {"ed25519:next": NEXT.verify_key})


def test_our_own_signatures_are_checked_with_our_own_keys() -> None:
    before = adapter.signing_key()
    adapter.keep_signing_key(NEXT, generation=2, now_ms=5000)
    both = ("ed25519:test", "ed25519:next")
    assert keys_of(harness.SERVER_NAME, *both, rules=V5) == {"ed25519:next": NEXT.verify_key}
    assert keys_of(harness.SERVER_NAME, *both, at=4000, rules=V5)["ed25519:test"] == before.verify_key


def test_the_software_is_named(checked) -> None:
    answer = checked(FUNCTION, "GET", "/_matrix/federation/v1/version")
    assert answer.json == {"server": {"name": "Eigenserver", "version": "0.1.0"}}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", KEYS), ("GET", "/_matrix/federation/v1/version"), ("POST", "/_matrix/key/v2/query"), ("GET", query("a"))],
)
def test_without_federation_there_are_no_such_endpoints(call, server, method: str, path: str) -> None:
    server(FEDERATION="off")
    answer = call(FUNCTION, method, path, {} if method == "POST" else None)
    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


# ── Those of others ─────────────────────────────────────────────────────────────────────────────────


def test_a_key_is_fetched_once_and_remembered_by_all_functions(peer: Peer) -> None:
    assert keys_of(peer.name, peer.key.key_id) == {peer.key.key_id: peer.key.verify_key}
    assert keys_of(peer.name, peer.key.key_id, "ed25519:unknown") == {peer.key.key_id: peer.key.verify_key}
    forget_keys()
    assert keys_of(peer.name, peer.key.key_id) == {peer.key.key_id: peer.key.verify_key}
    assert peer.paths() == [f"GET {KEYS}"]


def test_many_at_once_ask_once(peer: Peer) -> None:
    found: list[dict[str, bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(keys_of(peer.name, peer.key.key_id))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{peer.key.key_id: peer.key.verify_key}] * 6
    assert len(peer.asked) == 1


@pytest.mark.parametrize(("rules", "counts"), [(None, False), (V5, False), (V4, True)])
def test_a_key_counts_beyond_its_time_only_where_the_room_version_does_not_care(peer: Peer, rules, counts) -> None:
    until = now_ms() + 1000
    peer.instead[KEYS] = (200, encoded(peer.keys(valid_until_ts=until)), {})
    assert keys_of(peer.name, peer.key.key_id, at=until, rules=rules) != {}
    assert bool(keys_of(peer.name, peer.key.key_id, at=until + 1, rules=rules)) is counts


def test_a_key_is_believed_for_a_week_however_long_it_says(peer: Peer) -> None:
    now = now_ms()
    peer.instead[KEYS] = (200, encoded(peer.keys(valid_until_ts=now + 100 * DAY_MS)), {})
    assert keys_of(peer.name, peer.key.key_id, at=now + 7 * DAY_MS - 1, rules=V5) != {}
    assert keys_of(peer.name, peer.key.key_id, at=now + 8 * DAY_MS, rules=V5) == {}


@pytest.mark.parametrize("rules", [V4, V5, None])
def test_an_old_key_counts_for_what_is_from_before_it_expired(peer: Peer, rules) -> None:
    old = {"ed25519:old": {"key": unpadded_base64.encode(NEXT.verify_key), "expired_ts": 5000}}
    peer.instead[KEYS] = (200, encoded(peer.keys(old_verify_keys=old)), {})
    assert keys_of(peer.name, "ed25519:old", at=4999, rules=rules) == {"ed25519:old": NEXT.verify_key}
    assert keys_of(peer.name, "ed25519:old", at=5000, rules=rules) == {}


def test_a_server_with_a_new_key_is_asked_again_after_half_a_minute(peer: Peer, clock: list[int]) -> None:
    assert keys_of(peer.name, peer.key.key_id) != {}
    peer.key = NEXT
    assert keys_of(peer.name, NEXT.key_id) == {}
    clock[0] += 31_000
    assert keys_of(peer.name, NEXT.key_id) == {NEXT.key_id: NEXT.verify_key}
    assert keys_of(peer.name, "ed25519:peer") != {}  # for what was signed before
    assert len(peer.asked) == 2


def encoded(answer: dict[str, Any]) -> bytes:
    import json

    return json.dumps(answer).encode()


@pytest.mark.parametrize(
    "wrong", ["other name", "unsigned", "wrongly signed", "garbage", "error", "too much", "old key"]
)
def test_an_answer_that_proves_nothing_is_not_believed(peer: Peer, wrong: str) -> None:
    answer = peer.keys()
    answers = {
        "other name": (200, encoded(sign_json({**answer, "server_name": "victim.org"}, "victim.org", peer.key)), {}),
        "unsigned": (200, encoded({**answer, "signatures": {}}), {}),
        "wrongly signed": (200, encoded({**answer, "valid_until_ts": 5}), {}),
        "garbage": (200, b"<html>", {}),
        "error": (500, b"{}", {}),
        "too much": (200, encoded(peer.keys(more="x" * 40_000)), {}),
        "old key": (200, encoded(sign_json({**answer, "signatures": {}}, peer.name, NEXT)), {}),
    }
    peer.instead[KEYS] = answers[wrong]
    assert keys_of(peer.name, peer.key.key_id) == {}
    assert keys_of("victim.org", peer.key.key_id) == {}
    known = stored.load_keys(peer.name)
    assert (known.keys, known.failures) == ({}, 1)


def test_who_does_not_answer_is_left_alone_for_longer_and_longer(peer: Peer, clock: list[int]) -> None:
    peer.instead[KEYS] = (503, b"{}", {})
    pauses = []
    for number in range(1, 16):
        assert keys_of(peer.name, peer.key.key_id) == {}
        assert keys_of(peer.name, peer.key.key_id) == {}
        assert len(peer.asked) == number
        known = stored.load_keys(peer.name)
        pauses.append((known.retry_ms - clock[0]) // 1000)
        clock[0] = known.retry_ms
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == 3600
    del peer.instead[KEYS]
    assert keys_of(peer.name, peer.key.key_id) != {}
    assert stored.load_keys(peer.name).failures == 0


def test_a_key_that_is_known_still_counts_while_its_server_does_not_answer(peer: Peer, clock: list[int]) -> None:
    now = clock[0]
    assert keys_of(peer.name, peer.key.key_id, at=now) != {}
    peer.instead[KEYS] = (503, b"{}", {})
    clock[0] += 2 * DAY_MS
    forget_keys()
    assert keys_of(peer.name, peer.key.key_id, at=clock[0], rules=V5) == {}
    assert keys_of(peer.name, peer.key.key_id, at=now, rules=V5) != {}
    assert keys_of(peer.name, peer.key.key_id, at=clock[0], rules=V4) != {}


@pytest.mark.parametrize("name", ["", "a/b", "127.0.0.1", "[::1]:8448", "169.254.169.254"])
def test_no_keys_can_be_had_of_who_is_no_server_or_is_inside(server, name: str) -> None:
    server(FEDERATION_ALLOW_RANGES="")
    assert keys_of(name, "ed25519:a") == {}


def test_two_writers_do_not_undo_each_other(peer: Peer) -> None:
    keys_of(peer.name, peer.key.key_id)
    now = stored.load_keys(peer.name)
    stale = KnownKeys()
    assert not stored.store_keys(peer.name, stale, KnownKeys({}, 7))
    after = server_keys._store_failure(peer.name, stale, now_ms())
    assert (after.keys, after.failures) == (now.keys, 1)


# ── Notaries that we ask ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def notary(tmp_path_factory, peer: Peer, server: Callable[..., None]) -> Iterator[Peer]:
    """A server whose word counts here."""
    with Peer(tmp_path_factory.mktemp("notary"), key=SigningKey.generate("notary", b"y" * 32)) as running:
        server(TRUSTED_KEY_SERVERS=f"{harness.SERVER_NAME}, {running.name}")
        yield running


def test_a_notary_is_asked_where_the_server_itself_does_not_answer(peer: Peer, notary: Peer) -> None:
    peer.instead[KEYS] = (503, b"{}", {})
    notary.notarised = [peer.keys()]
    assert keys_of(peer.name, peer.key.key_id) == {peer.key.key_id: peer.key.verify_key}
    assert notary.paths() == ["POST /_matrix/key/v2/query", f"GET {KEYS}"]
    assert peer.name.encode() in notary.asked[0][3]
    assert stored.load_keys(peer.name).failures == 1


def test_a_notary_is_not_asked_where_the_server_answers(peer: Peer, notary: Peer) -> None:
    assert keys_of(peer.name, peer.key.key_id) != {}
    assert notary.asked == []


@pytest.mark.parametrize("wrong", ["not signed by the notary", "of another server", "not signed by the server"])
def test_a_notary_must_sign_what_the_server_signed(peer: Peer, notary: Peer, wrong: str) -> None:
    peer.instead[KEYS] = (503, b"{}", {})
    answer = peer.keys()
    if wrong == "not signed by the notary":
        body = {"server_keys": [answer]}
    elif wrong == "of another server":
        body = {"server_keys": [sign_json(notary.keys(), notary.name, notary.key)]}
    else:
        forged = sign_json({**answer, "signatures": {}, "valid_until_ts": 2**50}, peer.name, NEXT)
        body = {"server_keys": [None, 5, sign_json(forged, notary.name, notary.key)]}
    notary.instead["/_matrix/key/v2/query"] = (200, encoded(body), {})
    assert keys_of(peer.name, peer.key.key_id) == {}


def test_a_notary_is_left_alone_as_long_as_the_server_is(peer: Peer, notary: Peer) -> None:
    peer.instead[KEYS] = notary.instead["/_matrix/key/v2/query"] = (503, b"{}", {})
    for _ in range(3):
        assert keys_of(peer.name, peer.key.key_id) == {}
    assert len(notary.asked) == 1


# ── The notary that we are ──────────────────────────────────────────────────────────────────────────


def test_the_keys_of_another_server_are_told_word_for_word_and_signed(checked, peer: Peer) -> None:
    answer = checked(FUNCTION, "GET", query(peer.name))
    assert answer.status == 200
    (told,) = answer.json["server_keys"]
    verify_signed_json(told, peer.name, {peer.key.key_id: peer.key.verify_key})
    verify_signed_json(told, harness.SERVER_NAME, {"ed25519:test": adapter.signing_key().verify_key})
    assert told["valid_until_ts"] > now_ms()
    again = checked(FUNCTION, "GET", query(peer.name)).json["server_keys"]
    assert again == [told]
    assert len(peer.asked) == 1


def test_several_servers_are_told_of_at_once(checked, peer: Peer) -> None:
    wanted = {
        peer.name: {peer.key.key_id: {"minimum_valid_until_ts": now_ms()}},
        harness.SERVER_NAME: {},
        "localhost:1": {},
        "not a name": {},
    }
    answer = checked(FUNCTION, "POST", "/_matrix/key/v2/query", {"server_keys": wanted})
    assert (answer.status, [told["server_name"] for told in answer.json["server_keys"]]) == (
        200,
        [harness.SERVER_NAME, peer.name],
    )


def test_a_server_is_asked_again_when_half_of_its_answers_time_is_over(call, peer: Peer, clock: list[int]) -> None:
    call(FUNCTION, "GET", query(peer.name))
    clock[0] += DAY_MS // 2 - 60_000
    call(FUNCTION, "GET", query(peer.name))
    assert len(peer.asked) == 1
    clock[0] += 120_000
    call(FUNCTION, "GET", query(peer.name))
    assert len(peer.asked) == 2


@pytest.mark.parametrize("wanted", ["later", "another key"])
def test_a_server_is_asked_again_for_what_its_stored_answer_does_not_have(
    checked, peer: Peer, clock: list[int], wanted: str
) -> None:
    checked(FUNCTION, "GET", query(peer.name))
    clock[0] += 31_000
    later = clock[0] + 3 * DAY_MS
    if wanted == "later":
        answer = checked(FUNCTION, "GET", query(peer.name, minimum_valid_until_ts=later))
    else:
        body = {"server_keys": {peer.name: {"ed25519:more": {}}}}
        answer = checked(FUNCTION, "POST", "/_matrix/key/v2/query", body)
    assert len(peer.asked) == 2
    assert [told["server_name"] for told in answer.json["server_keys"]] == [peer.name]


def test_what_was_stored_is_told_of_a_server_that_does_not_answer(checked, peer: Peer, clock: list[int]) -> None:
    before = checked(FUNCTION, "GET", query(peer.name)).json
    peer.instead[KEYS] = (503, b"{}", {})
    clock[0] += 3 * DAY_MS
    assert checked(FUNCTION, "GET", query(peer.name)).json == before
    assert len(peer.asked) == 2


def test_of_a_server_that_never_answered_nothing_is_told(checked, peer: Peer) -> None:
    peer.instead[KEYS] = (503, b"{}", {})
    assert checked(FUNCTION, "GET", query(peer.name)).json == {"server_keys": []}
    assert checked(FUNCTION, "POST", "/_matrix/key/v2/query", {"server_keys": {}}).json == {"server_keys": []}


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ("no json", 400, "M_NOT_JSON"),
        ([], 400, "M_BAD_JSON"),
        ({}, 400, "M_MISSING_PARAM"),
        ({"server_keys": []}, 400, "M_BAD_JSON"),
        ({"server_keys": {"a.org": []}}, 400, "M_BAD_JSON"),
        ({"server_keys": {"a.org": {"ed25519:a": 5}}}, 400, "M_BAD_JSON"),
        ({"server_keys": {"a.org": {"ed25519:a": {"minimum_valid_until_ts": "x"}}}}, 400, "M_BAD_JSON"),
        ({"server_keys": {f"a{number}.org": {} for number in range(101)}}, 413, "M_TOO_LARGE"),
    ],
)
def test_bad_questions_are_refused(checked, body: Any, status: int, errcode: str) -> None:
    answer = checked(FUNCTION, "POST", "/_matrix/key/v2/query", body)
    assert (answer.status, answer.errcode) == (status, errcode)


@pytest.mark.parametrize("path", [query("a b"), query("a.org", minimum_valid_until_ts=-1), query("@a:b")])
def test_bad_names_and_times_are_refused(checked, path: str) -> None:
    answer = checked(FUNCTION, "GET", path)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


def test_one_question_makes_this_server_ask_twenty_others_at_the_most(checked, monkeypatch, server) -> None:
    asked: list[str] = []
    monkeypatch.setattr(server_keys, "_refresh", asked.append)
    wanted = {f"a{number}.org": {} for number in range(60)}
    assert checked(FUNCTION, "POST", "/_matrix/key/v2/query", {"server_keys": wanted}).json == {"server_keys": []}
    assert len(asked) == 20


def test_one_address_may_ask_only_so_often(call, server) -> None:
    server(RATE_LIMITS="on")
    statuses = [call(FUNCTION, "POST", "/_matrix/key/v2/query", {"server_keys": {}}).status for _ in range(60)]
    assert statuses[:40] == [200] * 40
    assert statuses[-1] == 429


def test_asking_takes_no_longer_than_its_time(call, peer: Peer, monkeypatch) -> None:
    monkeypatch.setattr(server_keys, "_FETCH_S", 0.3)
    peer.instead[KEYS] = lambda _: time.sleep(1)
    started = time.monotonic()
    assert call(FUNCTION, "GET", query(peer.name)).json == {"server_keys": []}
    assert time.monotonic() - started < 0.9
