"""GET /room_summary/{roomIdOrAlias}, and the names that clients had for it before."""

from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import Answer, User, call, register
from functions.rooms import create_room, follow, path, post, put, request, set_state

pytestmark = pytest.mark.usefixtures("signing_key_of_the_server")
FUNCTION = "client_directory"


def where(*segments: str) -> str:
    return path(*segments).replace("/v3/", "/v1/")


def summary(user: User | None, room_id_or_alias: str, **query: Any) -> Answer:
    token = user.token if user else None
    return request(FUNCTION, "GET", where("room_summary", room_id_or_alias), token=token, query=query or None)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def join_rule(user: User, room_id: str, rule: str, *allowed: str) -> None:
    conditions = [{"type": "m.room_membership", "room_id": other} for other in allowed]
    assert set_state(user, room_id, "m.room.join_rules", {"join_rule": rule, "allow": conditions}).status == 200


def test_a_public_room_is_told_to_anybody_at_once_and_exactly(alice: User, bob: User) -> None:
    encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    room_id = create_room(
        alice,
        preset="public_chat",
        name="Tea",
        topic="x" * 5000,
        room_alias_name="tea",
        room_version="11",
        initial_state=[encryption],
    )
    wanted = {
        "room_id": room_id,
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
        "join_rule": "public",
        "name": "Tea",
        "topic": "x" * 5000,
        "canonical_alias": "#tea:example.org",
        "room_version": "11",
        "encryption": "m.megolm.v1.aes-sha2",
    }
    assert summary(None, room_id).json == wanted
    assert summary(None, "#tea:example.org", via=["one.example", "two.example"]).json == wanted
    assert summary(bob, room_id).json == wanted | {"membership": "leave"}
    post(bob, room_id, "join")
    joined = wanted | {"num_joined_members": 2, "membership": "join"}
    assert summary(bob, "#tea:example.org").json == joined


def test_the_older_names_answer_the_same_with_the_older_keys_beside(alice: User) -> None:
    encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    room_id = create_room(alice, preset="public_chat", room_alias_name="tea", initial_state=[encryption])
    expected = summary(alice, room_id).json
    expected["im.nheko.summary.room_version"] = expected["room_version"]
    expected["im.nheko.summary.encryption"] = "m.megolm.v1.aes-sha2"
    base = "/_matrix/client/unstable/im.nheko.summary"
    for name in (room_id, "%23tea:example.org"):
        for old in (f"{base}/summary/{name}", f"{base}/rooms/{name}/summary"):
            assert call(FUNCTION, "GET", old, token=alice.token).json == expected
            assert call(FUNCTION, "GET", old).status == 200
    assert refusal(call(FUNCTION, "GET", f"{base}/summary/!none:example.org")) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("rule", ["public", "knock", "knock_restricted"])
def test_rooms_that_one_may_enter_or_knock_at_are_told_to_strangers(alice: User, bob: User, rule: str) -> None:
    room_id = create_room(alice)
    join_rule(alice, room_id, rule)
    for user in (None, bob):
        answer = summary(user, room_id)
        assert (answer.status, answer.json["join_rule"]) == (200, rule)


def test_a_room_that_the_world_may_read_is_told_to_strangers(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    for user in (None, bob):
        answer = summary(user, room_id)
        assert (answer.json["join_rule"], answer.json["world_readable"]) == ("invite", True)


@pytest.mark.parametrize("rule", ["invite", "restricted", "private", "org.example.rule"])
def test_closed_rooms_are_unknown_to_strangers(alice: User, bob: User, rule: str) -> None:
    room_id = create_room(alice, name="Secret", room_alias_name="secret")
    join_rule(alice, room_id, rule)
    for user in (None, bob):
        for name in (room_id, "#secret:example.org"):
            assert refusal(summary(user, name)) == (404, "M_NOT_FOUND")
    assert summary(alice, room_id).json["membership"] == "join"


def test_an_old_room_version_knows_no_knocking(alice: User, bob: User) -> None:
    room_id = create_room(alice, room_version="6")
    join_rule(alice, room_id, "knock")
    assert refusal(summary(bob, room_id)) == (404, "M_NOT_FOUND")


def test_who_is_invited_is_told_and_who_was_removed_is_not(alice: User, bob: User) -> None:
    room_id = create_room(alice, name="Secret")
    post(alice, room_id, "invite", {"user_id": bob.user_id})
    assert summary(bob, room_id).json["membership"] == "invite"
    post(bob, room_id, "join")
    post(alice, room_id, "kick", {"user_id": bob.user_id})
    assert refusal(summary(bob, room_id)) == (404, "M_NOT_FOUND")


def test_a_ban_takes_away_what_the_join_rule_gives(alice: User, bob: User) -> None:
    room_id = create_room(alice, preset="public_chat")
    post(alice, room_id, "ban", {"user_id": bob.user_id})
    assert refusal(summary(bob, room_id)) == (404, "M_NOT_FOUND")
    assert summary(None, room_id).status == 200
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    assert summary(bob, room_id).json["membership"] == "ban"


def test_a_restricted_room_is_told_to_members_of_the_rooms_that_it_lets_in(alice: User, bob: User) -> None:
    carol = register("carol")
    club, other, room_id = create_room(alice, bob), create_room(alice, carol), create_room(alice, name="Members")
    join_rule(alice, room_id, "restricted", "!unknown:example.org", club)
    told = summary(bob, room_id)
    assert told.json["allowed_room_ids"] == ["!unknown:example.org", club]
    assert (told.json["join_rule"], told.json["membership"]) == ("restricted", "leave")
    assert other != club
    assert refusal(summary(carol, room_id)) == (404, "M_NOT_FOUND")
    assert refusal(summary(None, room_id)) == (404, "M_NOT_FOUND")
    post(bob, club, "leave")
    assert refusal(summary(bob, room_id)) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    "name",
    ["!none:example.org", "#none:example.org", "#none:elsewhere.org", "!a", "tea", "@alice:example.org", "!a/b:c"],
)
def test_what_is_no_room_here_is_not_found(alice: User, server: Callable[..., None], name: str) -> None:
    server(FEDERATION="off")
    assert refusal(summary(alice, name)) == (404, "M_NOT_FOUND")


def test_a_wrong_token_is_not_taken_for_none(alice: User, call: Callable[..., Answer]) -> None:
    room_id = create_room(alice, preset="public_chat")
    answer = call(FUNCTION, "GET", where("room_summary", room_id), token="syt_wrong")
    assert refusal(answer) == (401, "M_UNKNOWN_TOKEN")


def test_a_member_who_lost_the_power_to_send_is_still_told(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    levels = {"users": {}, "events_default": 100}
    assert put(alice, room_id, "state", "m.room.power_levels", "", body=levels).status == 200
    follow()
    assert summary(bob, room_id).json["num_joined_members"] == 2


def test_a_summary_takes_one_round(alice: User, bob: User) -> None:
    from benchmarks.caches import forget_everything
    from homeserver.observability import metered
    from homeserver.services.find_room import room_summary

    room_id = create_room(alice, preset="public_chat", name="Tea")
    forget_everything()
    with metered() as meter:
        assert room_summary(bob.user_id, room_id)["name"] == "Tea"
    assert (meter.rounds, meter.wru) == (1, 0)
    assert meter.rru <= 11  # head, nine kinds of state, the reader's membership: a unit each, also where there is none
