"""A local run and another server on loopback ask each other, with signed requests over TLS."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from e2e.client import V3
from e2e.local_run import Server
from federation_peer import KEYS, Peer, free_port, profile_uri
from homeserver.matrix import unpadded_base64
from homeserver.matrix.request_signing import verify_request
from homeserver.matrix.signing import verify_signed_json
from homeserver.matrix.x_matrix import parse_x_matrix


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with Peer(tmp_path_factory.mktemp("peer")) as running:
        yield running


@pytest.fixture(scope="module")
def ours(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A local run on two ports that believes the peer's certificate, and loopback."""
    port = str(free_port())
    environment = {
        "SERVER_NAME": f"localhost:{port}",
        "FEDERATION_PORT": port,
        "FEDERATION_ALLOW_RANGES": "127.0.0.0/8,::1/128",
        "FEDERATION_VERIFY": peer.certificate,
        "REGISTRATION": "open",
    }
    with Server(tmp_path_factory.mktemp("ours"), **environment) as running:
        yield running
        assert "Traceback" not in running.log, running.log


def name(server: Server) -> str:
    return str(server.client().ok("GET", KEYS)["server_name"])


def certificate(server: Server) -> Path:
    return server.data_dir / "tls.crt"


def test_the_peer_asks_over_tls_and_is_believed(ours: Server, peer: Peer) -> None:
    user = ours.register("told")
    path = f"{V3}/profile/{quote(user.user_id, safe='')}/displayname"
    user.ok("PUT", path, {"displayname": "Tolda"})
    url = f"https://{name(ours)}"
    answer = peer.ask(url, "GET", profile_uri(user.user_id), name(ours))
    assert (answer.status_code, answer.json()) == (200, {"displayname": "Tolda"})
    refused = peer.ask(url, "GET", profile_uri(user.user_id), "other.org")
    assert (refused.status_code, refused.json()["errcode"]) == (401, "M_UNAUTHORIZED")
    assert f"GET {KEYS}" in peer.paths()


def test_the_peer_is_asked_and_can_check_who_asks(ours: Server, peer: Peer) -> None:
    bob = f"@bob:{peer.name}"
    peer.profiles[bob] = {"displayname": "Bob elsewhere"}
    asker = ours.register("asker")
    found = asker.ok("GET", f"{V3}/profile/{quote(bob, safe='')}")
    assert found == {"displayname": "Bob elsewhere"}
    method, uri, headers, body = peer.asked[-1]
    assert (method, uri, body) == ("GET", profile_uri(bob), b"")
    signed = parse_x_matrix(headers["authorization"])
    published = httpx.get(f"https://{signed.origin}{KEYS}", verify=False, trust_env=False).json()
    keys = {key_id: unpadded_base64.decode(key["key"]) for key_id, key in published["verify_keys"].items()}
    verify_signed_json(published, signed.origin, keys)
    verify_request(
        method, uri, origin=signed.origin, destination=peer.name, signatures=signed.signatures, verify_keys=keys
    )


def test_the_certificate_is_for_the_server_name_and_kept(ours: Server) -> None:
    import ssl

    context = ssl.create_default_context(cafile=str(certificate(ours)))
    with httpx.Client(verify=context, trust_env=False) as client:
        answer = client.get(f"https://{name(ours)}/.well-known/matrix/server")
        assert answer.json() == {"m.server": name(ours)}
        # All routes are here, those of clients too.
        assert client.get(f"https://{name(ours)}/_matrix/client/versions").status_code == 200
    assert (certificate(ours).parent / "tls.key").stat().st_mode & 0o077 == 0


def test_a_server_that_is_inside_is_not_asked_unless_the_operator_allows_it(peer: Peer, tmp_path: Path) -> None:
    before = len(peer.asked)
    with Server(tmp_path, REGISTRATION="open") as careful:
        asker = careful.register("asker")
        answer = asker.ask("GET", f"{V3}/profile/{quote('@bob:' + peer.name, safe='')}")
        assert (answer.status, answer.errcode) == (502, "M_UNKNOWN")
        told = asker.ok("GET", f"/_matrix/key/v2/query/{quote(peer.name, safe='')}")
        assert told == {"server_keys": []}
    assert len(peer.asked) == before


def test_a_new_signing_key_takes_over_and_the_old_one_stays_published(tmp_path: Path) -> None:
    with Server(tmp_path) as first:
        before = first.client().ok("GET", KEYS)
    with Server(tmp_path, SIGNING_KEY_GENERATION="2") as second:
        after = second.client().ok("GET", KEYS)
    assert before["verify_keys"].keys() == after["old_verify_keys"].keys()
    assert before["verify_keys"].keys().isdisjoint(after["verify_keys"].keys())


def test_without_federation_other_servers_find_nothing(tmp_path: Path) -> None:
    with Server(tmp_path, FEDERATION="off") as alone:
        for path in (KEYS, "/_matrix/federation/v1/version", "/.well-known/matrix/server"):
            assert alone.client().ask("GET", path).status == 404
