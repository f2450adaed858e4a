"""Being in rooms: join, invite, leave, kick, ban, unban, forget, joined_rooms, and the profile in a membership."""

from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import SERVER_NAME, Answer, User, invoke, payload, register
from functions.rooms import (
    call,
    create_room,
    events_of,
    follow,
    get,
    membership,
    messages,
    path,
    post,
    put,
    request,
    say,
    send,
    set_state,
    state,
    sync,
)
from homeserver.services.membership import leave_all_rooms

ACTIONS = ["join", "invite", "leave", "kick", "ban", "unban", "forget"]
UNKNOWN_ROOM = f"!unknown:{SERVER_NAME}"


def act(user: User, room_id: str, action: str, target: User, **more: str) -> Answer:
    return post(user, room_id, action, {"user_id": target.user_id, **more})


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def test_documented_payloads_make_a_room_and_join_it() -> None:
    register("alice")
    answer = invoke("client_rooms", payload("client_rooms_create"))
    assert refusal(answer) == (401, "M_UNKNOWN_TOKEN")  # the payload's token is of no user
    answer = invoke("client_rooms", payload("client_rooms_join"))
    assert refusal(answer) == (401, "M_UNKNOWN_TOKEN")


def test_a_member_event_carries_the_reason_and_the_profile(alice: User, bob: User) -> None:
    request("client_user", "PUT", path("profile", bob.user_id, "displayname"), {"displayname": "Bob"}, token=bob.token)
    room_id = create_room(alice)
    assert act(alice, room_id, "invite", bob, reason="Welcome").json == {}
    invited = {"membership": "invite", "displayname": "Bob", "reason": "Welcome"}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == invited
    assert post(bob, room_id, "join", {"reason": "Thanks"}).json == {"room_id": room_id}
    joined = {"membership": "join", "displayname": "Bob", "reason": "Thanks"}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == joined
    assert act(alice, room_id, "kick", bob, reason="Bye").json == {}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {"membership": "leave", "reason": "Bye"}
    assert act(alice, room_id, "ban", bob, reason="Really").json == {}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {"membership": "ban", "reason": "Really"}
    assert act(alice, room_id, "unban", bob, reason="Sorry").json == {}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {"membership": "leave", "reason": "Sorry"}
    shown = get(alice, "rooms", room_id, "state", "m.room.member", bob.user_id, format="event").json
    assert (shown["sender"], shown["state_key"], shown["type"]) == (alice.user_id, bob.user_id, "m.room.member")


@pytest.mark.parametrize(
    ("before", "action", "expected"),
    [
        ("none", "kick", (403, "M_FORBIDDEN")),
        ("leave", "kick", (403, "M_FORBIDDEN")),
        ("ban", "kick", (403, "M_FORBIDDEN")),
        ("invite", "kick", (200, None)),
        ("join", "kick", (200, None)),
        ("none", "unban", (403, "M_FORBIDDEN")),
        ("join", "unban", (403, "M_FORBIDDEN")),
        ("invite", "unban", (403, "M_FORBIDDEN")),
        ("leave", "unban", (403, "M_FORBIDDEN")),
        ("ban", "unban", (200, None)),
        ("none", "ban", (200, None)),
        ("invite", "ban", (200, None)),
        ("join", "ban", (200, None)),
        ("leave", "ban", (200, None)),
        ("ban", "ban", (200, None)),
        ("none", "invite", (200, None)),
        ("leave", "invite", (200, None)),
        ("invite", "invite", (200, None)),
        ("join", "invite", (403, "M_FORBIDDEN")),
        ("ban", "invite", (403, "M_FORBIDDEN")),
    ],
)
def test_what_a_moderator_can_make_of_a_membership(
    alice: User, bob: User, before: str, action: str, expected: tuple[int, str | None]
) -> None:
    room_id = create_room(alice, *([bob] if before in {"join", "leave"} else []))
    if before == "leave":
        post(bob, room_id, "leave")
    elif before in {"invite", "ban"}:
        act(alice, room_id, before, bob)
    assert membership(alice, room_id, bob) == before
    answer = act(alice, room_id, action, bob)
    assert refusal(answer) == expected
    after = {"kick": "leave", "unban": "leave"}.get(action, action) if answer.status == 200 else before
    assert membership(alice, room_id, bob) == after


