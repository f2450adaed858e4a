"""docs/spec-coverage.md against the specification's list of endpoints."""

import json
from pathlib import Path

import pytest

import spec_coverage
from homeserver.web.known_endpoints import known_endpoints


@pytest.fixture(scope="module")
def specification(shared_folder: Path) -> dict:
    return json.loads((shared_folder / "spec" / "endpoints.json").read_text(encoding="utf-8"))


def test_the_committed_page_is_current(specification: dict) -> None:
    assert spec_coverage.PAGE.read_text(encoding="utf-8") == spec_coverage.page(specification)


def test_every_note_names_an_endpoint_of_the_specification(specification: dict) -> None:
    operations = {endpoint["operationId"] for endpoint in specification["endpoints"]}
    assert sorted({*spec_coverage.PARTLY, *spec_coverage.NOT_THIS_USE} - operations) == []


def test_what_is_served_beyond_the_specification_is_what_the_page_means(specification: dict) -> None:
    shapes = {spec_coverage.shape(endpoint["path"]) for endpoint in specification["endpoints"]}
    others = {path for path in known_endpoints() if "/r0/" not in path and spec_coverage.shape(path) not in shapes}
    # The front page, the shared-secret call of other tools, and two spellings of an empty state key.
    assert others == {
        "/",
        "/_synapse/admin/v1/register",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
    }


@pytest.mark.parametrize(
    ("method", "path", "operation", "standing"),
    [
        ("PUT", "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}", "sendMessage", "served"),
        ("POST", "/_matrix/client/v3/rooms/{roomId}/invite", "inviteUser", "served"),
        ("POST", "/_matrix/client/v3/rooms/{roomId}/invite", "inviteBy3PID", "missing"),
        ("DELETE", "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}", "nothing", "missing"),
        ("POST", "/_matrix/client/v3/login", "login", "partly"),
        ("PUT", "/_matrix/federation/v1/send/{txnId}", "sendTransaction", "missing"),
    ],
)
def test_an_endpoint_stands_where_the_server_puts_it(method: str, path: str, operation: str, standing: str) -> None:
    known = {spec_coverage.shape(path): methods for path, methods in known_endpoints().items()}
    endpoint = {"method": method, "path": path, "operationId": operation}
    assert spec_coverage.standing(endpoint, known) == standing
