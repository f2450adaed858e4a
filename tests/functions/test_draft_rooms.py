"""Rooms of the 2014 draft: making them, who may come in and who may make others leave, typing, names."""

from typing import Any

import pytest

from functions.draft import draft_room, post, put, refusal
from functions.draft_reading import ok
from functions.ephemeral import announced, item_of, news, typing_in
from functions.harness import User, call, register
from functions.rooms import create_room, event, events_of, follow, membership, messages, state
from functions.rooms import post as modern
from homeserver.services import typing
from homeserver.storage.published_rooms import read_page


@pytest.fixture
def carol() -> User:
    return register("carol")


# ── createRoom ───────────────────────────────────────────────────────────────


def test_a_room_has_what_it_was_made_with(alice: User, bob: User) -> None:
    body = {"visibility": "public", "room_alias_name": "pub", "name": "Pub", "topic": "t", "invite": [bob.user_id]}
    answer = post(alice, "createRoom", **body)
    room_id = answer.json["room_id"]
    assert answer.json == {"room_id": room_id, "room_alias": "#pub:example.org"}
    assert state(alice, room_id, "m.room.name").json == {"name": "Pub"}
    assert state(alice, room_id, "m.room.topic").json["topic"] == "t"
    assert state(alice, room_id, "m.room.canonical_alias").json == {"alias": "#pub:example.org"}
    assert state(alice, room_id, "m.room.join_rules").json == {"join_rule": "public"}
    assert membership(alice, room_id, bob) == "invite"
    follow()
    assert [room.chunk["room_id"] for room in read_page(None, backwards=False, limit=5)] == [room_id]


@pytest.mark.parametrize("body", [{}, {"visibility": "private"}, {"visibility": None}])
def test_a_room_is_private_unless_it_is_said_to_be_public(alice: User, body: dict[str, Any]) -> None:
    room_id = post(alice, "createRoom", **body).json["room_id"]
    assert state(alice, room_id, "m.room.join_rules").json == {"join_rule": "invite"}
    follow()
    assert read_page(None, backwards=False, limit=5) == []


def test_a_room_without_an_alias_names_none(alice: User) -> None:
    assert set(post(alice, "createRoom").json) == {"room_id"}


def test_words_of_today_mean_nothing_in_the_draft(alice: User) -> None:
    room_id = post(alice, "createRoom", preset="public_chat", room_version="1").json["room_id"]
    assert state(alice, room_id, "m.room.join_rules").json == {"join_rule": "invite"}
    assert state(alice, room_id, "m.room.create").json["room_version"] != "1"


def test_nobody_who_is_no_user_is_invited_to_a_new_room(alice: User) -> None:
    assert refusal(post(alice, "createRoom", invite=["bob"])) == (400, "M_INVALID_PARAM")


# ── Rooms of two ─────────────────────────────────────────────────────────────


def test_two_who_ask_for_each_other_get_one_room(alice: User, bob: User) -> None:
    first = post(alice, "createRoom", direct_to=bob.user_id)
    assert post(bob, "createRoom", direct_to=alice.user_id).json == first.json
    assert post(alice, "createRoom", direct_to=bob.user_id).json == first.json
    room_id = first.json["room_id"]
    assert membership(alice, room_id, bob) == "invite"
    assert state(alice, room_id, "m.room.member", bob.user_id).json["is_direct"] is True
    assert state(alice, room_id, "m.room.join_rules").json == {"join_rule": "invite"}


def test_a_room_that_one_of_the_two_has_left_is_theirs_no_more(alice: User, bob: User) -> None:
    first = post(alice, "createRoom", direct_to=bob.user_id).json["room_id"]
    assert post(bob, "rooms", first, "join").status == 200
    assert post(bob, "rooms", first, "leave").json == {}
    second = post(alice, "createRoom", direct_to=bob.user_id).json["room_id"]
    assert second != first
    assert post(bob, "createRoom", direct_to=alice.user_id).json == {"room_id": second}


