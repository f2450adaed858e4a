"""Against a real Synapse on loopback: each finds the other, fetches its keys, and believes its signatures."""

import time
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from e2e.local_run import Server
from e2e.synapse_peer import IS_ABSENT, WHY_ABSENT, Synapse
from federation_peer import free_port
from homeserver.adapters.federation_http import FederationClient, close_connections, federation_path
from homeserver.matrix import unpadded_base64
from homeserver.matrix.server_keys import read_published_keys
from homeserver.matrix.signing import verify_signed_json
from homeserver.settings import settings
from unit.adapters.federating import federate

pytestmark = [pytest.mark.slow, pytest.mark.skipif(IS_ABSENT, reason=WHY_ABSENT)]


@pytest.fixture(scope="module")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    with Synapse(tmp_path_factory.mktemp("synapse")) as running:
        yield running


@pytest.fixture(scope="module")
def ours(synapse: Synapse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A local run that believes Synapse's certificate, and no other that nobody vouches for."""
    port = str(free_port())
    environment = {
        "SERVER_NAME": f"localhost:{port}",
        "FEDERATION_PORT": port,
        "FEDERATION_ALLOW_RANGES": "127.0.0.0/8,::1/128",
        "FEDERATION_VERIFY": str(synapse.certificate),
        "REGISTRATION": "open",
    }
    with Server(tmp_path_factory.mktemp("ours"), **environment) as running:
        yield running
        assert "Traceback" not in running.log, running.log


def test_our_notary_tells_the_keys_that_synapse_publishes(synapse: Synapse, ours: Server) -> None:
    published = httpx.get(f"{synapse.federation}/_matrix/key/v2/server", verify=False, trust_env=False).json()
    told = ours.client().ask("GET", f"/_matrix/key/v2/query/{quote(synapse.name, safe='')}")
    assert told.status == 200
    (answer,) = told.json["server_keys"]
    assert answer["verify_keys"] == published["verify_keys"]
    own = ours.client().ok("GET", "/_matrix/key/v2/server")
    keys = {key_id: unpadded_base64.decode(key["key"]) for key_id, key in own["verify_keys"].items()}
    verify_signed_json(answer, own["server_name"], keys)


def test_synapse_believes_our_signature_and_answers_about_a_profile(synapse: Synapse, ours: Server) -> None:
    anna = synapse.register("anna")
    path = f"/_matrix/client/v3/profile/{quote(anna.user_id, safe='')}"
    anna.ok("PUT", f"{path}/displayname", {"displayname": "Anna of Synapse"})
    anna.close()
    asker = ours.register("asker")
    assert asker.ok("GET", path)["displayname"] == "Anna of Synapse"
    unknown = asker.ask("GET", f"/_matrix/client/v3/profile/{quote('@nobody:' + synapse.name, safe='')}")
    assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")


def test_we_believe_synapses_signature_and_answer_about_a_profile(synapse: Synapse, ours: Server) -> None:
    bea = ours.register("bea")
    path = f"/_matrix/client/v3/profile/{quote(bea.user_id, safe='')}"
    bea.ok("PUT", f"{path}/displayname", {"displayname": "Bea of Eigenserver"})
    asker = synapse.register("asker")
    assert asker.ok("GET", path)["displayname"] == "Bea of Eigenserver"
    asker.close()


def test_synapse_tells_our_client_its_keys_and_its_software(synapse: Synapse, monkeypatch: pytest.MonkeyPatch) -> None:
    federate(monkeypatch, FEDERATION_VERIFY=str(synapse.certificate))
    client = FederationClient()
    try:
        _, software = client.request("GET", synapse.name, federation_path("v1", "version"), signed=False)
        _, keys = client.request("GET", synapse.name, "/_matrix/key/v2/server", signed=False)
    finally:
        close_connections()
        settings.cache_clear()
    assert software["server"]["name"] == "Synapse"
    assert read_published_keys(keys, synapse.name, now_ms=time.time_ns() // 1_000_000)
