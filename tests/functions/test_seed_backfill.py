"""The draft's trigger for a room's history: GET /_matrix/client/api/v1/rooms/{roomId}/backfill."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from functions.backfilling import HistoryPeer, HistoryRoom, enter, ids, page_back
from functions.federating import LOOPBACK
from functions.harness import Answer, User, call
from functions.rooms import follow, post, texts
from homeserver.services import backfill

pytestmark = pytest.mark.usefixtures("set_up")
FUNCTION = "client_history"


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[HistoryPeer]:
    server(**LOOPBACK)
    backfill.forget_failures()
    with HistoryPeer(tmp_path / "peer") as running:
        yield running


@pytest.fixture
def room(peer: HistoryPeer) -> HistoryRoom:
    return peer.tells(HistoryRoom(peer.name))


def ask(user: User | None, room_id: str, **query: Any) -> Answer:
    where = f"/_matrix/client/api/v1/rooms/{quote(room_id, safe='')}/backfill"
    return call(FUNCTION, "GET", where, token=user.token if user else None, query=query)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def test_a_member_fetches_history_from_a_server_step_by_step(alice: User, peer: HistoryPeer, room: HistoryRoom) -> None:
    said = room.says(20)
    enter(room, alice)
    first = ask(alice, room.room_id, remote=peer.name, limit=6)
    assert (first.status, texts(first.json)) == (200, said[:-7:-1])
    assert peer.count("backfill") == 1
    newest = first.json[0]
    assert (newest["user_id"], newest["room_id"]) == (room.user("carol"), room.room_id)
    assert newest["age"] == newest["unsigned"]["age"]
    found = [*first.json]
    while more := ask(alice, room.room_id, remote=peer.name, limit=10).json:
        found += more
    assert ids(found) == [*room.events][::-1][1:]  # without the join, which was known
    asked = len(peer.asked)
    assert ask(alice, room.room_id, remote=peer.name).json == []  # there is nothing before the create event
    assert len(peer.asked) == asked
    follow()
    assert ids(page_back(alice, room.room_id, limit=50)) == [*room.events][::-1]


def test_the_visibility_of_the_time_decides_what_is_shown(alice: User, peer: HistoryPeer) -> None:
    room = peer.tells(HistoryRoom(peer.name, visibility="joined"))
    room.says(3)
    enter(room, alice)
    answer = ask(alice, room.room_id, remote=peer.name, limit=3)
    assert (answer.status, answer.json) == (200, [])
    assert peer.count("backfill") == 1


def test_only_members_ask_and_only_servers_of_the_room_are_asked(
    alice: User, bob: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    room.says(3)
    enter(room, alice)
    assert refusal(ask(bob, room.room_id, remote=peer.name)) == (403, "M_FORBIDDEN")
    assert refusal(ask(alice, "!none:example.org", remote=peer.name)) == (403, "M_FORBIDDEN")
    assert refusal(ask(alice, room.room_id, remote="localhost:1")) == (403, "M_FORBIDDEN")
    assert refusal(ask(None, room.room_id, remote=peer.name)) == (401, "M_MISSING_TOKEN")
    post(alice, room.room_id, "leave")
    assert refusal(ask(alice, room.room_id, remote=peer.name)) == (403, "M_FORBIDDEN")
    assert peer.count("backfill") == 0


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"remote": "no server"}, "M_INVALID_PARAM"),
        ({"remote": "example.org"}, "M_INVALID_PARAM"),
        ({"remote": "far.test", "limit": 0}, "M_INVALID_PARAM"),
        ({"remote": "far.test", "limit": "x"}, "M_INVALID_PARAM"),
    ],
)
def test_bad_questions_are_refused(
    alice: User, peer: HistoryPeer, room: HistoryRoom, query: dict[str, Any], errcode: str
) -> None:
    enter(room, alice)
    assert refusal(ask(alice, room.room_id, **query)) == (400, errcode)


def test_a_server_that_says_nothing_leaves_the_history_to_others(
    alice: User, peer: HistoryPeer, room: HistoryRoom
) -> None:
    said = room.says(3)
    enter(room, alice)
    peer.withheld.update(room.events)
    assert ask(alice, room.room_id, remote=peer.name).json == []
    peer.withheld.clear()
    assert texts(page_back(alice, room.room_id, limit=50)) == said[::-1]