def test_a_room_with_a_third_person_in_it_is_no_room_of_two(alice: User, bob: User, carol: User) -> None:
    first = post(alice, "createRoom", direct_to=bob.user_id).json["room_id"]
    assert post(bob, "rooms", first, "join").status == 200
    assert post(alice, "rooms", first, "invite", user_id=carol.user_id).json == {}
    assert post(alice, "createRoom", direct_to=bob.user_id).json["room_id"] == first
    assert post(carol, "rooms", first, "join").status == 200
    assert post(alice, "createRoom", direct_to=bob.user_id).json["room_id"] != first


def test_a_direct_room_of_todays_clients_is_found(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, is_direct=True)
    gone = create_room(alice, is_direct=True)
    path = f"/_matrix/client/v3/user/{alice.user_id}/account_data/m.direct"
    body = {bob.user_id: [gone, room_id, 7], "@x:example.org": [gone]}
    assert call("client_user", "PUT", path, body, token=alice.token).status == 200
    assert post(alice, "createRoom", direct_to=bob.user_id).json == {"room_id": room_id}


# ── Memberships: the matrix of 2014 ──────────────────────────────────────────


def test_a_room_is_joined_by_id_and_by_alias(alice: User, bob: User, carol: User) -> None:
    room_id = draft_room(alice, visibility="public", room_alias_name="a/b")
    assert post(bob, "join", room_id).json == {"room_id": room_id}
    assert post(carol, "join", "#a/b:example.org").json == {"room_id": room_id}
    assert post(carol, "rooms", room_id, "join").json == {"room_id": room_id}


def test_an_alias_is_joined_at_its_own_endpoint(alice: User) -> None:
    draft_room(alice, visibility="public", room_alias_name="pub")
    assert refusal(post(alice, "rooms", "#pub:example.org", "join")) == (400, "M_INVALID_PARAM")


def test_a_room_that_lets_one_not_in_is_as_one_that_does_not_exist(alice: User, bob: User) -> None:
    room_id = draft_room(alice, room_alias_name="secret")
    unknown = post(bob, "rooms", "!" + "x" * 43, "join")
    assert refusal(unknown) == (404, "M_NOT_FOUND")
    for answer in (
        post(bob, "rooms", room_id, "join"),
        post(bob, "join", room_id),
        post(bob, "join", "#secret:example.org"),
        put(bob, "rooms", room_id, "join", "t1"),
        put(bob, "rooms", room_id, "state", "m.room.member", bob.user_id, membership="join"),
    ):
        assert refusal(answer) == (404, "M_NOT_FOUND")
    assert refusal(modern(bob, room_id, "join")) == (403, "M_FORBIDDEN")
    assert refusal(post(bob, "join", "#nothing:example.org")) == (404, "M_NOT_FOUND")


def test_a_banned_user_knows_the_room_and_is_forbidden_to_join(alice: User, bob: User) -> None:
    room_id = draft_room(alice, bob, visibility="public")
    assert post(alice, "rooms", room_id, "ban", user_id=bob.user_id, reason="no").json == {}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {"membership": "ban", "reason": "no"}
    assert refusal(post(bob, "rooms", room_id, "join")) == (403, "M_FORBIDDEN")


def test_who_is_not_in_a_room_invites_nobody(alice: User, bob: User, carol: User) -> None:
    room_id = draft_room(alice)
    assert refusal(post(bob, "rooms", room_id, "invite", user_id=carol.user_id)) == (403, "M_FORBIDDEN")
    assert refusal(put(bob, "rooms", room_id, "invite", "t", user_id=carol.user_id)) == (403, "M_FORBIDDEN")
    body = {"membership": "invite"}
    answer = put(bob, "rooms", room_id, "state", "m.room.member", carol.user_id, **body)
    assert refusal(answer) == (403, "M_FORBIDDEN")


def test_who_is_in_a_room_is_not_invited_to_it(alice: User, bob: User) -> None:
    room_id = draft_room(alice, bob)
    assert refusal(post(alice, "rooms", room_id, "invite", user_id=bob.user_id)) == (403, "M_FORBIDDEN")


