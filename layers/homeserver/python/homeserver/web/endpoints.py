"""The endpoints of a function: methods, paths and what answers them. Knows no web framework.

A parameter written `{name}` is one segment of the path; `{name...}` at the end takes the rest, slashes included.
`{version}` stands for each of the endpoint's versions.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

V3 = ("r0", "v3")
V1 = ("v1",)
V2 = ("v2",)
# The client API of the 2014 draft: its whole prefix stands where others have a version. The older has no underscore.
LEGACY = ("_matrix/client/api/v1", "matrix/client/api/v1")

R = TypeVar("R")  # what a handler returns
_PARAMETER = re.compile(r"{([a-z_]+)(\.\.\.)?}")


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[R]):
    """One method and path that a function answers; `{version}` in the path is one of `versions`.

    `federation` ones are answered only while this server takes part in federation (the setting `FEDERATION`).
    """

    method: str
    path: str
    versions: tuple[str, ...]
    handler: Callable[..., R]
    federation: bool = False

    def starlette_paths(self) -> list[str]:
        """The path in Starlette's notation, once a version."""
        path = _PARAMETER.sub(
            lambda m: "{version}" if m[1] == "version" else "{" + m[1] + (":path" if m[2] else "") + "}", self.path
        )
        return [path.replace("{version}", version) for version in self.versions]


class Router(Generic[R]):
    """The endpoints of one function; with `federation`, those are all for other servers."""

    def __init__(self, *, federation: bool = False) -> None:
        self.endpoints: list[Endpoint[R]] = []
        self._federation = federation

    def _route(
        self, method: str, path: str, versions: tuple[str, ...]
    ) -> Callable[[Callable[..., R]], Callable[..., R]]:
        def register(handler: Callable[..., R]) -> Callable[..., R]:
            self.endpoints.append(Endpoint(method, path, versions, handler, self._federation))
            return handler

        return register

    def get(self, path: str, versions: tuple[str, ...] = V3) -> Callable[[Callable[..., R]], Callable[..., R]]:
        return self._route("GET", path, versions)

    def post(self, path: str, versions: tuple[str, ...] = V3) -> Callable[[Callable[..., R]], Callable[..., R]]:
        return self._route("POST", path, versions)

    def put(self, path: str, versions: tuple[str, ...] = V3) -> Callable[[Callable[..., R]], Callable[..., R]]:
        return self._route("PUT", path, versions)

    def delete(self, path: str, versions: tuple[str, ...] = V3) -> Callable[[Callable[..., R]], Callable[..., R]]:
        return self._route("DELETE", path, versions)
