"""The routes of the API and the routes inside the functions: each inner one is reached, by its own function."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from itertools import product

import pytest

from infrastructure.templates import FUNCTIONS, ROOT, STACK
from local.resources import Route
from local.routes import DEFAULT, Router

SERVING = [name for name, function in FUNCTIONS.items() if function.events("HttpApi")]
ROUTES = [
    Route(event.get("Method", "ANY"), event.get("Path", DEFAULT), name)
    for name in SERVING
    for event in FUNCTIONS[name].events("HttpApi")
]
API = Router(ROUTES)

# In a process of their own: a function reads its environment when it is imported.
LIST_ENDPOINTS = """
import importlib, json, sys
router = importlib.import_module(sys.argv[1] + ".routes").router
print(json.dumps([[e.method, e.path, list(getattr(e, "versions", ()))] for e in router.endpoints]))
"""


@cache
def endpoints(function: str) -> list[tuple[str, str]]:
    """(method, path) of everything a function answers, `{version}` filled in."""
    search = [ROOT / "layers" / "homeserver" / "python", ROOT / "functions"]
    environment = os.environ | FUNCTIONS[function].environment | {"PYTHONPATH": os.pathsep.join(map(str, search))}
    listed = subprocess.run(
        [sys.executable, "-c", LIST_ENDPOINTS, function],
        env=environment | {"AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr
    return [
        (method, path.replace("{version}", version))
        for method, path, versions in json.loads(listed.stdout)
        for version in (versions or ["v3"] if "{version}" in path else [""])
    ]


def samples(path: str) -> list[str]:
    """Concrete paths of an inner route: a parameter is one segment, `{name...}` one or two."""
    choices = [
        (["rest", "rest/of it"] if part.endswith("...}") else ["value"]) if part.startswith("{") else [part]
        for part in path.split("/")
    ]
    return ["/".join(choice) for choice in product(*choices)]


@pytest.mark.parametrize("function", SERVING)
def test_every_inner_route_is_reached_through_a_route_of_its_own_function(function: str) -> None:
    assert endpoints(function), "the function answers nothing"
    wrong = {}
    for method, path in endpoints(function):
        for sample in samples(path):
            match = API.match(method, sample)
            if match is None or match.route.function != function or match.key == DEFAULT:
                wrong[f"{method} {sample}"] = match and f"{match.key} -> {match.route.function}"
    assert wrong == {}


@pytest.mark.parametrize("function", SERVING)
def test_every_route_of_the_template_leads_to_an_inner_route(function: str) -> None:
    reached = set()
    for method, path in endpoints(function):
        for sample in samples(path):
            match = API.match(method, sample)
            reached.add(match.key if match else None)
    own = {f"{route.method} {route.path}" for route in ROUTES if route.function == function and route.path != DEFAULT}
    assert own - reached == set()


def test_no_two_routes_of_the_template_answer_the_same_requests() -> None:
    shapes = [(route.method, re.sub(r"{[^}+]*(\+?)}", r"{\1}", route.path)) for route in ROUTES]
    assert sorted(shape for shape in set(shapes) if shapes.count(shape) > 1) == []


def test_what_no_route_knows_goes_to_discovery() -> None:
    for method, path in [("GET", "/nothing/here"), ("PATCH", "/_matrix/client/v3/login"), ("DELETE", "/")]:
        match = API.match(method, path)
        assert match is not None
        assert (match.key, match.route.function) == (DEFAULT, "server_discovery")


def test_every_route_names_its_method_and_a_greedy_variable_stands_last() -> None:
    for route in ROUTES:
        if route.path != DEFAULT:
            assert route.method in {"GET", "POST", "PUT", "DELETE"}
            assert re.fullmatch(r"/|(/([A-Za-z0-9._-]+|{[a-zA-Z]+}))*(/{proxy\+})?/?", route.path), route.path


def test_the_api_is_on_the_default_stage_and_open_to_clients_in_browsers() -> None:
    api = STACK.template["Resources"]["Api"]["Properties"]
    assert "StageName" not in api  # which is $default: no prefix before the paths
    assert api["CorsConfiguration"] == {
        "AllowOrigins": ["*"],
        "AllowMethods": ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"],
        "AllowHeaders": ["X-Requested-With", "Content-Type", "Authorization", "Date"],
        "MaxAge": 86400,
    }


def test_the_api_has_a_ceiling_on_requests() -> None:
    settings = STACK.resolve(STACK.template["Resources"]["Api"]["Properties"]["DefaultRouteSettings"])
    assert settings == {"ThrottlingRateLimit": "500", "ThrottlingBurstLimit": "1000"}
