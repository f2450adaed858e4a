"""Rules M1 to M9 where the table of verdicts does not reach: shapes, creators, restricted joins, levels."""

import pytest

from fixtures.auth.room import ALICE, ALL_VERSIONS, BOB, CAROL, CREATOR, OK, Room, versions
from homeserver.matrix.event_auth import AuthState


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_membership_event_needs_a_state_key_and_a_membership(version: str) -> None:
    room = Room(version)
    room.join_rule("public")
    assert room.send("m.room.member", {"membership": "join"}) == "M1"
    assert room.send("m.room.member", {"displayname": "Alice"}, state_key=ALICE) == "M1"
    assert room.send("m.room.member", {"membership": "join"}, state_key=ALICE) == OK


@pytest.mark.parametrize("membership", ["sleep", "", None, 1, ["join"], {"join": True}])
def test_an_unknown_membership_is_refused(membership: object) -> None:
    room = Room()
    room.join_rule("public")
    assert room.send("m.room.member", {"membership": membership}, state_key=ALICE) == "M9"


def test_knocking_for_another_user_is_refused() -> None:
    room = Room("7")
    room.join_rule("knock")
    assert room.membership(ALICE, BOB, "knock") == "M8.2"
    assert room.membership(ALICE, ALICE, "knock") == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_creator_joins_right_after_the_create_event_without_an_invitation(version: str) -> None:
    room = Room(version)
    content = {"membership": "join"}
    first = room.event("m.room.member", content, sender=CREATOR, state_key=CREATOR, prev=[room.create.event_id])
    assert room.verdict(first) == OK
    later = room.event("m.room.member", content, sender=CREATOR, state_key=CREATOR, prev=["$other"])
    assert room.verdict(later) == "M3.4"
    two = room.event("m.room.member", content, sender=CREATOR, state_key=CREATOR, prev=[room.create.event_id, "$other"])
    assert room.verdict(two) == "M3.4"
    stranger = room.event("m.room.member", content, sender=BOB, state_key=BOB, prev=[room.create.event_id])
    assert room.verdict(stranger) == "M3.4"


@pytest.mark.parametrize(("version", "by_sender", "by_content"), [("10", "M3.4", OK), ("11", OK, "M3.4")])
def test_the_creator_is_named_by_the_content_until_version_10_and_then_is_the_sender(
    version: str, by_sender: str, by_content: str
) -> None:
    room = Room(version, {"creator": CAROL})
    prev = [room.create.event_id]
    content = {"membership": "join"}
    sender_joins = room.event("m.room.member", content, sender=CREATOR, state_key=CREATOR, prev=prev)
    assert room.verdict(sender_joins) == by_sender
    named_joins = room.event("m.room.member", content, sender=CAROL, state_key=CAROL, prev=prev)
    assert room.verdict(named_joins) == by_content


def test_an_additional_creator_needs_an_invitation() -> None:
    room = Room("12", {"additional_creators": [BOB]})
    event = room.event("m.room.member", {"membership": "join"}, sender=BOB, state_key=BOB, prev=[room.create.event_id])
    assert room.verdict(event) == "M3.4"
    room.member(BOB, "invite", sender=CREATOR)
    assert room.verdict(event) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_without_a_join_rule_an_invitation_is_needed(version: str) -> None:
    room = Room(version)
    assert room.membership(ALICE, ALICE, "join") == "M3.4"
    room.member(ALICE, "invite", sender=CREATOR)
    assert room.membership(ALICE, ALICE, "join") == OK


def test_a_join_rules_event_without_a_rule_means_invite_and_a_rule_that_is_no_string_lets_nobody_in() -> None:
    room = Room()
    room.member(ALICE, "invite", sender=CREATOR)
    room.set("m.room.join_rules", {})
    assert room.membership(ALICE, ALICE, "join") == OK
    for value in (None, ["public"], {"public": True}, 1):
        room.set("m.room.join_rules", {"join_rule": value})
        assert room.auth_state.join_rule == ""
        assert room.membership(ALICE, ALICE, "join") == "M3.7"


