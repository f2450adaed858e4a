"""Requests to other people's servers: where they go, and where they do not."""

import contextlib
import http.server
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from homeserver.adapters import guarded_http
from homeserver.adapters.guarded_http import RequestFailed, RequestRefused, fetch_json, may_reach
from homeserver.settings import settings


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    def change(ranges: str = "", plain: str = "off") -> None:
        monkeypatch.setenv("FEDERATION_ALLOW_RANGES", ranges)
        monkeypatch.setenv("PLAIN_HTTP", plain)
        settings.cache_clear()

    change()
    yield change
    settings.cache_clear()


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that answers everything with the headers it was sent; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = f'{{"host":"{self.headers["host"]}","path":"{self.path}"}}'.encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that turn away are the test
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
    ],
)
@pytest.mark.usefixtures("configure")
def test_only_public_addresses_are_reached(address: str, allowed: bool) -> None:
    assert may_reach(ipaddress.ip_address(address)) is allowed


def test_the_operators_ranges_are_reached_and_no_others(configure: Callable[..., None]) -> None:
    configure("10.1.0.0/16, fd00::/8")
    reached = [a for a in ("10.1.2.3", "10.2.0.1", "fd00::1", "fe80::1") if may_reach(ipaddress.ip_address(a))]
    assert reached == ["10.1.2.3", "fd00::1"]


def test_ranges_that_are_none_stop_the_start(configure: Callable[..., None]) -> None:
    configure("10.1.0.1/16")
    with pytest.raises(ValueError, match="FEDERATION_ALLOW_RANGES"):
        settings()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "//x",
        "ftp://example.org/",
        "file:///etc/passwd",
        "https://",
        "https://user@example.org/",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://exa mple.org/",
        "https://example.org/a b",
        "https://example.org/\r\nHost:x",
        "https://[::1/",
        "https://exämple.org/",
        "http://127.0.0.1/",
        "https://localhost/",
        "https://[::ffff:127.0.0.1]/",
        "https://2130706433/",
    ],
)
@pytest.mark.usefixtures("configure")
def test_what_is_no_url_or_leads_inside_is_refused(url: str) -> None:
    with pytest.raises(RequestRefused):
        fetch_json("GET", url, seconds=1)


def test_a_name_is_resolved_once_and_the_address_that_was_checked_is_connected_to(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("127.0.0.0/8", "loopback")
    asked = []

    def resolve(host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "169.254.169.254"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    with serving() as port:
        original = socket.getaddrinfo
        monkeypatch.setattr(
            guarded_http.socket,
            "getaddrinfo",
            lambda h, *a, **k: original(h, *a, **k) if h[0] == "1" else resolve(h, *a, **k),
        )
        reply = fetch_json("GET", f"http://rebinding.example:{port}/x?y=1", seconds=2)
    assert reply.json == {"host": f"rebinding.example:{port}", "path": "/x?y=1"}
    assert asked == ["rebinding.example"]


def test_of_several_addresses_one_that_may_be_asked_is_taken(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("127.0.0.1/32", "loopback")
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 1)) for a in ("10.0.0.1", "127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(guarded_http.socket, "getaddrinfo", lambda *_, **__: found)
    assert [str(address) for address in guarded_http.resolved("x", 1, tls=False)] == ["127.0.0.1"]


def certificate(folder: Path) -> Path:
    """A certificate for localhost that nobody else has signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return path


def test_a_certificate_that_nobody_vouches_for_or_of_another_name_is_not_taken(
    configure: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("127.0.0.0/8", "loopback")
    own = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    with serving(context) as port:
        with pytest.raises(RequestFailed, match="CERTIFICATE_VERIFY_FAILED"):
            fetch_json("GET", f"https://localhost:{port}/", seconds=2)
        trusting = ssl.create_default_context(cafile=str(own))
        monkeypatch.setattr(guarded_http, "verifying", lambda: trusting)
        assert fetch_json("GET", f"https://localhost:{port}/", seconds=2).status == 200
        with pytest.raises(RequestFailed, match="CERTIFICATE_VERIFY_FAILED"):
            fetch_json("GET", f"https://127.0.0.1:{port}/", seconds=2)


def test_who_accepts_and_says_nothing_is_given_up(configure: Callable[..., None]) -> None:
    configure("127.0.0.0/8", "loopback")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        for scheme in ("http", "https"):
            with pytest.raises(RequestFailed):
                fetch_json("GET", f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.3)
        assert time.monotonic() - started < 2
