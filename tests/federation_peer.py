"""Another homeserver on loopback, over TLS: it has keys, answers questions about profiles, and signs its own."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

import httpx

from homeserver.matrix import unpadded_base64
from homeserver.matrix.canonical_json import encode_canonical
from homeserver.matrix.signing import SigningKey, sign_json
from local.certificate import certificate_of

KEYS = "/_matrix/key/v2/server"
PROFILE = "/_matrix/federation/v1/query/profile"
DAY_MS = 24 * 3600 * 1000
Instead = tuple[int, bytes, dict[str, str]] | Callable[[BaseHTTPRequestHandler], None]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has right now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Peer:
    """`asked`: every request as (method, path with query, headers in lower case, body).

    `instead`: answers in place of the usual ones, by path. `profiles`: fields by user ID. `notarised`: what it tells of
    other servers' keys.
    """

    def __init__(self, folder: Path, *, key: SigningKey | None = None, host: str = "localhost") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.key = key or SigningKey.generate("peer", b"p" * 32)
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.instead: dict[str, Instead] = {}
        self.profiles: dict[str, dict[str, Any]] = {}
        self.notarised: list[dict[str, Any]] = []
        self.connections = 0
        pair = certificate_of(folder, "localhost", (None, None))
        self.certificate = str(pair.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self.sni: list[str | None] = []
        context.sni_callback = lambda _, name, __: self.sni.append(name)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who turns away is part of the tests
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self.name = f"{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def keys(self, **change: Any) -> dict[str, Any]:
        """What it publishes of its keys, signed after the changes."""
        published = {
            "server_name": self.name,
            "verify_keys": {self.key.key_id: {"key": unpadded_base64.encode(self.key.verify_key)}},
            "old_verify_keys": {},
            "valid_until_ts": time.time_ns() // 1_000_000 + DAY_MS,
        }
        return sign_json({**published, **change}, self.name, self.key)

    def header(
        self, method: str, uri: str, destination: str, content: Any = None, *, key: SigningKey | None = None
    ) -> str:
        """The Authorization header of a request of its own, made without the code under test but for its encoder."""
        key = key or self.key
        signed = {"method": method, "uri": uri, "origin": self.name, "destination": destination}
        signature = key.sign(encode_canonical(signed if content is None else {**signed, "content": content}))
        return f'X-Matrix origin="{self.name}",destination="{destination}",key="{key.key_id}",sig="{signature}"'

    def ask(self, url: str, method: str, path: str, destination: str, content: Any = None) -> httpx.Response:
        """A signed request to another server at a URL that it need not look for."""
        headers = {"Authorization": self.header(method, path, destination, content)}
        with httpx.Client(verify=False, trust_env=False, timeout=30) as client:
            body = None if content is None else json.dumps(content).encode()
            return client.request(method, url + path, content=body, headers=headers)

    def paths(self) -> list[str]:
        """What it was asked, in order."""
        return [f"{method} {path}" for method, path, _, _ in self.asked]

    def answer(self, method: str, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if (method, path) == ("GET", KEYS):
            return 200, self.keys()
        if path == "/_matrix/key/v2/query":
            return 200, {"server_keys": [sign_json(answer, self.name, self.key) for answer in self.notarised]}
        if path == PROFILE and query["user_id"][0] in self.profiles:
            return 200, self.profiles[query["user_id"][0]]
        return 404, {"errcode": "M_NOT_FOUND", "error": "nothing here"}

    def respond(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        """The answer to a request; other peers know more endpoints than this one."""
        return self.answer(method, path, query)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                peer.connections += 1
                super().setup()

            def do_GET(self) -> None:
                self.reply()

            def do_POST(self) -> None:
                self.reply()

            def do_PUT(self) -> None:
                self.reply()

            def reply(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                peer.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                instead = peer.instead.get(parts.path)
                if callable(instead):
                    instead(self)
                    return
                if instead is not None:
                    status, data, headers = instead
                else:
                    status, answer = peer.respond(self.command, parts.path, parse_qs(parts.query), body)
                    data, headers = json.dumps(answer).encode(), {}
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        return Handler


def profile_uri(user_id: str) -> str:
    """Path and query of the question for a profile."""
    return f"{PROFILE}?user_id={quote(user_id, safe='')}"
