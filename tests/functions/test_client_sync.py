"""GET /sync through its handler: the waiting loop's own requests on moto, the answers of `sync_answer` scripted.

The loop speaks to DynamoDB without botocore; here its signed requests reach moto as they would the wire, and meet items
that the PynamoDB models wrote.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest

from client_sync import routes
from contract_check import check
from functions.harness import Answer, call, http_event, invoke, payload
from homeserver.adapters import aws, slim_aws
from homeserver.matrix.access_token import ACCESS, format_token, token_hash
from homeserver.matrix.sync_token import SyncToken, user_tag
from homeserver.services import sync_wait
from homeserver.services.sync_wait import Clock, wait_for_news
from homeserver.storage.connection import connection
from homeserver.storage.inbox_shards import advance_request, inbox_table
from homeserver.storage.server import Identity, replace_identity
from homeserver.storage.sync_bases import store_base_request
from homeserver.storage.tokens import Token
from homeserver.web.endpoints import LEGACY

SYNC = "/_matrix/client/v3/sync"
ALICE = "@alice:example.org"
TOKEN = format_token(ACCESS, "alice", bytes(32))
EPOCH = 3
NOW = 1_795_000_000_000


class Backend:
    """Time that only sleeping moves, moto behind the loop, and a `sync_answer` that notes what it is asked."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.built: list[dict[str, Any]] = []
        self.reply: Any = {"status": 200, "body": '{"next_batch":"s1"}', "empty": False, "next_batch": "s1"}
        self.while_asleep: list[Callable[[], object]] = []

    def sleep(self, seconds: float) -> None:
        self.elapsed += seconds
        if self.while_asleep:
            self.while_asleep.pop(0)()

    def clock(self) -> Clock:
        return Clock(lambda: self.elapsed, lambda: NOW / 1000 + self.elapsed, self.sleep)

    def transport(self, service: str, target: str, body: bytes) -> tuple[int, bytes]:
        if service == "lambda":
            assert target == "sync-answer"
            self.built.append(json.loads(body))
            if isinstance(self.reply, Exception):
                raise self.reply
            return 200, json.dumps(self.reply).encode()
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"DynamoDB_20120810.{target}"}
        credentials = slim_aws.Credentials("AKID", "secret")
        headers |= slim_aws.signature(service, "/", headers, body, credentials=credentials, at="20260310T051623Z")
        request = AWSRequest("POST", "https://dynamodb.us-east-1.amazonaws.com/", headers, body).prepare()
        events = aws.client("dynamodb").meta.events  # where moto takes requests off the wire
        _, response = events.emit_until_response(f"before-send.dynamodb.{target}", request=request)
        return response.status_code, response.content


