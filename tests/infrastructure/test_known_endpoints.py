"""The list of all endpoints against the routers of the functions."""

import json
import os
import re
import subprocess
import sys

import pytest

from homeserver.web.known_endpoints import known_endpoints, methods_at
from infrastructure.templates import FUNCTIONS, ROOT

# In a process of its own: a function reads its environment when it is imported.
LIST_ENDPOINTS = """
import importlib, json, sys
found = []
for function in sys.argv[1:]:
    for endpoint in importlib.import_module(function + ".routes").router.endpoints:
        found += [[endpoint.method, path] for path in endpoint.starlette_paths()]
print(json.dumps(found))
"""


def shape(path: str) -> str:
    """A path with its parameters nameless: `{}` is one segment, `{...}` the rest."""
    return re.sub(r"{[a-z_]+(?:(\.\.\.)|(:path))?}", lambda m: "{...}" if m[1] or m[2] else "{}", path)


def test_the_list_is_what_the_functions_answer() -> None:
    functions = sorted(folder.parent.name for folder in (ROOT / "functions").glob("*/routes.py"))
    environment = {name: value for f in FUNCTIONS.values() for name, value in f.environment.items()}
    search = [ROOT / "layers" / "homeserver" / "python", ROOT / "functions"]
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, search)), "AWS_DEFAULT_REGION": "us-east-1"}
    listed = subprocess.run(
        [sys.executable, "-c", LIST_ENDPOINTS, *functions],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr
    served = {(method, shape(path)) for method, path in json.loads(listed.stdout)}
    known = {(method, shape(path)) for path, methods in known_endpoints().items() for method in methods}
    assert sorted(known - served) == []
    assert sorted(served - known) == []


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", {"GET"}),
        ("/_matrix/client/v3/login", {"GET", "POST"}),
        ("/_matrix/client/r0/devices/a/b", {"GET", "PUT", "DELETE"}),
        ("/_matrix/client/v3/rooms/!a:b/state/m.room.name/", {"GET", "PUT"}),
        ("/_matrix/client/v3/rooms/!a:b/state/m.room.name/a/b", {"GET", "PUT"}),
        ("/_matrix/client/v1/register/m.login.registration_token/validity", {"GET"}),
        ("/_matrix/client/v1/register/mxloginxregistration_token/validity", set()),
        ("/_matrix/client/v1/login", set()),
        ("/_matrix/client/v3/login/", set()),
        ("/_matrix/client/v3/rooms/!a:b/", set()),
        ("/_matrix/client/v3/rooms/!a/b:c/join", set()),
        ("", set()),
    ],
)
def test_the_methods_of_a_path_are_those_of_its_endpoint(path: str, methods: set[str]) -> None:
    assert methods_at(path) == methods
