"""The slim AWS client: its signatures against botocore's, its tries and connections against a server on loopback."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import get_current_datetime
from botocore.credentials import Credentials as BotocoreCredentials

from homeserver.adapters import slim_aws
from homeserver.adapters.slim_aws import AwsError, Credentials, FunctionFailed, dynamodb, in_parallel, invoke, signature
from homeserver.observability import metered
from homeserver.request_units import item_bytes

GET = {"TableName": "tokens", "Key": {"hash": {"S": "h"}}}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a session/token==")
    monkeypatch.setattr(slim_aws, "transport", None)
    monkeypatch.setattr(slim_aws, "_PAUSE", 0.0)

    def forget() -> None:
        slim_aws._address.cache_clear()
        slim_aws._credentials.cache_clear()
        for idle in slim_aws._idle.values():
            for connection, _ in idle:
                connection.close()
        slim_aws._idle.clear()

    forget()
    yield
    forget()


# ── Signatures ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("service", "path", "headers", "body"),
    [
        (
            "dynamodb",
            "/",
            {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "DynamoDB_20120810.Query"},
            b"{}",
        ),
        ("dynamodb", "/", {"Content-Type": "application/x-amz-json-1.0"}, '{"ä": "\u2603"}'.encode()),
        ("lambda", "/2015-03-31/functions/sync_answer/invocations", {"X-Amz-Invocation-Type": "RequestResponse"}, b""),
        ("lambda", "/2015-03-31/functions/arn%3Aaws%3Alambda%3Af%3Ag/invocations", {"X-Odd": "  two   spaces "}, b"1"),
    ],
)
@pytest.mark.parametrize("session_token", ["", "FwoGZXIvYXdzE/+=="])
def test_a_signature_is_the_one_that_botocore_makes(
    monkeypatch: pytest.MonkeyPatch,
    *,
    service: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    session_token: str,
) -> None:
    host = f"{service}.eu-central-1.amazonaws.com"
    request = AWSRequest("POST", f"https://{host}{path}", headers={**headers, "Host": host}, data=body)
    signer = SigV4Auth(BotocoreCredentials("AKID", "secret", session_token or None), service, "eu-central-1")
    now = get_current_datetime()
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now)
    signer.add_auth(request)

    ours = signature(
        service,
        path,
        {**headers, "Host": host},
        body,
        credentials=Credentials("AKID", "secret", session_token),
        at=now.strftime("%Y%m%dT%H%M%SZ"),
    )

    assert ours["Authorization"] == request.headers["Authorization"]
    assert ours.get("X-Amz-Security-Token", "") == session_token


def test_a_signature_changes_with_the_body_and_with_the_day() -> None:
    credentials = Credentials("AKID", "secret")

    def sign(body: bytes, at: str) -> str:
        return signature("dynamodb", "/", {}, body, credentials=credentials, at=at)["Authorization"]

    assert len({sign(b"a", "20260101T000000Z"), sign(b"b", "20260101T000000Z"), sign(b"a", "20260102T000000Z")}) == 3


# ── A server on loopback ─────────────────────────────────────────────────────────────────────────────────


class _Server:
    """Answers POSTs from a list of scripted steps, the last one for ever, and notes what came."""

    def __init__(self) -> None:
        self.steps: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[tuple[str, dict[str, str], bytes, int]] = []  # path, headers, body, client's port
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((self.path, headers, body, self.client_address[1]))
                step = outer.steps.pop(0) if len(outer.steps) > 1 else outer.steps[0]
                step(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"


def answer(status: int, body: Any, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    data = json.dumps(body).encode()

    def step(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return step


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    server = _Server()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    yield server
    server.http.shutdown()
    server.http.server_close()
    server.thread.join()


def test_a_call_names_its_operation_is_signed_and_goes_to_the_endpoint_of_the_environment(server: _Server) -> None:
    server.steps = [answer(200, {"Item": {"hash": {"S": "h"}}})]

    assert dynamodb("GetItem", GET) == {"Item": {"hash": {"S": "h"}}}

    ((path, headers, body, _),) = server.requests
    assert (path, json.loads(body)) == ("/", GET)
    assert headers["x-amz-target"] == "DynamoDB_20120810.GetItem"
    assert headers["content-type"] == "application/x-amz-json-1.0"
    assert headers["host"] == server.url.removeprefix("http://")
    assert headers["x-amz-security-token"] == "a session/token=="
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target," in headers["authorization"]


def test_binaries_travel_as_base64(server: _Server) -> None:
    server.steps = [answer(200, {})]
    dynamodb("PutItem", {"TableName": "t", "Item": {"b": {"B": b"\x00\xff"}}})
    assert json.loads(server.requests[0][2])["Item"] == {"b": {"B": "AP8="}}


def test_one_connection_serves_all_calls_that_follow_each_other(server: _Server) -> None:
    server.steps = [answer(200, {})]
    for _ in range(5):
        dynamodb("GetItem", GET)
    assert len({port for *_, port in server.requests}) == 1


def test_a_kept_connection_that_was_closed_is_replaced_without_costing_a_try(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slim_aws, "_TRIES", 1)
    server.steps = [answer(200, {"n": 1}), hang_up, answer(200, {"n": 2})]
    assert dynamodb("GetItem", GET) == {"n": 1}
    assert dynamodb("GetItem", GET) == {"n": 2}
    assert len(server.requests) == 3


def test_a_connection_that_was_idle_for_too_long_is_not_used_again(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.steps = [answer(200, {})]
    dynamodb("GetItem", GET)
    monkeypatch.setattr(slim_aws, "_LONGEST_IDLE", 0.0)
    dynamodb("GetItem", GET)
    assert len({port for *_, port in server.requests}) == 2


@pytest.mark.parametrize(
    "failure",
    [
        answer(400, {"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}),
        answer(400, {"__type": "com.amazon.coral.availability#ThrottlingException"}),
        answer(500, {"__type": "com.amazonaws.dynamodb.v20120810#InternalServerError"}),
        answer(503, {}),
        hang_up,
    ],
)
def test_throttling_server_errors_and_lost_connections_are_tried_again(server: _Server, failure: Any) -> None:
    server.steps = [failure, failure, answer(200, {"n": 3})]
    assert dynamodb("GetItem", GET) == {"n": 3}
    assert len(server.requests) == 3


def test_after_four_tries_the_failure_is_told(server: _Server) -> None:
    server.steps = [answer(400, {"__type": "x#ThrottlingException", "message": "slow down"})]
    with pytest.raises(AwsError, match="slow down") as caught:
        dynamodb("GetItem", GET)
    assert caught.value.code == "ThrottlingException"
    assert len(server.requests) == 4


def test_what_is_wrong_with_the_request_itself_is_told_at_once(server: _Server) -> None:
    server.steps = [answer(400, {"__type": "x#ConditionalCheckFailedException", "message": "The condition failed"})]
    with pytest.raises(AwsError) as caught:
        dynamodb("UpdateItem", GET)
    assert caught.value.code == "ConditionalCheckFailedException"
    assert len(server.requests) == 1


def test_a_refusal_that_is_no_json_is_told_by_its_status(server: _Server) -> None:
    server.steps = [answer(403, "no object")]
    with pytest.raises(AwsError) as caught:
        dynamodb("GetItem", GET)
    assert caught.value.code == "Http403"


def test_a_dead_endpoint_is_a_lost_connection_after_four_tries(server: _Server) -> None:
    server.steps = [hang_up]
    with pytest.raises(AwsError) as caught:
        dynamodb("GetItem", GET)
    assert caught.value.code == "ConnectionLost"
    assert len(server.requests) == 4


def test_a_function_is_invoked_and_its_result_returned(server: _Server) -> None:
    server.steps = [answer(200, {"status": 200, "body": "ä"})]
    assert invoke("arn:aws:lambda:x:1:function:sync_answer", {"since": None}, seconds=5) == {"status": 200, "body": "ä"}
    ((path, headers, body, _),) = server.requests
    assert path == "/2015-03-31/functions/arn%3Aaws%3Alambda%3Ax%3A1%3Afunction%3Async_answer/invocations"
    assert headers["x-amz-invocation-type"] == "RequestResponse"
    assert json.loads(body) == {"since": None}


def test_a_function_that_failed_is_no_answer(server: _Server) -> None:
    server.steps = [answer(200, {"errorMessage": "boom"}, X_Amz_Function_Error="Unhandled")]
    with pytest.raises(FunctionFailed, match="boom"):
        invoke("sync_answer", {}, seconds=5)
    assert len(server.requests) == 1


def test_too_many_invocations_are_tried_again(server: _Server) -> None:
    server.steps = [answer(429, {"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded"}), answer(200, 1)]
    assert invoke("sync_answer", {}, seconds=5) == 1


def test_a_function_that_takes_too_long_is_not_started_a_second_time(server: _Server) -> None:
    release = threading.Event()

    def late(handler: BaseHTTPRequestHandler) -> None:
        release.wait(5)
        handler.close_connection = True

    server.steps = [late]
    try:
        with pytest.raises(TimeoutError):
            invoke("sync_answer", {}, seconds=0.05)
    finally:
        release.set()
    assert len(server.requests) == 1


def test_calls_made_in_parallel_are_on_their_way_at_the_same_time_and_count_as_one_round(server: _Server) -> None:
    both = threading.Barrier(2, timeout=5)

    def together(handler: BaseHTTPRequestHandler) -> None:
        both.wait()  # breaks, and with it the connection, unless the other request comes while this one waits
        answer(200, {"Item": {"k": {"S": "v" * 5000}}})(handler)

    server.steps = [together]
    with metered() as meter:
        first, second = in_parallel(
            lambda: dynamodb("GetItem", GET), lambda: dynamodb("GetItem", {**GET, "ConsistentRead": True})
        )
    assert first == second == {"Item": {"k": {"S": "v" * 5000}}}
    assert (meter.rounds, meter.calls, meter.rru) == (1, 2, 3.0)  # 5,001 bytes: 2 units, and half of that


def test_what_a_parallel_call_raises_is_raised(server: _Server) -> None:
    server.steps = [answer(200, {})]

    def fail() -> None:
        raise ValueError("of the second call")

    with pytest.raises(ValueError, match="of the second call"):
        in_parallel(lambda: dynamodb("GetItem", GET), fail)


# ── Without a network ────────────────────────────────────────────────────────────────────────────────────


class TestTransport:
    calls: ClassVar[list[tuple[str, str, Any]]] = []

    @pytest.fixture(autouse=True)
    def _transport(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls.clear()

        def transport(service: str, target: str, body: bytes) -> tuple[int, bytes]:
            self.calls.append((service, target, json.loads(body)))
            return 200, b'{"Items":[]}' if target == "Query" else b"{}"

        monkeypatch.setattr(slim_aws, "transport", transport)

    def test_it_gets_service_target_and_body_in_the_place_of_the_network(self) -> None:
        dynamodb("GetItem", GET)
        invoke("sync_answer", {"since": "s"}, seconds=1)
        assert self.calls == [("dynamodb", "GetItem", GET), ("lambda", "sync_answer", {"since": "s"})]

    def test_parallel_calls_stay_in_their_thread(self) -> None:
        threads = in_parallel(threading.get_ident, threading.get_ident)
        assert threads == [threading.get_ident()] * 2

    def test_writes_ask_what_they_consumed_only_while_somebody_counts(self) -> None:
        dynamodb("UpdateItem", GET)
        with metered() as meter:
            dynamodb("UpdateItem", GET)
        assert [call[2].get("ReturnConsumedCapacity") for call in self.calls] == [None, "TOTAL"]
        assert (meter.calls, meter.rru, meter.wru) == (1, 0.0, 1.0)

    def test_an_empty_query_costs_half_a_unit(self) -> None:
        with metered() as meter:
            dynamodb("Query", {"TableName": "t"})
        assert (meter.rounds, meter.rru) == (1, 0.5)


def test_items_are_measured_as_dynamodb_bills_them() -> None:
    item = {
        "ä": {"S": "ö"},  # 2 + 2
        "n": {"N": "12345"},  # 1 + 4
        "b": {"B": "AP8="},  # 1 + 2
        "r": {"B": b"\x00\xff"},  # 1 + 2
        "f": {"BOOL": True},  # 1 + 1
        "s": {"SS": ["ab", "c"]},  # 1 + 3
        "m": {"M": {"k": {"S": "v"}}},  # 1 + 3 + 1 + 1 + 1
        "l": {"L": [{"N": "7"}]},  # 1 + 3 + 1 + 2
    }
    assert item_bytes(item) == 4 + 5 + 3 + 3 + 2 + 4 + 7 + 7


def test_the_endpoint_is_the_regions_own_where_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    address = slim_aws._address("dynamodb")
    assert (address.host, address.tls, address.header) == (
        "dynamodb.eu-central-1.amazonaws.com",
        True,
        "dynamodb.eu-central-1.amazonaws.com",
    )
    context = slim_aws.tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
