"""POST /rooms/{roomId}/upgrade: what becomes of the old room, and what the new one gets."""

from typing import Any

import pytest

from functions import rooms
from functions.harness import SERVER_NAME, Answer, User, call, register
from functions.rooms import (
    create_room,
    events_of,
    follow,
    membership,
    messages,
    path,
    post,
    request,
    send,
    set_state,
    state,
)
from homeserver.matrix.room_versions import ROOM_VERSIONS
from homeserver.services import account_data, upgrade_room
from homeserver.storage import commit, user_data
from homeserver.storage.rooms import load_heads

CREATE, LEVELS, TOMBSTONE = "m.room.create", "m.room.power_levels", "m.room.tombstone"


def upgrade(user: User, room_id: str, version: Any = "12", **body: Any) -> Answer:
    return post(user, room_id, "upgrade", {"new_version": version, **body})


def upgraded(user: User, room_id: str, version: str = "12", **body: Any) -> str:
    answer = upgrade(user, room_id, version, **body)
    assert answer.status == 200, answer
    return str(answer.json["replacement_room"])


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def content(user: User, room_id: str, event_type: str, key: str = "") -> dict[str, Any]:
    answer = state(user, room_id, event_type, key)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


def room_of(alias: str) -> str | None:
    answer = request("client_rooms", "GET", path("directory", "room", alias))
    return str(answer.json["room_id"]) if answer.status == 200 else None


def put_alias(user: User, alias: str, room_id: str) -> None:
    where = path("directory", "room", alias)
    assert request("client_rooms", "PUT", where, {"room_id": room_id}, token=user.token).status == 200


# ── The new room and the old one ─────────────────────────────────────────────────────────────────────────


VERSIONS = [(old, new) for old in ROOM_VERSIONS for new in dict.fromkeys(("1", "11", "12", old))]


@pytest.mark.parametrize(("old_version", "new_version"), VERSIONS)
def test_a_room_of_any_version_becomes_one_of_any_version(alice: User, old_version: str, new_version: str) -> None:
    room_id = create_room(alice, room_version=old_version, name="Tea", topic="Hot water")
    last = messages(alice, room_id, limit=1).json["chunk"][0]["event_id"]
    new = upgraded(alice, room_id, new_version)
    assert new != room_id
    create = content(alice, new, CREATE)
    assert create["room_version"] == new_version
    assert create["predecessor"] == {"room_id": room_id, "event_id": last}
    assert (create.get("creator") == alice.user_id) is (int(new_version) <= 10)
    assert content(alice, room_id, TOMBSTONE) == {"body": "This room has been replaced.", "replacement_room": new}
    assert content(alice, new, "m.room.name") == {"name": "Tea"}
    assert content(alice, new, "m.room.topic")["topic"] == "Hot water"
    # Who upgrades can do there what they could do before.
    assert set_state(alice, new, "m.room.server_acl", {"allow": ["*"]}).status == 200
    assert upgrade(alice, new, old_version).status == 200


def test_the_state_that_matters_moves_along_and_memberships_do_not(alice: User, bob: User) -> None:
    mallory = register("mallory")
    room_id = create_room(alice, bob, preset="public_chat", creation_content={"type": "m.space", "m.federate": False})
    moved: dict[tuple[str, str], dict[str, Any]] = {
        ("m.room.name", ""): {"name": "Tea"},
        ("m.room.topic", ""): {"topic": "Hot water"},
        ("m.room.avatar", ""): {"url": "mxc://example.org/tea"},
        ("m.room.encryption", ""): {"algorithm": "m.megolm.v1.aes-sha2"},
        ("m.room.join_rules", ""): {"join_rule": "knock"},
        ("m.room.history_visibility", ""): {"history_visibility": "invited"},
        ("m.room.guest_access", ""): {"guest_access": "forbidden"},
        ("m.room.server_acl", ""): {"allow": ["*"], "deny": ["evil.example"]},
        ("m.space.child", "!child:example.org"): {"via": ["example.org"], "order": "a"},
        ("m.space.parent", "!parent:example.org"): {"via": ["example.org"], "canonical": True},
    }
    left: dict[tuple[str, str], dict[str, Any]] = {
        ("m.space.child", "!gone:example.org"): {},
        ("m.room.pinned_events", ""): {"pinned": ["$old"]},
        ("org.example.setting", ""): {"a": 1},
    }
    for (event_type, key), value in {**moved, **left}.items():
        assert set_state(alice, room_id, event_type, value, key).status == 200
    post(alice, room_id, "ban", {"user_id": mallory.user_id, "reason": "spam"})
    new = upgraded(alice, room_id)
    for (event_type, key), value in moved.items():
        assert content(alice, new, event_type, key) == value
    for event_type, key in left:
        assert state(alice, new, event_type, key).status == 404
    create = content(alice, new, CREATE)
    assert (create["type"], create["m.federate"]) == ("m.space", False)
    assert content(alice, new, "m.room.member", mallory.user_id) == {"membership": "ban", "reason": "spam"}
    assert membership(alice, new, alice) == "join"
    assert membership(alice, new, bob) == "none"
    # Until all the rest is there nobody can come in, nor has anybody less power than is asked for.
    assert [event_type for event_type, _ in events_of(alice, new)][-2:] == ["m.room.join_rules", LEVELS]


