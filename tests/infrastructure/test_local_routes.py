"""Which route serves a request."""

import pytest

from local.resources import Route
from local.routes import Router

ROUTES = [
    ("GET", "/pets/dog/1"),
    ("GET", "/pets/dog/{id}"),
    ("GET", "/pets/{proxy+}"),
    ("ANY", "/pets/dog/1"),
    ("ANY", "/{proxy+}"),
    ("PUT", "/v/{version}/rooms/{room}/send/{proxy+}"),
    ("GET", "/v/{version}/rooms/{proxy+}"),
    ("GET", "/v/{version}/rooms/{room}/aliases"),
    ("POST", "/v/r0/rooms/{room}/aliases"),
    ("ANY", "$default"),
    ("GET", "/"),
]


@pytest.fixture
def router():
    return Router([Route(method, path, "f") for method, path in ROUTES])


@pytest.mark.parametrize(
    ("method", "path", "key", "parameters"),
    [
        ("GET", "/pets/dog/1", "GET /pets/dog/1", {}),
        ("POST", "/pets/dog/1", "ANY /pets/dog/1", {}),
        ("GET", "/pets/dog/2", "GET /pets/dog/{id}", {"id": "2"}),
        ("GET", "/pets/cat/1/2", "GET /pets/{proxy+}", {"proxy": "cat/1/2"}),
        ("POST", "/pets/cat", "ANY /{proxy+}", {"proxy": "pets/cat"}),
        ("GET", "/", "GET /", {}),
        ("POST", "/", "$default", {}),
        ("GET", "/pets", "ANY /{proxy+}", {"proxy": "pets"}),
        ("GET", "/v/v3/rooms/!a:b/aliases", "GET /v/{version}/rooms/{room}/aliases", {"version": "v3", "room": "!a:b"}),
        ("GET", "/v/r0/rooms/!a:b/aliases", "GET /v/{version}/rooms/{room}/aliases", {"version": "r0", "room": "!a:b"}),
        ("GET", "/v/r0/rooms/!a/x/y", "GET /v/{version}/rooms/{proxy+}", {"version": "r0", "proxy": "!a/x/y"}),
        (
            "PUT",
            "/v/r0/rooms/!a/send/m.room.message/t",
            "PUT /v/{version}/rooms/{room}/send/{proxy+}",
            {"version": "r0", "room": "!a", "proxy": "m.room.message/t"},
        ),
        ("PUT", "/v/r0/rooms/!a/send/", "ANY /{proxy+}", {"proxy": "v/r0/rooms/!a/send/"}),
    ],
)
def test_the_most_specific_route_serves_a_request(router, method, path, key, parameters):
    match = router.match(method, path)
    assert (match.key, match.parameters) == (key, parameters)


def test_without_a_default_route_nothing_serves_an_unknown_path():
    assert Router([Route("GET", "/a", "f")]).match("GET", "/b") is None
    assert Router([Route("GET", "/a", "f")]).match("POST", "/a") is None


def test_two_functions_cannot_serve_one_route():
    with pytest.raises(ValueError, match="two functions serve GET /a"):
        Router([Route("GET", "/a", "f"), Route("GET", "/a", "g")])
