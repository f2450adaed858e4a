"""POST /user_directory/search."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.caches import forget_everything
from functions.harness import PASSWORD, Answer, User, register
from functions.rooms import V3, create_room, follow, path, post, request, set_state

pytestmark = pytest.mark.usefixtures("signing_key_of_the_server")
FUNCTION = "client_directory"
SEARCH = f"{V3}/user_directory/search"


def ask(user: User, **body: Any) -> Answer:
    return request(FUNCTION, "POST", SEARCH, body, token=user.token)


def search(user: User, term: str, **body: Any) -> dict[str, Any]:
    forget_everything()  # the list of open rooms may be a minute old
    answer = ask(user, search_term=term, **body)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


def found(user: User, term: str, **body: Any) -> list[str]:
    return [entry["user_id"][1:].partition(":")[0] for entry in search(user, term, **body)["results"]]


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def set_profile(user: User, field: str, value: str) -> None:
    where = path("profile", user.user_id, field)
    assert request("client_user", "PUT", where, {field: value}, token=user.token).status == 200


@pytest.fixture
def everyone(server: Callable[..., None]) -> None:
    """Every user of the server is found."""
    server(USER_DIRECTORY="all")


# ── What is found ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("everyone")
def test_a_user_is_found_by_words_of_name_and_localpart(alice: User, bob: User) -> None:
    set_profile(bob, "displayname", "Robért Mac-Neil")
    set_profile(bob, "avatar_url", "mxc://example.org/bob")
    wanted = {
        "results": [{"user_id": bob.user_id, "display_name": "Robért Mac-Neil", "avatar_url": "mxc://example.org/bob"}],
        "limited": False,
    }
    for term in (
        "bob",
        "b",
        "ROB",
        "robert",
        "neil",
        "mac",
        "Mac-Neil",
        "neil rob",
        "@bo",
        "@bob:example.org",
        "\uff32\uff2f\uff22",
    ):
        assert search(alice, term) == wanted, term
    for term in ("bobby", "obert", "rob smith", "@rob", "@bob:elsewhere", "", " ", "@", "!?"):
        assert search(alice, term) == {"results": [], "limited": False}, term


@pytest.mark.usefixtures("everyone")
def test_a_user_who_has_just_registered_is_found_and_never_by_themselves(alice: User, bob: User) -> None:
    assert search(alice, "bob") == {"results": [{"user_id": bob.user_id, "display_name": "bob"}], "limited": False}
    assert found(bob, "bob") == []


@pytest.mark.usefixtures("everyone")
def test_an_old_name_finds_nobody(alice: User, bob: User) -> None:
    for name, gone in (("Robert", "zzz"), ("Bert Ernie", "robert"), ("Ernie", "bert")):
        set_profile(bob, "displayname", name)
        assert found(alice, gone) == []
        assert found(alice, "ern" if "Ernie" in name else "rob") == ["bob"]
    where = path("profile", bob.user_id, "displayname")
    assert request("client_user", "DELETE", where, token=bob.token).status == 200
    assert found(alice, "ernie") == []
    assert search(alice, "bob")["results"] == [{"user_id": bob.user_id}]


@pytest.mark.usefixtures("everyone")
def test_whole_names_come_first_and_limit_cuts_the_rest(alice: User) -> None:
    for name, shown in (("sam3", "Samuel Sam"), ("sam1", "Jo Samson"), ("sam2", "Sam")):
        set_profile(register(name), "displayname", shown)
    register("sam")
    assert found(alice, "Sam") == ["sam", "sam2", "sam1", "sam3"]
    assert search(alice, "sam", limit=3)["limited"] is True
    assert found(alice, "sam", limit=3) == ["sam", "sam2", "sam1"]
    assert search(alice, "sam", limit=4)["limited"] is False


@pytest.mark.usefixtures("everyone")
def test_ten_are_told_where_no_limit_is_given(alice: User) -> None:
    for number in range(12):
        register(f"zoe{number}")
    body = search(alice, "zoe")
    assert (len(body["results"]), body["limited"]) == (10, True)


@pytest.mark.usefixtures("everyone")
def test_a_deactivated_user_is_gone(alice: User, bob: User) -> None:
    set_profile(bob, "displayname", "Robert")
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}, "password": PASSWORD}
    where = f"{V3}/account/deactivate"
    asked = request("client_account", "POST", where, {}, token=bob.token)
    body = {"auth": auth | {"session": asked.json["session"]}}
    assert request("client_account", "POST", where, body, token=bob.token).status == 200
    assert found(alice, "bob") == []
    assert found(alice, "robert") == []


# ── Who may be found ────────────────────────────────────────────────────────────────────────────────


def test_users_who_share_no_room_and_are_in_none_that_is_open_are_not_found(alice: User, bob: User) -> None:
    room_id = create_room(bob)
    follow()
    assert found(alice, "bob") == []
    post(bob, room_id, "invite", {"user_id": alice.user_id})
    follow()
    assert found(alice, "bob") == []
    post(alice, room_id, "join")
    follow()
    assert found(alice, "bob") == ["bob"]
    assert found(bob, "alice") == ["alice"]
    post(alice, room_id, "leave")
    follow()
    assert found(alice, "bob") == []


@pytest.mark.parametrize(
    ("event_type", "opened", "closed"),
    [
        ("m.room.join_rules", {"join_rule": "public"}, {"join_rule": "knock"}),
        ("m.room.history_visibility", {"history_visibility": "world_readable"}, {"history_visibility": "shared"}),
    ],
)
def test_members_of_an_open_room_are_found_by_all_while_it_is_open(
    alice: User, bob: User, event_type: str, opened: dict[str, str], closed: dict[str, str]
) -> None:
    room_id = create_room(bob)
    for content, expected in ((opened, ["bob"]), (closed, []), (opened, ["bob"])):
        set_state(bob, room_id, event_type, content)
        follow()
        assert found(alice, "bob") == expected
    post(bob, room_id, "leave")
    follow()
    assert found(alice, "bob") == []


def test_a_name_that_may_not_be_seen_leaves_no_trace_in_the_answer(alice: User, bob: User) -> None:
    for number in range(12):
        register(f"carol{number}")
    create_room(bob, alice)
    follow()
    assert search(alice, "carol") == {"results": [], "limited": False}


def test_where_more_users_would_have_to_be_looked_at_the_answer_says_so(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeserver.services import user_directory

    monkeypatch.setattr(user_directory, "MOST_USERS_CHECKED", 16)
    last = [register(f"dan{number:02d}") for number in range(20)][-1]
    create_room(last, alice)
    follow()
    assert search(alice, "dan") == {"results": [], "limited": True}
    assert found(alice, "dan1") == ["dan19"]


# ── Remote users ────────────────────────────────────────────────────────────────────────────────────


def remote_member(room_id: str, user_id: str, name: str) -> None:
    """What the follower does for a member of another server."""
    from homeserver.matrix.event import Event
    from homeserver.matrix.room_versions import ROOM_VERSIONS
    from homeserver.services.directory_follow import follow_directory
    from homeserver.services.followed_memberships import MembershipChange, follow_memberships
    from homeserver.storage.rooms import load_heads

    content = {"membership": "join", "displayname": name}
    pdu = {"type": "m.room.member", "state_key": user_id, "sender": user_id, "content": content}
    head = load_heads([room_id])[room_id]
    event = Event(f"$of-{name}", room_id, pdu, ROOM_VERSIONS[head.room_version])
    changes = [MembershipChange(user_id, None, event, int(head.position))]
    follow_memberships(room_id, changes)
    follow_directory(head, bytes(head.root), int(head.position), changes)


def test_members_of_other_servers_are_found_by_those_who_share_a_room(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    follow()
    remote_member(room_id, "@zoé:elsewhere.org", "Zoë Stranger")
    expected = [{"user_id": "@zoé:elsewhere.org", "display_name": "Zoë Stranger"}]
    for term in ("zoe", "stranger", "@zoé:else"):
        assert search(alice, term)["results"] == expected
    assert found(bob, "zoe") == []


@pytest.mark.usefixtures("everyone")
def test_finding_everyone_means_everyone_of_this_server(alice: User, bob: User) -> None:
    room_id = create_room(alice)
    follow()
    remote_member(room_id, "@bobby:elsewhere.org", "Bobby")
    assert found(alice, "bob") == ["bob", "bobby"]
    assert found(register("carol"), "bob") == ["bob"]


# ── Requests ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"search_term": 7}, "M_BAD_JSON"),
        ({"search_term": "a", "limit": "x"}, "M_BAD_JSON"),
        ({"search_term": "a", "limit": 0}, "M_INVALID_PARAM"),
        ({"search_term": "a", "limit": -1}, "M_INVALID_PARAM"),
    ],
)
def test_bad_questions_are_refused(alice: User, body: dict[str, Any], errcode: str) -> None:
    assert refusal(ask(alice, **body)) == (400, errcode)


def test_a_token_is_needed(call: Callable[..., Answer]) -> None:
    assert refusal(call(FUNCTION, "POST", SEARCH, {"search_term": "a"})) == (401, "M_MISSING_TOKEN")


def test_searches_are_limited(alice: User, server: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    from homeserver.services import rate_limits
    from homeserver.services.rate_limits import RateLimit

    server(RATE_LIMITS="on")
    monkeypatch.setattr(rate_limits, "FINDING_PER_USER", RateLimit("find-user", per_second=0.01, burst=2))
    answers = [ask(alice, search_term="bob") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[2].errcode == "M_LIMIT_EXCEEDED"


def test_of_two_changes_at_once_the_one_that_lost_is_made_again(bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    from homeserver.services.user_index import index_user
    from homeserver.storage import user_index
    from homeserver.storage.user_index import IndexedUser, find_users, replace_user

    commit, lost = user_index._commit, []

    def overtaken(transaction: Any) -> bool:
        if not lost:  # between the read of the record and the write somebody else is faster
            lost.append(True)
            assert replace_user(IndexedUser.of(bob.user_id, {"displayname": "Faster"}))
        return commit(transaction)

    monkeypatch.setattr(user_index, "_commit", overtaken)
    index_user(bob.user_id, {"displayname": "Slower"})
    assert find_users("faster", limit=9) == ([], False)
    (found_user,), more = find_users("slower", limit=9)
    assert (found_user.words, more) == (("slower", "bob"), False)


# ── What it costs ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def crowd(alice: User) -> list[User]:
    """Thirty users in an open room of alice's."""
    room_id = create_room(alice, preset="public_chat")
    people = [register(f"eve{number:02d}") for number in range(30)]
    for person in people:
        post(person, room_id, "join")
    follow()
    return people


def test_a_search_costs_its_candidates(alice: User, crowd: list[User]) -> None:
    from homeserver.observability import metered
    from homeserver.services.access_tokens import Requester
    from homeserver.services.user_directory import search_users

    requester = Requester(alice.user_id, "", "")
    forget_everything()
    for rounds, most in ((2, 10.5), (2, 10)):  # the second time the open rooms are known
        with metered() as meter:
            answer = search_users(requester, "eve")
        assert (len(answer["results"]), answer["limited"]) == (10, True)
        # index, own rooms, open rooms; then the rooms of sixteen candidates, half a unit each
        assert (meter.rounds, meter.wru) == (rounds, 0)
        assert meter.rru <= most