def test_the_old_room_is_closed_for_all_but_those_in_charge(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, room_version="11", power_level_content_override={"events": {"m.reaction": 0}})
    before = content(alice, room_id, LEVELS)
    upgraded(alice, room_id)
    after = content(alice, room_id, LEVELS)
    assert after == {**before, "events_default": 50, "invite": 50, "events": {"m.reaction": 50}}
    assert refusal(send(bob, room_id, "hello?", "a")) == (403, "M_FORBIDDEN")
    assert refusal(post(bob, room_id, "invite", {"user_id": "@carol:example.org"})) == (403, "M_FORBIDDEN")
    assert send(alice, room_id, "go there", "b").status == 200
    assert [kind for kind, _ in events_of(bob, room_id)][-3:-1] == [TOMBSTONE, LEVELS]


def test_power_is_kept_in_levels_that_ordinary_users_already_have(alice: User, bob: User) -> None:
    override = {"users_default": 60, "events_default": 70, "users": {alice.user_id: 100}}
    room_id = create_room(alice, bob, room_version="11", power_level_content_override=override)
    upgraded(alice, room_id)
    after = content(alice, room_id, LEVELS)
    assert (after["users_default"], after["events_default"], after["invite"]) == (60, 70, 61)


# ── Who may ──────────────────────────────────────────────────────────────────────────────────────────────


def test_only_who_may_send_a_tombstone_upgrades(alice: User, bob: User) -> None:
    stranger = register("stranger")
    room_id = create_room(alice, bob, room_version="11")
    for user, room in ((bob, room_id), (stranger, room_id), (alice, "!nowhere:example.org")):
        assert refusal(upgrade(user, room)) == (403, "M_FORBIDDEN")
    assert state(alice, room_id, TOMBSTONE).status == 404
    levels = content(alice, room_id, LEVELS)
    levels["users"][bob.user_id] = 100
    assert set_state(alice, room_id, LEVELS, levels).status == 200
    new = upgraded(bob, room_id)
    assert content(bob, room_id, TOMBSTONE)["replacement_room"] == new
    post(alice, room_id, "leave")
    assert refusal(upgrade(alice, room_id)) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"new_version": "99"}, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"new_version": ""}, "M_UNSUPPORTED_ROOM_VERSION"),
        ({}, "M_MISSING_PARAM"),
        ({"new_version": 12}, "M_BAD_JSON"),
        ({"new_version": "12", "additional_creators": "bob"}, "M_BAD_JSON"),
        ({"new_version": "12", "additional_creators": [1]}, "M_BAD_JSON"),
        ({"new_version": "12", "additional_creators": ["bob"]}, "M_INVALID_PARAM"),
        (b"x", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
    ],
)
def test_a_request_that_cannot_be(alice: User, body: Any, errcode: str) -> None:
    room_id = create_room(alice)
    assert refusal(post(alice, room_id, "upgrade", body)) == (400, errcode)
    assert state(alice, room_id, TOMBSTONE).status == 404
    assert len(rooms.request("client_rooms", "GET", path("joined_rooms"), token=alice.token).json["joined_rooms"]) == 1


