"""History visibility on every read: four settings, and readers of every kind."""

from typing import Any

import pytest

from functions.harness import User, register
from functions.rooms import create_room, event, get, messages, post, say, set_state, texts
from functions.test_client_history import refusal

SETTINGS = ["world_readable", "shared", "invited", "joined"]
# What is said before the reader is invited, while invited, while joined, and after they left or were removed.
BEFORE, INVITED, JOINED, AFTER = "before", "invited", "joined", "after"


@pytest.fixture
def story(alice: User, bob: User, request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """A room in which bob came and went, and the events of its four chapters."""
    room_id = create_room(alice)
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": request.param})
    sent = dict(zip([BEFORE], say(alice, room_id, BEFORE), strict=True))
    post(alice, room_id, "invite", {"user_id": bob.user_id})
    sent[INVITED] = say(alice, room_id, INVITED)[0]
    post(bob, room_id, "join")
    sent[JOINED] = say(alice, room_id, JOINED)[0]
    return room_id, sent


def seen(user: User, room_id: str, sent: dict[str, str]) -> list[str]:
    """What the user may read, by every way of reading: they all have to agree."""
    forwards = texts(messages(user, room_id, dir="f", limit=500).json["chunk"])
    assert texts(messages(user, room_id, dir="b", limit=500).json["chunk"]) == forwards[::-1]
    one_by_one = texts(_pages(user, room_id))
    assert one_by_one == forwards[::-1]
    for name, event_id in sent.items():
        found = event(user, room_id, event_id)
        around = get(user, "rooms", room_id, "context", event_id, limit=50)
        if name in forwards:
            assert found.json["content"]["body"] == name
            shown = [*around.json["events_before"][::-1], around.json["event"], *around.json["events_after"]]
            assert texts(shown) == forwards
        else:
            assert refusal(found) == (404, "M_NOT_FOUND")
            assert refusal(around) == (404, "M_NOT_FOUND")
    return [str(text) for text in forwards]


def _pages(user: User, room_id: str) -> list[dict[str, Any]]:
    chunk: list[dict[str, Any]] = []
    query: dict[str, Any] = {}
    while True:
        page = messages(user, room_id, limit=1, **query).json
        chunk += page["chunk"]
        if "end" not in page:
            return chunk
        query = {"from": page["end"]}


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ("world_readable", [BEFORE, INVITED, JOINED]),
        ("shared", [BEFORE, INVITED, JOINED]),
        ("invited", [INVITED, JOINED]),
        ("joined", [JOINED]),
    ],
    indirect=["story"],
)
def test_what_a_member_sees_of_what_was_said_before(
    bob: User, story: tuple[str, dict[str, str]], expected: list[str]
) -> None:
    assert seen(bob, *story) == expected


@pytest.mark.parametrize("story", SETTINGS, indirect=True)
def test_who_was_there_from_the_start_sees_everything(alice: User, story: tuple[str, dict[str, str]]) -> None:
    assert seen(alice, *story) == [BEFORE, INVITED, JOINED]


@pytest.mark.parametrize("action", ["leave", "kick", "ban"])
@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ("world_readable", [BEFORE, INVITED, JOINED, AFTER]),
        ("shared", [BEFORE, INVITED, JOINED]),
        ("invited", [INVITED, JOINED]),
        ("joined", [JOINED]),
    ],
    indirect=["story"],
)
def test_nothing_leaks_to_who_has_left(
    alice: User, bob: User, story: tuple[str, dict[str, str]], expected: list[str], action: str
) -> None:
    room_id, sent = story
    if action == "leave":
        post(bob, room_id, "leave")
    else:
        post(alice, room_id, action, {"user_id": bob.user_id})
    sent[AFTER] = say(alice, room_id, AFTER)[0]
    assert seen(bob, room_id, sent) == expected
    # The own departure is the last that they see of a closed room.
    newest = messages(bob, room_id, limit=1, filter={"types": ["m.room.member"]}).json["chunk"][0]
    assert newest["state_key"] == bob.user_id
    assert newest["content"]["membership"] == ("ban" if action == "ban" else "leave")


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ("world_readable", [BEFORE, INVITED, JOINED, AFTER, "again"]),
        ("shared", [BEFORE, INVITED, JOINED, AFTER, "again"]),
        ("invited", [INVITED, JOINED, "again"]),
        ("joined", [JOINED, "again"]),
    ],
    indirect=["story"],
)
def test_who_was_kicked_and_came_back_sees_both_stays(
    alice: User, bob: User, story: tuple[str, dict[str, str]], expected: list[str]
) -> None:
    room_id, sent = story
    post(alice, room_id, "kick", {"user_id": bob.user_id})
    sent[AFTER] = say(alice, room_id, AFTER)[0]
    post(alice, room_id, "invite", {"user_id": bob.user_id})
    post(bob, room_id, "join")
    sent["again"] = say(alice, room_id, "again")[0]
    assert seen(bob, room_id, sent) == expected


