"""Which route of an HTTP API serves a request: the precedence that API Gateway documents for routes.

A full match wins over a greedy one, `$default` comes last; among several, the one with the more specific path
(read from the left: literal, variable, greedy), then a named method before ANY.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from local.resources import Route

DEFAULT = "$default"


@dataclass(frozen=True, slots=True)
class Match:
    """A route with the path parameters of one request."""

    route: Route
    key: str  # as AWS names it: "GET /pets/{id}" or "$default"
    parameters: dict[str, str]


@dataclass(slots=True)
class _Node:
    literals: "dict[str, _Node]" = field(default_factory=dict)
    variable: "_Node | None" = None
    full: dict[str, tuple[Route, tuple[str, ...]]] = field(default_factory=dict)  # by method
    greedy: dict[str, tuple[Route, tuple[str, ...]]] = field(default_factory=dict)


class Router:
    """The routes of one API."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        self._default: Route | None = None
        for route in routes:
            if route.path == DEFAULT:
                self._default = route
            else:
                self._add(route)

    def _add(self, route: Route) -> None:
        node, names = self._root, []
        table = None
        for segment in route.path.split("/")[1:]:
            if segment.endswith("+}"):
                names.append(segment[1:-2])
                table = node.greedy
            elif segment.startswith("{"):
                names.append(segment[1:-1])
                node.variable = node.variable or _Node()
                node = node.variable
            else:
                node = node.literals.setdefault(segment, _Node())
        table = node.full if table is None else table
        if table.setdefault(route.method, (route, tuple(names)))[0] is not route:
            raise ValueError(f"two functions serve {route.method} {route.path}")

    def match(self, method: str, path: str) -> Match | None:
        """The route for this method and this (decoded) path, or None when there is not even a `$default`."""
        segments = path.split("/")[1:]
        found = self._full(self._root, segments, 0, (), method) or self._greedy(self._root, segments, 0, (), method)
        if found is not None:
            (route, names), values = found
            return Match(route, f"{route.method} {route.path}", dict(zip(names, values, strict=True)))
        return Match(self._default, DEFAULT, {}) if self._default else None

    def _full(
        self, node: _Node, segments: list[str], at: int, values: tuple[str, ...], method: str
    ) -> tuple[tuple[Route, tuple[str, ...]], tuple[str, ...]] | None:
        if at == len(segments):
            entry = node.full.get(method) or node.full.get("ANY")
            return (entry, values) if entry else None
        segment = segments[at]
        child = node.literals.get(segment)
        if child is not None and (found := self._full(child, segments, at + 1, values, method)):
            return found
        if node.variable is not None and segment:
            return self._full(node.variable, segments, at + 1, (*values, segment), method)
        return None

    def _greedy(
        self, node: _Node, segments: list[str], at: int, values: tuple[str, ...], method: str
    ) -> tuple[tuple[Route, tuple[str, ...]], tuple[str, ...]] | None:
        if at == len(segments):
            return None
        segment = segments[at]
        child = node.literals.get(segment)
        if child is not None and (found := self._greedy(child, segments, at + 1, values, method)):
            return found
        if (
            node.variable is not None
            and segment
            and (found := self._greedy(node.variable, segments, at + 1, (*values, segment), method))
        ):
            return found
        entry = node.greedy.get(method) or node.greedy.get("ANY")
        rest = "/".join(segments[at:])
        return (entry, (*values, rest)) if entry and rest else None
