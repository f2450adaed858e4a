"""Aliases of other servers: which room they mean, and who knows it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.federating import LOOPBACK
from functions.harness import SERVER_NAME, Answer, User
from functions.remote_server import RemoteServer
from functions.resident_peer import Refusal, ResidentPeer
from functions.rooms import create_room, path, request
from homeserver.adapters.federation_http import close_connections

pytestmark = pytest.mark.usefixtures("set_up")
ROOM = "!far:remote.test"


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[ResidentPeer]:
    server(**LOOPBACK)
    with ResidentPeer(tmp_path) as peer:
        yield peer
        close_connections()


def look_up(alias: str) -> Answer:
    return request("client_rooms", "GET", path("directory", "room", alias))


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def test_the_server_of_an_alias_is_asked(peer: ResidentPeer) -> None:
    alias = f"#tee & 100% ü/x:{peer.name}"
    peer.aliases[alias] = (ROOM, ["one.test", SERVER_NAME, "one.test", "no server", "two.test"])
    answer = look_up(alias)
    assert answer.json == {"room_id": ROOM, "servers": [peer.name, "one.test", "two.test"]}


def test_a_long_list_of_servers_is_cut(peer: ResidentPeer) -> None:
    alias = f"#crowd:{peer.name}"
    peer.aliases[alias] = (ROOM, [f"s{n}.test" for n in range(3000)])
    assert look_up(alias).json["servers"] == [peer.name, *(f"s{n}.test" for n in range(7))]


def test_an_alias_that_does_not_exist_there(peer: ResidentPeer) -> None:
    assert refusal(look_up(f"#nowhere:{peer.name}")) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("refused", [Refusal(500, "M_UNKNOWN"), Refusal(403, "M_FORBIDDEN"), Refusal(401, "M_X")])
def test_a_server_that_does_not_say(peer: ResidentPeer, refused: Refusal) -> None:
    peer.refuse["query"] = refused
    assert refusal(look_up(f"#x:{peer.name}")) == (502, "M_UNKNOWN")


def test_a_server_that_is_not_there(peer: ResidentPeer) -> None:
    assert refusal(look_up("#x:localhost:1")) == (502, "M_UNKNOWN")


@pytest.mark.parametrize(
    "twist",
    [
        lambda _: [],
        lambda _: {},
        lambda answer: {**answer, "room_id": "#x:y"},
        lambda answer: {**answer, "room_id": 5},
        lambda answer: {**answer, "servers": None},
        lambda answer: {"room_id": answer["room_id"]},
    ],
)
def test_an_answer_that_makes_no_sense(peer: ResidentPeer, twist: Callable[[Any], Any]) -> None:
    alias = f"#x:{peer.name}"
    peer.aliases[alias] = (ROOM, [])
    peer.twist["query"] = twist
    assert refusal(look_up(alias)) == (502, "M_UNKNOWN")


def test_the_servers_of_an_alias_of_this_server_are_those_in_the_room(alice: User, peer: ResidentPeer) -> None:
    room_id = create_room(alice, preset="public_chat", room_alias_name="tea")
    remote = RemoteServer(room_id)
    remote.accepted(remote.join(remote.user("carol")))
    assert look_up(f"#tea:{SERVER_NAME}").json == {"room_id": room_id, "servers": [SERVER_NAME, "remote.test"]}
    assert peer.paths() == []


def test_who_asks_without_an_account_asks_only_so_often(peer: ResidentPeer, server: Callable[..., None]) -> None:
    server(RATE_LIMITS="on")
    answers = [refusal(look_up(f"#x:{peer.name}")) for _ in range(60)]
    assert answers[:30] == [(404, "M_NOT_FOUND")] * 30
    assert (429, "M_LIMIT_EXCEEDED") in answers
