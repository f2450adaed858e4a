"""Knocking: who may knock, what members and the knocker see, how a knock ends; and invitations that are not wanted."""

from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import SERVER_NAME, Answer, User, call, invoke, payload, register
from functions.rooms import (
    create_room,
    events_of,
    follow,
    get,
    make,
    membership,
    path,
    post,
    request,
    set_state,
    state,
)
from functions.syncing import Device, sync
from homeserver.storage import invites

pytestmark = pytest.mark.usefixtures("set_up")


def knock(user: User, room: str, body: Any = None, **more: Any) -> Answer:
    return request("client_rooms", "POST", path("knock", room), body or {}, token=user.token, **more)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def room_with(user: User, join_rule: str, **body: Any) -> str:
    rule = {"type": "m.room.join_rules", "content": {"join_rule": join_rule}}
    return create_room(user, initial_state=[rule], **body)


def stripped(events: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    assert len({(event["type"], event["state_key"]) for event in events}) == len(events)
    return {(event["type"], event["state_key"]): event for event in events}


def test_a_documented_payload_knocks() -> None:
    answer = invoke("client_rooms", payload("client_rooms_knock"))
    assert refusal(answer) == (401, "M_UNKNOWN_TOKEN")  # the payload's token is of no user


def test_a_knock_is_a_membership_with_profile_and_reason_that_members_see(alice: User, bob: User) -> None:
    room_id = room_with(alice, "knock")
    follow()
    device = Device(alice)
    device.sync()
    assert knock(bob, room_id, {"reason": "Let me in"}).json == {"room_id": room_id}
    content = {"membership": "knock", "displayname": "bob", "reason": "Let me in"}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == content
    follow()
    (event,) = device.sync()["rooms"]["join"][room_id]["timeline"]["events"]
    assert (event["sender"], event["state_key"], event["content"]) == (bob.user_id, bob.user_id, content)


def test_the_knocker_is_shown_the_room_and_the_knock_and_no_more(alice: User, bob: User) -> None:
    room_id = room_with(alice, "knock", name="Tea", topic="Leaves")
    device = Device(bob)
    device.sync()
    assert knock(bob, room_id).status == 200
    follow()
    rooms = device.sync()["rooms"]
    assert list(rooms) == ["knock"]
    shown = stripped(rooms["knock"][room_id]["knock_state"]["events"])
    assert set(shown) == {
        ("m.room.create", ""),
        ("m.room.name", ""),
        ("m.room.topic", ""),
        ("m.room.join_rules", ""),
        ("m.room.member", bob.user_id),
    }
    assert shown["m.room.name", ""]["content"] == {"name": "Tea"}
    assert shown["m.room.member", bob.user_id]["content"]["membership"] == "knock"
    assert list(device.sync()) == ["next_batch"]
    assert list(sync(bob)["rooms"]) == ["knock"]  # another device of the same user
    for where in ("messages", "members"):
        assert refusal(get(bob, "rooms", room_id, where, **({"dir": "b"} if where == "messages" else {}))) == (
            403,
            "M_FORBIDDEN",
        )


def test_a_room_is_knocked_at_by_alias_and_through_servers_that_are_named(alice: User, bob: User) -> None:
    room_id = room_with(alice, "knock", room_alias_name="tea")
    answer = knock(bob, f"#tea:{SERVER_NAME}", query={"via": [SERVER_NAME, "else.org"], "server_name": "else.org"})
    assert answer.json == {"room_id": room_id}
    assert membership(alice, room_id, bob) == "knock"


def test_knocking_twice_makes_one_event(alice: User, bob: User) -> None:
    room_id = room_with(alice, "knock")
    assert knock(bob, room_id).status == 200
    events = events_of(alice, room_id)
    assert knock(bob, room_id, {"reason": "please"}).json == {"room_id": room_id}
    assert events_of(alice, room_id) == events


@pytest.mark.parametrize("version", ["7", "10", "12"])
def test_rooms_of_version_7_and_later_can_be_knocked_at(alice: User, bob: User, version: str) -> None:
    assert knock(bob, room_with(alice, "knock", room_version=version)).status == 200


@pytest.mark.parametrize(
    ("join_rule", "version"),
    [
        ("invite", "12"),
        ("public", "12"),
        ("restricted", "12"),
        ("knock", "6"),
        ("knock_restricted", "9"),
        ("private", "12"),
    ],
)
def test_a_room_that_is_not_set_up_for_it_cannot_be_knocked_at(
    alice: User, bob: User, join_rule: str, version: str
) -> None:
    room_id = room_with(alice, join_rule, room_version=version)
    assert refusal(knock(bob, room_id)) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == "none"


@pytest.mark.parametrize("before", ["join", "invite", "ban"])
def test_who_is_in_invited_or_banned_cannot_knock(alice: User, bob: User, before: str) -> None:
    room_id = room_with(alice, "knock")
    post(alice, room_id, "ban" if before == "ban" else "invite", {"user_id": bob.user_id})
    if before == "join":
        post(bob, room_id, "join")
    assert refusal(knock(bob, room_id)) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == before


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (f"!nowhere:{SERVER_NAME}", (404, "M_NOT_FOUND")),
        (f"#nowhere:{SERVER_NAME}", (404, "M_NOT_FOUND")),
        ("#nowhere:else.org", (404, "M_NOT_FOUND")),
        ("nowhere", (400, "M_INVALID_PARAM")),
        ("#nowhere", (400, "M_INVALID_PARAM")),
        ("!" + "r" * 300 + ":example.org", (400, "M_INVALID_PARAM")),
    ],
)
def test_without_federation_what_is_no_room_here_cannot_be_knocked_at(
    alice: User, server: Callable[..., None], room: str, expected: tuple[int, str]
) -> None:
    server(FEDERATION="off")
    assert refusal(knock(alice, room)) == expected


