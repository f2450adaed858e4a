"""Rooms that this server is not in: their summaries, and spaces that reach over servers."""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from functions.federating import LOOPBACK
from functions.foreign_room import ForeignRoom
from functions.harness import Answer, User, call, invoke, payload
from functions.rooms import create_room, path, post, request, set_state
from functions.telling_peer import HIERARCHY, TellingPeer
from homeserver.adapters.federation_http import close_connections
from homeserver.services import remote_hierarchy, space_hierarchy
from homeserver.services.stub_rooms import record_out_of_band

pytestmark = pytest.mark.usefixtures("set_up")
FUNCTION = "client_directory"
ROOM, TOP = "!room:far.test", "!top:far.test"


@pytest.fixture
def peer(tmp_path: Path, server: Callable[..., None]) -> Iterator[TellingPeer]:
    server(**LOOPBACK)
    with TellingPeer(tmp_path / "one") as running:
        yield running
        close_connections()


@pytest.fixture
def other(tmp_path: Path, peer: TellingPeer) -> Iterator[TellingPeer]:
    with TellingPeer(tmp_path / "two") as running:
        yield running
        close_connections()


def summary(user: User | None, room: str, *via: str) -> Answer:
    where = path("room_summary", room).replace("/v3/", "/v1/")
    return request(FUNCTION, "GET", where, token=user.token if user else None, query={"via": via} if via else None)