@pytest.mark.parametrize(
    ("before", "action", "expected"),
    [
        ("none", "join", (403, "M_FORBIDDEN")),
        ("invite", "join", (200, None)),
        ("join", "join", (200, None)),
        ("leave", "join", (403, "M_FORBIDDEN")),
        ("ban", "join", (403, "M_FORBIDDEN")),
        ("none", "leave", (403, "M_FORBIDDEN")),
        ("invite", "leave", (200, None)),
        ("join", "leave", (200, None)),
        ("leave", "leave", (200, None)),
        ("ban", "leave", (403, "M_FORBIDDEN")),
        ("none", "forget", (404, "M_NOT_FOUND")),
        ("invite", "forget", (400, "M_UNKNOWN")),
        ("join", "forget", (400, "M_UNKNOWN")),
        ("leave", "forget", (200, None)),
        ("ban", "forget", (200, None)),
    ],
)
def test_what_users_can_make_of_their_own_membership_in_a_private_room(
    alice: User, bob: User, before: str, action: str, expected: tuple[int, str | None]
) -> None:
    room_id = create_room(alice, *([bob] if before in {"join", "leave"} else []))
    if before == "leave":
        post(bob, room_id, "leave")
    elif before in {"invite", "ban"}:
        act(alice, room_id, before, bob)
    events = events_of(alice, room_id)
    assert refusal(post(bob, room_id, action)) == expected
    after = {"forget": before}.get(action, action) if expected[0] == 200 else before
    assert membership(alice, room_id, bob) == after
    if after == before:
        assert events_of(alice, room_id) == events


def test_repeating_an_invitation_or_a_ban_makes_no_event(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    for action in ("invite", "ban"):
        assert act(alice, room_id, action, bob).status == 200
        events = events_of(alice, room_id)
        assert act(alice, room_id, action, bob, reason="again").status == 200
        assert events_of(alice, room_id) == events


@pytest.mark.parametrize("action", ["invite", "kick", "ban", "unban"])
def test_who_is_not_in_the_room_moderates_nobody_and_learns_nothing(alice: User, bob: User, action: str) -> None:
    carol = register()
    room_id = create_room(alice)
    before = {"kick": "invite", "unban": "ban", "ban": "ban", "invite": "invite"}[action]
    act(alice, room_id, before, carol)
    answer = act(bob, room_id, action, carol)
    assert refusal(answer) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, carol) == before
    # The same for someone of whom the room knows nothing.
    assert refusal(act(bob, room_id, action, bob)) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize("action", ["kick", "ban", "unban", "invite"])
def test_moderation_takes_the_level_of_its_action(alice: User, bob: User, action: str) -> None:
    carol = register()
    room_id = create_room(alice, bob, power_level_content_override={"invite": 50})
    before = {"kick": "invite", "unban": "ban", "ban": "invite", "invite": "none"}[action]
    if before != "none":
        act(alice, room_id, before, carol)
    assert refusal(act(bob, room_id, action, carol)) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, carol) == before
    levels = state(alice, room_id, "m.room.power_levels").json
    assert set_state(alice, room_id, "m.room.power_levels", {**levels, "users": {bob.user_id: 50}}).status == 200
    assert act(bob, room_id, action, carol).status == 200
    assert refusal(act(bob, room_id, "kick" if action != "ban" else "ban", alice)) == (403, "M_FORBIDDEN")


def test_nobody_invites_themselves(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    assert refusal(act(alice, room_id, "invite", alice)) == (403, "M_FORBIDDEN")
    act(alice, room_id, "invite", bob)
    assert refusal(act(bob, room_id, "invite", bob)) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == "invite"


@pytest.mark.parametrize("action", ["invite", "kick", "ban", "unban"])
@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"user_id": None}, "M_MISSING_PARAM"),
        ({"user_id": 1}, "M_BAD_JSON"),
        ({"user_id": "bob"}, "M_INVALID_PARAM"),
        ({"user_id": "@" + "b" * 300 + ":example.org"}, "M_INVALID_PARAM"),
        ({"user_id": "@bob:example.org", "reason": 1}, "M_BAD_JSON"),
        (b"nonsense", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
    ],
)
def test_bodies_that_make_no_sense_are_refused(alice: User, action: str, body: Any, errcode: str) -> None:
    room_id = create_room(alice)
    events = events_of(alice, room_id)
    assert refusal(request("client_rooms", "POST", path("rooms", room_id, action), body, token=alice.token)) == (
        400,
        errcode,
    )
    assert events_of(alice, room_id) == events


