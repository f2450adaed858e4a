"""A small identity server on loopback: it knows who has bound which address, and keeps invitations for the others."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from functions.loopback_service import LoopbackService
from homeserver.matrix import unpadded_base64
from homeserver.matrix.identity_lookup import hash_address
from homeserver.matrix.signing import SigningKey, sign_json

TOKEN = "id-token"
PREFIX = "/_matrix/identity/v2/"


class IdentityService(LoopbackService):
    """`bound`: (medium, address) -> user ID. `asked`: every request as (method, path, body)."""

    def __init__(self) -> None:
        self.bound: dict[tuple[str, str], str] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.pepper = "salt"
        self.algorithms = ["none", "sha256"]
        self.keys = {"ed25519:0": SigningKey.generate("0", bytes(32)), "ed25519:e": SigningKey.generate("e", b"e" * 32)}
        self.revoked: set[str] = set()
        self.stored: list[dict[str, Any]] = []
        # Path below PREFIX -> answers instead of the usual one: (status, body, headers), or a function of the handler
        self.instead: dict[str, Any] = {}
        super().__init__(self._handler())

    def public_key(self, key_id: str) -> str:
        return unpadded_base64.encode(self.keys[key_id].verify_key)

    def statement(self, mxid: str, key_id: str = "ed25519:e", number: int = -1, **change: Any) -> dict[str, Any]:
        """What whoever has proved the address of an invitation gets to show: `third_party_signed` of a join."""
        invite = self.stored[number]
        said = {"mxid": mxid, "sender": invite["sender"], "token": invite["token"], **change}
        return sign_json(said, "id.example", self.keys[key_id])

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any, token: str) -> tuple[int, Any]:
        if path == "pubkey/isvalid":
            (key,) = query["public_key"]
            known = {self.public_key(key_id) for key_id in self.keys} - self.revoked
            return 200, {"valid": key in known}
        if token != f"Bearer {TOKEN}":
            return 401, {"errcode": "M_UNAUTHORIZED", "error": "who are you?"}
        if path == "hash_details":
            return 200, {"lookup_pepper": self.pepper, "algorithms": self.algorithms}
        if path == "lookup":
            if body["pepper"] != self.pepper:
                return 400, {"errcode": "M_INVALID_PEPPER", "error": "another pepper"}
            known = {
                hash_address(address, medium, self.pepper)
                if body["algorithm"] == "sha256"
                else f"{address} {medium}": user
                for (medium, address), user in self.bound.items()
            }
            return 200, {"mappings": {asked: known[asked] for asked in body["addresses"] if asked in known}}
        if path == "store-invite":
            if user := self.bound.get((body["medium"], body["address"])):
                return 400, {"errcode": "M_THREEPID_IN_USE", "error": "bound", "mxid": user}
            self.stored.append({**body, "token": f"token{len(self.stored)}"})
            validity = f"http://{self.name}{PREFIX}pubkey/isvalid"
            keys = [{"public_key": self.public_key(key_id), "key_validity_url": validity} for key_id in self.keys]
            return 200, {"token": self.stored[-1]["token"], "public_keys": keys, "display_name": "c...@e..."}
        return 404, {"errcode": "M_UNRECOGNIZED", "error": path}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply("GET")

            def do_POST(self) -> None:
                self.reply("POST")

            def reply(self, method: str) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                service.asked.append((method, parts.path, body))
                path = parts.path.removeprefix(PREFIX)
                instead: Callable[[Any], None] | tuple[int, bytes, dict[str, str]] | None = service.instead.get(path)
                if callable(instead):
                    instead(self)
                    return
                if instead is not None:
                    status, data, headers = instead
                else:
                    query, token = parse_qs(parts.query), self.headers.get("authorization", "")
                    status, answer = service.answer(method, path, query, body, token)
                    data, headers = json.dumps(answer).encode(), {}
                self.send_response(status)
                for name, value in {"content-length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        return Handler
