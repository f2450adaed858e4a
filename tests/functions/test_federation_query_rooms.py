"""How other servers find rooms: spaces, the published directory, aliases."""

from typing import Any

import pytest

from federation_peer import Peer
from functions.asking import (
    Asked,
    asked,
    ban_server,
    create_room,
    members_of,
    peer,
    refusal,
    running_peers,
    set_state,
    stranger,
)
from functions.harness import User
from functions.remote_server import RemoteServer
from functions.rooms import follow
from homeserver.services import served_hierarchy
from homeserver.services.resident_servers import resident_servers

__all__ = ["asked", "peer", "running_peers", "stranger"]

NOT_FOUND = (404, "M_NOT_FOUND")
MISSING = (400, "M_MISSING_PARAM")
INVALID = (400, "M_INVALID_PARAM")
BAD_JSON = (400, "M_BAD_JSON")
SPACE = {"type": "m.space"}


def add_child(user: User, space: str, child: str, **content: Any) -> None:
    answer = set_state(user, space, "m.space.child", {"via": ["example.org"], **content}, child)
    assert answer.status == 200


def restricted(user: User, *to: str, **more: Any) -> str:
    """A private room that the members of other rooms may join."""
    allow = [{"type": "m.room_membership", "room_id": room_id} for room_id in to]
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}
    return create_room(user, preset="private_chat", initial_state=[rule], **more)


@pytest.fixture
def space(alice: User) -> str:
    return create_room(alice, preset="public_chat", name="Space", creation_content=SPACE)


# ── Spaces ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_space_comes_with_its_children_and_the_names_of_those_that_are_closed(
    asked: Asked, peer: Peer, alice: User, space: str
) -> None:
    tea = create_room(alice, preset="public_chat", name="Tea")
    secret = create_room(alice, preset="private_chat", name="Secret")
    known = restricted(alice, space, name="Restricted")
    for order, child in (("a", tea), ("b", secret), ("c", known), ("d", "!elsewhere:other.test")):
        add_child(alice, space, child, order=order)
    answer = asked(peer, "hierarchy", space)
    assert answer.status == 200
    room = answer.json["room"]
    assert (room["room_id"], room["name"], room["room_type"]) == (space, "Space", "m.space")
    assert [child["state_key"] for child in room["children_state"]] == [tea, secret, known, "!elsewhere:other.test"]
    assert [child["room_id"] for child in answer.json["children"]] == [tea]
    assert answer.json["inaccessible_children"] == [secret, known]
    members_of(peer, space)
    follow()
    answer = asked(peer, "hierarchy", space)
    assert [child["room_id"] for child in answer.json["children"]] == [tea, known]
    assert answer.json["children"][1]["allowed_room_ids"] == [space]
    assert answer.json["inaccessible_children"] == [secret]


def test_only_suggested_children_come_where_they_are_asked_for(
    asked: Asked, peer: Peer, alice: User, space: str
) -> None:
    first, second = (create_room(alice, preset="public_chat") for _ in range(2))
    add_child(alice, space, first)
    add_child(alice, space, second, suggested=True)
    answer = asked(peer, "hierarchy", space, suggested_only="true")
    assert [child["room_id"] for child in answer.json["children"]] == [second]
    assert len(answer.json["room"]["children_state"]) == 1
    assert refusal(asked(peer, "hierarchy", space, suggested_only="yes")) == INVALID


def test_a_room_that_is_no_space_has_no_children(asked: Asked, peer: Peer, alice: User) -> None:
    room_id = create_room(alice, preset="public_chat", name="Tea")
    add_child(alice, room_id, create_room(alice, preset="public_chat"))
    answer = asked(peer, "hierarchy", room_id).json
    assert (answer["room"]["children_state"], answer["children"], answer["inaccessible_children"]) == ([], [], [])


def test_grandchildren_are_not_told_and_a_space_is_not_its_own_child(
    asked: Asked, peer: Peer, alice: User, space: str
) -> None:
    below = create_room(alice, preset="public_chat", creation_content=SPACE)
    add_child(alice, below, create_room(alice, preset="public_chat"))
    add_child(alice, space, below)
    add_child(alice, space, space)
    answer = asked(peer, "hierarchy", space).json
    assert [child["room_id"] for child in answer["children"]] == [below]
    assert "children_state" not in answer["children"][0]


def test_a_closed_room_is_told_only_to_servers_in_it(asked: Asked, peer: Peer, stranger: Peer, alice: User) -> None:
    closed = create_room(alice, preset="private_chat", room_version="11")
    assert refusal(asked(peer, "hierarchy", closed)) == NOT_FOUND
    remote = RemoteServer(closed, peer.name)
    carol = remote.user("carol")
    remote.accepted(remote.member(alice.user_id, "invite", carol))
    remote.accepted(remote.join(carol))
    assert asked(peer, "hierarchy", closed).json["room"]["num_joined_members"] == 2
    assert refusal(asked(stranger, "hierarchy", closed)) == NOT_FOUND
    remote.accepted(remote.member(carol, "leave", carol))
    assert refusal(asked(peer, "hierarchy", closed)) == NOT_FOUND


def test_a_room_that_the_world_may_read_is_told_to_every_server(asked: Asked, peer: Peer, alice: User) -> None:
    visibility = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    room_id = create_room(alice, preset="private_chat", initial_state=[visibility])
    assert asked(peer, "hierarchy", room_id).json["room"]["world_readable"] is True


