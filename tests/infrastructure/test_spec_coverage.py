"""docs/spec-coverage.md against the specification's list of endpoints."""

import json
from pathlib import Path

import pytest

import spec_coverage
from homeserver.web.endpoints import LEGACY
from homeserver.web.known_endpoints import known_endpoints


@pytest.fixture(scope="module")
def specification(shared_folder: Path) -> dict:
    return json.loads((shared_folder / "spec" / "endpoints.json").read_text(encoding="utf-8"))


def test_the_committed_page_is_current(specification: dict) -> None:
    assert spec_coverage.PAGE.read_text(encoding="utf-8") == spec_coverage.page(
        specification, spec_coverage.read_tests()
    )


def test_what_is_tested_is_served(specification: dict) -> None:
    known: dict[str, frozenset[str]] = {}
    for path, methods in known_endpoints().items():
        known[spec_coverage.shape(path)] = known.get(spec_coverage.shape(path), frozenset()) | methods
    tests = spec_coverage.read_tests()
    # Identity servers and application services have operations of the same names: one that is served is meant.
    standings = {(e["operationId"], spec_coverage.standing(e, known, tests)) for e in specification["endpoints"]}
    assert [name for name in tests if {s for n, s in standings if n == name} == {"missing"}] == []


def test_a_claim_that_the_run_did_not_bear_out_is_found() -> None:
    claimed = {"sync": [200, 400], "getEvent": [200]}
    assert spec_coverage.not_compared(claimed, {"sync": [200, 400, 401], "getEvent": [200]}) == []
    assert spec_coverage.not_compared(claimed, {"sync": [200]}) == ["sync 400", "getEvent 200"]


def test_a_request_belongs_to_the_most_specific_operation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = "/_matrix/client/v3/rooms/{roomId}/"
    specification = {
        "endpoints": [
            {"method": "GET", "path": base + "state/{eventType}/{stateKey}", "operationId": "getRoomStateWithKey"},
            {"method": "GET", "path": base + "state", "operationId": "getRoomState"},
            {"method": "GET", "path": base + "event/{eventId}", "operationId": "getOneRoomEvent"},
        ]
    }
    requests = [
        ["GET", "/_matrix/client/v3/rooms/!a:b/state/m.room.name/", 404],
        ["GET", "/_matrix/client/r0/rooms/!a:b/state", 200],
        ["GET", "/_matrix/client/v3/rooms/!a:b/state/x/y/z", 200],
        ["PUT", "/_matrix/client/v3/rooms/!a:b/state/x/y/z", 200],
    ]
    (tmp_path / "gw0.json").write_text(json.dumps(requests), encoding="utf-8")
    monkeypatch.setattr(spec_coverage, "RECORDS", tmp_path)
    assert spec_coverage.tested_operations(specification) == {"getRoomState": [200], "getRoomStateWithKey": [200, 404]}


def test_every_note_names_an_endpoint_of_the_specification(specification: dict) -> None:
    operations = {endpoint["operationId"] for endpoint in specification["endpoints"]}
    assert sorted(spec_coverage.PARTLY.keys() - operations) == []


def test_what_is_served_beyond_the_specification_is_what_the_page_means(specification: dict) -> None:
    shapes = {spec_coverage.shape(endpoint["path"]) for endpoint in specification["endpoints"]}
    older = ("/_matrix/client/r0/", *(f"/{prefix}/" for prefix in LEGACY))
    known = [path for path in known_endpoints() if not path.startswith(older)]
    others = {path for path in known if spec_coverage.shape(path) not in shapes}
    # The front page, calls of other servers' tools, two spellings of an empty state key, names that clients still use
    # from before an endpoint was in the specification, version 1 of two endpoints of which it has version 2 only, and
    # the draft's ways of servers to ask for what got lost, and to look at events and keys.
    assert others == {
        "/_matrix/client/unstable/im.nheko.summary/rooms/{room_id_or_alias}/summary",
        "/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias...}",
        "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms",
        # Accounts at OAuth providers that a user logs in with.
        "/_matrix/client/unstable/org.eigenserver/oauth2/link",
        "/_matrix/client/unstable/org.eigenserver/oauth2/links",
        "/_matrix/client/unstable/org.eigenserver/oauth2/links/{link_id}",
        # Pages: those of stages, of the login, and behind links that prove an e-mail address.
        "/_matrix/client/v3/auth/{stage_type}/fallback/web",
        "/_matrix/static/client/login/",
        "/_matrix/client/unstable/org.eigenserver/validate/email/submit_token",
        "/",
        "/_synapse/admin/v1/register",
        "/_synapse/admin/v1/send_server_notice",
        "/_synapse/admin/v1/send_server_notice/{txn_id...}",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
        "/_matrix/federation/v1/send_join/{room_id}/{event_id...}",
        "/_matrix/federation/v1/send_leave/{room_id}/{event_id...}",
        "/_matrix/federation/v1/pull",
        "/_matrix/federation/v1/pull/",
        "/_matrix/federation/v1/context/{room_id}/",
        "/_matrix/federation/v1/pdu/{origin}/{pdu_id...}",
        "/_matrix/federation/v1/state/{room_id}/",
        "/_matrix/key/v1",
    }


@pytest.mark.parametrize(
    ("method", "path", "operation", "standing"),
    [
        ("PUT", "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}", "sendMessage", "served"),
        ("POST", "/_matrix/client/v3/rooms/{roomId}/invite", "inviteUser", "tested"),
        ("POST", "/_matrix/client/v3/rooms/{roomId}/invite", "inviteBy3PID", "served"),
        ("DELETE", "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}", "nothing", "missing"),
        ("POST", "/_matrix/client/v3/login", "login", "partly"),
        ("GET", "/_matrix/client/v3/pushrules/", "getPushRules", "missing"),
    ],
)
def test_an_endpoint_stands_where_the_server_puts_it(method: str, path: str, operation: str, standing: str) -> None:
    known = {spec_coverage.shape(path): methods for path, methods in known_endpoints().items()}
    endpoint = {"method": method, "path": path, "operationId": operation}
    tests = {"sendMessage": [403], "inviteUser": [200, 403]}
    assert spec_coverage.standing(endpoint, known, tests) == standing
