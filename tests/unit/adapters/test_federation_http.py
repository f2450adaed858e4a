"""Requests to other homeservers: who is asked, under which name, with which signature, and what comes back."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation_peer import PROFILE, Peer
from homeserver.adapters import federation_http
from homeserver.adapters.federation_http import (
    BadAnswer,
    FederationClient,
    HttpError,
    Refused,
    TimedOut,
    Unreachable,
    federation_path,
)
from homeserver.adapters.server_resolution import forget_servers
from homeserver.matrix.request_signing import verify_request
from homeserver.matrix.server_discovery import ConnectTarget
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.x_matrix import parse_x_matrix
from homeserver.settings import settings
from unit.adapters.federating import connections, federate, resolve

KEY = SigningKey.generate("ours", bytes(range(32)))
VERSION = "/_matrix/federation/v1/version"


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    federate(monkeypatch)
    monkeypatch.setattr(federation_http, "signing_key", lambda: KEY)
    with Peer(tmp_path) as running:
        running.instead[VERSION] = (200, b'{"server":{}}', {})
        yield running
        federation_http.close_connections()
    forget_servers()
    settings.cache_clear()


def ask(destination: str, method: str = "GET", path: str = VERSION, **options: Any) -> tuple[int, Any]:
    options.setdefault("timeout_s", 5.0)
    return FederationClient().request(method, destination, path, **options)


# ── What is sent ────────────────────────────────────────────────────────────────────────────────────


def test_a_request_is_signed_for_its_destination_with_the_address_and_the_body_as_sent(peer: Peer) -> None:
    path = federation_path("v1", "send", "txn/1 ?")
    peer.instead["/_matrix/federation/v1/send/txn%2F1%20%3F"] = (200, b'{"pdus": {}}', {})
    content = {"b": [1, {"ä": None}], "a": "x"}
    query = {"v": ["1", "2"], "user_id": "@a:b", "limit": 5, "all": True}
    assert ask(peer.name, "PUT", path, query=query, content=content) == (200, {"pdus": {}})
    ((method, uri, headers, body),) = peer.asked
    assert uri == "/_matrix/federation/v1/send/txn%2F1%20%3F?v=1&v=2&user_id=%40a%3Ab&limit=5&all=true"
    assert body == '{"a":"x","b":[1,{"ä":null}]}'.encode()
    assert (headers["host"], headers["content-type"]) == (peer.name, "application/json")
    signed = parse_x_matrix(headers["authorization"])
    assert (signed.origin, signed.destination) == ("us.example", peer.name)
    verify_request(
        method,
        uri,
        origin="us.example",
        destination=peer.name,
        signatures=signed.signatures,
        verify_keys={KEY.key_id: KEY.verify_key},
        content=json.loads(body),
    )


def test_what_needs_no_authentication_is_not_signed(peer: Peer) -> None:
    ask(peer.name, signed=False)
    assert "authorization" not in peer.asked[0][2]


def test_the_server_is_called_by_its_name_and_connected_to_where_its_records_say(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [ConnectTarget("down.net", 1, "a.org", "a.org"), ConnectTarget("node.net", peer.port, "a.org", "a.org")]
    monkeypatch.setattr(federation_http, "find_server", lambda *_, **__: places)
    resolve(monkeypatch, lambda _: ["127.0.0.1"])
    assert ask("a.org") == (200, {"server": {}})
    assert peer.asked[0][2]["host"] == "a.org"
    assert peer.sni == ["a.org"]


@pytest.mark.parametrize("path", ["", "x", "/a b", "/a\r\nHost: x", "/ä", "/a#b"])
@pytest.mark.usefixtures("peer")
def test_a_path_that_is_not_escaped_is_a_mistake_of_the_caller(path: str) -> None:
    with pytest.raises(ValueError, match="request line"):
        ask("a.org", path=path)


# ── Who is not asked ────────────────────────────────────────────────────────────────────────────────


def test_nobody_is_asked_without_federation_without_a_name_and_nobody_is_asked_who_is_this_server(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused, match="itself"):
        ask("us.example")
    federate(monkeypatch, FEDERATION="off")
    with pytest.raises(Refused):
        ask(peer.name)
    federate(monkeypatch, SERVER_NAME="")
    with pytest.raises(Refused):
        ask(peer.name)
    assert peer.asked == []


@pytest.mark.parametrize(
    "name", ["127.0.0.1:{}", "[::1]:{}", "[::ffff:127.0.0.1]:{}", "localhost:{}", "2130706433:{}", "0.0.0.0:{}"]
)
def test_a_server_name_that_is_an_inner_address_is_refused(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    federate(monkeypatch, FEDERATION_ALLOW_RANGES="")
    connected = connections(monkeypatch)
    with pytest.raises(Refused):
        ask(name.format(peer.port))
    assert connected == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:169.254.169.254", "fd00:ec2::254"]
)
def test_a_name_or_an_srv_record_that_resolves_to_an_inner_address_is_refused(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    federate(monkeypatch, FEDERATION_ALLOW_RANGES="")
    resolve(monkeypatch, lambda _: [address])
    connected = connections(monkeypatch)
    with pytest.raises(Refused):
        ask(f"a.org:{peer.port}")
    record = ConnectTarget("inside.org", peer.port, "b.org", "b.org")
    monkeypatch.setattr(federation_http, "find_server", lambda *_, **__: [record])
    with pytest.raises(Refused):
        ask("b.org")
    assert connected == []


def test_a_name_that_resolves_to_something_else_after_the_check_is_still_asked_where_it_was_checked(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    asked = resolve(monkeypatch, lambda _: next(answers))
    connected = connections(monkeypatch)
    assert ask(f"rebinding.org:{peer.port}")[0] == 200
    assert (asked, connected) == (["rebinding.org"], ["127.0.0.1"])


def test_of_several_addresses_the_allowed_ones_are_tried_in_turn(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    federate(monkeypatch, FEDERATION_ALLOW_RANGES="127.0.0.0/8")
    resolve(monkeypatch, lambda _: ["10.0.0.1", "127.0.0.9", "127.0.0.1"])
    connected = connections(monkeypatch)
    assert ask(f"a.org:{peer.port}")[0] == 200
    assert connected == ["127.0.0.9", "127.0.0.1"]


def test_certificates_must_be_for_the_name_unless_verification_is_off(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, lambda _: ["127.0.0.1"])
    federate(monkeypatch, FEDERATION_VERIFY="on")
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        ask(peer.name)
    federate(monkeypatch, FEDERATION_VERIFY=peer.certificate)
    assert ask(peer.name)[0] == 200
    assert ask(f"127.0.0.1:{peer.port}")[0] == 200
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        ask(f"other.org:{peer.port}")


def test_without_the_file_that_says_whom_to_believe_nobody_is_asked(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_certificates = tmp_path / "empty"
    no_certificates.write_text("nothing\n", encoding="utf-8")
    for path in (tmp_path / "absent", no_certificates):
        federate(monkeypatch, FEDERATION_VERIFY=str(path))
        with pytest.raises(Refused, match="FEDERATION_VERIFY"):
            ask(peer.name)
    assert peer.connections == 0


def test_a_connection_that_was_not_verified_is_not_used_where_verification_is_on(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(peer.name)[0] == 200
    monkeypatch.setenv("FEDERATION_VERIFY", "on")
    settings.cache_clear()
    with pytest.raises(Unreachable):
        ask(peer.name)


# ── What comes back ─────────────────────────────────────────────────────────────────────────────────


def test_an_error_says_what_the_server_said(peer: Peer) -> None:
    error = {"errcode": "M_LIMIT_EXCEEDED", "error": "slower", "retry_after_ms": 1500}
    peer.instead[VERSION] = (429, json.dumps(error).encode(), {"Retry-After": "9"})
    with pytest.raises(HttpError) as limited:
        ask(peer.name)
    found = limited.value
    assert (found.destination, found.status, found.errcode) == (peer.name, 429, "M_LIMIT_EXCEEDED")
    assert (found.error, found.retry_after_ms) == ("slower", 1500)


@pytest.mark.parametrize(
    ("instead", "errcode", "retry"),
    [
        ((503, b"<html>busy</html>", {"Retry-After": "7"}), "M_UNKNOWN", 7000),
        ((500, b'{"errcode": 5}', {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), "M_UNKNOWN", None),
        ((302, b"", {"Location": "https://elsewhere.org/"}), "M_UNKNOWN", None),
        ((404, b'{"errcode": "M_UNRECOGNIZED"}', {}), "M_UNRECOGNIZED", None),
        ((400, b"[]", {}), "M_UNKNOWN", None),
    ],
)
def test_an_error_without_the_standard_form_is_one_all_the_same(
    peer: Peer, instead: tuple[int, bytes, dict[str, str]], errcode: str, retry: int | None
) -> None:
    peer.instead[VERSION] = instead
    with pytest.raises(HttpError) as failed:
        ask(peer.name)
    assert (failed.value.status, failed.value.errcode, failed.value.retry_after_ms) == (instead[0], errcode, retry)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"pdus":', b"NaN"])
def test_an_answer_that_is_no_json_is_a_bad_answer(peer: Peer, body: bytes) -> None:
    peer.instead[VERSION] = (200, body, {})
    with pytest.raises(BadAnswer):
        ask(peer.name)


def test_half_a_body_is_not_taken_for_a_whole_one(peer: Peer) -> None:
    def half(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b'{"server":{}}')
        handler.close_connection = True

    peer.instead[VERSION] = half
    with pytest.raises(Unreachable):
        ask(peer.name)


def test_too_much_is_not_read(peer: Peer) -> None:
    peer.instead[VERSION] = (200, b'"' + b"x" * 2000 + b'"', {})
    with pytest.raises(BadAnswer, match="1000 bytes"):
        ask(peer.name, max_bytes=1000)


@pytest.mark.parametrize("kind", ["silent", "drip"])
def test_who_does_not_come_to_an_end_is_given_up(peer: Peer, kind: str) -> None:
    done = threading.Event()

    def slow(handler: Any) -> None:
        if kind == "drip":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
        while not done.wait(0.1):
            if kind == "drip":
                handler.wfile.write(b" ")
        handler.close_connection = True

    peer.instead[VERSION] = slow
    started = time.monotonic()
    try:
        with pytest.raises(TimedOut):
            ask(peer.name, timeout_s=0.6)
        assert time.monotonic() - started < 3
    finally:
        done.set()


def test_a_server_that_nobody_finds_or_that_is_down_is_unreachable(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable):
        ask("localhost:1")
    resolve(monkeypatch, lambda _: [])
    with pytest.raises(Unreachable):
        ask("nowhere.org:1")
    monkeypatch.setattr(federation_http, "find_server", lambda *_, **__: [])
    with pytest.raises(Unreachable, match="no such service"):
        ask("closed.org")


# ── Connections ─────────────────────────────────────────────────────────────────────────────────────


def test_a_connection_is_used_again(peer: Peer) -> None:
    for _ in range(3):
        ask(peer.name)
    with pytest.raises(HttpError):
        ask(peer.name, path=PROFILE, query={"user_id": "@a:b"})
    assert (len(peer.asked), peer.connections) == (4, 1)


def test_a_connection_that_the_other_side_closed_is_replaced(peer: Peer) -> None:
    ask(peer.name)

    def leave(handler: Any) -> None:
        handler.close_connection = True
        peer.instead[VERSION] = (200, b'{"again":1}', {})

    peer.instead[VERSION] = leave
    assert ask(peer.name) == (200, {"again": 1})
    assert peer.connections == 2


def test_what_must_not_come_twice_is_sent_on_a_connection_of_its_own(peer: Peer) -> None:
    ask(peer.name)
    ask(peer.name, "POST", content={})
    assert peer.connections == 2


def test_a_connection_is_not_kept_for_long(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(peer.name)
    monkeypatch.setattr(federation_http, "_IDLE_S", -1.0)
    ask(peer.name)
    assert peer.connections == 2


def test_an_answer_that_was_not_read_to_its_end_spoils_its_connection(peer: Peer) -> None:
    peer.instead[VERSION] = (200, b'"' + b"x" * 2000 + b'"', {})
    with pytest.raises(BadAnswer):
        ask(peer.name, max_bytes=1000)
    peer.instead[VERSION] = (200, b"{}", {})
    assert ask(peer.name) == (200, {})
    assert peer.connections == 2
