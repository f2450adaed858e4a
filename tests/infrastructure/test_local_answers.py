"""What the gateway makes of a function's result, and of none in time."""

import asyncio
import time

import pytest

from local.gateway import Gateway, answered, decoded_path, merged_headers
from local.resources import Cors, Route
from local.routes import Router

JSON = (b"content-type", b"application/json")


@pytest.mark.parametrize(
    ("result", "status", "body", "headers"),
    [
        ({"statusCode": 204}, 204, b"", []),
        ({"statusCode": 201, "body": "é"}, 201, "é".encode(), [JSON]),
        ({"statusCode": "200", "body": "/wA=", "isBase64Encoded": True}, 200, b"\xff\x00", [JSON]),
        (
            {
                "statusCode": 200,
                "body": "x",
                "headers": {"Content-Type": "text/plain", "X-Number": 5, "Content-Length": "9"},
            },
            200,
            b"x",
            [(b"content-type", b"text/plain"), (b"x-number", b"5")],
        ),
        ({"statusCode": 200, "cookies": ["a=1"]}, 200, b"", [(b"set-cookie", b"a=1")]),
        ({"answer": 42}, 200, b'{"answer":42}', [JSON]),
        ("text", 200, b"text", [JSON]),
    ],
)
def test_a_result_becomes_an_answer_as_format_2_says(result, status, body, headers):
    assert answered(result) == (status, body, headers)


def test_an_answer_above_six_megabytes_fails():
    with pytest.raises(ValueError, match="6 MB"):
        answered({"statusCode": 200, "body": "a" * (6 * 1024 * 1024 + 1)})


def test_paths_lose_what_aws_loses():
    assert decoded_path(b"/a%2Fb%3Fc%2Fd") == "/a/b"
    assert decoded_path(b"/%C3%A9%23") == "/é#"
    assert decoded_path(b"/%FF") == "/\ufffd"
    assert decoded_path(b"") == "/"


def test_headers_are_joined_as_aws_joins_them():
    raw = [(b"x-a", b"1"), (b"cookie", b"a=1"), (b"x-a", b"2"), (b"cookie", b"b=2")]
    assert merged_headers(raw) == {"x-a": "1,2", "cookie": "a=1; b=2"}


class Functions:
    """Handlers that take a moment, or answer with CORS headers of their own."""

    def call(self, name, event, request_id):
        if name == "slow":
            time.sleep(0.3)
        return {"statusCode": 200, "body": "done", "headers": {"Access-Control-Allow-Origin": "https://own"}}


def ask(path, *, timeout=5.0, cors=None, origin=None):
    router = Router([Route("GET", "/slow", "slow"), Route("GET", "/quick", "quick")])
    gateway = Gateway(router, Functions(), cors, timeout=timeout)
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "raw_path": path.encode(),
        "query_string": b"",
        "http_version": "1.1",
        "headers": [(b"origin", origin)] if origin else [],
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(gateway(scope, receive, send))
    gateway.stop()
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_a_function_that_takes_too_long_is_503():
    started = time.monotonic()
    status, _, body = ask("/slow", timeout=0.05)
    assert (status, body) == (503, b'{"message":"Service Unavailable"}')
    assert time.monotonic() - started < 0.3
    assert ask("/slow", timeout=5)[0] == 200


def test_without_a_route_the_api_itself_says_not_found():
    assert ask("/nowhere")[::2] == (404, b'{"message":"Not Found"}')


def test_the_apis_cors_replaces_the_functions_and_names_only_known_origins():
    cors = Cors(("https://a.example",), ("GET",), (), ("x-b",), None, True)
    _, headers, _ = ask("/quick", cors=cors, origin=b"https://a.example")
    assert headers[b"access-control-allow-origin"] == b"https://a.example"
    assert headers[b"access-control-allow-credentials"] == b"true"
    assert headers[b"access-control-expose-headers"] == b"x-b"
    assert b"access-control-allow-origin" not in ask("/quick", cors=cors, origin=b"https://b.example")[1]
    assert ask("/quick")[1][b"access-control-allow-origin"] == b"https://own"