def test_an_invitation_again_changes_nothing(alice: User, bob: User) -> None:
    room_id = draft_room(alice)
    assert post(alice, "rooms", room_id, "invite", user_id=bob.user_id).json == {}
    before = events_of(alice, room_id)
    assert post(alice, "rooms", room_id, "invite", user_id=bob.user_id).json == {}
    assert events_of(alice, room_id) == before


def test_a_user_comes_back_after_leaving_only_if_invited(alice: User, bob: User) -> None:
    room_id = draft_room(alice, bob)
    assert post(bob, "rooms", room_id, "leave").json == {}
    assert refusal(post(bob, "rooms", room_id, "join")) == (404, "M_NOT_FOUND")
    assert post(alice, "rooms", room_id, "invite", user_id=bob.user_id).json == {}
    assert post(bob, "rooms", room_id, "join").json == {"room_id": room_id}
    assert membership(alice, room_id, bob) == "join"


def test_a_ban_takes_the_level_for_it_and_ends_by_leave(alice: User, bob: User, carol: User) -> None:
    room_id = draft_room(alice, bob, carol)
    assert refusal(post(bob, "rooms", room_id, "ban", user_id=carol.user_id)) == (403, "M_FORBIDDEN")
    assert post(alice, "rooms", room_id, "ban", user_id=carol.user_id).json == {}
    leave = {"membership": "leave"}
    lifted = ("rooms", room_id, "state", "m.room.member", carol.user_id)
    assert refusal(put(bob, *lifted, **leave)) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, carol) == "ban"
    assert put(alice, *lifted, **leave).json == {}
    assert membership(alice, room_id, carol) == "leave"
    assert post(alice, "rooms", room_id, "invite", user_id=carol.user_id).json == {}


def test_a_kick_lifts_a_ban_too_as_both_are_leave(alice: User, bob: User) -> None:
    room_id = draft_room(alice, bob)
    assert post(alice, "rooms", room_id, "ban", user_id=bob.user_id).json == {}
    assert post(alice, "rooms", room_id, "kick", user_id=bob.user_id, reason="forgiven").json == {}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {"membership": "leave", "reason": "forgiven"}


def test_a_kick_takes_the_level_for_it(alice: User, bob: User, carol: User) -> None:
    room_id = draft_room(alice, bob, carol)
    assert refusal(post(bob, "rooms", room_id, "kick", user_id=carol.user_id)) == (403, "M_FORBIDDEN")
    assert post(alice, "rooms", room_id, "kick", user_id=carol.user_id).json == {}
    assert membership(alice, room_id, carol) == "leave"


@pytest.mark.parametrize("action", ["kick", "ban"])
def test_the_same_membership_again_changes_nothing(alice: User, bob: User, action: str) -> None:
    room_id = draft_room(alice, bob)
    assert post(alice, "rooms", room_id, action, user_id=bob.user_id).json == {}
    before = events_of(alice, room_id)
    assert post(alice, "rooms", room_id, action, user_id=bob.user_id).json == {}
    assert events_of(alice, room_id) == before


def test_only_who_may_kick_learns_that_somebody_has_left(alice: User, bob: User, carol: User) -> None:
    room_id = draft_room(alice, bob, carol)
    assert post(carol, "rooms", room_id, "leave").json == {}
    stranger = register()
    assert refusal(post(bob, "rooms", room_id, "kick", user_id=carol.user_id)) == (403, "M_FORBIDDEN")
    assert refusal(post(stranger, "rooms", room_id, "kick", user_id=carol.user_id)) == (403, "M_FORBIDDEN")
    assert post(alice, "rooms", room_id, "kick", user_id=carol.user_id).json == {}


