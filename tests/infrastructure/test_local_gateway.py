"""Requests as functions see them, and answers as clients see them: against a running local run."""

import concurrent.futures
import json
import time

import pytest

from infrastructure.local_process import LocalProcess

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with LocalProcess(tmp_path_factory.mktemp("gateway"), SERVER_NAME="gateway.test") as process:
        yield process


def echo(server, path="/echo/x", body="{}", headers=None):
    status, _, content = server.ask("POST", path, body, {"Content-Type": "application/json"} | (headers or {}))
    assert status == 200
    return json.loads(content)["event"]


def test_the_event_has_the_shape_of_payload_format_2(server):
    event = echo(server, "/echo/x?a=1&b=2&a=3%204&c", "{}", {"X-Thing": "v", "Cookie": "k=1; l=2", "User-Agent": "u"})
    assert event["version"] == "2.0"
    assert event["routeKey"] == "POST /echo/{name}"
    assert event["rawPath"] == "/echo/x"
    assert event["rawQueryString"] == "a=1&b=2&a=3%204&c"
    assert event["queryStringParameters"] == {"a": "1,3 4", "b": "2", "c": ""}
    assert event["pathParameters"] == {"name": "x"}
    assert event["cookies"] == ["k=1", "l=2"]
    assert event["headers"]["x-thing"] == "v"
    assert "cookie" not in event["headers"]
    assert event["body"] == "{}"
    assert event["isBase64Encoded"] is False
    context = event["requestContext"]
    assert context["http"] == {
        "method": "POST",
        "path": "/echo/x",
        "protocol": "HTTP/1.1",
        "sourceIp": "127.0.0.1",
        "userAgent": "u",
    }
    assert (context["stage"], context["routeKey"]) == ("$default", "POST /echo/{name}")
    assert abs(context["timeEpoch"] / 1000 - time.time()) < 60


def test_the_path_arrives_decoded_and_cut_at_a_decoded_question_mark(server):
    event = echo(server, "/echo/%40a%3Ab%20%23?q=%2F")
    assert event["rawPath"] == "/echo/@a:b #"
    assert event["pathParameters"] == {"name": "@a:b #"}
    assert event["rawQueryString"] == "q=%2F"
    assert echo(server, "/echo/a%3Fb?q=1")["rawPath"] == "/echo/a"
    # A decoded slash makes another path, which this route does not match.
    event = echo(server, "/echo/a%2Fb")
    assert (event["rawPath"], event["routeKey"]) == ("/echo/a/b", "$default")


def test_an_absent_query_has_no_parameters(server):
    event = echo(server)
    assert event["rawQueryString"] == ""
    assert "queryStringParameters" not in event
    assert "cookies" not in event


def test_only_text_bodies_arrive_as_text(server):
    assert echo(server, body="é", headers={"Content-Type": "text/plain"})["body"] == "é"
    binary = echo(server, body=b"\xff\x00", headers={"Content-Type": "application/octet-stream"})
    assert (binary["body"], binary["isBase64Encoded"]) == ("/wA=", True)


def test_repeated_headers_are_joined_with_commas(server):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest("POST", "/echo/x")
    for value in ("a", "b"):
        connection.putheader("X-Many", value)
    connection.putheader("Content-Length", "0")
    connection.endheaders()
    event = json.loads(connection.getresponse().read())["event"]
    connection.close()
    assert event["headers"]["x-many"] == "a,b"
    assert "body" not in event


def test_an_answer_carries_its_headers_cookies_and_bytes(server):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("PUT", "/notes/answer", "1", {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.read() == b"{}"
    assert answer.getheader("X-Note") == "answer"
    assert answer.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    connection.close()
    assert server.ask("GET", "/notes/bytes")[2] == bytes(range(256))


def test_an_exception_is_a_500_and_a_traceback_in_the_log(server):
    status, _, body = server.ask("GET", "/notes/fail")
    assert (status, body) == (500, b'{"message":"Internal Server Error"}')
    deadline = time.monotonic() + 5
    while not any("RuntimeError: on purpose" in line for line in server.lines):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_unknown_paths_reach_the_default_route(server):
    assert server.ask("GET", "/nowhere")[2] == b'{"errcode":"M_UNRECOGNIZED"}'
    assert server.ask("POST", "/")[0] == 404


def test_the_api_answers_cors_itself(server):
    status, headers, body = server.ask("OPTIONS", "/anything", headers={"Origin": "https://app.example"})
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-methods"] == "GET,PUT"
    assert headers["access-control-allow-headers"] == "authorization"
    assert headers["access-control-max-age"] == "60"
    assert server.ask("GET", "/nowhere", headers={"Origin": "x"})[1]["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in server.ask("GET", "/nowhere")[1]


def test_limits_are_those_of_the_api(server):
    assert server.ask("GET", "/" + "a" * 10_300)[0] == 414
    assert server.ask("GET", "/a", headers={"X-Long": "a" * 10_300})[0] == 431
    status, _, body = server.ask("POST", "/echo/x", b"a" * (6 * 1024 * 1024 + 1), {"Content-Type": "text/plain"})
    assert (status, body) == (413, b'{"message":"Request Entity Too Large"}')


def test_slow_handlers_do_not_hold_up_others(server):
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        started = time.monotonic()
        slow = [pool.submit(server.ask, "GET", "/notes/slow") for _ in range(50)]
        time.sleep(0.3)
        at = time.monotonic()
        assert server.ask("GET", "/nowhere")[0] == 404
        assert time.monotonic() - at < 0.5
        assert {future.result()[2] for future in slow} == {b"late"}
        assert time.monotonic() - started < 8  # in a row they would take 50 s


def test_a_function_invokes_another_by_name(server):
    assert server.json("GET", "/notes/sweep") == {"source": None, "by": "hand", "function": "eigenserver-sweep"}
