"""Rule R11, and when a redaction takes effect."""

from dataclasses import replace

import pytest

from fixtures.auth.room import ALICE, ALL_VERSIONS, BOB, CAROL, CREATOR, OK, Room, versions
from homeserver.matrix.event_auth import may_redact

NEIGHBOUR = "@neighbour:one.example"  # of Alice's server


def room_of_members(version: str, **levels: object) -> Room:
    room = Room(version)
    for user_id in (CREATOR, ALICE, BOB, NEIGHBOUR):
        room.member(user_id, "join")
    room.levels(redact=40, **levels)
    return room


@pytest.mark.parametrize("version", versions(1, 2))
def test_until_version_2_a_redaction_takes_power_or_the_server_of_the_event_id(version: str) -> None:
    room = room_of_members(version, users={BOB: 40, CAROL: 39})
    room.member(CAROL, "join")
    target = room.event("m.room.message", {}, sender=ALICE)
    assert room.send("m.room.redaction", {}, sender=NEIGHBOUR, redacts=target.event_id) == OK
    assert room.send("m.room.redaction", {}, sender=BOB, redacts=target.event_id) == OK
    assert room.send("m.room.redaction", {}, sender=CAROL, redacts=target.event_id) == "R11"


@pytest.mark.parametrize("version", versions(1, 2))
def test_a_redaction_of_nothing_takes_power(version: str) -> None:
    room = room_of_members(version, users={BOB: 40})
    assert room.send("m.room.redaction", {}, sender=ALICE) == "R11"
    assert room.send("m.room.redaction", {}, sender=ALICE, redacts="$no-server") == "R11"
    assert room.send("m.room.redaction", {}, sender=BOB) == OK
    without_server = replace(room.event("m.room.redaction", {}, redacts="$also"), event_id="$neither")
    assert room.verdict(without_server) == "R11"


@pytest.mark.parametrize("version", versions(3, 12))
def test_from_version_3_everyone_who_may_send_one_may_send_a_redaction(version: str) -> None:
    room = room_of_members(version)
    target = room.event("m.room.message", {}, sender=ALICE)
    assert room.send("m.room.redaction", {}, sender=BOB, redacts=target.event_id) == OK
    assert room.send("m.room.redaction", {}, sender=CAROL, redacts=target.event_id) == "R6"
    room.levels(events={"m.room.redaction": 1})
    assert room.send("m.room.redaction", {}, sender=BOB, redacts=target.event_id) == "R8"


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_redaction_takes_effect_with_power_or_from_the_same_server(version: str) -> None:
    room = room_of_members(version, users={BOB: 40, CAROL: 39})
    target = room.event("m.room.message", {}, sender=ALICE)
    for sender, effective in ((ALICE, True), (NEIGHBOUR, True), (BOB, True), (CAROL, False)):
        redaction = room.event("m.room.redaction", {}, sender=sender, redacts=target.event_id)
        assert may_redact(redaction, target, room.auth_state) is effective, sender


def test_a_creator_of_version_12_redacts_whatever_the_redact_level() -> None:
    room = Room("12")
    room.levels(redact=2**53 - 1)
    target = room.event("m.room.message", {}, sender=BOB)
    redaction = room.event("m.room.redaction", {}, sender=CREATOR, redacts=target.event_id)
    assert may_redact(redaction, target, room.auth_state)
    assert not may_redact(
        room.event("m.room.redaction", {}, sender=ALICE, redacts=target.event_id), target, room.auth_state
    )


def test_until_version_2_the_server_of_the_event_id_counts_and_later_that_of_the_sender() -> None:
    for version, effective in (("2", False), ("3", True)):
        room = room_of_members(version)
        target = replace(room.event("m.room.message", {}, sender=ALICE), event_id="$made:elsewhere.example")
        redaction = room.event("m.room.redaction", {}, sender=ALICE, redacts=target.event_id)
        assert may_redact(redaction, target, room.auth_state) is effective


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_redaction_has_no_effect_on_anything_but_an_accepted_event_of_its_room_that_it_names(version: str) -> None:
    room = room_of_members(version)
    target = room.event("m.room.message", {}, sender=ALICE)
    other = room.event("m.room.message", {}, sender=ALICE)
    redaction = room.event("m.room.redaction", {}, sender=ALICE, redacts=target.event_id)
    state = room.auth_state
    assert may_redact(redaction, target, state)
    assert not may_redact(redaction, other, state)
    assert not may_redact(redaction, replace(target, rejected=True), state)
    assert not may_redact(replace(redaction, rejected=True), target, state)
    assert not may_redact(redaction, replace(target, room_id="!other:one.example"), state)
    message = room.event("m.room.message", {}, sender=ALICE, redacts=target.event_id)
    assert not may_redact(message, target, state)
    nameless = room.event("m.room.redaction", {}, sender=ALICE)
    assert not may_redact(nameless, target, state)


def test_the_target_is_named_at_the_top_until_version_10_and_then_in_the_content() -> None:
    for version, at_top, in_content in (("10", True, False), ("11", False, True)):
        room = room_of_members(version)
        target = room.event("m.room.message", {}, sender=ALICE)
        redaction = room.event("m.room.redaction", {}, sender=ALICE)
        top = replace(redaction, pdu={**redaction.pdu, "redacts": target.event_id})
        content = replace(redaction, pdu={**redaction.pdu, "content": {"redacts": target.event_id}})
        assert may_redact(top, target, room.auth_state) is at_top
        assert may_redact(content, target, room.auth_state) is in_content