def test_who_never_was_there_cannot_be_kicked(alice: User, bob: User) -> None:
    room_id = draft_room(alice)
    assert refusal(post(alice, "rooms", room_id, "kick", user_id=bob.user_id)) == (403, "M_FORBIDDEN")
    assert refusal(post(bob, "rooms", room_id, "leave")) == (403, "M_FORBIDDEN")


def test_who_kicks_themselves_leaves(alice: User, bob: User) -> None:
    room_id = draft_room(alice, bob)
    assert post(bob, "rooms", room_id, "kick", user_id=bob.user_id).json == {}
    assert membership(alice, room_id, bob) == "leave"


def test_memberships_by_raw_state_do_what_their_endpoints_do(alice: User, bob: User) -> None:
    room_id = draft_room(alice)

    def member(user: User, of: User, **content: Any) -> Any:
        return put(user, "rooms", room_id, "state", "m.room.member", of.user_id, **content)

    assert put(bob, "profile", bob.user_id, "displayname", displayname="Bob").json == {}
    assert member(alice, bob, membership="invite").json == {}
    assert refusal(member(alice, bob, membership="join")) == (403, "M_FORBIDDEN")
    assert member(bob, bob, membership="join", displayname="forged").json == {}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {"membership": "join", "displayname": "Bob"}
    before = events_of(alice, room_id)
    assert member(bob, bob, membership="join").json == {}
    assert events_of(alice, room_id) == before
    assert member(alice, bob, membership="ban", reason="x").json == {}
    assert member(alice, bob, membership="leave").json == {}
    assert membership(alice, room_id, bob) == "leave"


@pytest.mark.parametrize("content", [{}, {"membership": "knock"}, {"membership": 7}, {"membership": "here"}])
def test_what_is_no_membership_of_the_draft_is_bad_json(alice: User, content: dict[str, Any]) -> None:
    room_id = draft_room(alice)
    answer = put(alice, "rooms", room_id, "state", "m.room.member", alice.user_id, **content)
    assert refusal(answer) == (400, "M_BAD_JSON")


# ── Events ───────────────────────────────────────────────────────────────────


def test_a_message_of_2014_is_kept_word_for_word(alice: User, bob: User) -> None:
    room_id = draft_room(alice, bob)
    content = {
        "msgtype": "m.image",
        "body": "cat",
        "url": "http://pictures.test/cat.png",
        "info": {"w": 640, "h": 480, "mimetype": "image/png", "size": 90000},
        "thumbnail_url": "http://pictures.test/t.png",
        "thumbanil_info": {"w": 32},
        "sender_ts": 1_400_000_000_000,
    }
    event_id = post(alice, "rooms", room_id, "send", "m.room.message", **content).json["event_id"]
    # What clients of today get is what was sent: mirrored thumbnails are for clients of the draft.
    assert (
        call("client_history", "GET", f"/_matrix/client/v3/rooms/{room_id}/event/{event_id}", token=bob.token).json[
            "content"
        ]
        == content
    )


def test_any_type_of_message_and_of_event_passes(alice: User) -> None:
    room_id = draft_room(alice)
    assert post(alice, "rooms", room_id, "send", "m.room.message", msgtype="org.example.dance", x=1).status == 200
    event_id = post(alice, "rooms", room_id, "send", "org.example.x", y=2).json["event_id"]
    assert event(alice, room_id, event_id).json["content"] == {"y": 2}


def test_who_is_not_in_a_room_says_nothing_there(alice: User, bob: User) -> None:
    room_id = draft_room(alice)
    assert refusal(post(bob, "rooms", room_id, "send", "m.room.message", msgtype="m.text")) == (403, "M_FORBIDDEN")
    assert refusal(put(bob, "rooms", room_id, "state", "m.room.topic", topic="t")) == (403, "M_FORBIDDEN")


def test_state_is_answered_with_an_empty_object(alice: User) -> None:
    room_id = draft_room(alice)
    for segments in (("m.room.topic",), ("m.room.topic", ""), ("org.example.x", "key")):
        assert put(alice, "rooms", room_id, "state", *segments, topic="t").json == {}
    assert state(alice, room_id, "org.example.x", "key").json == {"topic": "t"}