@pytest.mark.parametrize("version", versions(8, 12))
def test_a_restricted_join_needs_the_word_of_a_joined_user_who_may_invite(version: str) -> None:
    room = Room(version)
    room.join_rule("restricted")
    room.levels(invite=10, users={CAROL: 10, BOB: 9})
    for membership in ("none", "invite", "leave", "ban"):
        room.member(CAROL, membership)
        assert room.membership(ALICE, ALICE, "join", join_authorised_via_users_server=CAROL) == "M3.5"
    room.member(CAROL, "join")
    room.member(BOB, "join")
    assert room.membership(ALICE, ALICE, "join", join_authorised_via_users_server=CAROL) == OK
    assert room.membership(ALICE, ALICE, "join", join_authorised_via_users_server=BOB) == "M3.5"


def test_a_creator_of_version_12_may_authorise_a_restricted_join_whatever_the_invite_level() -> None:
    room = Room("12")
    room.join_rule("restricted")
    room.levels(invite=1000)
    room.member(CREATOR, "join")
    assert room.membership(ALICE, ALICE, "join", join_authorised_via_users_server=CREATOR) == OK


@pytest.mark.parametrize("value", ["carol", "", None, 7, [CAROL], "#carol:three.example"])
def test_from_version_8_the_authorising_user_is_a_user_id_in_any_membership_event(value: object) -> None:
    room = Room("8")
    room.join_rule("public")
    room.member(BOB, "join")
    assert room.membership(ALICE, ALICE, "join", join_authorised_via_users_server=value) == "M2"
    assert room.membership(BOB, BOB, "leave", join_authorised_via_users_server=value) == "M2"
    old = Room("7")
    old.join_rule("public")
    assert old.membership(ALICE, ALICE, "join", join_authorised_via_users_server=value) == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_without_power_levels_everyone_in_the_room_may_invite_but_not_kick_or_ban(version: str) -> None:
    room = Room(version)
    room.member(ALICE, "join")
    room.member(CREATOR, "join")
    assert room.membership(ALICE, BOB, "invite") == OK
    assert room.membership(ALICE, BOB, "leave") == "M6.4"
    assert room.membership(ALICE, BOB, "ban") == "M7.2"
    assert room.membership(CREATOR, ALICE, "leave") == OK
    assert room.membership(CREATOR, ALICE, "ban") == OK


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_power_to_ban_alone_does_not_lift_a_ban_where_kicking_takes_more(version: str) -> None:
    room = Room(version)
    room.levels(ban=40, kick=50, users={ALICE: 45})
    room.member(ALICE, "join")
    room.member(BOB, "ban", sender=CREATOR)
    assert room.membership(ALICE, BOB, "leave") == "M6.4"


def test_creators_of_version_12_can_neither_kick_nor_ban_each_other() -> None:
    room = Room("12", {"additional_creators": [ALICE]})
    room.levels(users={BOB: 2**53 - 1})
    for user_id in (CREATOR, ALICE, BOB):
        room.member(user_id, "join")
    for sender, target in ((CREATOR, ALICE), (ALICE, CREATOR)):
        assert room.membership(sender, target, "leave") == "M6.5"
        assert room.membership(sender, target, "ban") == "M7.3"
    assert room.membership(BOB, ALICE, "leave") == "M6.5"
    assert room.membership(BOB, CREATOR, "ban") == "M7.3"
    assert room.membership(ALICE, BOB, "leave") == OK
    assert room.membership(ALICE, BOB, "ban") == OK


def test_the_creator_of_version_11_has_no_power_beyond_the_levels() -> None:
    room = Room("11")
    room.levels(users={ALICE: 60})
    room.member(CREATOR, "join")
    room.member(ALICE, "join")
    assert room.membership(CREATOR, ALICE, "leave") == "M6.4"
    assert room.membership(ALICE, CREATOR, "leave") == OK


def test_a_view_of_the_state_needs_only_the_events_it_is_asked_for() -> None:
    room = Room("11")
    room.join_rule("public")
    state = AuthState.of([room.create, room.state["m.room.join_rules", ""]])
    assert (state.join_rule, state.membership(ALICE), state.is_joined(ALICE)) == ("public", "leave", False)
    assert state.power_levels.user_level(CREATOR) == 100
    assert state.create is room.create
    assert state.creators == {CREATOR}


def test_a_member_event_without_a_readable_membership_counts_as_leave() -> None:
    room = Room()
    for content in ({}, {"membership": None}, {"membership": ["join"]}, {"membership": 1}):
        room.set("m.room.member", content, state_key=ALICE)
        assert room.auth_state.membership(ALICE) == "leave"
        assert room.membership(ALICE, ALICE, "leave") == "M6.1"