def test_a_server_that_the_acl_shuts_out_is_told_nothing(
    asked: Asked, peer: Peer, stranger: Peer, alice: User, space: str
) -> None:
    tea = create_room(alice, preset="public_chat")
    inside = restricted(alice, tea)
    for child in (tea, inside):
        add_child(alice, space, child)
    members_of(peer, tea)
    follow()
    assert {child["room_id"] for child in asked(peer, "hierarchy", space).json["children"]} == {tea, inside}
    ban_server(alice, tea, peer)
    for _ in range(2):  # by the state; and by what the follower wrote
        answer = asked(peer, "hierarchy", space).json
        assert (answer["children"], set(answer["inaccessible_children"])) == ([], {tea, inside})
        follow()
    ban_server(alice, space, peer)
    assert refusal(asked(peer, "hierarchy", space)) == NOT_FOUND


def test_unknown_rooms_and_what_is_none_have_no_hierarchy(asked: Asked, peer: Peer) -> None:
    assert refusal(asked(peer, "hierarchy", "!unknown:example.org")) == NOT_FOUND
    assert refusal(asked(peer, "hierarchy", "room")) == INVALID


def test_a_very_large_space_comes_with_its_first_children(
    asked: Asked, peer: Peer, alice: User, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = [create_room(alice, preset="public_chat") for _ in range(3)]
    for number, child in enumerate(children):
        add_child(alice, space, child, order=str(number))
    monkeypatch.setattr(served_hierarchy, "MOST_CHILDREN", 2)
    assert [child["room_id"] for child in asked(peer, "hierarchy", space).json["children"]] == children[:2]


# ── The published directory ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def published(alice: User) -> list[str]:
    rooms = [create_room(alice, preset="public_chat", visibility="public", name=name) for name in ("Tea", "Coffee")]
    create_room(alice, preset="public_chat", name="Not listed")
    follow()
    return rooms


def test_another_server_reads_the_directory_in_pages(asked: Asked, peer: Peer, published: list[str]) -> None:
    whole = asked(peer, "publicRooms")
    assert whole.status == 200
    assert {room["room_id"] for room in whole.json["chunk"]} == set(published)
    assert whole.json["total_room_count_estimate"] == 2
    assert asked(peer, "publicRooms", limit=0).json["chunk"] == whole.json["chunk"]
    first = asked(peer, "publicRooms", limit=1, include_all_networks="false").json
    second = asked(peer, "publicRooms", limit=1, since=first["next_batch"]).json
    assert first["chunk"] + second["chunk"] == whole.json["chunk"]
    assert asked(peer, "publicRooms", third_party_instance_id="irc").json["chunk"] == []


def test_another_server_searches_the_directory(asked: Asked, peer: Peer, published: list[str]) -> None:
    found = asked(peer, "publicRooms", body={"filter": {"generic_search_term": "tea"}, "limit": 5})
    assert (found.status, [room["name"] for room in found.json["chunk"]]) == (200, ["Tea"])
    spaces = asked(peer, "publicRooms", body={"filter": {"room_types": ["m.space"]}})
    assert spaces.json["chunk"] == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"limit": -1}, INVALID),
        ({"since": "nowhere"}, INVALID),
        ({"include_all_networks": "maybe"}, INVALID),
        ({"body": {"limit": -1}}, INVALID),
        ({"body": {"limit": "1"}}, BAD_JSON),
        ({"body": {"filter": {"room_types": [1]}}}, BAD_JSON),
        ({"body": {"third_party_instance_id": "irc", "include_all_networks": True}}, INVALID),
    ],
)
def test_the_directory_refuses_what_it_cannot_understand(
    asked: Asked, peer: Peer, query: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert refusal(asked(peer, "publicRooms", **query)) == expected


# ── Aliases ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_alias_leads_to_its_room_and_the_servers_that_have_it(asked: Asked, peer: Peer, alice: User) -> None:
    room_id = create_room(alice, preset="public_chat", room_alias_name="tea", room_version="11")
    answer = asked(peer, "query", "directory", room_alias="#tea:example.org")
    assert (answer.status, answer.json) == (200, {"room_id": room_id, "servers": ["example.org"]})
    remote, carol = members_of(peer, room_id)
    other = RemoteServer(room_id, "b.test")
    other.accepted(other.join(other.user("dave")))
    answer = asked(peer, "query", "directory", room_alias="#tea:example.org").json
    assert (answer["servers"][0], set(answer["servers"])) == ("example.org", {"example.org", peer.name, "b.test"})
    remote.accepted(remote.member(carol, "leave", carol))
    assert resident_servers(room_id) == ["example.org", "b.test"]


def test_aliases_that_are_none_or_of_others_are_not_looked_up(asked: Asked, peer: Peer) -> None:
    assert refusal(asked(peer, "query", "directory")) == MISSING
    assert refusal(asked(peer, "query", "directory", room_alias="tea")) == INVALID
    assert refusal(asked(peer, "query", "directory", room_alias=f"#tea:{peer.name}")) == INVALID
    assert refusal(asked(peer, "query", "directory", room_alias="#none:example.org")) == NOT_FOUND
