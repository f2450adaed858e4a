"""Room aliases: /directory/room/{roomAlias} and /rooms/{roomId}/aliases."""

from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import SERVER_NAME, Answer, User, register
from functions.rooms import create_room, path, post, request, set_state, state

ALIAS = f"#tea:{SERVER_NAME}"


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def point(user: User, alias: str, room_id: Any) -> Answer:
    body = {"room_id": room_id}
    return request("client_rooms", "PUT", path("directory", "room", alias), body, token=user.token)


def look_up(alias: str) -> Answer:
    return request("client_rooms", "GET", path("directory", "room", alias))


def remove(user: User, alias: str) -> Answer:
    return request("client_rooms", "DELETE", path("directory", "room", alias), token=user.token)


def aliases(user: User, room_id: str) -> Answer:
    return request("client_rooms", "GET", path("rooms", room_id, "aliases"), token=user.token)


@pytest.mark.parametrize("name", ["tea", "a b", "a/b", "100%", "#1", "\u00fcber", "\U0001f375", "%2F", "tea?"])
def test_an_alias_is_made_looked_up_listed_and_removed(alice: User, name: str) -> None:
    room_id, alias = create_room(alice), f"#{name}:{SERVER_NAME}"
    if "?" in name:  # what follows it does not reach a Lambda function
        assert refusal(point(alice, alias, room_id)) == (400, "M_INVALID_PARAM")
        return
    assert point(alice, alias, room_id).json == {}
    assert look_up(alias).json == {"room_id": room_id, "servers": [SERVER_NAME]}
    assert aliases(alice, room_id).json == {"aliases": [alias]}
    assert remove(alice, alias).json == {}
    assert refusal(look_up(alias)) == (404, "M_NOT_FOUND")
    assert aliases(alice, room_id).json == {"aliases": []}
    assert refusal(remove(alice, alias)) == (404, "M_NOT_FOUND")


def test_an_alias_points_to_one_room_until_it_is_removed(alice: User, bob: User) -> None:
    first, second = create_room(alice), create_room(bob)
    assert point(alice, ALIAS, first).status == 200
    assert refusal(point(bob, ALIAS, second)) == (409, "M_UNKNOWN")
    assert refusal(point(alice, ALIAS, first)) == (409, "M_UNKNOWN")
    assert look_up(ALIAS).json["room_id"] == first
    assert aliases(bob, second).json == {"aliases": []}
    assert remove(alice, ALIAS).status == 200
    assert point(bob, ALIAS, second).status == 200
    assert look_up(ALIAS).json["room_id"] == second


@pytest.mark.parametrize("alias", ["tea", "#tea", "#tea:else.org", "#" + "a" * 300 + ":example.org", "#:example.org"])
def test_what_is_no_alias_of_this_server_cannot_be_made(alice: User, alias: str) -> None:
    assert refusal(point(alice, alias, create_room(alice))) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("#nowhere:example.org", (404, "M_NOT_FOUND")),
        ("#tea:else.org", (404, "M_NOT_FOUND")),
        ("tea", (400, "M_INVALID_PARAM")),
        ("#tea", (400, "M_INVALID_PARAM")),
        ("#" + "a" * 3000 + ":example.org", (400, "M_INVALID_PARAM")),
    ],
)
def test_without_federation_some_aliases_lead_nowhere(
    alice: User, server: Callable[..., None], alias: str, expected: tuple[int, str]
) -> None:
    server(FEDERATION="off")
    assert refusal(look_up(alias)) == expected
    assert refusal(remove(alice, alias)) == expected


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"room_id": 1}, "M_BAD_JSON"),
        ({"room_id": "tea"}, "M_INVALID_PARAM"),
        ({"room_id": "!" + "r" * 300 + ":example.org"}, "M_INVALID_PARAM"),
        (b"x", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
    ],
)
def test_an_alias_needs_a_room(alice: User, body: Any, errcode: str) -> None:
    where = path("directory", "room", ALIAS)
    assert refusal(request("client_rooms", "PUT", where, body, token=alice.token)) == (400, errcode)
    assert look_up(ALIAS).status == 404


def test_only_members_give_a_room_an_alias(alice: User, bob: User) -> None:
    room_id = create_room(alice, invite=[bob.user_id])
    for room in (room_id, "!unknown:example.org"):
        assert refusal(point(bob, ALIAS, room)) == (403, "M_FORBIDDEN")
    post(bob, room_id, "join")
    assert point(bob, ALIAS, room_id).status == 200


def test_an_alias_is_removed_by_who_made_it_or_may_set_the_canonical_one(alice: User, bob: User) -> None:
    carol, stranger = register(), register()
    room_id = create_room(alice, bob, carol)
    assert point(bob, ALIAS, room_id).status == 200
    for nobody in (carol, stranger):
        assert refusal(remove(nobody, ALIAS)) == (403, "M_FORBIDDEN")
    assert look_up(ALIAS).status == 200
    levels = state(alice, room_id, "m.room.power_levels").json
    assert set_state(alice, room_id, "m.room.power_levels", {**levels, "users": {carol.user_id: 50}}).status == 200
    assert remove(carol, ALIAS).status == 200
    assert point(bob, ALIAS, room_id).status == 200
    post(bob, room_id, "leave")
    assert remove(bob, ALIAS).status == 200


def test_the_aliases_of_a_room_are_for_members_unless_the_world_may_read_it(alice: User, bob: User) -> None:
    room_id = create_room(alice, room_alias_name="tea", invite=[bob.user_id])
    assert refusal(aliases(bob, room_id)) == (403, "M_FORBIDDEN")
    assert refusal(aliases(bob, "!unknown:example.org")) == (403, "M_FORBIDDEN")
    assert refusal(aliases(bob, "!" + "r" * 3000)) == (400, "M_INVALID_PARAM")
    content = {"history_visibility": "world_readable"}
    assert set_state(alice, room_id, "m.room.history_visibility", content).status == 200
    assert aliases(bob, room_id).json == {"aliases": [ALIAS]}


@pytest.mark.parametrize(("token", "errcode"), [(None, "M_MISSING_TOKEN"), ("wrong", "M_UNKNOWN_TOKEN")])
def test_looking_up_needs_no_token_and_all_else_does(token: str | None, errcode: str) -> None:
    alias, room = path("directory", "room", ALIAS), path("rooms", "!r:example.org", "aliases")
    for method, where in (("PUT", alias), ("DELETE", alias), ("GET", room)):
        assert refusal(request("client_rooms", method, where, {}, token=token)) == (401, errcode)
    assert look_up(ALIAS).status == 404
