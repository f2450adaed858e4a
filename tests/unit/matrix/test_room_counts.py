"""Counts that follow each change are those that counting anew gives."""

from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.room_counts import KEPT, NEEDED, Party, RoomCounts, count_members

USERS = [f"@u{number}:example.org" for number in range(2 * KEPT)]
MEMBERSHIPS = ["join", "invite", "leave", "ban", "knock", ""]
changes = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(MEMBERSHIPS)), max_size=150)


@given(changes)
def test_counts_that_follow_are_those_that_are_counted_anew(changes):
    members: dict[str, tuple[str, int]] = {}
    counts = RoomCounts(b"")
    for depth, (user, after) in enumerate(changes, start=1):
        before, _ = members.get(user, ("", 0))
        counts = counts.with_change(user, before, after, depth)
        members[user] = (after, depth)
    anew = count_members(b"", [(user, *member) for user, member in members.items()])
    assert (counts.joined, counts.invited) == (anew.joined, anew.invited)
    for followed, counted in ((counts.present, anew.present), (counts.gone, anew.gone)):
        assert followed.count == counted.count
        # What is kept is the beginning of the right order; it may be shorter, and says so when it is too short.
        assert followed.first == counted.first[: len(followed.first)]
        assert followed.is_enough == (len(followed.first) >= min(NEEDED, counted.count))


def test_an_older_event_that_counts_again_takes_its_old_place() -> None:
    party = Party.of([(5, "@a:x"), (9, "@b:x")])
    assert party.with_member(7, "@c:x").first == ((5, "@a:x"), (7, "@c:x"), (9, "@b:x"))


def test_members_that_are_not_kept_stay_unknown_when_the_first_ones_go() -> None:
    party = Party.of([(depth, f"@u{depth}:x") for depth in range(1, KEPT + 11)])
    for depth in range(1, KEPT - NEEDED + 1):
        party = party.without(f"@u{depth}:x")
    assert (party.count, len(party.first), party.is_enough) == (NEEDED + 10, NEEDED, True)
    late = party.with_member(99, "@late:x")
    assert late.first == party.first
    assert not late.without(party.first[0][1]).is_enough


def test_heroes_are_the_first_others_and_those_who_left_only_where_nobody_else_is() -> None:
    members = [("@me:x", "join", 2), ("@b:x", "invite", 3), ("@a:x", "join", 4), ("@gone:x", "leave", 1)]
    counts = count_members(b"root", members)
    assert counts.heroes("@me:x", 5) == ["@b:x", "@a:x"]
    assert counts.heroes("@me:x", 1) == ["@b:x"]
    alone = count_members(b"root", [("@me:x", "join", 2), ("@c:x", "ban", 9), ("@gone:x", "leave", 1)])
    assert alone.heroes("@me:x", 5) == ["@gone:x", "@c:x"]
    assert count_members(b"root", [("@me:x", "join", 2)]).heroes("@me:x", 5) == []