def test_an_upgrade_needs_a_token_and_a_room_id(alice: User) -> None:
    where, body = path("rooms", "!r:example.org", "upgrade"), {"new_version": "12"}
    assert refusal(request("client_rooms", "POST", where, body)) == (401, "M_MISSING_TOKEN")
    assert refusal(upgrade(alice, "room")) == (400, "M_INVALID_PARAM")


# ── Creators and power ───────────────────────────────────────────────────────────────────────────────────


def test_creators_of_version_12_are_named_and_stand_in_no_table(alice: User, bob: User) -> None:
    carol = register("carol")
    room_id = create_room(alice, bob, carol, room_version="11")
    levels = content(alice, room_id, LEVELS)
    levels["users"] |= {bob.user_id: 100, carol.user_id: 50}
    assert set_state(alice, room_id, LEVELS, levels).status == 200
    wanted = [bob.user_id, alice.user_id, bob.user_id]
    new = upgraded(alice, room_id, "12", additional_creators=wanted)
    assert content(alice, new, CREATE)["additional_creators"] == [bob.user_id]
    after = content(alice, new, LEVELS)
    assert after["users"] == {carol.user_id: 50}
    # What the old room said of tombstones holds; where it said nothing it takes more than any other state.
    assert after["events"][TOMBSTONE] == 100


def test_creators_of_the_old_room_are_not_creators_of_the_new_one_but_keep_power(alice: User, bob: User) -> None:
    old = create_room(alice, bob, room_version="12", creation_content={"additional_creators": [bob.user_id]})
    levels = content(alice, old, LEVELS)
    assert TOMBSTONE in levels["events"]
    new = upgraded(bob, old, "12")
    assert "additional_creators" not in content(bob, new, CREATE)
    assert content(bob, new, LEVELS)["users"] == {alice.user_id: 150}
    back = upgraded(bob, new, "11", additional_creators=["no user"])  # means nothing there
    assert content(bob, back, LEVELS)["users"] == {alice.user_id: 150, bob.user_id: 150}
    assert "additional_creators" not in content(bob, back, CREATE)


def test_levels_are_integers_afterwards(alice: User) -> None:
    override = {"ban": "60", "users": {alice.user_id: "100"}, "events": {"m.room.name": "30"}}
    room_id = create_room(alice, room_version="9", power_level_content_override=override)
    new = upgraded(alice, room_id, "10")
    after = content(alice, new, LEVELS)
    assert (after["ban"], after["users"], after["events"]) == (60, {alice.user_id: 100}, {"m.room.name": 30})


@pytest.mark.parametrize(
    ("rule", "versions"),
    [
        ("knock_restricted", {"6": "invite", "7": "knock", "8": "restricted", "10": "knock_restricted"}),
        ("restricted", {"7": "invite", "8": "restricted", "12": "restricted"}),
        ("knock", {"6": "invite", "7": "knock"}),
        ("public", {"1": "public"}),
    ],
)
def test_a_join_rule_that_the_version_does_not_know_becomes_the_closest(
    alice: User, rule: str, versions: dict[str, str]
) -> None:
    for version, expected in versions.items():
        room_id = create_room(alice)
        allow = {"allow": []} if "restricted" in rule else {}
        assert set_state(alice, room_id, "m.room.join_rules", {"join_rule": rule, **allow}).status == 200
        assert content(alice, upgraded(alice, room_id, version), "m.room.join_rules")["join_rule"] == expected


def test_what_the_new_version_refuses_is_left_out_and_the_rest_moves(alice: User) -> None:
    room_id = create_room(alice, room_version="5", name="Tea")
    assert set_state(alice, room_id, "m.room.topic", {"topic": "Hot", "degrees": 99.5}).status == 200
    new = upgraded(alice, room_id, "6")
    assert state(alice, new, "m.room.topic").status == 404
    assert content(alice, new, "m.room.name") == {"name": "Tea"}


# ── Aliases, directory, settings ─────────────────────────────────────────────────────────────────────────


