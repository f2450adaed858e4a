"""The directories of other servers, for clients."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.federating import LOOPBACK
from functions.harness import Answer, User
from functions.rooms import request
from functions.telling_peer import DIRECTORY, TellingPeer
from homeserver.adapters.federation_http import close_connections

FUNCTION = "client_directory"
LIST = "/_matrix/client/v3/publicRooms"


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[TellingPeer]:
    server(**LOOPBACK)
    with TellingPeer(tmp_path) as running:
        yield running
        close_connections()


def listing(peer: TellingPeer, **query: Any) -> Answer:
    return request(FUNCTION, "GET", LIST, query={"server": peer.name, **query})


def search(user: User, peer: TellingPeer, **body: Any) -> Answer:
    return request(FUNCTION, "POST", LIST, body, token=user.token, query={"server": peer.name})


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def test_a_page_of_another_server_is_passed_on(peer: TellingPeer) -> None:
    tea = peer.summary("!tea:far.test", "Tea", canonical_alias="#tea:far.test", topic="Leaves")
    peer.directory = {"chunk": [tea], "next_batch": "on", "prev_batch": "back", "total_room_count_estimate": 7}
    answer = listing(peer, limit=20, since="a/b c")
    assert (answer.status, answer.json) == (200, peer.directory)
    assert peer.questions == [("GET", {"limit": "20", "since": "a/b c"})]
    assert 'origin="example.org"' in peer.asked[-1][2]["authorization"]


def test_a_search_is_asked_there_with_all_that_it_asks(alice: User, peer: TellingPeer) -> None:
    wanted = {"generic_search_term": "tea", "room_types": [None, "m.space"]}
    body = {"filter": wanted, "limit": 5, "since": "x", "third_party_instance_id": "irc"}
    assert search(alice, peer, **body).json == {"chunk": []}
    assert peer.questions == [("POST", body)]
    search(alice, peer, include_all_networks=True)
    assert peer.questions[1] == ("GET", {"limit": "100", "include_all_networks": "true"})
    search(alice, peer, filter={"room_types": []})
    assert peer.questions[2] == ("POST", {"limit": 100, "filter": {"room_types": []}})


def test_what_makes_no_sense_is_left_out(peer: TellingPeer) -> None:
    tea = peer.summary("!tea:far.test", "Tea")
    nonsense = [None, 7, {}, {**tea, "room_id": "tea"}, {**tea, "num_joined_members": "many"}]
    odd = {**tea, "name": 7, "topic": ["x"], "canonical_alias": "tea", "org.example.key": {"deep": 1}}
    peer.directory = {
        "chunk": [*nonsense, odd],
        "next_batch": 7,
        "prev_batch": "x" * 2000,
        "total_room_count_estimate": -1,
        "more": True,
    }
    assert listing(peer).json == {"chunk": [{key: tea[key] for key in tea if key != "name"}]}


def test_no_more_rooms_come_than_were_asked_for(peer: TellingPeer) -> None:
    peer.directory = {"chunk": [peer.summary(f"!r{n}:far.test", f"{n}") for n in range(900)]}
    assert [room["name"] for room in listing(peer, limit=3).json["chunk"]] == ["0", "1", "2"]
    assert len(listing(peer, limit=100_000).json["chunk"]) == 500
    assert peer.questions[-1][1]["limit"] == "500"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, (400, "M_INVALID_PARAM")),
        (401, (502, "M_UNKNOWN")),
        (403, (403, "M_FORBIDDEN")),
        (404, (404, "M_NOT_FOUND")),
        (500, (502, "M_UNKNOWN")),
    ],
)
def test_what_the_other_server_answers_becomes_an_error_that_clients_understand(
    peer: TellingPeer, status: int, expected: tuple[int, str]
) -> None:
    peer.instead[DIRECTORY] = (status, b'{"errcode": "M_UNAUTHORIZED", "error": "no"}', {})
    assert refusal(listing(peer)) == expected


def test_a_server_that_has_enough_of_questions_says_when_to_come_back(peer: TellingPeer) -> None:
    peer.instead[DIRECTORY] = (429, b'{"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 7000}', {})
    answer = listing(peer)
    assert refusal(answer) == (429, "M_LIMIT_EXCEEDED")
    assert (answer.json["retry_after_ms"], answer.headers["retry-after"]) == (7000, "7")


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"chunk": {}}', b"<html>", b'{"chunk": [' + b" " * 5_000_000 + b"]}"])
def test_an_answer_that_is_none_is_an_error(peer: TellingPeer, body: bytes) -> None:
    peer.instead[DIRECTORY] = (200, body, {})
    assert refusal(listing(peer)) == (502, "M_UNKNOWN")


def test_a_server_that_is_not_there_is_an_error(peer: TellingPeer) -> None:
    answer = request(FUNCTION, "GET", LIST, query={"server": "localhost:1"})
    assert refusal(answer) == (502, "M_UNKNOWN")


def test_bad_questions_reach_nobody(alice: User, peer: TellingPeer) -> None:
    for body in ({"limit": 0}, {"include_all_networks": True, "third_party_instance_id": "irc"}):
        assert refusal(search(alice, peer, **body)) == (400, "M_INVALID_PARAM")
    assert refusal(request(FUNCTION, "GET", LIST, query={"server": "no server"})) == (400, "M_INVALID_PARAM")
    assert refusal(request(FUNCTION, "POST", LIST, {}, query={"server": peer.name})) == (401, "M_MISSING_TOKEN")
    assert peer.asked == []


def test_without_federation_nobody_is_asked(peer: TellingPeer, server: Callable[..., None]) -> None:
    server(FEDERATION="off")
    assert refusal(listing(peer)) == (404, "M_NOT_FOUND")
    assert peer.asked == []


def test_an_address_that_asks_too_often_is_told_to_wait(
    alice: User, peer: TellingPeer, server: Callable[..., None]
) -> None:
    server(RATE_LIMITS="on")
    statuses = [listing(peer).status for _ in range(40)]
    assert statuses[:30] == [200] * 30
    assert 429 in statuses
    assert len(peer.questions) == statuses.count(200)
    assert search(alice, peer).json == {"chunk": []}
