"""Servers to race on: a kind one, and some that are as unkind as AWS may be (see test_races)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.local_run import Server


def servers(name: str, groups: Mapping[str, str]) -> list[Any]:
    """Parameters of a fixture: by seed ("" is the kind server), the group of tests that run in one process."""
    return [
        pytest.param(seed, marks=pytest.mark.xdist_group(f"{name}-{group}"), id=f"unkind-{seed}" if seed else "kind")
        for seed, group in groups.items()
    ]


@contextmanager
def race_on(folder: Path, seed: str) -> Iterator[Server]:
    """A server, which at its end has left nothing undone and met no error of its own."""
    unkindness = {"UNKIND_SEED": seed} if seed else {}
    with Server(folder, **unkindness) as server:
        yield server
        server.stop()
        assert server.lagging_rooms() == []
        assert "Traceback" not in server.log, server.log
