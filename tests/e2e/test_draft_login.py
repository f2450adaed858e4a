"""The draft's login through a whole local run: routes, preflight, and stages with the real state machine."""

import json
import re
import time
from collections.abc import Iterator

import httpx
import pytest

from e2e.local_run import Server
from homeserver.web.known_endpoints import known_endpoints

pytestmark = pytest.mark.e2e
PREFIXES = ["/_matrix/client/api/v1", "/matrix/client/api/v1"]
TERMS, PASSWORD = "m.login.terms", "m.login.password"
POLICIES = {"privacy": {"version": "1", "en": {"name": "Privacy", "url": "https://example.org/privacy"}}}


@pytest.fixture(scope="module")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = {"REGISTRATION": "open", "LOGIN_FLOWS": json.dumps([[TERMS, PASSWORD]]), "TERMS": json.dumps(POLICIES)}
    folder = tmp_path_factory.mktemp("draft_login")
    with Server(folder, **settings) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
        assert "Traceback" not in server.log, server.log


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("path", ["login", "register"])
def test_a_browser_may_ask_before_it_logs_in_or_registers(nobody: httpx.Client, prefix: str, path: str) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = nobody.options(f"{prefix}/{path}", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    wrong = nobody.delete(f"{prefix}/{path}")
    assert (wrong.status_code, wrong.json()["errcode"]) == (405, "M_UNRECOGNIZED")


def test_a_browser_may_ask_at_every_address_of_the_draft(nobody: httpx.Client) -> None:
    draft = {path: methods for path, methods in known_endpoints().items() if path.startswith(tuple(PREFIXES))}
    assert len(draft) > 80
    for path, methods in draft.items():
        address = re.sub(r"\{[a-z_.]+\}", "x", path)
        for method in methods:
            headers = {"Origin": "https://app.example", "Access-Control-Request-Method": method}
            answer = nobody.options(address, headers=headers)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "*"), address
            assert method in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize("pause", [0.0, 1.0])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_stages_log_in_whether_the_machine_or_the_client_is_faster(
    nobody: httpx.Client, prefix: str, pause: float
) -> None:
    name = f"erin{len(prefix)}-{pause:g}"
    user_id = nobody.post(f"{prefix}/register", json={"user_id": name, "password": "pw"}).json()["user_id"]
    flow = {"type": TERMS, "stages": [TERMS, PASSWORD]}
    assert nobody.get(f"{prefix}/login").json() == {**flow, "flows": [flow]}
    middle = nobody.post(f"{prefix}/login", json={"type": TERMS}).json()
    assert middle == {"next": PASSWORD, "session": middle["session"]}
    time.sleep(pause)
    last = {"type": PASSWORD, "session": middle["session"], "user": name, "password": "pw"}
    assert nobody.post(f"{prefix}/login", json={**last, "password": "wrong"}).status_code == 403
    result = nobody.post(f"{prefix}/login", json=last)
    assert (result.status_code, result.json()["user_id"]) == (200, user_id)
    bearer = {"Authorization": f"Bearer {result.json()['access_token']}"}
    assert nobody.get("/_matrix/client/v3/account/whoami", headers=bearer).json()["user_id"] == user_id
    assert nobody.post(f"{prefix}/login", json=last).status_code == 401
    alone = {"type": PASSWORD, "user": name, "password": "pw"}
    assert nobody.post("/_matrix/client/v3/login", json=alone).status_code == 400
