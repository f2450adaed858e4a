"""Other servers that ask about rooms: real signed requests of `federation_query`, and rooms that they are in.

A test module that uses the fixtures imports them from here: `peer` and `stranger` are two servers, `asked` asks.
"""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from federation_peer import Peer
from functions.federating import LOOPBACK, signed
from functions.harness import Answer, User
from functions.remote_server import RemoteServer
from functions.rooms import create_room, post, say, set_state
from homeserver.adapters.federation_http import close_connections
from homeserver.matrix.hashes import event_id_of
from homeserver.matrix.room_versions import ROOM_VERSIONS

FUNCTION = "federation_query"
V1 = "/_matrix/federation/v1"
Asked = Callable[..., Answer]


@pytest.fixture(scope="module")
def running_peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peer, Peer]]:
    with Peer(tmp_path_factory.mktemp("peer")) as peer, Peer(tmp_path_factory.mktemp("stranger")) as stranger:
        yield peer, stranger
        close_connections()


@pytest.fixture
def peer(running_peers: tuple[Peer, Peer], server: Callable[..., None], set_up: None) -> Peer:
    """A server that rooms of the tests have members of."""
    server(**LOOPBACK)
    return running_peers[0]


@pytest.fixture
def stranger(running_peers: tuple[Peer, Peer], peer: Peer) -> Peer:
    """A server that is in no room, unless the test lets it in."""
    return running_peers[1]


@pytest.fixture
def asked(call: Callable[..., Answer], checked: Callable[..., Answer]) -> Asked:
    """`asked(peer, "backfill", room_id, v=[...], limit=10)`: a GET, or a POST where there is a `body`.

    The answer must be what the specification documents, but with `loosely`: its schemas know a redacted event only by
    what servers add to it for clients.
    """

    def ask(by: Peer, *segments: str, body: Any = None, loosely: bool = False, **query: Any) -> Answer:
        uri = "/".join([V1, *(quote(segment, safe="") for segment in segments)])
        uri += "?" + urlencode(query, doseq=True) if query else ""
        return signed(call if loosely else checked, by, FUNCTION, "GET" if body is None else "POST", uri, body=body)

    return ask


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def members_of(peer: Peer, room_id: str, name: str = "carol") -> tuple[RemoteServer, str]:
    """A member of a peer in a public room: what makes its events, and the user."""
    remote = RemoteServer(room_id, peer.name)
    user = remote.user(name)
    remote.accepted(remote.join(user))
    return remote, user


def ids_of(pdus: list[dict[str, Any]], version: str = "11") -> list[str]:
    """The event IDs of PDUs, worked out from them."""
    return [event_id_of(pdu, ROOM_VERSIONS[version]) for pdu in pdus]


def bodies(pdus: list[dict[str, Any]]) -> list[str | None]:
    """The texts of the messages among PDUs; None for one that is redacted."""
    return [pdu["content"].get("body") for pdu in pdus if pdu["type"] == "m.room.message"]


def ban_server(user: User, room_id: str, peer: Peer) -> None:
    """Shut a peer out by the room's server ACL."""
    host = peer.name.partition(":")[0]
    assert set_state(user, room_id, "m.room.server_acl", {"allow": ["*"], "deny": [host]}).status == 200


__all__ = [
    "FUNCTION",
    "Asked",
    "asked",
    "ban_server",
    "bodies",
    "create_room",
    "ids_of",
    "members_of",
    "peer",
    "post",
    "refusal",
    "running_peers",
    "say",
    "set_state",
    "stranger",
]