def test_without_federation_users_of_other_servers_cannot_be_invited_but_banned(
    alice: User, server: Callable[..., None]
) -> None:
    server(FEDERATION="off")
    room_id = create_room(alice)
    assert refusal(post(alice, room_id, "invite", {"user_id": "@x:else.org"})) == (403, "M_FORBIDDEN")
    content = {"membership": "invite"}
    assert refusal(set_state(alice, room_id, "m.room.member", content, "@x:else.org")) == (403, "M_FORBIDDEN")
    assert post(alice, room_id, "ban", {"user_id": "@x:else.org"}).json == {}
    assert state(alice, room_id, "m.room.member", "@x:else.org").json == {"membership": "ban"}


@pytest.mark.parametrize("action", ACTIONS)
def test_rooms_that_do_not_exist(alice: User, action: str) -> None:
    body = {"user_id": "@bob:example.org"}
    expected = (404, "M_NOT_FOUND") if action in {"join", "forget"} else (403, "M_FORBIDDEN")
    assert refusal(post(alice, UNKNOWN_ROOM, action, body)) == expected
    for malformed in ("#alias:example.org", "!" + "r" * 300 + ":example.org", "!no domain", "!" + "x" * 3000):
        assert refusal(post(alice, malformed, action, body)) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("action", ACTIONS)
def test_a_room_needs_an_access_token(alice: User, action: str) -> None:
    where = path("rooms", create_room(alice), action)
    for token, errcode in ((None, "M_MISSING_TOKEN"), ("wrong", "M_UNKNOWN_TOKEN")):
        assert refusal(request("client_rooms", "POST", where, {}, token=token)) == (401, errcode)


def test_a_room_id_with_a_slash_or_a_question_mark_is_refused_clearly(alice: User) -> None:
    for cut in ("!a%2Fb:example.org", "!a%3Fb:example.org"):
        answer = call("client_rooms", "POST", f"/_matrix/client/v3/rooms/{cut}/join", {}, token=alice.token)
        assert refusal(answer) == (400, "M_INVALID_PARAM")


def test_a_public_room_is_joined_by_id_and_by_alias(alice: User, bob: User) -> None:
    name = "tee & 100% #1 ü/x"
    room_id = create_room(alice, preset="public_chat", room_alias_name=name)
    alias = f"#{name}:{SERVER_NAME}"
    joined = request("client_rooms", "POST", path("join", alias), {"reason": "r"}, token=bob.token)
    assert joined.json == {"room_id": room_id}
    assert state(bob, room_id, "m.room.member", bob.user_id).json == {
        "membership": "join",
        "displayname": "bob",
        "reason": "r",
    }
    carol = register()
    assert request("client_rooms", "POST", path("join", room_id), {}, token=carol.token).json == {"room_id": room_id}
    assert request("client_rooms", "POST", path("join", room_id), token=carol.token).json == {"room_id": room_id}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("#nowhere:example.org", (404, "M_NOT_FOUND")),
        ("#nowhere:else.org", (404, "M_NOT_FOUND")),
        ("#nowhere", (400, "M_INVALID_PARAM")),
        ("nowhere", (400, "M_INVALID_PARAM")),
        ("#" + "a" * 300 + ":example.org", (400, "M_INVALID_PARAM")),
        ("!nowhere:else.org", (404, "M_NOT_FOUND")),
    ],
)
def test_without_federation_some_things_cannot_be_joined(
    alice: User, server: Callable[..., None], target: str, expected: tuple[int, str]
) -> None:
    server(FEDERATION="off")
    assert refusal(request("client_rooms", "POST", path("join", target), {}, token=alice.token)) == expected


def test_joined_rooms_lists_where_the_user_is(alice: User, bob: User) -> None:
    first, second, third = create_room(alice, bob), create_room(alice, bob), create_room(alice, invite=[bob.user_id])
    post(bob, second, "leave")

    def joined(user: User) -> set[str]:
        return set(request("client_rooms", "GET", path("joined_rooms"), token=user.token).json["joined_rooms"])

    assert joined(bob) == {first}
    assert joined(alice) == {first, second, third}
    act(alice, first, "kick", bob)
    follow()
    assert joined(bob) == set()
    assert request("client_rooms", "GET", path("joined_rooms")).errcode == "M_MISSING_TOKEN"