@pytest.fixture(autouse=True)
def backend(server: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    backend = Backend()
    server(SYNC_ANSWER_FUNCTION="sync-answer", RATE_LIMITS="on", SYNC_POLL_MS="500")
    monkeypatch.setattr(slim_aws, "transport", backend.transport)
    monkeypatch.setattr(routes, "wait_for_news", partial(wait_for_news, clock=backend.clock()))
    sync_wait.forget_epoch()
    assert replace_identity(None, Identity("example.org", EPOCH, 1))
    Token(token_hash(TOKEN), kind="access", user=ALICE, device="PHONE").save()
    advance(0, 5)
    advance(1, 9)
    yield backend
    sync_wait.forget_epoch()


def advance(slot: int, position: int) -> None:
    connection().dispatch("UpdateItem", advance_request(ALICE, slot, position, NOW))


def since(positions: dict[int, int] | None = None, base: int = 0) -> str:
    return SyncToken(EPOCH, user_tag(ALICE), {0: 5, 1: 9} if positions is None else positions, base=base).encode()


def sync(query: dict[str, Any], *, token: str | None = TOKEN, path: str = SYNC) -> Answer:
    answer = call("client_sync", "GET", path, token=token, query=query)
    if path == SYNC:
        check("GET", SYNC, answer.status, answer.json)
    return answer


def error(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


# ── The events of events/ ────────────────────────────────────────────────────────────────────────────────


def test_a_waiting_request_is_answered_with_its_own_token_when_nothing_happens(backend: Backend) -> None:
    answer = invoke("client_sync", payload("client_sync"))
    assert (answer.status, answer.json) == (200, {"next_batch": since()})
    assert answer.headers["content-type"] == "application/json"
    assert backend.elapsed == pytest.approx(25.0)
    check("GET", SYNC, answer.status, answer.json)


def test_the_first_sync_of_a_client_with_its_token_in_the_query_is_built_at_once(backend: Backend) -> None:
    answer = invoke("client_sync", payload("client_sync_initial"))
    assert (answer.status, answer.json) == (200, {"next_batch": "s1"})
    assert backend.built == [
        {
            "user_id": ALICE,
            "device_id": "PHONE",
            "since": None,
            "filter": '{"room":{"timeline":{"limit":10}}}',
            "full_state": False,
            "set_presence": "online",
            "use_state_after": False,
            "query": {},
        }
    ]
    assert backend.elapsed == 0


# ── Waiting on real items ────────────────────────────────────────────────────────────────────────────────


def test_what_a_follower_writes_wakes_the_wait(backend: Backend) -> None:
    backend.while_asleep = [lambda: None, lambda: advance(1, 10)]
    assert sync({"since": since(), "timeout": 30_000}).json == {"next_batch": "s1"}
    assert 0.9 <= backend.elapsed <= 1.1
    assert backend.built[0]["since"] == since()
    limits = connection().dispatch("Scan", {"TableName": "eigenserver-limits"})["Items"]
    assert [sorted(item) for item in limits] == [["bucket", "expires"]]


def test_a_stored_base_completes_a_long_token(backend: Backend) -> None:
    connection().dispatch("PutItem", store_base_request(ALICE, "PHONE", 1, {0: 5, 1: 8}, {}))
    token = since({1: 9}, base=1)
    assert sync({"since": token, "timeout": 1000}).json == {"next_batch": token}
    assert backend.built == []
    sync({"since": since({1: 9}, base=2), "timeout": 1000})
    assert len(backend.built) == 1


def test_a_base_number_can_be_stored_once() -> None:
    connection().dispatch("PutItem", store_base_request(ALICE, "PHONE", 2, {0: 5}, {}))
    with pytest.raises(Exception, match="ConditionalCheckFailed"):
        connection().dispatch("PutItem", store_base_request(ALICE, "PHONE", 2, {0: 6}, {}))
    stored = connection().dispatch("Scan", {"TableName": inbox_table()})["Items"]
    assert [item["b2"]["B"] for item in stored if item["k"]["S"] == "base/PHONE"] == [b"\x05"]


def test_a_token_that_was_just_refreshed_is_marked_as_used() -> None:
    Token(token_hash(TOKEN), kind="access", user=ALICE, device="PHONE", unused=True).save()
    assert sync({}).status == 200
    assert Token.get(token_hash(TOKEN)).unused is None


def test_a_revoked_token_is_refused_on_the_next_request(backend: Backend) -> None:
    assert sync({"since": since(), "timeout": 10}).status == 200
    Token(token_hash(TOKEN)).delete()
    assert error(sync({"since": since(), "timeout": 10})) == (401, "M_UNKNOWN_TOKEN")


def test_an_expired_token_is_a_soft_logout() -> None:
    Token(token_hash(TOKEN), kind="access", user=ALICE, device="PHONE", valid_until=NOW).save()
    answer = sync({})
    assert error(answer) == (401, "M_UNKNOWN_TOKEN")
    assert answer.json["soft_logout"] is True


def test_a_user_may_have_twenty_waits(backend: Backend) -> None:
    leases = {f"w{number}": {"N": str(NOW // 1000 + 30)} for number in range(20)}
    item = {"bucket": {"S": f"wait/{ALICE}"}, **leases}
    connection().dispatch("PutItem", {"TableName": "eigenserver-limits", "Item": item})
    answer = sync({"since": since(), "timeout": 1000})
    assert error(answer) == (429, "M_LIMIT_EXCEEDED")
    assert (answer.json["retry_after_ms"], answer.headers["retry-after"]) == (5000, "5")
    backend.elapsed += 31
    assert sync({"since": since(), "timeout": 1000}).status == 200


def test_the_cost_of_a_wait_is_reported(server: Callable[..., None]) -> None:
    server(COST_METER="on", RATE_LIMITS="off")
    timing = sync({"since": since(), "timeout": 100}).headers["server-timing"]
    # Token (1), inbox and epoch (a half each) in the first round; the one look at the end in the second.
    assert timing.startswith("rounds;desc=2, calls;desc=4, rru;desc=2.5, wru;desc=0, cpu;dur=")


def test_no_cost_is_reported_unless_the_meter_is_on() -> None:
    assert "server-timing" not in sync({}).headers


# ── Bad input ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "token", "expected"),
    [
        ({}, None, (401, "M_MISSING_TOKEN")),
        ({}, "nonsense", (401, "M_UNKNOWN_TOKEN")),
        ({}, format_token(ACCESS, "alice", b"x" * 32), (401, "M_UNKNOWN_TOKEN")),
        ({"timeout": "soon"}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"timeout": "-1"}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"timeout": "1.5"}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"timeout": "٣"}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"timeout": ""}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"full_state": "yes"}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"use_state_after": "1"}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"org.matrix.msc4222.use_state_after": "1"}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"set_presence": "busy"}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"since": "s72594_4483_1934"}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"since": "s72594_4483_1934", "timeout": 1000}, TOKEN, (400, "M_INVALID_PARAM")),
        ({"since": SyncToken(EPOCH, user_tag("@bob:example.org")).encode()}, TOKEN, (400, "M_INVALID_PARAM")),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_built(
    backend: Backend, query: dict[str, Any], token: str | None, expected: tuple[int, str]
) -> None:
    assert error(sync(query, token=token)) == expected
    assert backend.built == []


