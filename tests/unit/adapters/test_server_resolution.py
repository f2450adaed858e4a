"""Asking for well-known documents and SRV records, and where that does not lead."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.exception
import dns.resolver
import pytest

from federation_peer import Peer
from homeserver.adapters import server_resolution
from homeserver.adapters.guarded_http import RequestRefused
from homeserver.adapters.server_resolution import ask_well_known, find_server, forget_servers, srv_records
from homeserver.matrix.server_discovery import ConnectTarget, SrvRecord
from homeserver.settings import settings
from unit.adapters.federating import connections, federate, resolve

WELL_KNOWN = "/.well-known/matrix/server"
INSIDE = ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "fe80::1"]


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """A server that answers for every name on "port 443"."""
    with Peer(tmp_path) as running:
        federate(monkeypatch)
        monkeypatch.setattr(server_resolution, "WELL_KNOWN_PORT", running.port)
        resolve(monkeypatch, lambda _: ["127.0.0.1"])
        yield running
    forget_servers()
    settings.cache_clear()


@pytest.fixture
def srv(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """SRV records by question, or the error that answers it; without an entry there are none."""
    records: dict[str, Any] = {}

    def ask(question: str, kind: str, *, lifetime: float, search: bool) -> Any:
        assert (kind, search) == ("SRV", False)
        assert 0 < lifetime <= 5
        found = records.get(question.removesuffix("."), dns.resolver.NXDOMAIN())
        records.setdefault("asked", []).append(question)
        if isinstance(found, Exception):
            raise found
        return Found(found)

    class Found(list[Any]):
        rrset = SimpleNamespace(ttl=120)

    monkeypatch.setattr(dns.resolver, "resolve", ask)
    forget_servers()
    return records


def document(name: Any, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps({"m.server": name}).encode(), headers


def record(priority: int, weight: int, port: int, target: str) -> Any:
    return SimpleNamespace(priority=priority, weight=weight, port=port, target=target)


def delegated(host: str) -> str | None:
    found = ask_well_known(host)
    return found.text if found else None


# ── well-known ──────────────────────────────────────────────────────────────────────────────────────


def test_a_well_known_document_delegates_and_is_asked_for_once(peer: Peer) -> None:
    peer.instead[WELL_KNOWN] = document("matrix.a.org:443")
    assert [delegated("a.org"), delegated("a.org")] == ["matrix.a.org:443"] * 2
    assert peer.paths() == [f"GET {WELL_KNOWN}"]
    assert peer.asked[0][2]["host"] == "a.org"
    assert peer.sni == ["a.org"]


def test_a_document_is_asked_for_again_when_its_time_is_over(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(server_resolution, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    peer.instead[WELL_KNOWN] = document("m.org", **{"Cache-Control": "max-age=600"})
    assert delegated("a.org") == "m.org"
    peer.instead[WELL_KNOWN] = document("n.org")
    clock[0] += 599
    assert delegated("a.org") == "m.org"
    clock[0] += 2
    assert delegated("a.org") == "n.org"


@pytest.mark.parametrize(
    "instead",
    [
        (404, b"{}", {}),
        (500, b'{"m.server": "m.org"}', {}),
        (200, b"<html>", {}),
        (200, b'["m.org"]', {}),
        (200, b'{"m.server": "not a name"}', {}),
        (200, b'{"m.server": "m.org"}' + b" " * 51_200, {}),
        (302, b"", {}),
    ],
)
def test_without_a_usable_document_discovery_goes_on_and_remembers_for_an_hour(
    peer: Peer, instead: tuple[int, bytes, dict[str, str]]
) -> None:
    peer.instead[WELL_KNOWN] = instead
    assert [delegated("a.org"), delegated("a.org")] == [None, None]
    assert len(peer.asked) == 1


def test_redirects_are_followed_and_each_place_is_asked_under_its_own_name(peer: Peer) -> None:
    peer.instead[WELL_KNOWN] = (301, b"", {"Location": "https://b.org/there?x=1"})
    peer.instead["/there"] = (307, b"", {"Location": f"https://c.org:{peer.port}/at/last"})
    peer.instead["/at/last"] = document("m.org")
    assert delegated("a.org") == "m.org"
    assert [(path, headers["host"]) for _, path, headers, _ in peer.asked] == [
        (WELL_KNOWN, "a.org"),
        ("/there?x=1", "b.org"),
        ("/at/last", f"c.org:{peer.port}"),
    ]


def test_a_loop_of_redirects_ends(peer: Peer) -> None:
    peer.instead[WELL_KNOWN] = (302, b"", {"Location": WELL_KNOWN})
    assert delegated("a.org") is None
    assert len(peer.asked) == 6


@pytest.mark.parametrize(
    "location", ["http://b.org/x", "file:///etc/passwd", "https://user@b.org/", "https://b.org/a b", "//:0/"]
)
def test_a_redirect_to_what_is_no_https_address_is_not_followed(peer: Peer, location: str) -> None:
    peer.instead[WELL_KNOWN] = (302, b"", {"Location": location})
    assert delegated("a.org") is None
    assert len(peer.asked) == 1


@pytest.mark.parametrize("address", [address.replace("127.0.0.1", "127.0.0.2") for address in INSIDE])
def test_a_redirect_to_a_name_that_leads_inside_is_not_followed(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """The first hop is allowed, by an address that only this test has; the second is checked like it."""
    federate(monkeypatch, FEDERATION_ALLOW_RANGES="127.0.0.1/32")
    asked = resolve(monkeypatch, lambda host: ["127.0.0.1"] if host == "a.org" else [address])
    connected = connections(monkeypatch)
    peer.instead[WELL_KNOWN] = (302, b"", {"Location": "https://inside.org/secret"})
    assert delegated("a.org") is None
    assert asked == ["a.org", "inside.org"]
    assert connected == ["127.0.0.1"]


@pytest.mark.parametrize("address", INSIDE)
def test_a_name_that_leads_inside_is_not_asked_for_its_document(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    federate(monkeypatch, FEDERATION_ALLOW_RANGES="")
    resolve(monkeypatch, lambda _: [address])
    connected = connections(monkeypatch)
    assert delegated("a.org") is None
    assert connected == []


def test_a_certificate_that_nobody_vouches_for_is_not_believed(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    peer.instead[WELL_KNOWN] = document("m.org")
    federate(monkeypatch, FEDERATION_VERIFY="on")
    assert delegated("localhost") is None
    federate(monkeypatch, FEDERATION_VERIFY=peer.certificate)
    assert delegated("a.org") is None
    assert delegated("localhost") == "m.org"


# ── SRV ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_new_service_is_asked_for_first_and_the_old_one_only_without_it(peer: Peer, srv: dict[str, Any]) -> None:
    srv["_matrix._tcp.a.org"] = [record(1, 0, 1, "old.org.")]
    assert find_server("a.org", seconds=5) == [ConnectTarget("old.org", 1, "a.org", "a.org")]
    assert srv["asked"] == ["_matrix-fed._tcp.a.org.", "_matrix._tcp.a.org."]
    forget_servers()
    srv["_matrix-fed._tcp.a.org"] = [record(2, 0, 2, "b.org."), record(1, 0, 1, "a.net.")]
    found = find_server("a.org", seconds=5)
    assert found == [ConnectTarget("a.net", 1, "a.org", "a.org"), ConnectTarget("b.org", 2, "a.org", "a.org")]


def test_a_delegated_name_is_looked_up_instead_and_called_by_its_own_name(peer: Peer, srv: dict[str, Any]) -> None:
    peer.instead[WELL_KNOWN] = document("m.org")
    srv["_matrix-fed._tcp.m.org"] = [record(1, 0, 99, "node.net.")]
    srv["_matrix-fed._tcp.a.org"] = [record(1, 0, 1, "wrong.org.")]
    assert find_server("a.org", seconds=5) == [ConnectTarget("node.net", 99, "m.org", "m.org")]


def test_records_are_remembered(peer: Peer, srv: dict[str, Any]) -> None:
    srv["_matrix-fed._tcp.a.org"] = [record(1, 2, 3, "b.org.")]
    assert srv_records("_matrix-fed._tcp.a.org") == [SrvRecord(1, 2, 3, "b.org")]
    assert srv_records("_matrix-fed._tcp.a.org") == [SrvRecord(1, 2, 3, "b.org")]
    assert srv["asked"] == ["_matrix-fed._tcp.a.org."]


def test_no_such_service_leads_nowhere(peer: Peer, srv: dict[str, Any]) -> None:
    srv["_matrix-fed._tcp.a.org"] = [record(0, 0, 0, ".")]
    assert find_server("a.org", seconds=5) == []


@pytest.mark.parametrize(
    "error", [dns.resolver.NoAnswer, dns.resolver.NoNameservers, dns.exception.Timeout, dns.resolver.NXDOMAIN]
)
def test_name_servers_that_do_not_answer_leave_the_name_itself(
    peer: Peer, srv: dict[str, Any], error: Callable[[], Exception]
) -> None:
    srv["_matrix-fed._tcp.a.org"] = srv["_matrix._tcp.a.org"] = (
        dns.resolver.NXDOMAIN() if error is dns.resolver.NoAnswer else error()
    )
    assert find_server("a.org", seconds=5) == [ConnectTarget("a.org", 8448, "a.org", "a.org")]


@pytest.mark.usefixtures("peer", "srv")
@pytest.mark.parametrize("name", ["", "a/b", "a.org:0", "[::g]"])
def test_what_is_no_server_name_is_refused(name: str) -> None:
    with pytest.raises(RequestRefused):
        find_server(name, seconds=5)
