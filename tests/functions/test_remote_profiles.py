"""Profiles of users elsewhere are asked for once a minute; users elsewhere do not disturb who looks for users here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from federation_peer import PROFILE, Peer
from functions.federating import LOOPBACK
from functions.harness import Answer, User
from functions.remote_server import RemoteServer
from functions.rooms import create_room, follow, request
from homeserver.adapters.federation_http import close_connections
from homeserver.services import profile
from homeserver.services.remembered_answers import RememberedAnswers

pytestmark = pytest.mark.usefixtures("set_up")


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[Peer]:
    server(**LOOPBACK)
    with Peer(tmp_path) as running:
        yield running
        close_connections()


def ask(user: User, of: str, *key: str) -> Answer:
    where = "/".join(["/_matrix/client/v3/profile", quote(of, safe=""), *key])
    return request("client_user", "GET", where, token=user.token)


def times(peer: Peer) -> int:
    return sum(path.startswith(PROFILE) for _, path, _, _ in peer.asked)


def test_a_profile_and_its_fields_are_asked_for_once(alice: User, bob: User, peer: Peer) -> None:
    carol = f"@carol:{peer.name}"
    peer.profiles[carol] = {"displayname": "Carol", "avatar_url": None}
    assert ask(alice, carol).json == {"displayname": "Carol"}
    peer.profiles[carol] = {"displayname": "Caroline"}
    assert ask(bob, carol, "displayname").json == {"displayname": "Carol"}
    assert ask(bob, carol, "avatar_url").status == 404
    assert times(peer) == 1
    profile.forget_profiles()
    assert ask(bob, carol).json == {"displayname": "Caroline"}


def test_that_there_is_no_such_user_is_remembered_and_an_outage_is_not(alice: User, peer: Peer) -> None:
    nobody, carol = f"@nobody:{peer.name}", f"@carol:{peer.name}"
    assert [ask(alice, nobody).status for _ in range(3)] == [404] * 3
    assert times(peer) == 1
    peer.instead[PROFILE] = (500, b"", {})
    assert ask(alice, carol).status == 502
    del peer.instead[PROFILE]
    peer.profiles[carol] = {"displayname": "Carol"}
    assert ask(alice, carol).json == {"displayname": "Carol"}


def test_answers_are_forgotten_after_their_time_and_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("homeserver.services.remembered_answers.time.monotonic", lambda: now[0])
    answers: RememberedAnswers[str] = RememberedAnswers(seconds=60, most_bytes=1000)
    answers.put("a", "one", 90)
    now[0] = 159.9
    assert answers.get("a") == "one"
    now[0] = 160.0
    assert answers.get("a") is None
    for number in range(12):
        answers.put(number, str(number), 100)
    assert [number for number in range(12) if answers.get(number)] == list(range(2, 12))
    answers.put(5, "too large", 101)
    assert answers.get(5) is None
    answers.put(6, "six again", 10)
    assert (answers.get(6), answers.get(2)) == ("six again", "2")
    answers.clear()
    assert answers.get(6) is None


def test_mutual_rooms_with_a_user_elsewhere_are_those_of_both(alice: User, bob: User, peer: Peer) -> None:
    shared = create_room(alice, preset="public_chat")
    create_room(alice, preset="public_chat")
    remote = RemoteServer(shared, peer.name)
    carol = remote.user("carol")
    remote.accepted(remote.join(carol))
    follow()
    where = "/_matrix/client/v1/mutual_rooms"
    found = request("client_directory", "GET", where, token=alice.token, query={"user_id": carol})
    assert found.json == {"joined": [shared], "count": 1}
    none = request("client_directory", "GET", where, token=bob.token, query={"user_id": carol})
    assert none.json == {"joined": [], "count": 0}


def test_who_searches_for_users_in_rooms_with_others_finds_those_of_here(alice: User, bob: User, peer: Peer) -> None:
    shared = create_room(alice, bob, preset="public_chat")
    remote = RemoteServer(shared, peer.name)
    remote.accepted(remote.join(remote.user("bobby")))
    follow()
    where = "/_matrix/client/v3/user_directory/search"
    answer = request("client_directory", "POST", where, {"search_term": "bob"}, token=alice.token)
    assert bob.user_id in {found["user_id"] for found in answer.json["results"]}