def test_an_authorization_header_of_another_kind_is_no_token() -> None:
    event = http_event("GET", SYNC, headers={"Authorization": f"Basic {TOKEN}"}, query={"access_token": TOKEN})
    assert error(invoke("client_sync", event)) == (401, "M_MISSING_TOKEN")


@pytest.mark.parametrize(("setting", "status"), [("all", 200), ("legacy", 401), ("off", 401)])
def test_a_token_in_the_query_is_taken_where_the_operator_allows_it(
    server: Callable[..., None], setting: str, status: int
) -> None:
    server(QUERY_TOKENS=setting)
    assert sync({"access_token": TOKEN}, token=None).status == status


def test_an_empty_since_is_none(backend: Backend) -> None:
    sync({"since": "", "timeout": 1000})
    assert backend.built[0]["since"] is None


def test_unknown_parameters_reach_sync_answer_but_never_the_access_token(backend: Backend) -> None:
    query = {"access_token": TOKEN, "org.matrix.msc4222.use_state_after": "true", "full_state": "true"}
    sync(query, token=None)
    assert backend.built[0]["query"] == {"org.matrix.msc4222.use_state_after": "true"}
    assert (backend.built[0]["full_state"], backend.built[0]["use_state_after"]) == (True, False)


def test_use_state_after_is_passed_on(backend: Backend) -> None:
    sync({"use_state_after": "true"})
    assert backend.built[0]["use_state_after"] is True


def test_the_first_of_repeated_parameters_counts(backend: Backend) -> None:
    sync({"filter": ["1", "2"]})
    assert backend.built[0]["filter"] == "1"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/_matrix/client/r0/sync", (200, None)),
        ("GET", "/_matrix/client/v1/sync", (404, "M_UNRECOGNIZED")),
        ("GET", "/_matrix/client/v4/sync", (404, "M_UNRECOGNIZED")),
        ("GET", "/_matrix/client/v3/sync/", (404, "M_UNRECOGNIZED")),
        ("POST", "/_matrix/client/v3/sync", (405, "M_UNRECOGNIZED")),
    ],
)
def test_only_r0_and_v3_are_served_and_only_get(method: str, path: str, expected: tuple[int, str | None]) -> None:
    assert error(call("client_sync", method, path, token=TOKEN)) == expected


@pytest.mark.parametrize("failure", [slim_aws.FunctionFailed("secret detail"), TimeoutError("secret detail")])
def test_a_failure_of_the_server_is_told_without_its_reason(backend: Backend, failure: Exception) -> None:
    backend.reply = failure
    answer = sync({})
    assert error(answer) == (500, "M_UNKNOWN")
    assert "secret" not in json.dumps(answer.json)


def test_a_store_that_refuses_is_a_failure_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(service: str, target: str, body: bytes) -> tuple[int, bytes]:
        return 400, b'{"__type":"x#AccessDeniedException"}'

    monkeypatch.setattr(slim_aws, "transport", refuse)
    assert error(sync({"since": since(), "timeout": 1000})) == (500, "M_UNKNOWN")


def test_the_endpoints_are_listed_for_the_template() -> None:
    assert [(e.method, e.path, e.versions) for e in routes.router.endpoints] == [
        *(("GET", f"/_matrix/client/{{version}}/{name}", ("r0", "v3")) for name in ("sync", "events", "initialSync")),
        *(("GET", f"/{{version}}/{name}", LEGACY) for name in ("events", "initialSync")),
    ]