@pytest.mark.parametrize(
    ("body", "errcode"), [({"reason": 1}, "M_BAD_JSON"), (b"nonsense", "M_NOT_JSON"), (b"[]", "M_BAD_JSON")]
)
def test_a_knock_that_makes_no_sense_is_refused(alice: User, bob: User, body: Any, errcode: str) -> None:
    room_id = room_with(alice, "knock")
    assert refusal(knock(bob, room_id, body)) == (400, errcode)
    assert membership(alice, room_id, bob) == "none"


def test_a_knock_needs_an_access_token(alice: User) -> None:
    where = path("knock", room_with(alice, "knock"))
    for token, errcode in ((None, "M_MISSING_TOKEN"), ("wrong", "M_UNKNOWN_TOKEN")):
        assert refusal(request("client_rooms", "POST", where, {}, token=token)) == (401, errcode)


def test_an_invitation_answers_the_knock_and_the_join_needs_it(alice: User, bob: User) -> None:
    room_id = room_with(alice, "knock")
    device = Device(bob)
    knock(bob, room_id)
    follow()
    device.sync()
    assert refusal(post(bob, room_id, "join")) == (403, "M_FORBIDDEN")
    assert post(alice, room_id, "invite", {"user_id": bob.user_id}).status == 200
    follow()
    assert list(device.sync()["rooms"]) == ["invite"]
    assert post(bob, room_id, "join").status == 200
    assert list(device.sync()["rooms"]) == ["join"]
    follow()
    assert "knock" not in sync(bob)["rooms"]


@pytest.mark.parametrize("ending", ["leave", "kick", "ban"])
def test_a_knock_that_is_taken_back_or_turned_down_is_told_as_left(alice: User, bob: User, ending: str) -> None:
    room_id = room_with(alice, "knock")
    phone, tablet = Device(bob), Device(bob)
    knock(bob, room_id)
    follow()
    for device in (phone, tablet):
        assert list(device.sync()["rooms"]) == ["knock"]
    body = {"reason": "no"} | ({} if ending == "leave" else {"user_id": bob.user_id})
    assert post(bob if ending == "leave" else alice, room_id, ending, body).status == 200
    follow()
    for device in (phone, tablet):
        rooms = device.sync()["rooms"]
        assert list(rooms) == ["leave"]
        (event,) = rooms["leave"][room_id]["timeline"]["events"]
        assert event["content"] == {"membership": "ban" if ending == "ban" else "leave", "reason": "no"}
        assert list(device.sync()) == ["next_batch"]
    assert "rooms" not in sync(bob)
    assert knock(bob, room_id).status == (403 if ending == "ban" else 200)


def test_a_pending_knock_cannot_be_forgotten_and_one_that_was_taken_back_can(alice: User, bob: User) -> None:
    room_id = room_with(alice, "knock")
    knock(bob, room_id)
    assert refusal(post(bob, room_id, "forget")) == (400, "M_UNKNOWN")
    post(bob, room_id, "leave")
    assert post(bob, room_id, "forget").json == {}
    assert knock(bob, room_id).status == 200
    follow()
    assert list(sync(bob)["rooms"]) == ["knock"]


def test_who_left_knocks_is_let_in_again_and_is_told_each_step(alice: User, bob: User) -> None:
    room_id = room_with(alice, "knock", invite=[bob.user_id])
    post(bob, room_id, "join")
    post(bob, room_id, "leave")
    device = Device(bob)
    device.sync()
    seen = []
    for step in (
        lambda: knock(bob, room_id),
        lambda: post(alice, room_id, "invite", {"user_id": bob.user_id}),
        lambda: post(bob, room_id, "join"),
        lambda: post(bob, room_id, "leave"),
        lambda: knock(bob, room_id),
    ):
        assert step().status == 200
        follow()
        seen += list(device.sync()["rooms"])
    assert seen == ["knock", "invite", "join", "leave", "knock"]


