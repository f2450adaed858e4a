"""Servers and users for the end-to-end tests."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.client import Client
from e2e.local_run import Server

_names = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is marked `e2e`; a file runs in one worker, so that its tests share a server."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A kind server for all tests of this process: they use rooms and users of their own."""
    with Server(tmp_path_factory.mktemp("kind")) as running:
        yield running
        assert "Traceback" not in running.log, running.log


@pytest.fixture
def new_user(server: Server) -> Iterator[Callable[..., Client]]:
    """Registers users, under the given name or one that nobody has."""
    with ExitStack() as clients:

        def register(name: str | None = None, on: Server = server) -> Client:
            return clients.enter_context(on.register(name or f"user{next(_names)}"))

        yield register


@pytest.fixture
def alice(new_user: Callable[..., Client]) -> Client:
    return new_user(f"alice{next(_names)}")


@pytest.fixture
def bob(new_user: Callable[..., Client]) -> Client:
    return new_user(f"bob{next(_names)}")
