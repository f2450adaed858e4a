"""What other servers ask, for what has to be seen of all endpoints."""

from functools import partial
from urllib.parse import quote

from e2e.client import V3, Client, at_once, segments
from e2e.local_run import SERVER_NAME
from federation_peer import KEYS, Peer, profile_uri

# Where the local run must be allowed to go for that.
SETTINGS = {"FEDERATION_ALLOW_RANGES": "127.0.0.0/8,::1/128", "FEDERATION_VERIFY": "off"}


def be_asked(nobody: Client, alice: Client, peer: Peer) -> None:
    """A server fetches keys, asks about others' keys and about a user; and is asked about a user of its own."""
    assert nobody.ok("GET", KEYS)["server_name"] == SERVER_NAME
    assert nobody.ask_anything("GET", "/_matrix/key/v1").json["server_name"] == SERVER_NAME
    nobody.ok("GET", "/_matrix/federation/v1/version")
    question = f"/_matrix/key/v2/query/{quote(peer.name, safe='')}"
    for told in at_once(*[partial(nobody.twin().ok, "GET", question) for _ in range(4)]):
        assert [answer["server_name"] for answer in told["server_keys"]] == [peer.name]
    nobody.ok("GET", question)
    told = nobody.ok("POST", "/_matrix/key/v2/query", {"server_keys": {peer.name: {}}})
    assert [answer["server_name"] for answer in told["server_keys"]] == [peer.name]
    with Peer(peer.folder / "another") as newcomer:
        for asking in (peer, newcomer):
            uri = profile_uri(alice.user_id)
            answer = nobody.ask("GET", uri, headers={"Authorization": asking.header("GET", uri, SERVER_NAME)})
            assert (answer.status, answer.json["displayname"]) == (200, "Alice")
    bob = f"@bob:{peer.name}"
    peer.profiles[bob] = {"displayname": "Bob"}
    assert alice.ok("GET", f"{segments('profile', bob)}/displayname") == {"displayname": "Bob"}
    alice.ok("GET", f"{V3}/profile/{quote(bob, safe='')}")
