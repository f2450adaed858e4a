"""Servers and users for the end-to-end tests."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.client import Client
from e2e.local_run import Server
from e2e.place import Place

_names = itertools.count(1)


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
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
def new_user(server: Server) -> Callable[[str], Client]:
    """Registers a user on the kind server, under a name that begins with the given one."""
    return lambda name: server.register(f"{name}{next(_names)}")


@pytest.fixture
def alice(new_user: Callable[[str], Client]) -> Client:
    return new_user("alice")


@pytest.fixture
def bob(new_user: Callable[[str], Client]) -> Client:
    return new_user("bob")


@pytest.fixture(scope="session")
def place(server: Server) -> Place:
    return Place(server)
