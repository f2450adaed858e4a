"""POST /createRoom: presets, initial state, power levels, aliases, invitations, room versions."""

from typing import Any

import pytest

from functions.harness import Answer, User, register
from functions.rooms import (
    create_room,
    event,
    events_of,
    follow,
    get,
    make,
    membership,
    messages,
    path,
    post,
    redact,
    request,
    say,
    set_state,
    state,
    sync,
    texts,
)
from homeserver.adapters import aws
from homeserver.settings import table_name

VERSIONS = [str(number) for number in range(1, 13)]


def nothing_is_stored() -> bool:
    """Whether there is no room, no alias and no inbox at all."""
    client = aws.client("dynamodb")
    return not any(client.scan(TableName=table_name(table))["Items"] for table in ("ROOMS", "DIRECTORY", "TIMELINE"))


def refused(answer: Answer, status: int, errcode: str) -> None:
    assert (answer.status, answer.errcode) == (status, errcode), answer
    assert nothing_is_stored()


@pytest.mark.parametrize(
    ("body", "join_rule", "guest_access"),
    [
        ({}, "invite", "can_join"),
        ({"preset": "private_chat", "visibility": "public"}, "invite", "can_join"),
        ({"preset": "trusted_private_chat"}, "invite", "can_join"),
        ({"preset": "public_chat"}, "public", "forbidden"),
        ({"visibility": "public"}, "public", "forbidden"),
        ({"visibility": "private"}, "invite", "can_join"),
    ],
)
def test_a_preset_sets_who_may_enter(alice: User, body: dict[str, Any], join_rule: str, guest_access: str) -> None:
    room_id = create_room(alice, **body)
    assert state(alice, room_id, "m.room.join_rules").json == {"join_rule": join_rule}
    assert state(alice, room_id, "m.room.guest_access").json == {"guest_access": guest_access}
    assert state(alice, room_id, "m.room.history_visibility").json == {"history_visibility": "shared"}


def test_the_events_of_a_room_come_in_the_order_of_the_specification(alice: User, bob: User) -> None:
    room_id = create_room(
        alice,
        room_alias_name="tea",
        name="Tea",
        topic="Leaves",
        invite=[bob.user_id],
        initial_state=[{"type": "org.example.a", "state_key": "k", "content": {"n": 1}}],
    )
    assert events_of(alice, room_id) == [
        ("m.room.create", ""),
        ("m.room.member", alice.user_id),
        ("m.room.power_levels", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""),
        ("org.example.a", "k"),
        ("m.room.name", ""),
        ("m.room.topic", ""),
        ("m.room.member", bob.user_id),
    ]
    assert state(alice, room_id, "m.room.canonical_alias").json == {"alias": "#tea:example.org"}
    assert state(alice, room_id, "org.example.a", "k").json == {"n": 1}
    assert state(alice, room_id, "m.room.name").json == {"name": "Tea"}
    assert state(alice, room_id, "m.room.topic").json == {
        "topic": "Leaves",
        "m.topic": {"m.text": [{"body": "Leaves", "mimetype": "text/plain"}]},
    }
    assert membership(alice, room_id, bob) == "invite"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_room_version_carries_a_conversation(alice: User, bob: User, version: str) -> None:
    room_id = create_room(alice, bob, room_version=version)
    assert state(alice, room_id, "m.room.create").json["room_version"] == version
    assert (":" in room_id) is (version != "12")
    first, second = say(alice, room_id, "one", "two")
    assert (":" in first) is (version in {"1", "2"})
    assert set_state(alice, room_id, "m.room.topic", {"topic": "t"}).status == 200
    because = redact(alice, room_id, first, reason="spam")
    assert because.status == 200
    shown = event(bob, room_id, first).json
    assert shown["content"] == {}
    assert shown["unsigned"]["redacted_because"]["event_id"] == because.json["event_id"]
    assert shown["unsigned"]["redacted_because"]["content"] == {"reason": "spam", "redacts": first}
    assert shown["unsigned"]["redacted_because"]["redacts"] == first
    assert event(bob, room_id, second).json["content"]["body"] == "two"
    assert texts(messages(bob, room_id).json["chunk"]) == ["two", None]
    assert state(bob, room_id, "m.room.topic").json == {"topic": "t"}
    assert post(bob, room_id, "leave").json == {}
    assert membership(alice, room_id, bob) == "leave"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_creator_is_named_as_the_room_version_wants_it(alice: User, version: str) -> None:
    room_id = create_room(alice, room_version=version, creation_content={"creator": "@x:y.org", "room_version": "3"})
    create = state(alice, room_id, "m.room.create").json
    levels = state(alice, room_id, "m.room.power_levels").json
    assert create == {"room_version": version, **({"creator": alice.user_id} if int(version) < 11 else {})}
    assert levels["users"] == ({} if version == "12" else {alice.user_id: 100})
    assert levels["events"]["m.room.tombstone"] == (150 if version == "12" else 100)


