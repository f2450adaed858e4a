"""The selection of auth events, and rules R2 and R3 on those that an event names."""

from collections.abc import Sequence
from typing import Any

import pytest

from fixtures.auth.room import ALICE, ALL_VERSIONS, BOB, CAROL, OK, Room, versions
from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import auth_event_keys, check_auth_events
from homeserver.matrix.room_versions import ROOM_VERSIONS

CREATE = ("m.room.create", "")
LEVELS = ("m.room.power_levels", "")
JOIN_RULES = ("m.room.join_rules", "")


def member(user_id: str) -> tuple[str, str]:
    return ("m.room.member", user_id)


def keys(version: str, event_type: str, content: dict[str, Any], state_key: str | None = None) -> list[tuple[str, str]]:
    return auth_event_keys(event_type, ALICE, state_key, content, ROOM_VERSIONS[version])


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_every_event_names_create_levels_and_its_sender_but_for_create_in_version_12(version: str) -> None:
    always = [LEVELS, member(ALICE)] if version == "12" else [CREATE, LEVELS, member(ALICE)]
    assert keys(version, "m.room.message", {}) == always
    assert keys(version, "m.room.topic", {"membership": "join"}, "") == always
    assert keys(version, "m.room.member", {"membership": "join"}) == always
    assert keys(version, "m.room.create", {}, "") == []


@pytest.mark.parametrize(
    ("membership", "more"),
    [
        ("join", [JOIN_RULES]),
        ("invite", [JOIN_RULES]),
        ("knock", [JOIN_RULES]),
        ("leave", []),
        ("ban", []),
        (None, []),
        (["join"], []),
    ],
)
def test_a_membership_event_names_its_target_and_where_people_come_in_the_join_rules(
    membership: object, more: list[tuple[str, str]]
) -> None:
    first = [CREATE, LEVELS, member(ALICE)]
    assert keys("11", "m.room.member", {"membership": membership}, BOB) == [*first, member(BOB), *more]
    assert keys("11", "m.room.member", {"membership": membership}, ALICE) == [*first, *more]


def test_an_invitation_by_third_party_identifier_names_the_one_it_redeems() -> None:
    content = {"membership": "invite", "third_party_invite": {"signed": {"token": "abc"}}}
    expected = [LEVELS, member(ALICE), member(BOB), JOIN_RULES, ("m.room.third_party_invite", "abc")]
    assert keys("12", "m.room.member", content, BOB) == expected
    assert keys("12", "m.room.member", {**content, "membership": "ban"}, BOB) == expected[:3]


@pytest.mark.parametrize("invite", [None, "x", {}, {"signed": None}, {"signed": {}}, {"signed": {"token": 1}}])
def test_a_malformed_third_party_invite_names_nothing(invite: object) -> None:
    content = {"membership": "invite", "third_party_invite": invite}
    assert keys("12", "m.room.member", content, BOB) == [LEVELS, member(ALICE), member(BOB), JOIN_RULES]


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_from_version_8_a_join_names_the_member_who_authorised_it(version: str) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": CAROL}
    named = keys(version, "m.room.member", content, ALICE)
    assert (member(CAROL) in named) is (version in versions(8, 12))
    assert member(CAROL) not in keys(version, "m.room.member", {**content, "membership": "knock"}, ALICE)
    assert len(named) == len(set(named))


def test_an_authoriser_who_is_the_target_or_no_string_is_not_named_again() -> None:
    for authoriser in (ALICE, None, 5, [CAROL]):
        content = {"membership": "join", "join_authorised_via_users_server": authoriser}
        assert keys("12", "m.room.member", content, ALICE) == [LEVELS, member(ALICE), JOIN_RULES]


def verdict(event: Event, auth_events: Sequence[Event], create: Event | None = None) -> str:
    try:
        check_auth_events(event, auth_events, create=create)
    except AuthRuleViolation as refusal:
        return refusal.rule
    return OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_selected_events_of_the_room_are_accepted_in_any_order(version: str) -> None:
    room = Room(version)
    named = [room.levels(), room.member(ALICE, "join")]
    if version != "12":
        named.append(room.create)
    event = room.event("m.room.message", {})
    assert verdict(event, named, room.create) == OK
    assert verdict(event, named[::-1], room.create) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_an_event_without_auth_events_is_refused_until_version_11(version: str) -> None:
    room = Room(version)
    assert verdict(room.event("m.room.message", {}), [], room.create) == (OK if version == "12" else "R3.4")
    assert verdict(room.create, []) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_each_fault_of_the_named_events_has_its_rule(version: str) -> None:
    room = Room(version)
    base = [] if version == "12" else [room.create]
    levels, alice, bob = room.levels(), room.member(ALICE, "join"), room.member(BOB, "join")
    event = room.event("m.room.message", {})
    assert verdict(event, [*base, levels, alice, room.levels()], room.create) == "R3.1"
    assert verdict(event, [*base, levels, alice, levels], room.create) == "R3.1"
    assert verdict(event, [*base, levels, bob], room.create) == "R3.2"
    assert verdict(event, [*base, alice, room.join_rule("public")], room.create) == "R3.2"
    assert verdict(event, [*base, alice, room.event("m.room.message", {})], room.create) == "R3.2"
    assert verdict(event, [*base, room.event("m.room.power_levels", {}, state_key="x")], room.create) == "R3.2"
    rejected = room.event("m.room.power_levels", {}, state_key="", rejected=True)
    assert verdict(event, [*base, alice, rejected], room.create) == "R3.3"
    foreign = room.event("m.room.power_levels", {}, state_key="", room_id="!other:one.example")
    assert verdict(event, [*base, alice, foreign], room.create) == "R3.5"


def test_in_version_12_the_create_event_must_not_be_named() -> None:
    room = Room("12")
    assert verdict(room.event("m.room.message", {}), [room.create], room.create) == "R3.2"


def test_in_version_12_the_room_id_is_that_of_an_accepted_create_event() -> None:
    room, other = Room("12"), Room("12")
    event = room.event("m.room.message", {})
    assert verdict(event, [], room.create) == OK
    assert verdict(event, []) == "R2"
    rejected = Event(room.create.event_id, room.room_id, room.create.pdu, room.rules, rejected=True)
    assert verdict(event, [], rejected) == "R2"
    topic = room.set("m.room.topic", {})
    in_topic = room.event("m.room.message", {}, room_id="!" + topic.event_id.removeprefix("$"))
    assert verdict(in_topic, [], topic) == "R2"
    elsewhere = Event("$elsewhere", "!elsewhere", other.create.pdu, other.rules)
    assert verdict(event, [], elsewhere) == "R2"


def test_before_version_12_no_create_event_is_looked_for_behind_the_room_id() -> None:
    room = Room("11")
    assert verdict(room.event("m.room.message", {}), [room.create]) == OK
