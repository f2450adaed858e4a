"""Two Eigenservers, started from two folders as the README says, share a room."""

from collections.abc import Iterator

import pytest

from e2e.client import segments
from e2e.local_run import Server
from e2e.servers import eigenserver, eventually, knock, server_of, shared_room, state_ids, texts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    with (
        eigenserver(tmp_path_factory.mktemp("one")) as one,
        eigenserver(tmp_path_factory.mktemp("two")) as other,
    ):
        yield one, other
        for server in (one, other):
            assert "Traceback" not in server.log, server.log


def test_two_eigenservers_talk(two: tuple[Server, Server]) -> None:
    hanna, gero = two[0].register("hanna"), two[1].register("gero")
    room_id = shared_room(hanna, gero)
    for number in range(5):
        hanna.send(room_id, f"hanna {number}")
        gero.sync_until(lambda n=number: f"hanna {n}" in gero.bodies(room_id))
        gero.send(room_id, f"gero {number}")
        hanna.sync_until(lambda n=number: f"gero {n}" in hanna.bodies(room_id))
    said = [f"{who} {number}" for number in range(5) for who in ("hanna", "gero")]
    assert texts(hanna, room_id) == texts(gero, room_id) == said
    assert state_ids(hanna, room_id) == state_ids(gero, room_id)
    found = hanna.ok("GET", segments("profile", gero.user_id))
    assert found.get("displayname", "gero") == "gero"
    assert server_of(hanna) != server_of(gero)


def test_a_knock_is_turned_down(two: tuple[Server, Server]) -> None:
    hanna, gero = two[0].register("hilda"), two[1].register("gustav")
    room_id, rooms = knock(hanna, gero)
    assert hanna.act(room_id, "kick", user_id=gero.user_id).status == 200
    eventually(lambda: rooms.section(room_id) == "leave", "who knocked knows")


def test_a_restart_of_either_loses_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    folders = [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")]
    with eigenserver(folders[0]) as one:
        hanna = one.register("hanna")
        with eigenserver(folders[1]) as other:
            gero = other.register("gero")
            names = {"SERVER_NAME": server_of(gero), "FEDERATION_PORT": server_of(gero).rpartition(":")[2]}
            room_id = shared_room(hanna, gero)
            hanna.send(room_id, "before")
            eventually(lambda: texts(gero, room_id) == ["before"], "it arrives")
        for number in range(5):
            hanna.send(room_id, f"meanwhile {number}")
        with eigenserver(folders[1], **names) as other:
            gero = other.welcome(gero)
            gero.send(room_id, "back")
            expected = {"before", "back", *(f"meanwhile {number}" for number in range(5))}
            eventually(lambda: set(texts(gero, room_id)) == expected, "what was said meanwhile arrives", 90)
            eventually(lambda: set(texts(hanna, room_id)) == expected, "so does what the other says")
