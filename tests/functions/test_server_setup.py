"""The custom resource: the name that stands for ever, the key that is made once, the epoch that only grows."""

import copy
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from functions.harness import LambdaContext, payload
from homeserver.adapters import aws
from homeserver.adapters import signing_key as adapter
from homeserver.adapters.signing_key import forget_signing_keys, keep_signing_key, signing_key, signing_keys
from homeserver.matrix.errors import InvalidParam, MatrixError
from homeserver.matrix.signing import SigningKey
from homeserver.services import server_setup
from homeserver.services.clock import now_ms
from homeserver.storage.server import Identity, forget_identity, identity, load_identity, replace_identity
from server_setup.app import lambda_handler

PARAMETER = "/eigenserver/first-start/signing-key"


@pytest.fixture(autouse=True)
def a_first_start(server):
    server(SIGNING_KEY_PARAMETER=PARAMETER)
    forget_signing_keys()
    forget_identity()
    yield
    forget_signing_keys()
    forget_identity()


def local_start(name: str = "example.org", **properties: str) -> dict:
    """What the local run does at each start: no CloudFormation waits for an answer."""
    event = {"RequestType": "Create", "ResourceProperties": {"ServerName": name, **properties}}
    return lambda_handler(event, LambdaContext())["Data"]


@pytest.fixture
def cloudformation():
    """A web server in the place of the pre-signed URL: `deploy(event)` -> (what it was told, content type)."""
    told = []

    class Receiver(BaseHTTPRequestHandler):
        def do_PUT(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((json.loads(body), self.headers.get("Content-Type")))
            self.send_response(refusals.pop() if refusals else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    refusals: list[int] = []
    web = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()

    def deploy(name: str, *, refuse: tuple[int, ...] = (), **properties: str) -> dict:
        event = copy.deepcopy(payload(name))
        event["ResponseURL"] = f"http://127.0.0.1:{web.server_port}/answer?signature=x"
        event["ResourceProperties"] |= properties
        refusals.extend(refuse)
        told.clear()
        lambda_handler(event, LambdaContext())
        assert {content_type for _, content_type in told} == {""}
        answer = told[-1][0]
        assert all(answer[key] == event[key] for key in ("StackId", "RequestId", "LogicalResourceId"))
        return answer

    yield deploy
    web.shutdown()
    thread.join()
    web.server_close()


def stored_key() -> dict:
    answer = aws.client("ssm").get_parameter(Name=PARAMETER, WithDecryption=True)
    assert answer["Parameter"]["Type"] == "SecureString"
    return json.loads(answer["Parameter"]["Value"])


def test_the_recorded_payloads_set_a_server_up_restore_it_and_keep_it(cloudformation):
    created = cloudformation("server_setup_create")
    assert (created["Status"], created["PhysicalResourceId"]) == ("SUCCESS", "server-identity")
    key_id = created["Data"].pop("KeyId")
    assert created["Data"] == {"ServerName": "example.org", "Epoch": 1}
    restored = cloudformation("server_setup_update")
    assert (restored["Status"], restored["PhysicalResourceId"]) == ("SUCCESS", "server-identity")
    assert restored["Data"] == {"ServerName": "example.org", "Epoch": 2, "KeyId": key_id}
    deleted = cloudformation("server_setup_delete")
    assert (deleted["Status"], "Data" in deleted) == ("SUCCESS", False)
    assert load_identity() == Identity("example.org", 2, 2)
    assert stored_key()["key_id"] == key_id


def test_the_key_is_made_once_from_32_random_bytes():
    first = local_start()
    value = stored_key()
    assert re.fullmatch(r"ed25519:[A-Za-z0-9]{6}", value["key_id"])
    assert value["key_id"] == first["KeyId"]
    assert len(signing_key().seed) == 32
    assert signing_key().key_id == first["KeyId"]
    assert local_start() == first
    assert stored_key() == value


def test_two_starts_at_the_same_time_end_with_one_key(monkeypatch):
    there = keep_signing_key(SigningKey.generate("first", bytes(32)))
    reads = iter([None])
    stored = adapter._stored_keys
    monkeypatch.setattr(adapter, "_stored_keys", lambda: next(reads, stored()))
    assert keep_signing_key(SigningKey.generate("second", bytes(range(32)))) == there
    assert stored_key()["key_id"] == "ed25519:first"


def test_without_a_key_signing_says_that_the_server_is_not_set_up():
    with pytest.raises(MatrixError) as refused:
        signing_key()
    assert (refused.value.status, "set up" in refused.value.message) == (503, True)


@pytest.mark.parametrize("value", ["", "no json", "{}", '{"key_id": "ed25519:a", "seed": "c2hvcnQ"}', "[]"])
def test_a_parameter_that_holds_no_key_is_named_and_not_shown(value):
    aws.client("ssm").put_parameter(Name=PARAMETER, Value=value or " ", Type="SecureString")
    with pytest.raises(ValueError, match=PARAMETER) as refused:
        signing_key()
    assert "c2hvcnQ" not in str(refused.value)


def test_a_function_that_was_not_told_where_the_key_is_says_so(server):
    server(SIGNING_KEY_PARAMETER="")
    with pytest.raises(ValueError, match="SIGNING_KEY_PARAMETER is not set"):
        signing_key()


def test_a_start_under_another_name_is_refused_with_the_reason_and_changes_nothing(cloudformation):
    cloudformation("server_setup_create")
    answer = cloudformation("server_setup_update", ServerName="other.org")
    assert answer["Status"] == "FAILED"
    assert "This server is example.org and cannot become 'other.org'" in answer["Reason"]
    assert load_identity() == Identity("example.org", 1, 1)
    with pytest.raises(InvalidParam, match=r"example\.org"):
        local_start("other.org")
    with pytest.raises(InvalidParam, match="nameless"):
        local_start("")


def test_a_refused_first_start_leaves_no_key_behind(cloudformation):
    answer = cloudformation("server_setup_create", ServerName="not a name")
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "server-identity")
    assert "'not a name' is not a server name" in answer["Reason"]
    assert load_identity() is None
    with pytest.raises(MatrixError):
        signing_key()


@pytest.mark.parametrize("name", ["exa mple.org", "example.org/", "@a:b.org", "example.org:port", "a" * 231, "ä.org"])
def test_bad_server_names_are_refused(name):
    with pytest.raises(InvalidParam):
        local_start(name)
    assert load_identity() is None


@pytest.mark.parametrize("name", ["localhost", "localhost:8008", "[::1]:8448", "192.0.2.1", "matrix.example.org"])
def test_good_server_names_are_kept(name):
    assert local_start(name)["ServerName"] == name
    assert identity().server_name == name


def test_a_server_may_get_its_name_from_its_second_deployment(cloudformation):
    first = cloudformation("server_setup_create", ServerName="")
    assert (first["Status"], first["Data"]["ServerName"], first["Data"]["Epoch"]) == ("SUCCESS", "", 1)
    assert identity().server_name == ""
    second = cloudformation("server_setup_update", ServerName="abc.example.org", StoreGeneration="1")
    assert second["Data"] == {**first["Data"], "ServerName": "abc.example.org"}
    assert load_identity() == Identity("abc.example.org", 1, 1)


def test_only_an_unclean_start_raises_the_epoch():
    assert [local_start()["Epoch"] for _ in range(2)] == [1, 1]
    assert local_start(UncleanStart="true")["Epoch"] == 2
    assert local_start(UncleanStart="false")["Epoch"] == 2
    assert identity(refresh=True).epoch == 2


def test_the_same_restore_raises_the_epoch_once():
    local_start()
    assert [local_start(StoreGeneration="2")["Epoch"] for _ in range(3)] == [2, 2, 2]
    assert local_start(StoreGeneration="1")["Epoch"] == 2  # CloudFormation rolls an update back
    assert load_identity() == Identity("example.org", 2, 2)


def test_two_restores_of_one_backup_have_different_epochs():
    local_start()
    backup = load_identity()
    epochs = []
    for generation in ("2", "3"):
        assert replace_identity(load_identity(), backup)
        epochs.append(local_start(StoreGeneration=generation)["Epoch"])
    assert epochs == [2, 3]


def test_a_start_that_lost_a_race_looks_again(monkeypatch):
    reads = iter([None])
    local_start("example.org")
    monkeypatch.setattr(server_setup, "load_identity", lambda load=load_identity: next(reads, load()))
    with pytest.raises(InvalidParam, match=r"This server is example\.org"):
        local_start("other.org")


def test_what_breaks_is_told_to_cloudformation_and_not_hidden_from_the_local_run(cloudformation, server):
    server(SIGNING_KEY_PARAMETER="")
    answer = cloudformation("server_setup_create")
    assert answer["Status"] == "FAILED"
    assert "SIGNING_KEY_PARAMETER" in answer["Reason"]
    with pytest.raises(ValueError, match="SIGNING_KEY_PARAMETER"):
        local_start()


def test_an_answer_that_was_not_taken_is_sent_again(cloudformation):
    assert cloudformation("server_setup_create", refuse=(503,))["Status"] == "SUCCESS"


def test_the_identity_is_read_once_a_minute_and_on_demand(monkeypatch):
    local_start()
    assert identity() == Identity("example.org", 1, 1)
    before = load_identity()
    replace_identity(before, Identity("example.org", 5, 1))
    clock = [0.0]
    monkeypatch.setattr("homeserver.storage.server.time.monotonic", lambda: clock[0])
    assert identity().epoch == 5
    monkeypatch.setattr("homeserver.storage.server.load_identity", lambda: Identity("example.org", 6, 1))
    clock[0] = 59.9
    assert identity().epoch == 5
    assert identity(refresh=True).epoch == 6
    monkeypatch.setattr("homeserver.storage.server.load_identity", lambda: Identity("example.org", 7, 1))
    clock[0] = 59.9 + 60.1
    assert identity().epoch == 7


def test_before_the_first_start_there_is_no_identity():
    assert load_identity() is None
    with pytest.raises(MatrixError) as refused:
        identity()
    assert refused.value.status == 503


# ── A new signing key ───────────────────────────────────────────────────────────────────────────────


def test_a_higher_generation_signs_with_a_new_key_and_publishes_the_old_one():
    first = local_start()
    before = signing_key()
    second = local_start(SigningKeyGeneration="2")
    assert second["KeyId"] != first["KeyId"]
    keys = signing_keys()
    assert keys.current.key_id == second["KeyId"]
    (old,) = keys.old
    assert (old.key_id, old.key) == (before.key_id, before.verify_key)
    assert 0 < old.expired_ts - now_ms() <= adapter.OVERLAP_MS
    assert "seed" not in stored_key()["old"][0]


def test_the_same_generation_and_a_rollback_keep_the_key():
    local_start()
    second = local_start(SigningKeyGeneration="2")
    value = stored_key()
    assert [local_start(SigningKeyGeneration=g)["KeyId"] for g in ("2", "1")] == [second["KeyId"]] * 2
    assert stored_key() == value


def test_a_warm_function_notices_a_new_key_before_the_old_one_stops_to_count(monkeypatch):
    local_start()
    old = signing_key()
    clock = [0.0]
    monkeypatch.setattr(adapter.time, "monotonic", lambda: clock[0])
    forget_signing_keys()
    assert signing_key() == old
    new = keep_signing_key(SigningKey.generate("next", bytes(32)), generation=2, now_ms=now_ms())
    adapter._known[PARAMETER] = (0.0, adapter.SigningKeys(old))  # another function, which read before
    clock[0] = adapter.FRESH_S - 1
    assert signing_key() == old
    clock[0] = adapter.FRESH_S
    assert signing_key() == new
    assert adapter.FRESH_S * 1000 < adapter.OVERLAP_MS


def test_a_parameter_holds_as_many_old_keys_as_fit():
    local_start()
    for generation in range(2, adapter.MOST_OLD_KEYS + 4):
        local_start(SigningKeyGeneration=str(generation))
    assert len(signing_keys().old) == adapter.MOST_OLD_KEYS
    assert signing_keys().generation == adapter.MOST_OLD_KEYS + 3
    value = aws.client("ssm").get_parameter(Name=PARAMETER, WithDecryption=True)["Parameter"]["Value"]
    assert len(value) < 4096


def test_a_server_whose_first_key_is_of_a_later_generation_keeps_it():
    first = local_start(SigningKeyGeneration="3")
    assert local_start(SigningKeyGeneration="3") == first
    assert signing_keys().old == ()
