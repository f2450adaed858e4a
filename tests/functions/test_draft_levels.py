"""Levels and the config of a room, written in the draft's words, and the four rules of 2014 in both dialects."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from functions.draft import draft_room, levels, post, put, refusal
from functions.draft_reading import ok
from functions.ephemeral import one_call_at_a_time
from functions.harness import Answer, User, call, register
from functions.rooms import create_room, events_of, set_state, state
from homeserver import observability
from homeserver.services import attempts
from homeserver.services.access_tokens import Requester
from homeserver.services.draft_config import set_config
from homeserver.services.draft_levels import set_levels

GREATEST = 9007199254740991
V11 = "11"


@pytest.fixture
def carol() -> User:
    return register("carol")


def write(user: User, room_id: str, event_type: str, **body: Any) -> Answer:
    return put(user, "rooms", room_id, "state", event_type, **body)


def read(user: User, room_id: str, event_type: str) -> Any:
    return ok(user, "rooms", room_id, "state", event_type)


def moderated(alice: User, *others: User, version: str = V11, **given: int) -> str:
    """A room in which others have levels: `bob=50`."""
    room_id = create_room(alice, *others, room_version=version)
    users = {f"@{name}:example.org": level for name, level in given.items()}
    answer = set_state(
        alice, room_id, "m.room.power_levels", {**levels(alice, room_id), "users": own(alice, room_id) | users}
    )
    assert answer.status == 200, answer
    return room_id


def own(alice: User, room_id: str) -> dict[str, int]:
    users: dict[str, int] = levels(alice, room_id)["users"]
    return users


# ── The worked example ───────────────────────────────────────────────────────


def test_the_config_and_the_levels_are_as_in_the_worked_example(alice: User, bob: User) -> None:
    room_id = moderated(alice, bob, bob=50)
    listed = f"/_matrix/client/v3/directory/list/room/{room_id}"
    assert call("client_directory", "PUT", listed, {"visibility": "public"}, token=alice.token).status == 200
    assert set_state(alice, room_id, "m.room.name", {"name": "Pub"}).status == 200
    assert read(alice, room_id, "m.room.config") == {"visibility": "public", "name": "Pub"}
    assert read(alice, room_id, "m.room.add_state_level") == {"level": 50}
    before = levels(alice, room_id)
    body = {"ban_level": 75, "kick_level": 60, "redact_level": 50}
    assert write(alice, room_id, "m.room.ops_levels", **body).json == {}
    assert levels(alice, room_id) == {**before, "ban": 75, "kick": 60, "redact": 50}
    assert read(bob, room_id, "m.room.ops_levels") == body
    assert refusal(write(bob, room_id, "m.room.ops_levels", **body | {"ban_level": 50})) == (403, "M_FORBIDDEN")
    assert refusal(write(alice, room_id, "m.room.ops_levels", ban_level="75")) == (400, "M_BAD_JSON")
    assert levels(alice, room_id) == {**before, "ban": 75, "kick": 60, "redact": 50}


# ── Levels ───────────────────────────────────────────────────────────────────


def test_flat_levels_keep_what_else_the_levels_say(alice: User, bob: User) -> None:
    room_id = moderated(alice, bob)
    before = levels(alice, room_id)
    set_state(alice, room_id, "m.room.power_levels", {**before, "notifications": {"room": 20}})
    flat = {alice.user_id: 100, bob.user_id: 30, "default": 5, "required_power_level": 1}
    assert write(alice, room_id, "m.room.power_levels", **flat).json == {}
    users = {alice.user_id: 100, bob.user_id: 30}
    assert levels(bob, room_id) == {**before, "notifications": {"room": 20}, "users": users, "users_default": 5}
    assert read(bob, room_id, "m.room.power_levels") == {**users, "default": 5}


def test_the_level_for_state_and_for_messages_are_one_number_each(alice: User, bob: User) -> None:
    room_id = moderated(alice, bob)
    assert write(alice, room_id, "m.room.add_state_level", level=0).json == {}
    assert write(alice, room_id, "m.room.send_event_level", level=10).json == {}
    assert (levels(alice, room_id)["state_default"], levels(alice, room_id)["events_default"]) == (0, 10)
    assert put(bob, "rooms", room_id, "state", "org.example.x", x=1).json == {}
    assert refusal(post(bob, "rooms", room_id, "send", "m.room.message", msgtype="m.text")) == (403, "M_FORBIDDEN")


def test_levels_that_are_so_already_make_no_event(alice: User) -> None:
    room_id = moderated(alice)
    before = events_of(alice, room_id)
    for event_type in ("m.room.power_levels", "m.room.add_state_level", "m.room.send_event_level", "m.room.ops_levels"):
        assert write(alice, room_id, event_type, **read(alice, room_id, event_type)).json == {}
    assert events_of(alice, room_id) == before


@pytest.mark.parametrize(
    ("event_type", "body"),
    [
        ("m.room.power_levels", {"@bob:example.org": "50"}),
        ("m.room.power_levels", {"default": None}),
        ("m.room.power_levels", {"users": {"@bob:example.org": 50}}),
        ("m.room.add_state_level", {}),
        ("m.room.add_state_level", {"level": True}),
        ("m.room.send_event_level", {"level": 1.5}),
        ("m.room.ops_levels", {"kick_level": [60]}),
    ],
)
def test_levels_are_integers(alice: User, event_type: str, body: dict[str, Any]) -> None:
    room_id = moderated(alice)
    before = levels(alice, room_id)
    assert refusal(write(alice, room_id, event_type, **body)) == (400, "M_BAD_JSON")
    assert levels(alice, room_id) == before


def test_an_integer_that_no_event_can_hold_is_bad_json(alice: User) -> None:
    room_id = moderated(alice)
    assert refusal(write(alice, room_id, "m.room.add_state_level", level=2**53)) == (400, "M_BAD_JSON")


def test_the_names_of_the_draft_are_ordinary_types_today(alice: User) -> None:
    room_id = moderated(alice)
    before = levels(alice, room_id)
    content = {"ban_level": "any", "x": 1}
    assert set_state(alice, room_id, "m.room.ops_levels", content).status == 200
    assert set_state(alice, room_id, "m.room.config", {"name": "none"}).status == 200
    assert state(alice, room_id, "m.room.ops_levels").json == content
    assert levels(alice, room_id) == before
    assert read(alice, room_id, "m.room.ops_levels") == {"ban_level": 50, "kick_level": 50, "redact_level": 50}
    assert "name" not in read(alice, room_id, "m.room.config")


def test_under_another_state_key_they_are_ordinary_in_the_draft_too(alice: User) -> None:
    room_id = moderated(alice)
    assert put(alice, "rooms", room_id, "state", "m.room.ops_levels", "x", ban_level="any").json == {}
    assert state(alice, room_id, "m.room.ops_levels", "x").json == {"ban_level": "any"}


def test_in_version_12_creators_are_shown_with_the_greatest_number_and_not_written(alice: User, bob: User) -> None:
    room_id = create_room(alice, bob, room_version="12")
    flat = read(alice, room_id, "m.room.power_levels")
    assert flat == {alice.user_id: GREATEST, "default": 0}
    assert write(alice, room_id, "m.room.power_levels", **flat, **{bob.user_id: 50}).json == {}
    assert levels(alice, room_id)["users"] == {bob.user_id: 50}
    assert read(bob, room_id, "m.room.power_levels") == {alice.user_id: GREATEST, bob.user_id: 50, "default": 0}
    lowered = write(alice, room_id, "m.room.power_levels", **{alice.user_id: 100, "default": 0})
    assert refusal(lowered) == (403, "M_FORBIDDEN")


def test_two_writers_of_levels_at_once_are_both_heard(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    one_call_at_a_time(monkeypatch)
    monkeypatch.setattr(attempts, "ATTEMPT_SECONDS", 60.0)
    room_id = moderated(alice)
    before = levels(alice, room_id)
    requester = Requester(alice.user_id, alice.device_id, "")
    bodies: list[tuple[str, dict[str, int]]] = [
        ("m.room.add_state_level", {"level": 41}),
        ("m.room.send_event_level", {"level": 2}),
        ("m.room.ops_levels", {"ban_level": 71}),
        ("m.room.ops_levels", {"kick_level": 61}),
        ("m.room.power_levels", {alice.user_id: 100, "default": 3}),
    ]
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda one: set_levels(requester, room_id, *one), bodies))
    after = {"state_default": 41, "events_default": 2, "ban": 71, "kick": 61, "users_default": 3}
    assert levels(alice, room_id) == {**before, **after}


# ── The four rules of 2014, in both dialects ─────────────────────────────────

Writer = Callable[[User, str, dict[str, int]], Answer]


def flatly(user: User, room_id: str, users: dict[str, int]) -> Answer:
    """Levels of users as the draft writes them."""
    return write(user, room_id, "m.room.power_levels", **users, default=0)


def as_today(user: User, room_id: str, users: dict[str, int]) -> Answer:
    content = {**levels(user, room_id), "users": users}
    return set_state(user, room_id, "m.room.power_levels", content)


@pytest.fixture(params=[flatly, as_today], ids=["draft", "today"])
def give(request: pytest.FixtureRequest) -> Writer:
    writer: Writer = request.param
    return writer


@pytest.fixture(params=["11", "12"])
def room(request: pytest.FixtureRequest, alice: User, bob: User, carol: User) -> str:
    """Bob, at 60, may change the levels; Carol has 50."""
    room_id = create_room(alice, bob, carol, room_version=request.param)
    content = levels(alice, room_id)
    content["users"] |= {bob.user_id: 60, carol.user_id: 50}
    content["events"] |= {"m.room.power_levels": 60}
    assert set_state(alice, room_id, "m.room.power_levels", content).status == 200
    return room_id


def shown(user: User, room_id: str, writer: Writer) -> dict[str, int]:
    """The users' levels as one reads them before one changes them."""
    if writer is as_today:
        return own(user, room_id)
    flat: dict[str, int] = read(user, room_id, "m.room.power_levels")
    return {name: level for name, level in flat.items() if name != "default"}


