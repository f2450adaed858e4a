"""Settings of a server that federates on loopback, and names that resolve where a test wants."""

import socket
from collections.abc import Callable

import pytest

from homeserver.adapters import federation_http, guarded_http, server_resolution
from homeserver.settings import settings

LOOPBACK = "127.0.0.0/8,::1/128"


def federate(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Settings for these tests, with nothing remembered; SERVER_NAME is us.example."""
    defaults = {
        "SERVER_NAME": "us.example",
        "FEDERATION": "on",
        "FEDERATION_VERIFY": "off",
        "FEDERATION_ALLOW_RANGES": LOOPBACK,
    }
    for name, value in {**defaults, **environment}.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    server_resolution.forget_servers()
    federation_http.close_connections()


def resolve(monkeypatch: pytest.MonkeyPatch, addresses: Callable[[str], list[str]]) -> list[str]:
    """Names resolve to what `addresses` says, addresses to themselves; the list of names that were asked for."""
    asked: list[str] = []
    original = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *more: object, **options: object) -> list[tuple[object, ...]]:
        if host.replace(".", "").isdigit() or ":" in host:
            return original(host, port, *more, **options)  # type: ignore[arg-type]  # passed on as it came
        asked.append(host)
        found = addresses(host)
        if not found:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]

    monkeypatch.setattr(guarded_http.socket, "getaddrinfo", getaddrinfo)
    return asked


def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that are connected to from now on, successful or not."""
    tried: list[str] = []
    original = socket.create_connection

    def create_connection(address: tuple[str, int], *more: object) -> socket.socket:
        tried.append(address[0])
        return original(address, *more)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(guarded_http.socket, "create_connection", create_connection)
    return tried
