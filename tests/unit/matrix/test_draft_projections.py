"""State of today as the draft of 2014 had it, and back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.draft_projections import (
    ADD_STATE_LEVEL,
    LEVEL_TYPES,
    OPS_LEVELS,
    POWER_LEVELS,
    SEND_EVENT_LEVEL,
    ConfigChanges,
    RoomConfig,
    config_changes,
    flat_power_levels,
    level_projection,
    with_levels,
)
from homeserver.matrix.errors import BadJson, Forbidden
from homeserver.matrix.power_levels import DEFAULT_LEVELS, PowerLevels
from homeserver.matrix.room_versions import V11

SERVER = "hs.test"
CAROL, DAVE = "@carol:hs.test", "@dave:peer.test"
GREATEST = 9007199254740991
MODERN: dict[str, Any] = {
    "users": {CAROL: 100, DAVE: 50},
    "users_default": 10,
    "events": {"m.room.name": 60},
    "events_default": 5,
    "state_default": 40,
    "ban": 70,
    "kick": 65,
    "redact": 55,
    "invite": 20,
    "notifications": {"room": 80},
    "org.example.kept": {"x": 1},
}

levels = st.integers(-(2**53) + 1, 2**53 - 1)
user_ids = st.from_regex(r"@[a-z0-9]{1,8}:[a-z]{1,8}\.test", fullmatch=True)
modern_contents = st.fixed_dictionaries(
    {},
    optional={
        "users": st.dictionaries(user_ids, levels, max_size=4),
        "events": st.dictionaries(st.sampled_from(["m.room.name", "m.room.topic", "org.example.x"]), levels),
        "notifications": st.fixed_dictionaries({"room": levels}),
        **dict.fromkeys(DEFAULT_LEVELS, levels),
        "org.example.kept": st.text(),
    },
)
WRITTEN = {
    POWER_LEVELS: {"users", "users_default"},
    ADD_STATE_LEVEL: {"state_default"},
    SEND_EVENT_LEVEL: {"events_default"},
    OPS_LEVELS: {"ban", "kick", "redact"},
}


def test_the_levels_of_a_room_are_four_events_of_the_draft() -> None:
    assert flat_power_levels(MODERN) == {CAROL: 100, DAVE: 50, "default": 10}
    assert level_projection(ADD_STATE_LEVEL, MODERN) == {"level": 40}
    assert level_projection(SEND_EVENT_LEVEL, MODERN) == {"level": 5}
    assert level_projection(OPS_LEVELS, MODERN) == {"ban_level": 70, "kick_level": 65, "redact_level": 55}


def test_a_room_without_levels_has_those_that_apply_to_it() -> None:
    assert flat_power_levels(None) == {"default": 0}
    assert level_projection(ADD_STATE_LEVEL, None) == {"level": 50}
    assert level_projection(SEND_EVENT_LEVEL, {}) == {"level": 0}
    assert level_projection(OPS_LEVELS, {}) == {"ban_level": 50, "kick_level": 50, "redact_level": 50}


def test_levels_of_old_rooms_that_are_strings_are_shown_as_integers() -> None:
    old = {"users": {CAROL: "100", DAVE: "high", "carol": 7}, "users_default": "3", "ban": 60.0}
    assert flat_power_levels(old) == {CAROL: 100, "default": 3}
    assert level_projection(OPS_LEVELS, old)["ban_level"] == 60


@given(modern=modern_contents, event_type=st.sampled_from(sorted(LEVEL_TYPES)))
def test_what_is_shown_can_be_written_back_and_changes_no_level(modern: dict[str, Any], event_type: str) -> None:
    after = with_levels(event_type, level_projection(event_type, modern), modern)
    assert {t: level_projection(t, after) for t in LEVEL_TYPES} == {t: level_projection(t, modern) for t in LEVEL_TYPES}
    before_levels, after_levels = (PowerLevels(c, frozenset(), V11) for c in (modern, after))
    assert after_levels.table("events") == before_levels.table("events")
    assert after_levels.invite == before_levels.invite


@given(modern=modern_contents, event_type=st.sampled_from(sorted(LEVEL_TYPES)), data=st.data())
def test_what_is_written_is_what_is_shown_then_and_touches_nothing_else(
    modern: dict[str, Any], event_type: str, data: st.DataObject
) -> None:
    shape = level_projection(event_type, modern)
    body: dict[str, Any] = {key: data.draw(levels) for key in shape}
    if event_type == POWER_LEVELS:
        body = {**data.draw(st.dictionaries(user_ids, levels, max_size=3)), "default": body["default"]}
    after = with_levels(event_type, {**body, "required_power_level": 3}, modern)
    assert level_projection(event_type, after) == body
    untouched = set(modern) - WRITTEN[event_type]
    assert {key: after[key] for key in untouched} == {key: modern[key] for key in untouched}
    assert set(after) - set(modern) <= WRITTEN[event_type]


@pytest.mark.parametrize("value", ["75", 75.5, 75.0, True, [75], {}])
@pytest.mark.parametrize(
    ("event_type", "key"),
    [
        (POWER_LEVELS, CAROL),
        (POWER_LEVELS, "default"),
        (ADD_STATE_LEVEL, "level"),
        (SEND_EVENT_LEVEL, "level"),
        (OPS_LEVELS, "ban_level"),
        (OPS_LEVELS, "kick_level"),
        (OPS_LEVELS, "redact_level"),
    ],
)
def test_a_level_that_is_no_integer_is_bad_json(event_type: str, key: str, value: Any) -> None:
    with pytest.raises(BadJson, match="must be an integer"):
        with_levels(event_type, {key: value}, MODERN)


@pytest.mark.parametrize("event_type", [ADD_STATE_LEVEL, SEND_EVENT_LEVEL])
def test_a_level_has_to_be_there(event_type: str) -> None:
    with pytest.raises(BadJson, match="level must be an integer"):
        with_levels(event_type, {}, MODERN)


def test_the_levels_of_today_are_not_taken_for_the_flat_ones() -> None:
    with pytest.raises(BadJson, match="ban is no user ID"):
        with_levels(POWER_LEVELS, {"ban": 50}, MODERN)


def test_of_three_levels_of_operations_one_alone_can_be_written() -> None:
    after = with_levels(OPS_LEVELS, {"kick_level": 1}, MODERN)
    assert after == {**MODERN, "kick": 1}


def test_a_user_that_the_flat_levels_do_not_name_has_the_default_level() -> None:
    after = with_levels(POWER_LEVELS, {CAROL: 100}, MODERN)
    assert (after["users"], after["users_default"]) == ({CAROL: 100}, 0)
    assert (after["events"], after["notifications"]) == (MODERN["events"], MODERN["notifications"])


def test_a_creator_without_a_number_is_shown_with_the_greatest_integer_and_never_written() -> None:
    modern = {"users": {DAVE: 50}}
    flat = flat_power_levels(modern, [CAROL])
    assert flat == {CAROL: GREATEST, DAVE: 50, "default": 0}
    assert with_levels(POWER_LEVELS, flat, modern, [CAROL])["users"] == {DAVE: 50}


def test_the_power_of_such_a_creator_cannot_be_changed() -> None:
    with pytest.raises(Forbidden, match="made this room"):
        with_levels(POWER_LEVELS, {CAROL: 100}, {}, [CAROL])


def config(**more: Any) -> RoomConfig:
    return RoomConfig(**{"is_public": True, "name": "Pub", **more})


def test_the_config_shows_what_the_room_is() -> None:
    assert config().content(SERVER) == {"visibility": "public", "name": "Pub"}
    whole = config(is_public=False, canonical_alias="#pub:hs.test", topic="t", others={"drinks": ["tea"]})
    assert whole.content(SERVER) == {
        "visibility": "private",
        "room_alias_name": "pub",
        "name": "Pub",
        "topic": "t",
        "drinks": ["tea"],
    }


def test_an_alias_of_another_server_has_no_name_in_the_config() -> None:
    assert config(canonical_alias="#pub:peer.test").content(SERVER) == {"visibility": "public", "name": "Pub"}


def test_kept_keys_never_hide_what_the_room_is() -> None:
    forged = config(others={"visibility": "private", "topic": "forged", "x": 1})
    assert forged.content(SERVER) == {"visibility": "public", "name": "Pub", "x": 1}


texts = st.text(max_size=5)
names = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
configs = st.builds(
    RoomConfig,
    is_public=st.booleans(),
    canonical_alias=st.none() | names.map(lambda name: f"#{name}:{SERVER}"),
    name=st.none() | texts,
    topic=st.none() | texts,
    others=st.dictionaries(st.sampled_from(["a", "b"]), st.integers() | texts, max_size=2),
)


@given(before=configs)
def test_a_config_written_back_as_it_was_read_changes_nothing(before: RoomConfig) -> None:
    assert config_changes(before.content(SERVER), before, SERVER).is_empty


@given(before=configs, wanted=configs)
def test_after_the_changes_the_config_shows_what_was_wanted(before: RoomConfig, wanted: RoomConfig) -> None:
    body = wanted.content(SERVER)
    changes = config_changes(body, before, SERVER)
    after = RoomConfig(
        before.is_public if changes.is_public is None else changes.is_public,
        before.canonical_alias if changes.alias_name is None else f"#{changes.alias_name}:{SERVER}",
        before.name if changes.name is None else changes.name,
        before.topic if changes.topic is None else changes.topic,
        before.others if changes.others is None else changes.others,
    )
    assert after.content(SERVER) == {**before.content(SERVER), **body}


def test_only_what_changes_is_changed() -> None:
    before = config(topic="t", others={"drinks": 1})
    body = {
        "name": "Pub",
        "topic": "",
        "visibility": "public",
        "food": 2,
        "required_power_level": 9,
        "room_alias_name": None,
    }
    assert config_changes(body, before, SERVER) == ConfigChanges(topic="", others={"drinks": 1, "food": 2})


@pytest.mark.parametrize(
    "body", [{"visibility": "secret"}, {"visibility": 1}, {"name": {}}, {"topic": 7}, {"room_alias_name": ["x"]}]
)
def test_a_config_of_wrong_types_is_bad_json(body: dict[str, Any]) -> None:
    with pytest.raises(BadJson):
        config_changes(body, config(), SERVER)