def test_nobody_writes_a_key_above_their_level(room: str, carol: User, give: Writer) -> None:
    assert refusal(give(carol, room, {**shown(carol, room, give), "@x:example.org": 1})) == (403, "M_FORBIDDEN")
    assert refusal(put(carol, "rooms", room, "state", "m.room.history_visibility", history_visibility="joined")) == (
        403,
        "M_FORBIDDEN",
    )


def test_nobody_raises_what_a_key_takes_above_their_own_level(room: str, bob: User) -> None:
    assert write(bob, room, "m.room.add_state_level", level=60).json == {}
    assert refusal(write(bob, room, "m.room.add_state_level", level=61)) == (403, "M_FORBIDDEN")
    assert refusal(write(bob, room, "m.room.send_event_level", level=61)) == (403, "M_FORBIDDEN")
    assert refusal(write(bob, room, "m.room.ops_levels", ban_level=61)) == (403, "M_FORBIDDEN")
    content = {**levels(bob, room), "state_default": 61}
    assert refusal(set_state(bob, room, "m.room.power_levels", content)) == (403, "M_FORBIDDEN")


def test_nobody_raises_their_own_level(room: str, bob: User, give: Writer) -> None:
    before = shown(bob, room, give)
    assert refusal(give(bob, room, {**before, bob.user_id: 61})) == (403, "M_FORBIDDEN")
    assert give(bob, room, {**before, bob.user_id: 60, "@x:example.org": 10}).status == 200