def test_aliases_move_and_the_canonical_one_with_them(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, room_alias_name="tea")
    put_alias(bob, f"#chai:{SERVER_NAME}", room_id)
    names = {"alias": f"#tea:{SERVER_NAME}", "alt_aliases": [f"#chai:{SERVER_NAME}"]}
    assert set_state(alice, room_id, "m.room.canonical_alias", names).status == 200
    new = upgraded(alice, room_id)
    assert [room_of(f"#{name}:{SERVER_NAME}") for name in ("tea", "chai")] == [new, new]
    assert content(alice, new, "m.room.canonical_alias") == names
    assert content(alice, room_id, "m.room.canonical_alias") == {}
    listed = request("client_rooms", "GET", path("rooms", new, "aliases"), token=alice.token)
    assert sorted(listed.json["aliases"]) == [f"#chai:{SERVER_NAME}", f"#tea:{SERVER_NAME}"]
    assert request("client_rooms", "GET", path("rooms", room_id, "aliases"), token=alice.token).json["aliases"] == []


def test_more_aliases_than_one_transaction_holds_move_too(alice: User) -> None:
    room_id = create_room(alice)
    aliases = [f"#tea{number}:{SERVER_NAME}" for number in range(45)]
    for alias in aliases:
        put_alias(alice, alias, room_id)
    new = upgraded(alice, room_id)
    assert {room_of(alias) for alias in aliases} == {new}


def test_many_bans_and_children_move_in_several_commits(alice: User) -> None:
    room_id = create_room(alice, creation_content={"type": "m.space"})
    for number in range(30):
        child = f"!child{number}:example.org"
        assert set_state(alice, room_id, "m.space.child", {"via": ["example.org"]}, child).status == 200
        post(alice, room_id, "ban", {"user_id": f"@spam{number}:example.org"})
    new = upgraded(alice, room_id)
    events = events_of(alice, new)
    assert sum(kind == "m.space.child" for kind, _ in events) == 30
    assert sum(kind == "m.room.member" for kind, _ in events) == 31


def test_a_published_room_is_replaced_in_the_directory(alice: User) -> None:
    room_id = create_room(alice, name="Tea")
    where = path("directory", "list", "room", room_id)
    body = {"visibility": "public"}
    assert request("client_directory", "PUT", where, body, token=alice.token).status == 200
    new = upgraded(alice, room_id)
    follow()
    listed = request("client_directory", "GET", path("publicRooms")).json["chunk"]
    assert [room["room_id"] for room in listed] == [new]