def test_a_message_is_redacted_by_its_sender_or_by_who_has_the_level(alice: User, bob: User, carol: User) -> None:
    room_id = draft_room(alice, bob, carol)
    said = [post(bob, "rooms", room_id, "send", "m.room.message", msgtype="m.text", body="x") for _ in range(2)]
    first, second = (answer.json["event_id"] for answer in said)
    assert refusal(post(carol, "rooms", room_id, "redact", first)) == (403, "M_FORBIDDEN")
    redaction = post(bob, "rooms", room_id, "redact", first, reason="typo").json["event_id"]
    assert event(carol, room_id, first).json["unsigned"]["redacted_because"]["event_id"] == redaction
    assert post(alice, "rooms", room_id, "redact", second).status == 200
    assert [found["content"] for found in messages(bob, room_id).json["chunk"] if found["event_id"] == second] == [{}]
    assert refusal(post(alice, "rooms", room_id, "redact", "$nothing")) == (404, "M_NOT_FOUND")
    assert refusal(post(alice, "rooms", room_id, "redact", first, reason=7)) == (400, "M_BAD_JSON")


# ── Typing ───────────────────────────────────────────────────────────────────


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The time in milliseconds, as far as typing knows it."""
    time = {"ms": 1_700_000_000_000}
    monkeypatch.setattr(typing, "now_ms", lambda: time["ms"])
    monkeypatch.setattr("homeserver.services.ephemeral.now_ms", lambda: time["ms"])
    return time


def type_in(user: User, room_id: str, of: str | None = None, **body: Any) -> Any:
    return put(user, "rooms", room_id, "typing", of or user.user_id, **body)


@pytest.mark.parametrize(
    ("timeout", "kept"), [(None, 30_000), (1, 1_000), (-5, 1_000), (0, 1_000), (45_000, 45_000), (10**9, 60_000)]
)
def test_typing_ends_by_itself_after_1_to_60_seconds(
    alice: User, bob: User, now: dict[str, int], timeout: int | None, kept: int
) -> None:
    room_id = draft_room(alice, bob)
    body = {"typing": True} if timeout is None else {"typing": True, "timeout": timeout}
    assert type_in(alice, room_id, **body).json == {}
    assert [typer.until - now["ms"] for typer in item_of(room_id).typing] == [kept]
    assert typing_in(news(bob, room_id)) == [alice.user_id]
    now["ms"] += kept
    assert news(bob, room_id).events == []


def test_the_list_of_who_is_typing_replaces_the_one_before(alice: User, bob: User, now: dict[str, int]) -> None:
    room_id = draft_room(alice, bob)
    assert type_in(alice, room_id, typing=True).json == {}
    told = news(bob, room_id).number
    assert type_in(bob, room_id, typing=True).json == {}
    assert typing_in(news(bob, room_id, told=told)) == [alice.user_id, bob.user_id]
    told = news(bob, room_id).number
    assert type_in(alice, room_id, typing=False).json == {}
    assert typing_in(news(bob, room_id, told=told)) == [bob.user_id]


@pytest.mark.parametrize("action", ["leave", "state"])
def test_who_leaves_a_room_types_no_more(alice: User, bob: User, carol: User, now: dict[str, int], action: str) -> None:
    room_id = draft_room(alice, bob, carol)
    for user in (bob, carol):
        assert type_in(user, room_id, typing=True).json == {}
    told = news(alice, room_id).number
    if action == "state":
        assert put(bob, "rooms", room_id, "state", "m.room.member", bob.user_id, membership="leave").json == {}
    else:
        assert put(bob, "rooms", room_id, "leave", "t").json == {}
    assert announced(alice, room_id) > told  # clients that wait are told at once
    assert typing_in(news(alice, room_id, told=told)) == [carol.user_id]
    assert now["ms"] == 1_700_000_000_000


def test_who_may_not_kick_stops_nobody_from_typing(alice: User, bob: User, carol: User) -> None:
    room_id = draft_room(alice, bob, carol)
    assert type_in(bob, room_id, typing=True).json == {}
    assert refusal(post(carol, "rooms", room_id, "kick", user_id=bob.user_id)) == (403, "M_FORBIDDEN")
    assert typing_in(news(alice, room_id)) == [bob.user_id]


def test_nobody_types_for_others_or_where_they_are_not(alice: User, bob: User, carol: User) -> None:
    room_id = draft_room(alice, bob)
    assert refusal(type_in(alice, room_id, of=bob.user_id, typing=True)) == (403, "M_FORBIDDEN")
    assert refusal(type_in(alice, room_id, of="@dave:peer.test", typing=True)) == (400, "M_INVALID_PARAM")
    assert refusal(type_in(carol, room_id, typing=True)) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    "body", [{}, {"typing": 1}, {"typing": True, "timeout": "30000"}, {"typing": True, "timeout": 1.5}]
)
def test_typing_of_wrong_types_is_bad_json(alice: User, body: dict[str, Any]) -> None:
    room_id = draft_room(alice)
    assert refusal(type_in(alice, room_id, **body)) == (400, "M_BAD_JSON")


# ── Profiles ─────────────────────────────────────────────────────────────────


def profile(user: User) -> Any:
    return call("client_user", "GET", f"/_matrix/client/v3/profile/{user.user_id}").json


def test_a_name_shows_in_the_rooms(alice: User) -> None:
    room_id = draft_room(alice)
    assert put(alice, "profile", alice.user_id, "displayname", displayname="Alice").json == {}
    assert profile(alice)["displayname"] == "Alice"
    assert state(alice, room_id, "m.room.member", alice.user_id).json["displayname"] == "Alice"


def test_an_avatar_from_the_web_is_none_for_clients_of_today(alice: User) -> None:
    room_id = draft_room(alice)
    picture, kept = "http://pictures.test/a.png", "mxc://example.org/abc"

    def avatar(url: str) -> None:
        assert put(alice, "profile", alice.user_id, "avatar_url", avatar_url=url).json == {}

    others = profile(alice)
    avatar(kept)
    assert profile(alice) == {**others, "avatar_url": kept}
    avatar(picture)
    assert profile(alice) == {**others, "org.eigenserver.avatar_url": picture}
    assert ok(alice, "profile", alice.user_id) == {**others, "avatar_url": picture}
    assert ok(alice, "profile", alice.user_id, "avatar_url") == {"avatar_url": picture}
    newer = call(
        "client_user",
        "PUT",
        f"/_matrix/client/v3/profile/{alice.user_id}/avatar_url",
        {"avatar_url": kept},
        token=alice.token,
    )
    assert newer.status == 200  # today's clients put one of theirs in its place
    assert ok(alice, "profile", alice.user_id, "avatar_url") == {"avatar_url": kept}
    avatar(picture)
    assert "avatar_url" not in state(alice, room_id, "m.room.member", alice.user_id).json
    avatar(kept)
    assert profile(alice) == {**others, "avatar_url": kept}
    avatar("")
    assert profile(alice) == others


def test_nobody_changes_the_profile_of_others(alice: User, bob: User) -> None:
    for name in ("displayname", "avatar_url"):
        body = {name: "mxc://example.org/abc"}
        assert refusal(put(alice, "profile", bob.user_id, name, **body)) == (403, "M_FORBIDDEN")
        assert refusal(put(alice, "profile", "@dave:peer.test", name, **body)) == (400, "M_INVALID_PARAM")
        assert refusal(put(alice, "profile", alice.user_id, name)) == (400, "M_BAD_JSON")
    assert refusal(put(alice, "profile", alice.user_id, "avatar_url", avatar_url="ftp://x")) == (400, "M_BAD_JSON")
    long = "http://x/" + "y" * 1024
    assert refusal(put(alice, "profile", alice.user_id, "avatar_url", avatar_url=long)) == (413, "M_TOO_LARGE")