def test_in_a_trusted_chat_of_version_11_those_invited_have_the_creators_power(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, preset="trusted_private_chat", room_version="11")
    assert state(alice, room_id, "m.room.power_levels").json["users"] == {alice.user_id: 100, bob.user_id: 100}


def test_in_a_trusted_chat_of_version_12_those_invited_are_creators(alice: User, bob: User) -> None:
    carol = register()
    given = {"additional_creators": [carol.user_id, bob.user_id]}
    room_id = create_room(alice, bob, preset="trusted_private_chat", creation_content=given)
    assert state(alice, room_id, "m.room.create").json == {
        "room_version": "12",
        "additional_creators": [carol.user_id, bob.user_id],
    }
    assert set_state(bob, room_id, "m.room.tombstone", {"body": "moved", "replacement_room": "!x:y.org"}).status == 200


def test_creation_content_is_kept(alice: User) -> None:
    content = {
        "m.federate": False,
        "type": "m.space",
        "predecessor": {"room_id": "!old:example.org"},
        "org.example": [1, None, {"a": True}],
    }
    room_id = create_room(alice, creation_content=content)
    assert state(alice, room_id, "m.room.create").json == {**content, "room_version": "12"}


def test_name_and_topic_win_over_initial_state_and_initial_state_over_the_preset(alice: User) -> None:
    room_id = create_room(
        alice,
        name="Right",
        topic="Right",
        initial_state=[
            {"type": "m.room.name", "content": {"name": "Wrong"}},
            {"type": "m.room.topic", "content": {"topic": "Wrong"}},
            {"type": "m.room.join_rules", "content": {"join_rule": "knock"}},
            {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
        ],
    )
    assert state(alice, room_id, "m.room.name").json == {"name": "Right"}
    assert state(alice, room_id, "m.room.topic").json["topic"] == "Right"
    assert state(alice, room_id, "m.room.join_rules").json == {"join_rule": "knock"}
    kinds = [kind for kind, _ in events_of(alice, room_id)]
    assert {kinds.count(kind) for kind in ("m.room.name", "m.room.topic", "m.room.join_rules")} == {1}
    assert kinds.index("m.room.encryption") == kinds.index("m.room.join_rules") + 1


def test_a_long_initial_state_and_many_invitations_take_several_commits(alice: User) -> None:
    guests = [f"@guest{number}:example.org" for number in range(30)]
    initial = [{"type": "org.example.n", "state_key": str(n), "content": {"n": n}} for n in range(60)]
    room_id = create_room(alice, initial_state=initial, invite=guests, name="Big")
    kinds = events_of(alice, room_id)
    assert kinds[6:] == [
        *[("org.example.n", str(n)) for n in range(60)],
        ("m.room.name", ""),
        *[("m.room.member", guest) for guest in guests],
    ]
    assert state(alice, room_id, "org.example.n", "59").json == {"n": 59}
    assert len(get(alice, "rooms", room_id, "members", membership="invite").json["chunk"]) == 30
    assert len(get(alice, "rooms", room_id, "state").json) == len(kinds)


@pytest.mark.usefixtures("set_up")
def test_the_creators_own_profile_in_a_late_part_of_the_initial_state_takes_no_second_slot(alice: User) -> None:
    initial: list[dict[str, Any]] = [
        {"type": "org.example.n", "state_key": str(n), "content": {"n": n}} for n in range(60)
    ]
    own = {"membership": "join", "displayname": "Chair"}
    initial.append({"type": "m.room.member", "state_key": alice.user_id, "content": own})
    room_id = create_room(alice, initial_state=initial)
    assert state(alice, room_id, "m.room.member", alice.user_id).json == own
    other = create_room(alice)
    follow()
    assert set(sync(alice)["rooms"]["join"]) == {room_id, other}


def test_one_invalid_event_far_behind_keeps_the_whole_room_from_being_made(alice: User) -> None:
    initial: list[dict[str, Any]] = [
        {"type": "org.example.n", "state_key": str(n), "content": {"n": n}} for n in range(60)
    ]
    initial.append({"type": "org.example.n", "state_key": "@someone:else.org", "content": {}})
    refused(make(alice, initial_state=initial), 400, "M_INVALID_ROOM_STATE")


def test_an_override_is_laid_over_the_power_levels(alice: User) -> None:
    override = {"ban": 60, "events": {"m.room.name": 0}, "org.example": 1}
    room_id = create_room(alice, power_level_content_override=override)
    levels = state(alice, room_id, "m.room.power_levels").json
    assert levels == {
        "ban": 60,
        # In version 12 upgrades stay above state_default unless the client itself names their level.
        "events": {"m.room.name": 0, "m.room.tombstone": 150},
        "events_default": 0,
        "invite": 0,
        "kick": 50,
        "redact": 50,
        "state_default": 50,
        "users": {},
        "users_default": 0,
        "org.example": 1,
    }


@pytest.mark.parametrize(
    ("override", "level"),
    [({"state_default": 200}, 201), ({"events": {"m.room.tombstone": 7}}, 7), ({"state_default": 0}, 150)],
)
def test_a_tombstone_takes_more_than_state_default_unless_the_client_says_otherwise(
    alice: User, override: dict[str, Any], level: int
) -> None:
    room_id = create_room(alice, power_level_content_override=override)
    assert state(alice, room_id, "m.room.power_levels").json["events"]["m.room.tombstone"] == level


@pytest.mark.parametrize(
    "body",
    [
        {"room_version": "11", "power_level_content_override": {"users": {}}, "name": "Locked out"},
        {"room_version": "11", "power_level_content_override": {"users": {"@alice:example.org": 40}}},
        {"power_level_content_override": {"users": {"@alice:example.org": 100}}},  # a creator has no level in 12
        {"power_level_content_override": {"users": {"alice": 1}}},
        {"power_level_content_override": {"users": []}},
        {"power_level_content_override": {"events": {"m.room.name": "50"}}},
        {"power_level_content_override": {"events": "x"}},
        {"power_level_content_override": {"ban": None}},
        {"initial_state": [{"type": "m.room.member", "state_key": "@bob:example.org", "content": {}}]},
        {"initial_state": [{"type": "m.room.member", "content": {"membership": "join"}}]},
    ],
)
def test_a_room_that_contradicts_itself_is_not_made(alice: User, body: dict[str, Any]) -> None:
    refused(make(alice, **body), 400, "M_INVALID_ROOM_STATE")


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({"room_version": "99"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"room_version": ""}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"room_version": 12}, 400, "M_BAD_JSON"),
        ({"preset": "secret_chat"}, 400, "M_BAD_JSON"),
        ({"visibility": "hidden"}, 400, "M_BAD_JSON"),
        ({"name": 1}, 400, "M_BAD_JSON"),
        ({"topic": []}, 400, "M_BAD_JSON"),
        ({"is_direct": "yes"}, 400, "M_BAD_JSON"),
        ({"invite": "@bob:example.org"}, 400, "M_BAD_JSON"),
        ({"invite": [1]}, 400, "M_BAD_JSON"),
        ({"invite": ["bob"]}, 400, "M_INVALID_PARAM"),
        ({"invite": ["@" + "b" * 250 + ":example.org"]}, 400, "M_INVALID_PARAM"),
        ({"invite": [f"@u{n}:example.org" for n in range(101)]}, 400, "M_INVALID_PARAM"),
        ({"invite_3pid": [{"medium": "email", "address": "a@b.c"}]}, 400, "M_MISSING_PARAM"),
        ({"initial_state": {}}, 400, "M_BAD_JSON"),
        ({"initial_state": ["x"]}, 400, "M_BAD_JSON"),
        ({"initial_state": [{"content": {}}]}, 400, "M_MISSING_PARAM"),
        ({"initial_state": [{"type": "a"}]}, 400, "M_MISSING_PARAM"),
        ({"initial_state": [{"type": "a", "content": []}]}, 400, "M_BAD_JSON"),
        ({"initial_state": [{"type": "a", "content": {"f": 1.5}}]}, 400, "M_BAD_JSON"),
        ({"initial_state": [{"type": "a", "content": {"b": "x" * 65_536}}]}, 413, "M_TOO_LARGE"),
        ({"initial_state": [{"type": "a" * 256, "content": {}}]}, 413, "M_TOO_LARGE"),
        ({"initial_state": [{"type": "a", "state_key": "k" * 256, "content": {}}]}, 413, "M_TOO_LARGE"),
        ({"initial_state": [{"type": "m.room.create", "content": {}}]}, 400, "M_BAD_JSON"),
        (
            {
                "initial_state": [
                    {"type": "m.room.member", "state_key": "@b:else.org", "content": {"membership": "invite"}}
                ]
            },
            400,
            "M_INVALID_PARAM",
        ),
        ({"initial_state": [{"type": "a", "content": {}}] * 201}, 400, "M_INVALID_PARAM"),
        ({"creation_content": []}, 400, "M_BAD_JSON"),
        ({"creation_content": {"n": 1.5}}, 400, "M_BAD_JSON"),
        ({"creation_content": {"additional_creators": ["bob"]}}, 400, "M_BAD_JSON"),
        ({"creation_content": {"additional_creators": "@b:x"}, "preset": "trusted_private_chat"}, 400, "M_BAD_JSON"),
        ({"power_level_content_override": "x"}, 400, "M_BAD_JSON"),
        ({"power_level_content_override": {"ban": 1.5}}, 400, "M_BAD_JSON"),
        ({"room_alias_name": "a:b"}, 400, "M_INVALID_PARAM"),
        ({"room_alias_name": ""}, 400, "M_INVALID_PARAM"),
        ({"room_alias_name": "a" * 250}, 400, "M_INVALID_PARAM"),
        ({"room_alias_name": "a\0b"}, 400, "M_INVALID_PARAM"),
        ({"room_alias_name": 5}, 400, "M_BAD_JSON"),
    ],
)
def test_a_request_that_makes_no_sense_stores_nothing(
    alice: User, body: dict[str, Any], status: int, errcode: str
) -> None:
    refused(make(alice, **body), status, errcode)


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        (b"{", "M_NOT_JSON"),
        (b"\xff\xfe", "M_NOT_JSON"),
        (b'{"name": NaN}', "M_NOT_JSON"),
        (b"[" * 5000 + b"]" * 5000, "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b'"x"', "M_BAD_JSON"),
        (b"null", "M_BAD_JSON"),
        (b'{"creation_content":{"n":' + b"1" * 40 + b"}}", "M_BAD_JSON"),
        (b'{"creation_content":{"n":-0}}', "M_BAD_JSON"),
        (b'{"creation_content":' + b'{"a":' * 300 + b"1" + b"}" * 301, "M_BAD_JSON"),
    ],
)
def test_a_body_that_is_no_json_object_stores_nothing(alice: User, body: bytes, errcode: str) -> None:
    refused(request("client_rooms", "POST", path("createRoom"), body, token=alice.token), 400, errcode)