@pytest.mark.usefixtures("set_up")
def test_who_rejoins_is_told_of_the_room_under_the_slot_they_had(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, preset="public_chat")
    other = create_room(bob)
    for _ in range(3):
        assert post(bob, room_id, "leave").status == 200
        assert post(bob, room_id, "join").status == 200
    say(alice, room_id, "back")
    follow()
    assert set(sync(bob)["rooms"]["join"]) == {room_id, other}


@pytest.mark.usefixtures("set_up")
def test_a_forgotten_room_is_closed_until_the_user_joins_again(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, preset="public_chat")
    (sent,) = say(alice, room_id, "hello")
    post(bob, room_id, "leave")
    assert messages(bob, room_id).status == 200
    assert post(bob, room_id, "forget").json == {}
    assert post(bob, room_id, "forget").json == {}
    assert refusal(messages(bob, room_id)) == (403, "M_FORBIDDEN")
    assert refusal(get(bob, "rooms", room_id, "state")) == (403, "M_FORBIDDEN")
    assert refusal(get(bob, "rooms", room_id, "event", sent)) == (404, "M_NOT_FOUND")
    follow()
    assert room_id not in sync(bob, filter={"room": {"include_leave": True}}).get("rooms", {}).get("leave", {})
    assert post(bob, room_id, "join").status == 200
    assert sent in [event["event_id"] for event in messages(bob, room_id).json["chunk"]]


def test_a_banned_user_can_neither_send_nor_come_back_before_the_ban_is_lifted(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, preset="public_chat")
    assert act(alice, room_id, "ban", bob).status == 200
    assert refusal(send(bob, room_id, "x", "1")) == (403, "M_FORBIDDEN")
    assert refusal(post(bob, room_id, "join")) == (403, "M_FORBIDDEN")
    assert act(alice, room_id, "unban", bob).status == 200
    assert post(bob, room_id, "join").status == 200
    assert send(bob, room_id, "x", "1").status == 200


@pytest.mark.usefixtures("set_up")
def test_a_membership_can_be_set_as_a_state_event(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    assert set_state(alice, room_id, "m.room.member", {"membership": "invite"}, bob.user_id).status == 200
    assert set_state(bob, room_id, "m.room.member", {"membership": "join", "x": 1}, bob.user_id).status == 200
    assert state(bob, room_id, "m.room.member", bob.user_id).json == {"membership": "join", "x": 1}
    follow()
    assert room_id in sync(bob)["rooms"]["join"]
    assert set_state(alice, room_id, "m.room.member", {"membership": "leave"}, bob.user_id).status == 200
    assert membership(alice, room_id, bob) == "leave"
    for content in ({}, {"membership": "guest"}, {"membership": 1}):
        assert refusal(set_state(alice, room_id, "m.room.member", content, bob.user_id)) == (403, "M_FORBIDDEN")
    assert refusal(put(alice, room_id, "send", "m.room.member", "1", body={"membership": "join"})) == (
        403,
        "M_FORBIDDEN",
    )


def test_a_new_display_name_shows_in_every_room_and_keeps_what_else_the_membership_says(alice: User, bob: User) -> None:
    room_id, left = create_room(alice, bob), create_room(alice, bob)
    post(bob, left, "leave")
    own = {"membership": "join", "org.example": 1, "displayname": "Old"}
    assert set_state(bob, room_id, "m.room.member", own, bob.user_id).status == 200
    where = path("profile", bob.user_id, "displayname")
    assert request("client_user", "PUT", where, {"displayname": "New"}, token=bob.token).json == {}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {**own, "displayname": "New"}
    assert state(alice, left, "m.room.member", bob.user_id).json == {"membership": "leave"}


def test_who_is_deactivated_leaves_every_room_and_declines_every_invitation(alice: User, bob: User) -> None:
    room_id, invited = create_room(alice, bob), create_room(alice, invite=[bob.user_id])
    follow()
    leave_all_rooms(bob.user_id)
    assert membership(alice, room_id, bob) == "leave"
    assert membership(alice, invited, bob) == "leave"
