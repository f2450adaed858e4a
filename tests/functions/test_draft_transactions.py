"""Twins of the 2014 draft's requests: what was asked under a transaction ID happens once, whatever comes between."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from functions.draft import OLDEST, draft_room, post, put, refusal, write
from functions.ephemeral import one_call_at_a_time
from functions.harness import PASSWORD, Answer, User, call, register
from functions.rooms import events_of, membership, say, set_state
from homeserver import observability
from homeserver.services import attempts, draft_rooms
from homeserver.services.access_tokens import Requester
from homeserver.services.draft_rooms import DraftRoomRequest, create_draft_room
from homeserver.services.request_transactions import RequestClaim, answered_once
from homeserver.storage.connection import query_range
from homeserver.storage.request_transactions import RequestTransaction
from homeserver.storage.room_items import Membership

MESSAGE = {"msgtype": "m.text", "body": "hello"}


class Crash(BaseException):
    """The process is gone: nothing catches this."""


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    observability.fault_hook = None


def crash_at(point: str) -> None:
    def hook(name: str) -> None:
        if name == point:
            raise Crash

    observability.fault_hook = hook


def cut_off(work: Callable[[], object], point: str) -> None:
    crash_at(point)
    with pytest.raises(Crash):
        work()
    observability.fault_hook = None


@pytest.fixture
def carol() -> User:
    return register("carol")


def requester(user: User) -> Requester:
    return Requester(user.user_id, user.device_id, "")


def rooms_of(user: User) -> list[str]:
    return [row.room for row in query_range(Membership, user.user_id, consistent=True)]


def make(user: User, txn: str, **asked: Any) -> Mapping[str, Any]:
    """PUT /createRoom/{txnId}, without a handler, whose framework would swallow a crash."""
    who = requester(user)
    claim = RequestClaim.of(who, "createRoom", txn)
    return answered_once(claim, lambda: create_draft_room(who, DraftRoomRequest(**asked), claim))


def other_device(user: User) -> User:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user.user_id},
        "password": PASSWORD,
    }
    answer = call("client_login", "POST", "/_matrix/client/v3/login", body)
    assert answer.status == 200, answer
    return User(user.user_id, answer.json["device_id"], answer.json["access_token"])


# ── The same answer again ────────────────────────────────────────────────────


def test_a_message_sent_again_is_the_same_event(alice: User) -> None:
    room_id = draft_room(alice)
    first = put(alice, "rooms", room_id, "send", "m.room.message", "t", **MESSAGE)
    assert put(alice, "rooms", room_id, "send", "m.room.message", "t", **MESSAGE) == first
    other = {"msgtype": "m.text", "body": "another body"}
    assert put(alice, "rooms", room_id, "send", "m.room.message", "t", **other) == first
    assert write(alice, "PUT", "rooms", room_id, "send", "m.room.message", "t", body=other, root=OLDEST) == first
    assert [kind for kind, _ in events_of(alice, room_id)].count("m.room.message") == 1


def test_another_device_another_path_or_another_id_makes_another_event(alice: User) -> None:
    room_id, other_room = draft_room(alice), draft_room(alice)
    ids = [
        put(user, "rooms", room, "send", event_type, txn, **MESSAGE).json["event_id"]
        for user in (alice, other_device(alice))
        for room in (room_id, other_room)
        for event_type in ("m.room.message", "org.example.x")
        for txn in ("t", "u")
    ]
    assert len(set(ids)) == 16


def test_without_a_transaction_id_every_message_is_another(alice: User) -> None:
    room_id = draft_room(alice)
    ids = {post(alice, "rooms", room_id, "send", "m.room.message", **MESSAGE).json["event_id"] for _ in range(3)}
    assert len(ids) == 3


def test_a_redaction_asked_again_is_the_same_event(alice: User) -> None:
    room_id = draft_room(alice)
    one, two = say(alice, room_id, "one", "two")
    first = put(alice, "rooms", room_id, "redact", one, "t", reason="x")
    assert put(alice, "rooms", room_id, "redact", one, "t", reason="y") == first
    assert put(alice, "rooms", room_id, "redact", two, "t").json != first.json


def test_a_room_asked_for_again_is_the_same_room(alice: User) -> None:
    first = put(alice, "createRoom", "t", room_alias_name="pub", name="Pub")
    assert first.status == 200
    assert put(alice, "createRoom", "t", room_alias_name="pub", name="Pub") == first
    assert put(alice, "createRoom", "t", name="another") == first
    assert rooms_of(alice) == [first.json["room_id"]]
    assert put(other_device(alice), "createRoom", "t").json != first.json
    assert put(alice, "createRoom", "u").json != first.json


def test_a_request_that_was_refused_may_be_made_again(alice: User, bob: User) -> None:
    room_id = draft_room(alice)
    assert refusal(put(bob, "rooms", room_id, "join", "t")) == (404, "M_NOT_FOUND")
    assert post(alice, "rooms", room_id, "invite", user_id=bob.user_id).json == {}
    assert put(bob, "rooms", room_id, "join", "t").json == {"room_id": room_id}


def test_a_membership_asked_for_again_is_not_changed_back(alice: User, bob: User) -> None:
    """Every twin is repeated after the opposite was done: it must not undo that."""
    room_id = draft_room(alice, visibility="public", room_alias_name="pub")
    alias, room = ("join", "#pub:example.org"), ("rooms", room_id)

    def check(user: User, *segments: str, answer: Any, then: str, **body: Any) -> None:
        assert put(user, *segments, "t", **body).json == answer
        assert membership(alice, room_id, bob) == then

    def again(user: User, *segments: str, answer: Any, now: str, **body: Any) -> None:
        before = events_of(alice, room_id)
        assert put(user, *segments, "t", **body).json == answer
        assert events_of(alice, room_id) == before
        assert membership(alice, room_id, bob) == now

    joined = {"room_id": room_id}
    target = {"user_id": bob.user_id}
    check(alice, *room, "invite", answer={}, then="invite", **target)
    check(bob, *alias, answer=joined, then="join")
    again(alice, *room, "invite", answer={}, now="join", **target)
    check(bob, *room, "leave", answer={}, then="leave")
    again(bob, *alias, answer=joined, now="leave")
    check(bob, *room, "join", answer=joined, then="join")
    again(bob, *room, "leave", answer={}, now="join")
    check(alice, *room, "kick", answer={}, then="leave", **target)
    again(bob, *room, "join", answer=joined, now="leave")
    check(alice, *room, "ban", answer={}, then="ban", **target)
    again(alice, *room, "kick", answer={}, now="ban", **target)
    assert put(alice, *room, "kick", "u", **target).json == {}
    again(alice, *room, "ban", answer={}, now="leave", **target)


def test_a_twin_that_changed_nothing_is_answered_so_for_ever(alice: User, bob: User) -> None:
    room_id = draft_room(alice, bob, visibility="public")
    assert put(bob, "rooms", room_id, "join", "t").json == {"room_id": room_id}
    assert post(bob, "rooms", room_id, "leave").json == {}
    assert put(bob, "rooms", room_id, "join", "t").json == {"room_id": room_id}
    assert membership(alice, room_id, bob) == "leave"


def test_a_join_by_an_alias_that_is_gone_is_answered_as_before(alice: User, bob: User) -> None:
    room_id = draft_room(alice, visibility="public", room_alias_name="pub")
    assert put(bob, "join", "#pub:example.org", "t").json == {"room_id": room_id}
    assert write(alice, "DELETE", "directory", "room", "#pub:example.org").json == {}
    assert put(bob, "join", "#pub:example.org", "t").json == {"room_id": room_id}
    assert refusal(put(bob, "join", "#pub:example.org", "u")) == (404, "M_NOT_FOUND")


def test_a_room_of_two_asked_for_again_is_the_one_from_then(alice: User, bob: User) -> None:
    first = put(alice, "createRoom", "t", direct_to=bob.user_id)
    assert put(alice, "createRoom", "u", direct_to=bob.user_id) == first
    assert post(alice, "rooms", first.json["room_id"], "leave").json == {}
    for txn in ("t", "u"):
        assert put(alice, "createRoom", txn, direct_to=bob.user_id) == first
    assert put(alice, "createRoom", "v", direct_to=bob.user_id).json != first.json


def test_answers_are_kept_for_a_day_and_more(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.services.request_transactions.now_ms", lambda: 1_700_000_000_000)
    assert put(alice, "createRoom", "t").status == 200
    (row,) = query_range(RequestTransaction, f"{alice.user_id}/{alice.device_id}", "request/", consistent=True)
    assert (row.txn, int(row.expires)) == ("request/createRoom/t", 1_700_000_000 + 24 * 3600)


# ── Cut off ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("point", "made"), [("commit.before", 0), ("commit.after", 1)])
def test_a_room_that_was_cut_off_is_made_once(alice: User, bob: User, point: str, made: int) -> None:
    asked: dict[str, Any] = {"alias_name": "pub", "name": "Pub", "invite": [bob.user_id]}
    cut_off(lambda: make(alice, "t", **asked), point)
    assert len(rooms_of(alice)) == made
    answer = make(alice, "t", **asked)
    assert rooms_of(alice) == [answer["room_id"]]
    assert answer == {"room_id": answer["room_id"], "room_alias": "#pub:example.org"}
    assert membership(alice, answer["room_id"], bob) == "invite"


@pytest.mark.parametrize(("point", "made"), [("commit.before", 0), ("commit.after", 1)])
def test_a_room_of_two_that_was_cut_off_is_made_once(alice: User, bob: User, point: str, made: int) -> None:
    cut_off(lambda: make(alice, "t", direct_to=bob.user_id), point)
    assert len(rooms_of(alice)) == made
    answer = make(alice, "t", direct_to=bob.user_id)
    assert make(bob, "t", direct_to=alice.user_id) == answer
    assert rooms_of(alice) == [answer["room_id"]]


def test_invitations_that_were_cut_off_are_made_good_by_the_repetition(alice: User) -> None:
    crowd = [register() for _ in range(40)]
    asked: dict[str, Any] = {"invite": [user.user_id for user in crowd]}
    cut_off(lambda: make(alice, "t", **asked), "commit.after")
    (room_id,) = rooms_of(alice)
    before = [user for user in crowd if membership(alice, room_id, user) == "invite"]
    assert 0 < len(before) < 40  # the first of several commits
    assert post(before[0], "rooms", room_id, "leave").json == {}
    assert make(alice, "t", **asked) == {"room_id": room_id}
    assert membership(alice, room_id, before[0]) == "leave"  # who has declined is not asked again
    assert [membership(alice, room_id, user) for user in crowd if user != before[0]] == ["invite"] * 39
    assert rooms_of(alice) == [room_id]


@pytest.mark.parametrize("point", ["commit.before", "commit.after"])
@pytest.mark.parametrize("action", ["join", "leave", "invite", "kick", "ban"])
def test_a_membership_that_was_cut_off_is_changed_once(alice: User, bob: User, action: str, point: str) -> None:
    room_id = draft_room(alice, *([] if action in {"join", "invite"} else [bob]), visibility="public")
    actor = bob if action in {"join", "leave"} else alice
    body = {} if actor is bob else {"user_id": bob.user_id}
    claim = RequestClaim.of(requester(actor), f"rooms/{room_id}/{action}", "t")
    work: dict[str, Callable[[], Any]] = {
        "join": lambda: draft_rooms.join(requester(bob), room_id, claim),
        "leave": lambda: draft_rooms.leave(requester(bob), room_id, None, claim),
        "invite": lambda: draft_rooms.invite(requester(alice), room_id, bob.user_id, None, claim),
        "kick": lambda: draft_rooms.kick(requester(alice), room_id, bob.user_id, None, claim),
        "ban": lambda: draft_rooms.ban(requester(alice), room_id, bob.user_id, None, claim),
    }
    before = events_of(alice, room_id)
    cut_off(lambda: answered_once(claim, work[action]), point)
    for _ in range(2):
        answer = put(actor, "rooms", room_id, action, "t", **body)
        assert answer.json == ({"room_id": room_id} if action == "join" else {})
    assert len(events_of(alice, room_id)) == len(before) + 1


# ── At the same time ─────────────────────────────────────────────────────────


def at_once(monkeypatch: pytest.MonkeyPatch, *work: Callable[[], Any]) -> list[Any]:
    one_call_at_a_time(monkeypatch)
    monkeypatch.setattr(attempts, "ATTEMPT_SECONDS", 60.0)
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result() for future in [pool.submit(one) for one in work]]


def test_eight_twins_at_once_make_one_room(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = at_once(monkeypatch, *[lambda: make(alice, "t", alias_name="pub", name="Pub")] * 8)
    assert rooms_of(alice) == [answers[0]["room_id"]]
    assert all(answer == answers[0] for answer in answers)


def test_two_who_ask_for_each_other_at_once_get_one_room(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = at_once(
        monkeypatch,
        *[lambda: make(alice, "t", direct_to=bob.user_id), lambda: make(bob, "t", direct_to=alice.user_id)] * 3,
    )
    assert len({answer["room_id"] for answer in answers}) == 1
    assert {*rooms_of(alice), *rooms_of(bob)} == {answers[0]["room_id"]}


def test_a_twin_that_comes_between_read_and_commit_gets_the_same_answer(alice: User) -> None:
    """The second request is made right before the first one commits."""
    between: list[Mapping[str, Any]] = []

    def hook(name: str) -> None:
        if name == "commit.before" and not between:
            observability.fault_hook = None
            between.append(make(alice, "t", alias_name="pub"))

    observability.fault_hook = hook
    first = make(alice, "t", alias_name="pub")
    assert between == [first]
    assert rooms_of(alice) == [first["room_id"]]


def test_eight_kicks_at_once_are_one(alice: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    room_id = draft_room(alice, bob)
    before = len(events_of(alice, room_id))

    def kick() -> Any:
        claim = RequestClaim.of(requester(alice), f"rooms/{room_id}/kick", "t")
        return answered_once(claim, lambda: draft_rooms.kick(requester(alice), room_id, bob.user_id, None, claim))

    assert at_once(monkeypatch, *[kick] * 8) == [{}] * 8
    assert len(events_of(alice, room_id)) == before + 1


def test_state_needs_no_transaction_id_as_it_is_the_same_again(alice: User) -> None:
    room_id = draft_room(alice)
    assert put(alice, "rooms", room_id, "state", "m.room.topic", topic="t").json == {}
    before = events_of(alice, room_id)
    assert put(alice, "rooms", room_id, "state", "m.room.topic", topic="t").json == {}
    assert events_of(alice, room_id) == before
    again: Answer = set_state(alice, room_id, "m.room.topic", {"topic": "t"})
    assert again.status == 200
    assert events_of(alice, room_id) == before