def test_an_alias_that_is_taken_keeps_the_room_from_being_made(alice: User, bob: User) -> None:
    create_room(alice, room_alias_name="tea")
    answer = make(bob, room_alias_name="tea")
    assert (answer.status, answer.errcode) == (400, "M_ROOM_IN_USE")
    joined = request("client_rooms", "GET", path("joined_rooms"), token=bob.token)
    assert joined.json == {"joined_rooms": []}
    rooms = aws.client("dynamodb").scan(TableName=table_name("ROOMS"))["Items"]
    assert len({row["room"]["S"] for row in rooms}) == 1


def test_a_direct_chat_says_so_in_its_invitations(alice: User, bob: User) -> None:
    request("client_user", "PUT", path("profile", bob.user_id, "displayname"), {"displayname": "Bob"}, token=bob.token)
    room_id = create_room(alice, invite=[bob.user_id, bob.user_id, alice.user_id], is_direct=True)
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {
        "membership": "invite",
        "is_direct": True,
        "displayname": "Bob",
    }
    assert "is_direct" not in state(alice, room_id, "m.room.member", alice.user_id).json
    assert events_of(alice, room_id).count(("m.room.member", bob.user_id)) == 1
    assert membership(alice, room_id, alice) == "join"


@pytest.mark.usefixtures("set_up")
def test_who_does_not_exist_yet_finds_the_invitation_after_registering(alice: User) -> None:
    room_id = create_room(alice, invite=["@later:example.org"])
    follow()
    later = register("later")
    assert list(sync(later)["rooms"]["invite"]) == [room_id]
    assert post(later, room_id, "join").status == 200


def test_rooms_have_ids_of_their_own(alice: User) -> None:
    assert len({create_room(alice) for _ in range(3)} | {create_room(alice, room_version="10") for _ in range(3)}) == 6


@pytest.mark.parametrize(("token", "errcode"), [(None, "M_MISSING_TOKEN"), ("wrong", "M_UNKNOWN_TOKEN")])
def test_a_room_needs_an_access_token(token: str | None, errcode: str) -> None:
    refused(request("client_rooms", "POST", path("createRoom"), {}, token=token), 401, errcode)