def test_nobody_gives_more_than_they_have(room: str, bob: User, carol: User, give: Writer) -> None:
    before = shown(bob, room, give)
    assert refusal(give(bob, room, {**before, carol.user_id: 61})) == (403, "M_FORBIDDEN")
    assert give(bob, room, {**before, carol.user_id: 60}).status == 200
    assert own(carol, room)[carol.user_id] == 60


# ── The config ───────────────────────────────────────────────────────────────


def config(user: User, room_id: str, **body: Any) -> Answer:
    return write(user, room_id, "m.room.config", **body)


def test_every_key_of_a_config_goes_to_its_place_of_today(alice: User) -> None:
    room_id = draft_room(alice)
    body = {"visibility": "public", "room_alias_name": "pub", "name": "Pub", "topic": "t", "drinks": ["tea"]}
    assert config(alice, room_id, **body, required_power_level=3).json == {}
    assert state(alice, room_id, "m.room.name").json == {"name": "Pub"}
    assert state(alice, room_id, "m.room.topic").json == {"topic": "t"}
    assert state(alice, room_id, "m.room.canonical_alias").json == {"alias": "#pub:example.org"}
    assert state(alice, room_id, "org.eigenserver.config").json == {"drinks": ["tea"]}
    assert call("client_directory", "GET", f"/_matrix/client/v3/directory/list/room/{room_id}").json == {
        "visibility": "public"
    }
    assert (
        call("client_rooms", "GET", "/_matrix/client/v3/directory/room/%23pub:example.org").json["room_id"] == room_id
    )
    assert read(alice, room_id, "m.room.config") == body
    before = events_of(alice, room_id)
    assert config(alice, room_id, **body).json == {}
    assert events_of(alice, room_id) == before