def test_who_upgrades_and_who_joins_keep_their_settings(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    rule = {"rule_id": room_id, "actions": [], "default": False, "enabled": True}
    silent = {**rule, "conditions": [{"kind": "event_match", "key": "room_id", "pattern": room_id}]}
    other = {**rule, "rule_id": "!other:example.org"}
    for user in (alice, bob):
        account_data.write_account_data(user.user_id, room_id, "m.tag", {"tags": {"m.favourite": {"order": 0.5}}})
        account_data.write_account_data(user.user_id, None, "m.direct", {"@carol:example.org": [room_id, "!x:y"]})
        rules = {"global": {"override": [silent], "room": [other, rule], "content": []}}
        account_data.write_account_data(user.user_id, None, "m.push_rules", rules)
    assert set_state(alice, room_id, "m.room.join_rules", {"join_rule": "public"}).status == 200
    new = upgraded(alice, room_id)
    assert post(bob, new, "join").status == 200
    new_rule = {**rule, "rule_id": new}
    new_silent = {**new_rule, "conditions": [{"kind": "event_match", "key": "room_id", "pattern": new}]}
    for user in (alice, bob):
        found = {kind: user_data.load(user.user_id, None, kind) for kind in ("m.direct", "m.push_rules")}
        tags = user_data.load(user.user_id, new, "m.tag")
        assert tags is not None
        assert tags.content == {"tags": {"m.favourite": {"order": 0.5}}}
        assert found["m.direct"].content == {"@carol:example.org": [room_id, "!x:y", new]}  # type: ignore[union-attr] - it was set
        assert found["m.push_rules"].content == {  # type: ignore[union-attr] - it was set
            "global": {"override": [silent, new_silent], "room": [other, rule, new_rule], "content": []}
        }


def test_a_room_that_only_claims_to_replace_another_gets_no_settings(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob)
    account_data.write_account_data(bob.user_id, room_id, "m.tag", {"tags": {"m.favourite": {}}})
    false = create_room(alice, bob, creation_content={"predecessor": {"room_id": room_id}})
    assert user_data.load(bob.user_id, false, "m.tag") is None


# ── Again, and after a crash ─────────────────────────────────────────────────────────────────────────────


def joined(user: User) -> list[str]:
    found = request("client_rooms", "GET", path("joined_rooms"), token=user.token).json["joined_rooms"]
    return sorted(found)


def test_the_same_request_again_gives_the_same_room_and_another_one_another(alice: User) -> None:
    room_id = create_room(alice)
    new = upgraded(alice, room_id, "11")
    head = load_heads([room_id, new])
    assert upgraded(alice, room_id, "11") == new
    assert {room: int(h.version) for room, h in load_heads([room_id, new]).items()} == {
        room: int(h.version) for room, h in head.items()
    }
    other = upgraded(alice, room_id, "12")
    assert other != new
    assert content(alice, room_id, TOMBSTONE)["replacement_room"] == other


class Crash(BaseException):
    """The end of the process, which no code of ours catches."""


def commits_of_an_upgrade(monkeypatch: pytest.MonkeyPatch, stop_at: tuple[str, int] | None) -> list[str]:
    """Let the process end when it passes a place for the n-th time; the places that are passed."""
    passed: list[str] = []

    def point(name: str) -> None:
        passed.append(name)
        if stop_at is not None and stop_at[0] == name and passed.count(name) == stop_at[1]:
            raise Crash(name)

    for module in (commit, upgrade_room):
        monkeypatch.setattr(module, "fault_point", point)
    return passed


PLACES = [
    *[("commit.before", number) for number in range(1, 5)],
    *[("commit.after", number) for number in range(1, 5)],
    ("upgrade.begun", 1),
    ("upgrade.closed", 1),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("version", ["11", "12"])
def test_a_crash_anywhere_is_made_good_by_the_same_request(
    alice: User, monkeypatch: pytest.MonkeyPatch, place: tuple[str, int], version: str
) -> None:
    room_id = create_room(alice, name="Tea", room_alias_name="tea", creation_content={"type": "m.space"})
    for number in range(25):
        set_state(alice, room_id, "m.space.child", {"via": ["example.org"]}, f"!child{number}:example.org")
    where, body = path("rooms", room_id, "upgrade"), {"new_version": version}
    with monkeypatch.context() as patch:
        passed = commits_of_an_upgrade(patch, place)
        assert call("client_rooms", "POST", where, body, token=alice.token).status == 500
        assert passed[-1] == place[0]
    # Whether the old room points there yet or not: it never points to a room that is not whole.
    tombstone = state(alice, room_id, TOMBSTONE)
    if tombstone.status == 200:
        assert content(alice, tombstone.json["replacement_room"], LEVELS)["users"] is not None
    new = upgraded(alice, room_id, version)
    assert joined(alice) == sorted([room_id, new])
    assert content(alice, room_id, TOMBSTONE)["replacement_room"] == new
    assert room_of(f"#tea:{SERVER_NAME}") == new
    events = events_of(alice, new)
    assert len(events) == len(set(events))
    assert sum(kind == "m.space.child" for kind, _ in events) == 25
    assert events[-1] == (LEVELS, "")
    assert [kind for kind, _ in events_of(alice, room_id)].count(TOMBSTONE) == 1
    assert upgraded(alice, room_id, version) == new


def test_two_moderators_do_not_upgrade_a_room_at_the_same_time(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = create_room(alice, bob, room_version="11", preset="trusted_private_chat")
    with monkeypatch.context() as patch:
        commits_of_an_upgrade(patch, ("upgrade.begun", 1))
        where = path("rooms", room_id, "upgrade")
        assert call("client_rooms", "POST", where, {"new_version": "12"}, token=alice.token).status == 500
    assert refusal(upgrade(bob, room_id)) == (429, "M_LIMIT_EXCEEDED")
    now = upgrade_room.now_ms()
    monkeypatch.setattr(upgrade_room, "now_ms", lambda: now + 61_000)
    new = upgraded(bob, room_id)
    assert content(bob, room_id, TOMBSTONE)["replacement_room"] == new
