"""Rate limits: the buckets of `homeserver.services.rate_limits` on moto, and where the endpoints take from them."""

import pytest

from functions.harness import PASSWORD, call
from homeserver.matrix.errors import LimitExceeded
from homeserver.observability import metered
from homeserver.services import rate_limits
from homeserver.storage import limits

V3 = "/_matrix/client/v3"


@pytest.fixture(autouse=True)
def _limits_on(server):
    server(RATE_LIMITS="on")


@pytest.fixture
def clock(monkeypatch):
    """The time by which buckets fill up, in milliseconds."""
    now = {"ms": 1_700_000_000_000}
    monkeypatch.setattr(rate_limits.time, "time_ns", lambda: now["ms"] * 1_000_000)
    return now


def waits(requests, bucket="b", per_second=2.0, burst=3):
    """For each request 0 if it was let through, else the milliseconds it was told to wait."""
    return [_wait(bucket, per_second, burst) for _ in range(requests)]


def _wait(bucket, per_second, burst):
    try:
        rate_limits.take(bucket, per_second=per_second, burst=burst)
    except LimitExceeded as limited:
        return limited.extra["retry_after_ms"]
    return 0


def test_a_burst_is_let_through_and_then_one_request_an_interval(clock):
    assert waits(5) == [0, 0, 0, 500, 500]
    clock["ms"] += 499
    assert waits(1) == [1]
    clock["ms"] += 1
    assert waits(2) == [0, 500]
    clock["ms"] += 60_000
    assert waits(4) == [0, 0, 0, 500]


def test_a_refusal_names_the_header_too(clock):
    waits(3)
    with pytest.raises(LimitExceeded) as refused:
        rate_limits.take("b", per_second=2, burst=3)
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})


def test_buckets_do_not_touch_each_other(clock):
    assert waits(4, "one") == [0, 0, 0, 500]
    assert waits(1, "two") == [0]


def test_a_request_is_one_write_and_a_refusal_of_a_flood_is_no_call_at_all(clock):
    with metered() as meter:
        assert waits(3) == [0, 0, 0]
        assert meter.calls == 3
        assert waits(1) == [500]
        calls = meter.calls
        assert waits(100) == [500] * 100
    assert meter.calls - calls <= 2


def test_a_process_that_knows_nothing_of_the_bucket_counts_on(clock):
    assert waits(2) == [0, 0]
    limits._hints.clear()
    assert waits(2) == [0, 500]
    limits._hints.clear()
    assert waits(1) == [500]


def test_a_wrong_hint_costs_a_call_and_no_request(clock):
    assert waits(1) == [0]
    clock["ms"] += 10_000
    limits._hints["b"] = clock["ms"] + 1  # "busy", but it is idle
    assert waits(4) == [0, 0, 0, 500]


@pytest.mark.parametrize(("before", "rivals", "mine"), [(0, 1, 0), (0, 2, 0), (0, 3, 500), (2, 1, 500), (1, 1, 0)])
def test_requests_that_come_in_between_are_counted(clock, monkeypatch, before, rivals, mine):
    assert waits(before) == [0] * before
    update = limits.Bucket.update

    def rivals_first(bucket, *arguments):
        monkeypatch.setattr(limits.Bucket, "update", update)
        assert waits(rivals) == [0] * rivals
        return update(bucket, *arguments)

    monkeypatch.setattr(limits.Bucket, "update", rivals_first)
    assert waits(1) == [mine]
    assert limits.Bucket.fetch("b").arrival == clock["ms"] + 500 * (before + rivals + (mine == 0))


def test_a_bucket_is_forgotten_some_time_after_it_is_full(clock):
    waits(1)
    item = limits.Bucket.fetch("b")
    assert item.arrival == clock["ms"] + 500
    assert item.expires * 1000 >= item.arrival + 59_000


def test_nothing_is_limited_when_limits_are_off(server, clock):
    server(RATE_LIMITS="off")
    assert waits(100) == [0] * 100
    assert limits.Bucket.fetch("b") is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("not an address", "not an address"),
    ],
)
def test_one_address_is_what_one_customer_has(address, network):
    assert rate_limits.network_of(address) == network


# ── Where they are taken ─────────────────────────────────────────────────────


def login(user, password=PASSWORD, address="192.0.2.1"):
    body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user}, "password": password}
    return call("client_login", "POST", f"{V3}/login", body, address=address)


@pytest.mark.parametrize("user", ["alice", "nobody"])
def test_guesses_of_a_password_are_limited_for_each_account_whether_it_exists_or_not(checked, alice, clock, user):
    burst = rate_limits.PASSWORD_PER_ACCOUNT.burst
    statuses = [login(user, "guess", f"198.51.100.{n}").status for n in range(burst + 2)]
    assert statuses == [403] * burst + [429, 429]
    refused = login(user)
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert refused.json["retry_after_ms"] == 10_000
    assert refused.headers["retry-after"] == "10"
    clock["ms"] += 10_000
    assert login(user).status == (200 if user == "alice" else 403)


def test_guesses_in_user_interactive_authentication_count_too(alice, clock):
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "guess"}
    body = {"devices": [], "auth": auth}
    burst = rate_limits.PASSWORD_PER_ACCOUNT.burst
    answers = [
        call("client_account", "POST", f"{V3}/delete_devices", body, token=alice.token) for _ in range(burst + 1)
    ]
    assert [answer.status for answer in answers] == [401] * burst + [429]


def test_logins_are_limited_for_each_address(clock, monkeypatch):
    monkeypatch.setattr(rate_limits, "LOGIN_PER_ADDRESS", rate_limits.RateLimit("login-address", 0.5, 2))
    assert [login(f"user{n}").status for n in range(3)] == [403, 403, 429]
    assert login("user9", address="192.0.2.2").status == 403


def test_registrations_are_limited_for_each_address(checked, clock):
    burst = rate_limits.REGISTRATION_PER_ADDRESS.burst
    statuses = [call("client_login", "POST", f"{V3}/register", {}).status for _ in range(burst + 1)]
    assert statuses == [401] * burst + [429]
    answer = checked("client_login", "POST", f"{V3}/register", {})
    assert (answer.status, answer.errcode, answer.json["retry_after_ms"]) == (429, "M_LIMIT_EXCEEDED", 5000)


@pytest.mark.parametrize(
    "path", ["v3/register/available?username=x", "v1/register/m.login.registration_token/validity?token=x"]
)
def test_questions_are_limited_for_each_address(clock, path):
    burst = rate_limits.QUESTIONS_PER_ADDRESS.burst
    statuses = [call("client_login", "GET", f"/_matrix/client/{path}").status for _ in range(burst + 1)]
    assert statuses == [200] * burst + [429]


def test_a_person_who_types_is_never_limited_and_a_flood_is(clock):
    for _ in range(200):
        rate_limits.take_send("@alice:example.org")
        clock["ms"] += 150
    for _ in range(50):
        rate_limits.take_send("@alice:example.org")
    with pytest.raises(LimitExceeded):
        rate_limits.take_send("@alice:example.org")
    rate_limits.take_send("@bob:example.org")