def test_what_a_config_does_not_name_stays(alice: User) -> None:
    room_id = draft_room(alice, name="Pub", room_alias_name="pub", visibility="public")
    assert config(alice, room_id, topic="t", a=1).json == {}
    assert config(alice, room_id, topic="", b=2, name=None).json == {}
    assert read(alice, room_id, "m.room.config") == {
        "visibility": "public",
        "room_alias_name": "pub",
        "name": "Pub",
        "a": 1,
        "b": 2,
    }


def test_a_room_leaves_the_directory_by_its_config(alice: User) -> None:
    room_id = draft_room(alice, visibility="public", name="Pub")
    assert config(alice, room_id, visibility="private").json == {}
    assert read(alice, room_id, "m.room.config") == {"visibility": "private", "name": "Pub"}
    assert state(alice, room_id, "m.room.join_rules").json == {"join_rule": "public"}  # who may join is no config


def test_a_room_gets_another_main_alias_and_keeps_the_first(alice: User) -> None:
    room_id = draft_room(alice, room_alias_name="pub")
    assert config(alice, room_id, room_alias_name="bar").json == {}
    assert read(alice, room_id, "m.room.config")["room_alias_name"] == "bar"
    assert config(alice, room_id, room_alias_name="pub").json == {}
    assert read(alice, room_id, "m.room.config")["room_alias_name"] == "pub"
    assert config(alice, room_id, room_alias_name="").json == {}
    assert "room_alias_name" not in read(alice, room_id, "m.room.config")


def test_a_config_is_written_whole_or_not_at_all(alice: User, bob: User) -> None:
    room_id = moderated(alice, bob, bob=50)
    content = levels(alice, room_id)
    content["events"] |= {"m.room.topic": 60}
    assert set_state(alice, room_id, "m.room.power_levels", content).status == 200
    before = events_of(alice, room_id)
    body = {"visibility": "public", "room_alias_name": "pub", "name": "Bob's", "topic": "more", "x": 1}
    assert refusal(config(bob, room_id, **body)) == (403, "M_FORBIDDEN")
    assert events_of(alice, room_id) == before
    assert read(alice, room_id, "m.room.config") == {"visibility": "private"}
    gone = call("client_rooms", "GET", "/_matrix/client/v3/directory/room/%23pub:example.org")
    assert refusal(gone) == (404, "M_NOT_FOUND")
    del body["topic"]
    assert config(bob, room_id, **body).json == {}
    assert read(alice, room_id, "m.room.config") == body


def test_who_may_not_publish_a_room_changes_nothing_of_it(alice: User, bob: User) -> None:
    room_id = moderated(alice, bob, bob=50)
    content = levels(alice, room_id)
    content["events"] |= {"m.room.canonical_alias": 60}
    assert set_state(alice, room_id, "m.room.power_levels", content).status == 200
    assert refusal(config(bob, room_id, visibility="public", name="Bob's")) == (403, "M_FORBIDDEN")
    assert read(alice, room_id, "m.room.config") == {"visibility": "private"}


@pytest.mark.parametrize("body", [{"visibility": "secret"}, {"name": 7}, {"topic": {}}, {"room_alias_name": []}])
def test_a_config_of_wrong_types_is_bad_json(alice: User, body: dict[str, Any]) -> None:
    assert refusal(config(alice, draft_room(alice), **body)) == (400, "M_BAD_JSON")


def test_who_is_not_in_the_room_writes_neither_config_nor_levels(alice: User, bob: User) -> None:
    room_id = draft_room(alice, visibility="public")
    for room in (room_id, "!" + "x" * 43):
        assert refusal(config(bob, room, name="Bob's")) == (403, "M_FORBIDDEN")
        assert refusal(config(bob, room)) == (403, "M_FORBIDDEN")
        assert refusal(write(bob, room, "m.room.add_state_level", level=0)) == (403, "M_FORBIDDEN")


def test_a_config_that_was_cut_off_is_finished_by_its_repetition(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        """The process is gone."""

    def crash(name: str) -> None:
        if name == "config.committed":
            raise Crash

    room_id = draft_room(alice)
    monkeypatch.setattr(observability, "fault_hook", crash)
    body = {"visibility": "public", "name": "Pub"}
    with pytest.raises(Crash):
        set_config(Requester(alice.user_id, alice.device_id, ""), room_id, body)
    monkeypatch.setattr(observability, "fault_hook", None)
    assert read(alice, room_id, "m.room.config") == {"visibility": "private", "name": "Pub"}
    assert config(alice, room_id, **body).json == {}
    assert read(alice, room_id, "m.room.config") == body
