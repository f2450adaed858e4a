"""Rules R1, R4 to R9 and R12: the create event, closed rooms, aliases, who may send what."""

from typing import Any

import pytest

from fixtures.auth.room import ALICE, ALL_VERSIONS, BOB, CREATOR, OK, Room, versions
from homeserver.matrix.errors import AuthRuleViolation, Forbidden
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth import AuthState, check_event_auth

NOTHING = AuthState({})


def create_event(version: str, *, without: str = "", room_id: str | None = None, **content: Any) -> Event:
    """The create event of a room of this version, with more content or without one key of it."""
    made = Room(version, content).create
    pdu = {**made.pdu, "content": {key: value for key, value in made.content.items() if key != without}}
    if room_id is not None:
        pdu["room_id"] = room_id
    return Event(made.event_id, room_id or made.room_id, pdu, made.rules)


def verdict(event: Event, state: AuthState = NOTHING) -> str:
    try:
        check_event_auth(event, state)
    except AuthRuleViolation as refusal:
        return refusal.rule
    return OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_create_event_needs_no_state_and_no_previous_event(version: str) -> None:
    assert verdict(create_event(version)) == OK
    room = Room(version)
    second = Event("$second", room.room_id, {**room.create.pdu, "prev_events": ["$first"]}, room.rules)
    assert verdict(second, room.auth_state) == "R1.1"


@pytest.mark.parametrize("version", versions(1, 11))
@pytest.mark.parametrize("room_id", ["!room:two.example", "!room:one.example:8448", "!room"])
def test_until_version_11_the_room_id_is_of_the_senders_server(version: str, room_id: str) -> None:
    assert verdict(create_event(version, room_id=room_id)) == "R1.2"
    assert verdict(create_event(version, room_id="!other:one.example")) == OK


def test_two_identifiers_without_a_server_are_not_of_the_same_server() -> None:
    made = create_event("11", room_id="!room")
    assert verdict(Event(made.event_id, "!room", {**made.pdu, "sender": "@creator"}, made.rules)) == "R1.2"


def test_in_version_12_the_create_event_has_no_room_id() -> None:
    assert verdict(create_event("12", room_id="!room:one.example")) == "R1.3"
    assert verdict(create_event("12")) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize("named", ["13", "0", "org.example.1", "", None, 1, ["1"], {"1": 1}])
def test_a_room_version_that_is_named_is_known(version: str, named: object) -> None:
    assert verdict(create_event(version, room_version=named)) == "R1.4"


def test_a_create_event_without_a_room_version_makes_a_room_of_version_1() -> None:
    assert verdict(create_event("1", without="room_version")) == OK


def test_the_content_names_the_creator_until_version_10() -> None:
    for version in versions(1, 10):
        assert verdict(create_event(version, without="creator")) == "R1.5"
    for version in versions(11, 12):
        assert "creator" not in create_event(version).content
        assert verdict(create_event(version)) == OK


@pytest.mark.parametrize("additional", [None, ALICE, {ALICE: 1}, ["alice"], [ALICE, 1], [ALICE, None], [[ALICE]]])
def test_additional_creators_of_version_12_are_a_list_of_user_ids(additional: object) -> None:
    assert verdict(create_event("12", additional_creators=additional)) == "R1.6"
    assert verdict(create_event("11", additional_creators=additional)) == OK
    assert verdict(create_event("12", additional_creators=[ALICE, BOB])) == OK
    assert verdict(create_event("12", additional_creators=[])) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_nothing_is_allowed_before_the_create_event(version: str) -> None:
    room = Room(version)
    member = room.member(ALICE, "join")
    event = room.event("m.room.message", {"body": "hello"})
    assert verdict(event, AuthState.of([member])) == "R3.4"
    assert verdict(event, AuthState.of([member, room.create])) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_closed_room_takes_events_of_the_creators_server_only(version: str) -> None:
    room = Room(version, {"m.federate": False})
    room.join_rule("public")
    assert room.membership(BOB, BOB, "join") == "R4"
    assert room.membership(ALICE, ALICE, "join") == OK
    room.member(ALICE, "join")
    room.member(BOB, "join")
    assert room.send("m.room.message", {}, sender=BOB) == "R4"
    assert room.send("m.room.message", {}, sender=ALICE) == OK


@pytest.mark.parametrize("value", [True, None, 0, "false"])
def test_only_false_closes_a_room(value: object) -> None:
    room = Room("11", {"m.federate": value})
    room.member(BOB, "join")
    assert room.send("m.room.message", {}, sender=BOB) == OK


@pytest.mark.parametrize("version", versions(1, 5))
def test_until_version_5_a_server_sets_its_own_aliases_even_without_a_member(version: str) -> None:
    room = Room(version)
    room.levels(state_default=100)
    assert room.send("m.room.aliases", {"aliases": []}, sender=BOB) == "R5.1"
    assert room.send("m.room.aliases", {"aliases": []}, sender=BOB, state_key="one.example") == "R5.2"
    assert room.send("m.room.aliases", {"aliases": []}, sender=BOB, state_key="two.example") == OK