@pytest.mark.parametrize("story", SETTINGS, indirect=True)
def test_a_new_invitation_opens_nothing_that_was_said_after_leaving(
    alice: User, bob: User, story: tuple[str, dict[str, str]], request: pytest.FixtureRequest
) -> None:
    room_id, sent = story
    post(bob, room_id, "leave")
    sent[AFTER] = say(alice, room_id, AFTER)[0]
    post(alice, room_id, "invite", {"user_id": bob.user_id})
    is_open = AFTER in texts(messages(alice, room_id).json["chunk"]) and "world_readable" in request.node.name
    assert (AFTER in seen(bob, room_id, sent)) is is_open


@pytest.mark.parametrize("story", SETTINGS, indirect=True)
def test_strangers_and_those_invited_read_only_what_the_world_may(
    alice: User, story: tuple[str, dict[str, str]], request: pytest.FixtureRequest
) -> None:
    room_id, sent = story
    stranger, invited = register(), register()
    post(alice, room_id, "invite", {"user_id": invited.user_id})
    for user in (stranger, invited):
        if "world_readable" in request.node.name:
            assert seen(user, room_id, sent) == [BEFORE, INVITED, JOINED]
        else:
            assert refusal(messages(user, room_id)) == (403, "M_FORBIDDEN")
            assert refusal(event(user, room_id, sent[BEFORE])) == (404, "M_NOT_FOUND")
            assert refusal(get(user, "rooms", room_id, "context", sent[BEFORE])) == (403, "M_FORBIDDEN")
            for rest in (["state"], ["members"], ["joined_members"], ["state", "m.room.create", ""]):
                assert refusal(get(user, "rooms", room_id, *rest)) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize("story", SETTINGS, indirect=True)
def test_who_has_forgotten_the_room_reads_it_as_a_stranger(
    alice: User, bob: User, story: tuple[str, dict[str, str]], request: pytest.FixtureRequest
) -> None:
    room_id, sent = story
    post(bob, room_id, "leave")
    post(bob, room_id, "forget")
    if "world_readable" in request.node.name:
        assert seen(bob, room_id, sent) == [BEFORE, INVITED, JOINED]
    else:
        assert refusal(messages(bob, room_id)) == (403, "M_FORBIDDEN")
        assert refusal(event(bob, room_id, sent[JOINED])) == (404, "M_NOT_FOUND")
        assert refusal(get(bob, "rooms", room_id, "members")) == (403, "M_FORBIDDEN")


def test_each_event_is_judged_by_the_setting_of_its_time(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    sent = {}
    for setting in ("joined", "shared", "joined", "world_readable", "invited", "shared", "joined"):
        set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": setting})
        name = f"{len(sent)} {setting}"
        sent[name] = say(alice, room_id, name)[0]
    post(alice, room_id, "invite", {"user_id": bob.user_id})
    post(bob, room_id, "join")
    assert seen(bob, room_id, sent) == ["1 shared", "3 world_readable", "5 shared"]


def test_the_event_that_changes_the_setting_is_seen_if_either_setting_shows_it(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    for setting in ("joined", "shared", "joined", "joined"):
        set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": setting, "why": setting})
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined", "why": "last"})
    post(alice, room_id, "invite", {"user_id": bob.user_id})
    post(bob, room_id, "join")
    chunk = messages(bob, room_id, dir="f", filter={"types": ["m.room.history_visibility"]}).json["chunk"]
    # shared (the room's first) -> joined -> shared -> joined; only joined -> joined is hidden.
    assert [found["content"].get("why") for found in chunk] == [None, "joined", "shared", "joined"]


def test_members_at_a_point_that_the_reader_may_not_see(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    set_state(alice, room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    say(alice, room_id, "hidden")
    hidden = messages(alice, room_id, dir="f").json["end"]
    post(alice, room_id, "invite", {"user_id": bob.user_id})
    post(bob, room_id, "join")
    assert refusal(get(bob, "rooms", room_id, "members", at=hidden)) == (403, "M_FORBIDDEN")
    assert get(alice, "rooms", room_id, "members", at=hidden).status == 200