def ask(user: User, room_id: str, **query: Any) -> Answer:
    where = path("rooms", room_id, "hierarchy").replace("/v3/", "/v1/")
    return request(FUNCTION, "GET", where, token=user.token, query=query or None)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def names(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    return [room["name"] for room in answer.json["rooms"]]


def pages(user: User, room_id: str, **query: Any) -> list[list[str]]:
    answers = [ask(user, room_id, **query)]
    while "next_batch" in answers[-1].json:
        answers.append(ask(user, room_id, **query, **{"from": answers[-1].json["next_batch"]}))
        assert len(answers) < 40
    return [names(answer) for answer in answers]


def local_space(user: User, *children: dict[str, Any], name: str = "here") -> str:
    room_id = create_room(user, preset="public_chat", name=name, creation_content={"type": "m.space"})
    for child in children:
        assert set_state(user, room_id, "m.space.child", child["content"], child["state_key"]).status == 200
    return room_id


# ── Summaries ───────────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_the_client_names_is_asked_for_the_summary(alice: User, peer: TellingPeer) -> None:
    peer.tells(ROOM, "Tea", room_version="11", encryption="m.megolm.v1.aes-sha2", topic="Leaves")
    told = {key: value for key, value in peer.spaces[ROOM]["room"].items() if key != "children_state"}
    assert summary(None, ROOM, peer.name).json == told
    assert summary(alice, ROOM, peer.name).json == told | {"membership": "leave"}
    assert peer.paths()[-1] == f"GET {HIERARCHY}%21room%3Afar.test?suggested_only=false"
    base = "/_matrix/client/unstable/im.nheko.summary"
    for old in (f"{base}/summary/{ROOM}", f"{base}/rooms/{ROOM}/summary"):
        answer = call(FUNCTION, "GET", old, token=alice.token, query={"via": peer.name})
        assert answer.json["im.nheko.summary.room_version"] == "11"
    assert peer.asked_about() == [ROOM]  # what was told is remembered for a minute


def test_the_server_in_the_room_id_and_the_one_of_an_alias_are_asked(alice: User, peer: TellingPeer) -> None:
    room_id = peer.tells(f"!tea:{peer.name}", "Tea")
    assert summary(alice, room_id).json["name"] == "Tea"
    hashed = peer.tells("!" + "a" * 43, "Hashed")
    peer.instead["/_matrix/federation/v1/query/directory"] = (
        200,
        b'{"room_id": "%s", "servers": []}' % hashed.encode(),
        {},
    )
    assert summary(alice, hashed).status == 404
    assert summary(alice, f"#tea:{peer.name}").json["room_id"] == hashed


def test_the_next_server_is_asked_where_the_first_says_nothing(
    alice: User, peer: TellingPeer, other: TellingPeer
) -> None:
    other.tells(ROOM, "Tea")
    assert summary(alice, ROOM, "localhost:1", peer.name, other.name).json["name"] == "Tea"
    assert (peer.asked_about(), other.asked_about()) == ([ROOM], [ROOM])


def test_the_server_that_invited_is_asked_and_who_is_invited_may_know(
    alice: User, bob: User, peer: TellingPeer
) -> None:
    room = ForeignRoom(peer.name, peer.key)
    record_out_of_band(room.invite(alice.user_id), room.stripped(), invite_from=peer.name)
    peer.tells(room.id, "Closed", join_rule="invite")
    answer = summary(alice, room.id)
    assert (answer.json["name"], answer.json["membership"]) == ("Closed", "invite")
    assert refusal(summary(bob, room.id, peer.name)) == (404, "M_NOT_FOUND")
    assert refusal(summary(None, room.id, peer.name)) == (404, "M_NOT_FOUND")


def test_who_was_banned_is_told_nothing_but_of_a_room_that_the_world_reads(alice: User, peer: TellingPeer) -> None:
    room = ForeignRoom(peer.name, peer.key)
    record_out_of_band(room.invite(alice.user_id), room.stripped(), invite_from=peer.name)
    ban = room.take(room.member(room.owner, "ban", alice.user_id))
    record_out_of_band(ban, [], invite_from=peer.name)
    peer.tells(room.id, "Open")
    assert refusal(summary(alice, room.id)) == (404, "M_NOT_FOUND")
    remote_hierarchy.forget_hierarchies()
    peer.tells(room.id, "Open", world_readable=True)
    assert summary(alice, room.id).json["membership"] == "ban"


def test_members_of_a_room_that_lets_them_in_may_know(alice: User, bob: User, peer: TellingPeer) -> None:
    club = create_room(alice, preset="public_chat")
    peer.tells(ROOM, "Members", join_rule="restricted", allowed_room_ids=["!x:far.test", club])
    answer = summary(alice, ROOM, peer.name)
    assert answer.json["allowed_room_ids"] == ["!x:far.test", club]
    assert refusal(summary(bob, ROOM, peer.name)) == (404, "M_NOT_FOUND")
    post(bob, club, "join")
    assert summary(bob, ROOM, peer.name).json["name"] == "Members"


def test_the_recorded_payload_is_answered_for_who_may_ask(alice: User, peer: TellingPeer) -> None:
    event = copy.deepcopy(payload("client_directory_room_summary"))
    assert refusal(invoke(FUNCTION, event)) == (401, "M_UNKNOWN_TOKEN")
    event["headers"]["authorization"] = f"Bearer {alice.token}"
    assert refusal(invoke(FUNCTION, event)) == (404, "M_NOT_FOUND")  # its server is nowhere
    event["rawQueryString"] = f"via=127.0.0.1%3A1&via={peer.name}"
    peer.tells("!tea:127.0.0.1:1", "Tea")
    assert invoke(FUNCTION, event).json["name"] == "Tea"


@pytest.mark.parametrize(
    "told",
    [
        [],
        {},
        {"room": None},
        {"room": {"room_id": ROOM}},
        {"room": {"room_id": "!other:far.test", "num_joined_members": 1}},
        {"room": {"room_id": ROOM, "num_joined_members": "1"}},
    ],
)
def test_an_answer_that_makes_no_sense_tells_of_no_room(alice: User, peer: TellingPeer, told: Any) -> None:
    peer.spaces[ROOM] = told
    assert refusal(summary(alice, ROOM, peer.name)) == (404, "M_NOT_FOUND")


def test_a_room_that_this_server_is_in_is_never_asked_for(alice: User, bob: User, peer: TellingPeer) -> None:
    room_id = create_room(alice, name="Closed")
    peer.tells(room_id, "Open, as they say")
    assert refusal(summary(bob, room_id, peer.name)) == (404, "M_NOT_FOUND")
    assert summary(alice, room_id, peer.name).json["name"] == "Closed"
    assert peer.asked == []


def test_without_federation_and_without_servers_nobody_is_asked(
    alice: User, peer: TellingPeer, server: Callable[..., None]
) -> None:
    peer.tells(ROOM, "Tea")
    assert refusal(summary(alice, ROOM, "no server", "example.org")) == (404, "M_NOT_FOUND")
    server(FEDERATION="off")
    assert refusal(summary(alice, ROOM, peer.name)) == (404, "M_NOT_FOUND")
    assert peer.asked == []


def test_strangers_who_ask_too_often_are_told_to_wait(peer: TellingPeer, server: Callable[..., None]) -> None:
    peer.tells(ROOM, "Tea")
    server(RATE_LIMITS="on")
    statuses = [summary(None, ROOM, peer.name).status for _ in range(40)]
    assert statuses[:30] == [200] * 30
    assert 429 in statuses


# ── Spaces ──────────────────────────────────────────────────────────────────────────────────────────


def test_children_of_a_local_space_that_are_elsewhere_are_asked_for_at_their_via(
    alice: User, bob: User, peer: TellingPeer
) -> None:
    peer.tells(ROOM, "far", topic="away")
    top = local_space(alice, peer.child(ROOM, order="1"))
    answer = ask(bob, top)
    assert names(answer) == ["here", "far"]
    far = answer.json["rooms"][1]
    assert far == peer.spaces[ROOM]["room"] | {"children_state": []}
    assert peer.asked_about() == [ROOM]


def test_a_space_elsewhere_is_walked_over_its_servers_depth_first(
    alice: User, peer: TellingPeer, other: TellingPeer
) -> None:
    top = peer.tells(f"!top:{peer.name}", "top", children=["!a:x.test", "!b:x.test", "!deep:x.test"])
    peer.spaces[top]["room"]["children_state"][2]["content"]["via"] = [other.name]
    peer.spaces[top]["children"] = [peer.summary("!a:x.test", "a"), peer.summary("!b:x.test", "b")]
    other.tells("!deep:x.test", "deep", children=["!c:x.test", "!a:x.test", top])
    other.spaces["!deep:x.test"]["children"] = [other.summary("!c:x.test", "c")]
    answer = ask(alice, top)
    assert names(answer) == ["top", "a", "b", "deep", "c"]
    assert [len(room["children_state"]) for room in answer.json["rooms"]] == [3, 0, 0, 3, 0]
    assert answer.json["rooms"][0]["children_state"][0] == peer.child("!a:x.test", order="000")
    # The summaries came with the spaces: only these were asked for.
    assert (peer.asked_about(), other.asked_about()) == ([top], ["!deep:x.test"])
    assert names(ask(alice, top, max_depth=1)) == ["top", "a", "b", "deep"]


def test_a_space_that_its_parent_told_of_is_asked_for_its_own_children(alice: User, peer: TellingPeer) -> None:
    inner = peer.tells("!inner:x.test", "inner", children=["!leaf:x.test"])
    peer.spaces[inner]["children"] = [peer.summary("!leaf:x.test", "leaf")]
    told = peer.summary(inner, "inner", room_type="m.space")
    lost = peer.summary("!lost:x.test", "lost", room_type="m.space")
    peer.tells(f"!top:{peer.name}", "top", children=[inner, "!lost:x.test"], summaries=[told, lost])
    answer = ask(alice, f"!top:{peer.name}")
    assert names(answer) == ["top", "inner", "leaf", "lost"]
    assert answer.json["rooms"][3]["children_state"] == []  # nobody tells of its children any more


def test_rooms_that_this_server_is_in_are_shown_as_they_are_here(alice: User, bob: User, peer: TellingPeer) -> None:
    mine, closed = create_room(alice, preset="public_chat", name="mine"), create_room(alice, name="closed")
    lies = [peer.summary(mine, "a lie"), peer.summary(closed, "open, as they say")]
    top = peer.tells(f"!top:{peer.name}", "top", children=[mine, closed], summaries=lies)
    assert names(ask(bob, top)) == ["top", "mine"]
    assert names(ask(alice, top)) == ["top", "mine", "closed"]


def test_inaccessible_children_are_asked_for_nowhere(alice: User, peer: TellingPeer, other: TellingPeer) -> None:
    secret, lost = peer.child("!secret:x.test", via=[other.name]), peer.child("!lost:x.test", via=[other.name])
    other.tells("!secret:x.test", "secret")
    top = peer.tells(f"!top:{peer.name}", "top", children=[secret, lost], closed=["!secret:x.test", "!no:x.test"])
    assert names(ask(alice, top)) == ["top"]
    assert other.asked_about() == ["!lost:x.test"]


def test_what_the_reader_may_not_know_of_is_left_out_with_what_is_below(
    alice: User, bob: User, peer: TellingPeer
) -> None:
    club = create_room(alice, name="club")
    rooms = {
        "invite": {"join_rule": "invite"},
        "knock": {"join_rule": "knock", "room_version": "10"},
        "old knock": {"join_rule": "knock", "room_version": "6"},
        "readable": {"join_rule": "invite", "world_readable": True},
        "club": {"join_rule": "restricted", "allowed_room_ids": [club]},
        "hidden": {"join_rule": "invite", "room_type": "m.space"},
    }
    ids = {name: f"!{number}:x.test" for number, name in enumerate(rooms)}
    told = [peer.summary(ids[name], name, **more) for name, more in rooms.items()]
    peer.tells(ids["hidden"], "hidden", children=["!below:x.test"], join_rule="invite")
    peer.tells("!below:x.test", "below")
    top = peer.tells(f"!top:{peer.name}", "top", children=list(ids.values()), summaries=told)
    assert names(ask(bob, top)) == ["top", "knock", "readable"]
    assert names(ask(alice, top)) == ["top", "knock", "readable", "club"]
    assert peer.asked_about() == [top]


def test_suggested_children_are_asked_for_and_kept_alone(alice: User, peer: TellingPeer) -> None:
    children = [peer.child("!a:x.test", suggested=True), peer.child("!b:x.test")]
    summaries = [peer.summary("!a:x.test", "a"), peer.summary("!b:x.test", "b")]
    top = peer.tells(f"!top:{peer.name}", "top", children=children, summaries=summaries)
    assert names(ask(alice, top, suggested_only="true")) == ["top", "a"]
    assert peer.paths()[-1].endswith("?suggested_only=true")
    assert names(ask(alice, top)) == ["top", "a", "b"]


def test_a_space_whose_id_names_no_server_is_found_at_the_servers_that_the_client_names(
    alice: User, peer: TellingPeer
) -> None:
    top = peer.tells("!" + "c" * 43, "top", children=["!a:x.test"], summaries=[peer.summary("!a:x.test", "a")])
    assert refusal(ask(alice, top)) == (403, "M_FORBIDDEN")
    assert names(ask(alice, top, via=peer.name)) == ["top", "a"]
    first = ask(alice, top, via=peer.name, limit=1)
    assert names(ask(alice, top, **{"from": first.json["next_batch"]})) == ["a"]


def test_a_space_that_nobody_tells_of_is_refused(alice: User, peer: TellingPeer) -> None:
    for room_id in (TOP.replace("far.test", peer.name), "!none:localhost:1", "!" + "b" * 43):
        assert refusal(ask(alice, room_id)) == (403, "M_FORBIDDEN")
    peer.tells(f"!top:{peer.name}", "top", children=[], join_rule="invite")
    assert refusal(ask(alice, f"!top:{peer.name}")) == (403, "M_FORBIDDEN")


# ── Pages and bounds ────────────────────────────────────────────────────────────────────────────────


def test_pages_over_servers_are_what_one_page_is_and_keep_what_was_told(alice: User, peer: TellingPeer) -> None:
    ids = [f"!r{number:02d}:x.test" for number in range(30)]
    told = [peer.summary(room_id, f"room {number:02d}") for number, room_id in enumerate(ids)]
    top = peer.tells(f"!top:{peer.name}", "top", children=ids, summaries=told)
    everything = ["top", *(f"room {number:02d}" for number in range(30))]
    assert pages(alice, top, limit=100) == [everything]
    remote_hierarchy.forget_hierarchies()
    first = ask(alice, top, limit=4)
    remote_hierarchy.forget_hierarchies()
    peer.spaces.clear()  # the rest comes from the walk
    answers = [first]
    while "next_batch" in answers[-1].json:
        answers.append(ask(alice, top, limit=4, **{"from": answers[-1].json["next_batch"]}))
    assert [name for answer in answers for name in names(answer)] == everything
    assert peer.asked_about() == [top, top]


def test_a_page_asks_about_so_many_rooms_and_the_next_one_goes_on(
    alice: User, peer: TellingPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_hierarchy, "MOST_ASKED", 5)
    ids = [peer.tells(f"!r{number:02d}:x.test", f"room {number:02d}") for number in range(12)]
    top = local_space(alice, *[peer.child(room_id, order=room_id[1:4]) for room_id in ids])
    found = pages(alice, top, limit=100)
    assert [len(page) for page in found] == [6, 5, 2]
    assert [name for page in found for name in page] == ["here", *(f"room {number:02d}" for number in range(12))]
    assert sorted(peer.asked_about()) == ids


def test_a_page_asks_for_so_long_and_several_at_a_time(
    alice: User, peer: TellingPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_hierarchy, "SECONDS", 1.3)
    monkeypatch.setattr(remote_hierarchy, "_REQUEST_S", 1.2)
    peer.slow = 0.5
    ids = [peer.tells(f"!r{number:02d}:x.test", f"room {number:02d}") for number in range(30)]
    top = local_space(alice, *[peer.child(room_id, order=room_id[1:4]) for room_id in ids])
    began = time.monotonic()
    answer = ask(alice, top, limit=100)
    assert time.monotonic() - began < 5
    assert 2 <= len(names(answer)) < 30
    assert "next_batch" in answer.json
    assert 2 <= peer.at_once <= 8
    peer.slow = 0.0
    monkeypatch.setattr(remote_hierarchy, "SECONDS", 12.0)
    rest = ask(alice, top, limit=100, **{"from": answer.json["next_batch"]})
    assert names(answer) + names(rest) == ["here", *(f"room {number:02d}" for number in range(30))]


def test_a_server_that_says_nothing_holds_up_only_its_own_rooms(
    alice: User, peer: TellingPeer, other: TellingPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_hierarchy, "_REQUEST_S", 0.5)
    released = threading.Event()

    def silent(_: BaseHTTPRequestHandler) -> None:
        released.wait(20)

    peer.instead[HIERARCHY + "%21a%3Ax.test"] = silent
    other.tells("!b:x.test", "b")
    top = local_space(alice, peer.child("!a:x.test", order="1"), other.child("!b:x.test", order="2"))
    try:
        assert names(ask(alice, top)) == ["here", "b"]
    finally:
        released.set()


def test_three_servers_are_asked_about_one_room(alice: User, peer: TellingPeer, other: TellingPeer) -> None:
    other.tells(ROOM, "far")
    three = ["localhost:1", "localhost:2", "localhost:3"]
    top = local_space(alice, peer.child(ROOM, via=["example.org", *three, other.name]))
    assert names(ask(alice, top)) == ["here"]
    reachable = local_space(alice, peer.child(ROOM, via=["example.org", *three[:2], other.name]))
    assert names(ask(alice, reachable)) == ["here", "far"]


def test_a_page_ends_before_it_is_too_large_for_an_answer(
    alice: User, peer: TellingPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_hierarchy, "MOST_BYTES", 3000)
    ids = [f"!r{number:02d}:x.test" for number in range(12)]
    told = [peer.summary(room_id, room_id, topic="t" * 900) for room_id in ids]
    top = peer.tells(f"!top:{peer.name}", "top", children=ids, summaries=told)
    found = pages(alice, top, limit=100)
    assert len(found) > 3
    assert [name for page in found for name in page] == ["top", *ids]


def test_a_walk_that_is_too_large_to_be_kept_keeps_the_next_rooms(
    alice: User, peer: TellingPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_hierarchy, "_MOST_STORED_BYTES", 2000)
    ids = [f"!r{number:02d}:x.test" for number in range(40)]
    told = [peer.summary(room_id, room_id, topic="t" * 500) for room_id in ids]
    for room_id in ids:
        peer.tells(room_id, room_id)
    top = peer.tells(f"!top:{peer.name}", "top", children=ids, summaries=told)
    found = [name for page in pages(alice, top, limit=5) for name in page]
    assert found == ["top", *ids][: len(found)]
    assert len(found) > 20
