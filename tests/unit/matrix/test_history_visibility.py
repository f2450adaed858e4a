"""Room history visibility, written out as a table from the specification's five rules."""

import pytest

from homeserver.matrix.history_visibility import ReaderState, can_see_event, visibility_of

MEMBERSHIPS = ("join", "invite", "knock", "leave", "ban")

# (visibility, reader joined since, who may see by membership at the event)
TABLE = [
    ("world_readable", False, {"join", "invite", "knock", "leave", "ban"}),
    ("world_readable", True, {"join", "invite", "knock", "leave", "ban"}),
    ("shared", False, {"join"}),
    ("shared", True, {"join", "invite", "knock", "leave", "ban"}),
    ("invited", False, {"join", "invite"}),
    ("invited", True, {"join", "invite"}),
    ("joined", False, {"join"}),
    ("joined", True, {"join"}),
]


@pytest.mark.parametrize(("visibility", "joined_since", "readers"), TABLE)
def test_who_sees_a_message(visibility: str, joined_since: bool, readers: set[str]) -> None:
    seen_by = set()
    for membership in MEMBERSHIPS:
        at_event = ReaderState(visibility, membership)
        if can_see_event(at_event, at_event, joined_since=joined_since):
            seen_by.add(membership)
    assert seen_by == readers


@pytest.mark.parametrize("visibility", ["world_readable", "shared", "invited", "joined"])
@pytest.mark.parametrize("other", ["invite", "leave", "ban", "knock"])
def test_users_see_their_own_join_and_their_own_departure(visibility: str, other: str) -> None:
    outside, inside = ReaderState(visibility, other), ReaderState(visibility, "join")
    assert can_see_event(outside, inside, joined_since=False)
    assert can_see_event(inside, outside, joined_since=False)


def test_an_invitation_is_seen_by_the_invited_under_invited_but_not_under_joined_or_shared() -> None:
    for visibility, seen in (("invited", True), ("joined", False), ("shared", False), ("world_readable", True)):
        before, after = ReaderState(visibility, "leave"), ReaderState(visibility, "invite")
        assert can_see_event(before, after, joined_since=False) is seen
        assert can_see_event(after, before, joined_since=False) is seen


@pytest.mark.parametrize("closed", ["joined", "invited", "shared"])
def test_a_change_of_visibility_is_seen_if_either_side_of_it_is_open(closed: str) -> None:
    public, private = ReaderState("world_readable", "leave"), ReaderState(closed, "leave")
    assert can_see_event(public, private, joined_since=False)
    assert can_see_event(private, public, joined_since=False)
    assert not can_see_event(private, private, joined_since=False)


def test_a_change_from_joined_to_shared_is_seen_by_who_joins_later() -> None:
    before, after = ReaderState("joined", "leave"), ReaderState("shared", "leave")
    assert can_see_event(before, after, joined_since=True)
    assert not can_see_event(before, after, joined_since=False)


@pytest.mark.parametrize(
    ("content", "visibility"),
    [
        (None, "shared"),
        ({}, "shared"),
        ({"history_visibility": "shared"}, "shared"),
        ({"history_visibility": "invited"}, "invited"),
        ({"history_visibility": "joined"}, "joined"),
        ({"history_visibility": "world_readable"}, "world_readable"),
        ({"history_visibility": "default"}, "shared"),
        ({"history_visibility": None}, "shared"),
        ({"history_visibility": ["joined"]}, "shared"),
    ],
)
def test_a_visibility_that_is_missing_or_unknown_is_shared(content: dict[str, object] | None, visibility: str) -> None:
    assert visibility_of(content) == visibility