@pytest.mark.parametrize("version", versions(6, 12))
def test_from_version_6_aliases_are_ordinary_state(version: str) -> None:
    room = Room(version)
    assert room.send("m.room.aliases", {}, sender=BOB, state_key="two.example") == "R6"
    room.member(BOB, "join")
    assert room.send("m.room.aliases", {}, sender=BOB, state_key="two.example") == "R8"
    room.levels(users={BOB: 50})
    assert room.send("m.room.aliases", {}, sender=BOB, state_key="one.example") == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_only_joined_users_send(version: str) -> None:
    room = Room(version)
    room.levels(users={ALICE: 100})
    for membership in ("none", "invite", "leave", "ban", "knock"):
        room.member(ALICE, membership)
        assert room.send("m.room.message", {}) == "R6"
        assert room.send("m.room.third_party_invite", {}, state_key="token") == "R6"
    room.member(ALICE, "join")
    assert room.send("m.room.message", {}) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_third_party_invite_takes_the_power_to_invite_and_no_other(version: str) -> None:
    room = Room(version)
    room.member(ALICE, "join")
    room.levels(invite=20, state_default=60, events={"m.room.third_party_invite": 90}, users={ALICE: 19})
    assert room.send("m.room.third_party_invite", {}, state_key="token") == "R7"
    room.levels(invite=20, state_default=60, events={"m.room.third_party_invite": 90}, users={ALICE: 20})
    assert room.send("m.room.third_party_invite", {}, state_key="token") == OK
    assert room.send("m.room.third_party_invite", {}, state_key=BOB) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize(
    ("event_type", "state_key", "needed"),
    [
        ("m.room.message", None, 10),
        ("m.room.topic", "", 60),
        ("m.room.encrypted", None, 30),
        ("m.room.name", "", 40),
        ("m.room.name", None, 40),
    ],
)
def test_each_type_of_event_takes_its_level(version: str, event_type: str, state_key: str | None, needed: int) -> None:
    room = Room(version)
    room.member(ALICE, "join")
    levels = {"events_default": 10, "state_default": 60, "events": {"m.room.encrypted": 30, "m.room.name": 40}}
    room.levels(**levels, users={ALICE: needed - 1})
    assert room.send(event_type, {}, state_key=state_key) == "R8"
    room.levels(**levels, users={ALICE: needed})
    assert room.send(event_type, {}, state_key=state_key) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_without_power_levels_members_send_messages_and_the_creator_state_too(version: str) -> None:
    room = Room(version)
    room.member(ALICE, "join")
    room.member(CREATOR, "join")
    assert room.send("m.room.message", {}) == OK
    assert room.send("m.room.topic", {}, state_key="") == "R8"
    assert room.send("m.room.topic", {}, state_key="", sender=CREATOR) == OK


def test_creators_of_version_12_send_anything_whatever_the_levels() -> None:
    room = Room("12", {"additional_creators": [BOB]})
    room.levels(state_default=2**53 - 1, users_default=-5)
    for user_id in (ALICE, BOB, CREATOR):
        room.member(user_id, "join")
    assert room.send("m.room.tombstone", {}, state_key="", sender=ALICE) == "R8"
    assert room.send("m.room.tombstone", {}, state_key="", sender=BOB) == OK
    assert room.send("m.room.tombstone", {}, state_key="", sender=CREATOR) == OK


def test_additional_creators_mean_nothing_before_version_12() -> None:
    room = Room("11", {"additional_creators": [BOB]})
    room.member(BOB, "join")
    assert room.send("m.room.topic", {}, state_key="", sender=BOB) == "R8"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_state_key_that_is_a_user_belongs_to_that_user(version: str) -> None:
    room = Room(version)
    room.member(ALICE, "join")
    room.levels(users={ALICE: 100})
    assert room.send("org.example.profile", {}, state_key=BOB) == "R9"
    assert room.send("org.example.profile", {}, state_key=ALICE + "x") == "R9"
    assert room.send("org.example.profile", {}, state_key="@") == "R9"
    assert room.send("org.example.profile", {}, state_key=ALICE) == OK
    assert room.send("org.example.profile", {}, state_key="_" + BOB) == OK


def test_a_refusal_is_a_forbidden_matrix_error_that_names_its_rule() -> None:
    room = Room()
    with pytest.raises(Forbidden) as refusal:
        check_event_auth(room.event("m.room.message", {}), room.auth_state)
    assert isinstance(refusal.value, AuthRuleViolation)
    assert (refusal.value.status, refusal.value.rule) == (403, "R6")
    assert refusal.value.body() == {"errcode": "M_FORBIDDEN", "error": "the sender is not a member of the room"}