def test_a_knock_can_be_set_as_a_state_event_and_for_nobody_else(alice: User, bob: User) -> None:
    room_id = room_with(alice, "knock")
    carol = register()
    assert refusal(set_state(carol, room_id, "m.room.member", {"membership": "knock"}, bob.user_id)) == (
        403,
        "M_FORBIDDEN",
    )
    assert set_state(bob, room_id, "m.room.member", {"membership": "knock"}, bob.user_id).status == 200
    assert membership(alice, room_id, bob) == "knock"


def test_knocks_and_invitations_share_one_bounded_store_and_pending_ones_outlast_ended_ones(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invites, "MOST_INVITES", 3)
    ended, first, second, third = (room_with(alice, "knock") for _ in range(4))
    for room_id in (first, second, ended):
        knock(bob, room_id)
        follow()
    post(bob, ended, "leave")
    follow()
    post(alice, third, "invite", {"user_id": bob.user_id})
    follow()
    kept = {invite.room_id: invite.membership for invite in invites.invites_of(bob.user_id)}
    assert kept == {first: "knock", second: "knock", third: "invite"}


def test_what_an_inbox_shows_of_a_room_is_bounded(alice: User, bob: User) -> None:
    room_id = room_with(alice, "knock", name="Tea", topic="x" * 20_000)
    assert knock(bob, room_id, {"reason": "y" * 20_000}).status == 200
    assert len(state(alice, room_id, "m.room.member", bob.user_id).json["reason"]) == 20_000
    follow()
    shown = stripped(sync(bob)["rooms"]["knock"][room_id]["knock_state"]["events"])
    assert {("m.room.create", ""), ("m.room.name", "")} <= set(shown)
    assert ("m.room.topic", "") not in shown
    assert shown["m.room.member", bob.user_id]["content"] == {"membership": "knock"}


# ── Invitations that are not wanted ─────────────────────────────────────────────────────────────────


def want_invites(user: User, content: Any) -> None:
    where = path("user", user.user_id, "account_data", "m.invite_permission_config")
    assert request("client_user", "PUT", where, content, token=user.token).status == 200


def invitations(alice: User, bob: User, room_id: str) -> list[tuple[int, str | None]]:
    """What the three ways to invite answer."""
    return [
        refusal(post(alice, room_id, "invite", {"user_id": bob.user_id})),
        refusal(set_state(alice, room_id, "m.room.member", {"membership": "invite"}, bob.user_id)),
        refusal(make(alice, invite=[bob.user_id])),
    ]


def test_who_blocks_invitations_gets_none(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    want_invites(bob, {"default_action": "block"})
    assert invitations(alice, bob, room_id) == [(403, "M_INVITE_BLOCKED")] * 3
    assert membership(alice, room_id, bob) == "none"
    joined = request("client_rooms", "GET", path("joined_rooms"), token=alice.token).json["joined_rooms"]
    assert joined == [room_id]


@pytest.mark.parametrize("content", [{}, {"default_action": "allow"}, {"default_action": 1}, {"default_action": None}])
def test_anything_but_block_lets_invitations_through(alice: User, bob: User, content: Any) -> None:
    want_invites(bob, {"default_action": "block"})
    want_invites(bob, content)
    assert [status for status, _ in invitations(alice, bob, create_room(alice))] == [200, 200, 200]


def test_who_may_not_invite_does_not_learn_who_blocks_invitations(alice: User, bob: User) -> None:
    carol = register()
    room_id = create_room(alice)
    want_invites(bob, {"default_action": "block"})
    assert refusal(post(carol, room_id, "invite", {"user_id": bob.user_id})) == (403, "M_FORBIDDEN")


def test_an_invitation_of_before_the_block_can_still_be_accepted(alice: User, bob: User) -> None:
    room_id = create_room(alice, invite=[bob.user_id])
    want_invites(bob, {"default_action": "block"})
    assert post(alice, room_id, "invite", {"user_id": bob.user_id}).status == 200  # there is nothing to do
    assert post(bob, room_id, "join").status == 200


def test_a_kick_is_answered_once_and_a_second_one_finds_nobody(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    assert post(alice, room_id, "kick", {"user_id": bob.user_id}).status == 200
    events = events_of(alice, room_id)
    assert refusal(post(alice, room_id, "kick", {"user_id": bob.user_id})) == (403, "M_FORBIDDEN")
    assert events_of(alice, room_id) == events


def test_a_direct_chat_says_so_in_its_invitations(alice: User, bob: User) -> None:
    room_id = make(alice, invite=[bob.user_id], is_direct=True).json["room_id"]
    assert state(alice, room_id, "m.room.member", bob.user_id).json["is_direct"] is True
    follow()
    events = stripped(sync(bob)["rooms"]["invite"][room_id]["invite_state"]["events"])
    assert events["m.room.member", bob.user_id]["content"]["is_direct"] is True


def test_the_old_path_of_knocking_is_answered_too(alice: User, bob: User) -> None:
    room_id = room_with(alice, "knock")
    assert call("client_rooms", "POST", f"/_matrix/client/r0/knock/{room_id}", {}, token=bob.token).status == 200
