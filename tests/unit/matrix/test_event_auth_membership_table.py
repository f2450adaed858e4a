"""Rules M3 and M5 to M8 against the table of verdicts, in every room version."""

import pytest

from fixtures.auth.membership_table import AUTHORISED_JOIN, COLUMNS, OTHERS, SELF_JOIN, SELF_KNOCK, SELF_OTHER
from fixtures.auth.room import ALICE, ALL_VERSIONS, BOB, CAROL, CREATOR, Room, versions


def expected(cells: str) -> dict[str, str]:
    return dict(zip(COLUMNS, cells.split(), strict=True))


def by_version(table: list[tuple[str, int, int, str]]) -> list[tuple[str, str, str]]:
    return [(what, version, cells) for what, first, last, cells in table for version in versions(first, last)]


def make_room(version: str) -> Room:
    room = Room(version)
    room.member(CREATOR, "join")
    return room


@pytest.mark.parametrize(("rule", "version", "cells"), by_version(SELF_JOIN))
def test_who_may_join_under_each_join_rule(rule: str, version: str, cells: str) -> None:
    room = make_room(version)
    room.join_rule(rule)
    verdicts = {}
    for before in COLUMNS:
        room.member(ALICE, before)
        verdicts[before] = room.membership(ALICE, ALICE, "join")
    assert verdicts == expected(cells)


@pytest.mark.parametrize(("rule", "version", "cells"), by_version(AUTHORISED_JOIN))
def test_who_may_join_by_the_word_of_a_member(rule: str, version: str, cells: str) -> None:
    room = make_room(version)
    room.join_rule(rule)
    room.member(CAROL, "join")
    room.levels(invite=10, users={CAROL: 10})
    verdicts = {}
    for before in COLUMNS:
        room.member(ALICE, before)
        verdicts[before] = room.membership(ALICE, ALICE, "join", join_authorised_via_users_server=CAROL)
    assert verdicts == expected(cells)


@pytest.mark.parametrize(("rule", "version", "cells"), by_version(SELF_KNOCK))
def test_who_may_knock_under_each_join_rule(rule: str, version: str, cells: str) -> None:
    room = make_room(version)
    room.join_rule(rule)
    verdicts = {}
    for before in COLUMNS:
        room.member(ALICE, before)
        verdicts[before] = room.membership(ALICE, ALICE, "knock")
    assert verdicts == expected(cells)


@pytest.mark.parametrize(("membership", "version", "cells"), by_version(SELF_OTHER))
def test_what_users_may_do_to_themselves(membership: str, version: str, cells: str) -> None:
    room = make_room(version)
    room.levels(invite=30, kick=50, ban=60, users={ALICE: 99})
    verdicts = {}
    for before in COLUMNS:
        room.member(ALICE, before)
        verdicts[before] = room.membership(ALICE, ALICE, membership)
    assert verdicts == expected(cells)


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize(("membership", "sender_is", "power", "target_power", "cells"), OTHERS)
def test_what_users_may_do_to_each_other(
    *, version: str, membership: str, sender_is: str, power: int, target_power: int, cells: str
) -> None:
    room = make_room(version)
    room.join_rule("public")
    room.levels(invite=30, kick=50, ban=60, users={ALICE: power, BOB: target_power})
    room.member(ALICE, sender_is)
    verdicts = {}
    for before in COLUMNS:
        room.member(BOB, before)
        verdicts[before] = room.membership(ALICE, BOB, membership)
    assert verdicts == expected(cells)
