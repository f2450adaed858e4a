"""Restricted and knock_restricted rooms: who comes in through another room, on whose word, and what happens at once."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import SERVER_NAME, Answer, User, register
from functions.rooms import create_room, events_of, follow, membership, path, post, request, set_state, state
from homeserver import observability
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.event_builder import EventDraft
from homeserver.matrix.signing import SigningKey, verify_event_signature
from homeserver.services import membership as services
from homeserver.services import restricted_joins
from homeserver.services.access_tokens import Requester
from homeserver.services.room_state_events import set_room_state
from homeserver.storage.connection import Transaction, TransactionCancelled
from homeserver.storage.room_items import HEAD, Head, LocalMember
from homeserver.storage.rooms import load_room

WORD = "join_authorised_via_users_server"


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def by(user: User) -> Requester:
    return Requester(user.user_id, user.device_id, "")


def condition(room_id: str) -> dict[str, Any]:
    return {"type": "m.room_membership", "room_id": room_id}


def restricted(user: User, *rooms: str, rule: str = "restricted", allow: Any = None, **body: Any) -> str:
    """A room that members of the others may join."""
    content = {"join_rule": rule, "allow": [condition(room_id) for room_id in rooms] if allow is None else allow}
    return create_room(user, initial_state=[{"type": "m.room.join_rules", "content": content}], **body)


def set_levels(user: User, room_id: str, **change: Any) -> None:
    levels = state(user, room_id, "m.room.power_levels").json
    assert set_state(user, room_id, "m.room.power_levels", {**levels, **change}).status == 200


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """`meanwhile(act)`: somebody acts right before the next commit, which was authorised already.

    Through the services: a handler cannot run inside another one.
    """

    def arrange(act: Callable[[], object]) -> None:
        def interrupt(point: str) -> None:
            if point == "commit.before":
                monkeypatch.setattr(observability, "fault_hook", None)
                act()

        monkeypatch.setattr(observability, "fault_hook", interrupt)

    return arrange


@pytest.mark.parametrize(
    ("version", "rule"),
    [("8", "restricted"), ("9", "restricted"), ("10", "knock_restricted"), ("11", "restricted"), ("12", "restricted")],
)
def test_a_member_of_the_other_room_comes_in_on_the_word_of_the_creator(
    alice: User, bob: User, version: str, rule: str
) -> None:
    space = create_room(alice, bob)
    room_id = restricted(alice, space, rule=rule, room_version=version)
    assert post(bob, room_id, "join", {"reason": "from the space"}).json == {"room_id": room_id}
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {
        "membership": "join",
        "displayname": "bob",
        "reason": "from the space",
        WORD: alice.user_id,
    }


def test_the_join_names_who_gave_their_word_among_its_auth_events_and_is_signed_by_their_server(
    alice: User, bob: User
) -> None:
    room_id = restricted(alice, create_room(alice, bob))
    assert post(bob, room_id, "join").status == 200
    view, _ = load_room(room_id, [("m.room.member", user.user_id) for user in (alice, bob)])
    assert view is not None
    join, authoriser = view.event("m.room.member", bob.user_id), view.event("m.room.member", alice.user_id)
    assert join is not None
    assert authoriser is not None
    assert authoriser.event_id in join.auth_event_ids
    key = SigningKey.generate("test", bytes(range(32)))
    verify_event_signature(join.pdu, join.rules, SERVER_NAME, {key.key_id: key.verify_key})


@pytest.mark.parametrize("before", ["none", "invite", "leave", "ban"])
def test_who_is_not_in_the_other_room_stays_outside(alice: User, bob: User, before: str) -> None:
    space = create_room(alice, *([bob] if before == "leave" else []))
    if before == "leave":
        post(bob, space, "leave")
    elif before in {"invite", "ban"}:
        post(alice, space, before, {"user_id": bob.user_id})
    room_id = restricted(alice, space)
    assert refusal(post(bob, room_id, "join")) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == "none"


@pytest.mark.parametrize(
    "allow",
    [
        [],
        None,
        "everybody",
        [{"type": "m.room_membership"}],
        [{"type": "org.example.paid", "room_id": "SPACE"}],
        [{"room_id": "SPACE"}],
        ["SPACE"],
        [{"type": "m.room_membership", "room_id": 1}],
        [{"type": "m.room_membership", "room_id": "SPACE?"}],
        [{"type": "m.room_membership", "room_id": "!" + "r" * 3000 + ":example.org"}],
    ],
)
def test_conditions_that_are_none_let_nobody_in(alice: User, bob: User, allow: Any) -> None:
    space = create_room(alice, bob)

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [filled(entry) for entry in value]
        return space if value == "SPACE" else value

    room_id = create_room(alice)
    rule = {"join_rule": "restricted"} | ({} if allow is None else {"allow": filled(allow)})
    assert set_state(alice, room_id, "m.room.join_rules", rule).status == 200
    assert refusal(post(bob, room_id, "join")) == (403, "M_FORBIDDEN")


def test_one_condition_among_unknown_ones_is_enough(alice: User, bob: User) -> None:
    space = create_room(alice, bob)
    allow = [{"type": "org.example.paid"}, condition(f"!unknown:{SERVER_NAME}"), condition(space), 1]
    assert post(bob, restricted(alice, allow=allow), "join").status == 200


def test_conditions_beyond_the_fortieth_are_not_looked_at(alice: User, bob: User) -> None:
    space = create_room(alice, bob)
    others = [condition(f"!unknown{number}:{SERVER_NAME}") for number in range(40)]
    assert refusal(post(bob, restricted(alice, allow=[*others, condition(space)]), "join")) == (403, "M_FORBIDDEN")
    assert post(bob, restricted(alice, allow=[*others[1:], condition(space)]), "join").status == 200


def test_the_invited_and_those_who_are_in_need_nobodys_word(alice: User, bob: User) -> None:
    room_id = restricted(alice, create_room(alice, bob), invite=[bob.user_id])
    assert post(bob, room_id, "join").status == 200
    assert WORD not in state(alice, room_id, "m.room.member", bob.user_id).json
    events = events_of(alice, room_id)
    assert post(bob, room_id, "join").status == 200
    assert events_of(alice, room_id) == events


def test_who_came_in_on_a_word_can_change_their_name_without_it(alice: User, bob: User) -> None:
    room_id = restricted(alice, create_room(alice, bob))
    post(bob, room_id, "join")
    where = path("profile", bob.user_id, "displayname")
    assert request("client_user", "PUT", where, {"displayname": "Bobby"}, token=bob.token).status == 200
    assert state(alice, room_id, "m.room.member", bob.user_id).json == {"membership": "join", "displayname": "Bobby"}


def test_a_banned_member_of_the_other_room_stays_outside(alice: User, bob: User) -> None:
    room_id = restricted(alice, create_room(alice, bob))
    assert post(alice, room_id, "ban", {"user_id": bob.user_id}).status == 200
    assert refusal(post(bob, room_id, "join")) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == "ban"


def test_the_word_is_of_whoever_has_the_power_and_is_there(alice: User, bob: User) -> None:
    """The creator is gone; of those who are there one can invite, whom the power levels name."""
    carol, dave = register("carol"), register("dave")
    space = create_room(alice, bob)
    room_id = restricted(alice, space, room_version="11", invite=[carol.user_id, dave.user_id])
    for user in (carol, dave):
        post(user, room_id, "join")
    set_levels(alice, room_id, invite=50, users={alice.user_id: 100, carol.user_id: 50, dave.user_id: 49})
    post(alice, room_id, "leave")
    assert post(bob, room_id, "join").status == 200
    assert state(carol, room_id, "m.room.member", bob.user_id).json[WORD] == carol.user_id


def test_where_everybody_may_invite_any_member_gives_their_word(alice: User, bob: User) -> None:
    carol = register("carol")
    room_id = restricted(alice, create_room(alice, bob), invite=[carol.user_id])
    post(carol, room_id, "join")
    post(alice, room_id, "leave")
    assert post(bob, room_id, "join").status == 200
    assert state(carol, room_id, "m.room.member", bob.user_id).json[WORD] == carol.user_id


def test_where_nobody_of_this_server_may_invite_nobody_is_let_in(alice: User, bob: User) -> None:
    carol = register("carol")
    room_id = restricted(alice, create_room(alice, bob), room_version="11", invite=[carol.user_id])
    post(carol, room_id, "join")
    set_levels(alice, room_id, invite=50)
    post(alice, room_id, "leave")
    assert refusal(post(bob, room_id, "join")) == (403, "M_UNABLE_TO_GRANT_JOIN")
    assert membership(carol, room_id, bob) == "none"


def test_nobody_gives_themselves_the_word(alice: User, bob: User) -> None:
    """The power levels name Bob, who is not in the room; neither is anybody else who could invite."""
    carol = register("carol")
    room_id = restricted(alice, create_room(alice, bob), room_version="11", invite=[carol.user_id])
    post(carol, room_id, "join")
    set_levels(alice, room_id, invite=50, users={alice.user_id: 100, bob.user_id: 100})
    post(alice, room_id, "leave")
    assert refusal(post(bob, room_id, "join")) == (403, "M_UNABLE_TO_GRANT_JOIN")


def test_a_client_cannot_claim_a_word_that_nobody_gave(alice: User, bob: User) -> None:
    room_id = restricted(alice, create_room(alice))
    claim = {"membership": "join", WORD: alice.user_id}
    assert refusal(set_state(bob, room_id, "m.room.member", claim, bob.user_id)) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == "none"


def test_a_join_as_a_state_event_gets_the_word_too(alice: User, bob: User) -> None:
    room_id = restricted(alice, create_room(alice, bob))
    claim = {"membership": "join", "x": 1, WORD: "@somebody:else.org"}
    assert set_state(bob, room_id, "m.room.member", claim, bob.user_id).status == 200
    content = state(alice, room_id, "m.room.member", bob.user_id).json
    assert content == {"membership": "join", "x": 1, WORD: alice.user_id}


def test_a_word_that_was_not_needed_is_not_taken_from_a_client(alice: User, bob: User) -> None:
    room_id = restricted(alice, create_room(alice), invite=[bob.user_id])
    for word in ("@somebody:else.org", alice.user_id):
        claim = {"membership": "join", "org.example": word, WORD: word}
        assert set_state(bob, room_id, "m.room.member", claim, bob.user_id).status == 200
        content = state(alice, room_id, "m.room.member", bob.user_id).json
        assert content == {"membership": "join", "org.example": word}


def test_before_version_8_the_rule_lets_nobody_in(alice: User, bob: User) -> None:
    room_id = restricted(alice, create_room(alice, bob), room_version="7")
    assert refusal(post(bob, room_id, "join")) == (403, "M_FORBIDDEN")
    room_id = restricted(alice, create_room(alice, bob), rule="knock_restricted", room_version="9")
    assert refusal(post(bob, room_id, "join")) == (403, "M_FORBIDDEN")


def test_a_knock_restricted_room_is_knocked_at_by_those_who_meet_no_condition(alice: User, bob: User) -> None:
    room_id = restricted(alice, create_room(alice), rule="knock_restricted")
    assert refusal(post(bob, room_id, "join")) == (403, "M_FORBIDDEN")
    assert request("client_rooms", "POST", path("knock", room_id), {}, token=bob.token).status == 200
    assert post(alice, room_id, "invite", {"user_id": bob.user_id}).status == 200
    assert post(bob, room_id, "join").status == 200


def test_a_restricted_join_costs_the_same_in_a_large_room(alice: User, bob: User, server: Callable[..., None]) -> None:
    carol = register("carol")
    space = create_room(alice, bob, carol)
    room_id = restricted(alice, space)
    server(COST_METER="on")

    def cost(user: User) -> tuple[int, float]:
        answer = post(user, room_id, "join")
        assert answer.status == 200
        told = dict(re.findall(r"(\w+);desc=([\d.]+)", answer.headers["server-timing"]))
        return int(told["rounds"]), float(told["rru"])

    small = cost(bob)
    crowd = [register() for _ in range(25)]
    for user in crowd:
        post(alice, room_id, "invite", {"user_id": user.user_id})
        post(user, room_id, "join")
    large = cost(carol)
    assert large[0] <= small[0]
    assert large[1] <= small[1] + 1


# ── Two things at once ──────────────────────────────────────────────────────────────────────────────


def test_a_ban_that_comes_between_check_and_join_wins(
    alice: User, bob: User, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    room_id = restricted(alice, create_room(alice, bob))
    meanwhile(lambda: services.ban(by(alice), room_id, bob.user_id, reason=None))
    assert refusal(post(bob, room_id, "join")) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == "ban"


def test_who_is_removed_from_the_other_room_between_check_and_join_stays_outside(
    alice: User, bob: User, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    space = create_room(alice, bob)
    room_id = restricted(alice, space)
    meanwhile(lambda: services.kick(by(alice), space, bob.user_id, reason=None))
    assert refusal(post(bob, room_id, "join")) == (403, "M_FORBIDDEN")
    assert membership(alice, room_id, bob) == "none"


def test_who_gives_their_word_must_still_be_there_at_the_join(
    alice: User, bob: User, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    carol = register("carol")
    room_id = restricted(alice, create_room(alice, bob), invite=[carol.user_id])
    post(carol, room_id, "join")
    meanwhile(lambda: services.leave_room(by(alice), room_id))
    assert post(bob, room_id, "join").status == 200
    assert state(carol, room_id, "m.room.member", bob.user_id).json[WORD] == carol.user_id


def test_a_room_that_becomes_public_between_check_and_join_needs_no_word(
    alice: User, bob: User, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    room_id = restricted(alice, create_room(alice, bob))
    meanwhile(lambda: set_room_state(by(alice), room_id, EventDraft("m.room.join_rules", {"join_rule": "public"}, "")))
    assert post(bob, room_id, "join").status == 200
    assert WORD not in state(alice, room_id, "m.room.member", bob.user_id).json


# ── What federation will ask ────────────────────────────────────────────────────────────────────────


def grant_for(
    room_id: str, user_id: str, *, between: Callable[[], object] = lambda: None
) -> restricted_joins.Grant | None:
    """Ask for somebody's word; `between` happens after the first look at the room."""
    needed = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", user_id)]
    view, _ = load_room(room_id, needed)
    assert view is not None
    between()
    return restricted_joins.find_grant(
        view, user_id, lambda more, others: load_room(room_id, [*needed, *more], extras=others)
    )


def test_what_was_asked_about_must_still_be_so_when_the_answer_is_given(alice: User, bob: User) -> None:
    space = create_room(alice, bob)
    room_id = restricted(alice, space)
    found = grant_for(room_id, bob.user_id)
    assert found is not None
    assert (found.authoriser, found.through.room) == (alice.user_id, space)
    public = {"join_rule": "public", "allow": [condition(space)]}
    others = {"join_rule": "restricted", "allow": [condition(room_id)]}
    for content in (public, others):
        room_id = restricted(alice, space)

        def change(room_id: str = room_id, content: Any = content) -> None:
            assert set_state(alice, room_id, "m.room.join_rules", content).status == 200

        assert grant_for(room_id, bob.user_id, between=change) is None


def test_of_a_remote_user_this_server_knows_only_what_its_own_rooms_say(alice: User) -> None:
    known, unknown = create_room(alice), f"!unknown:{SERVER_NAME}"
    follow()
    with pytest.raises(MatrixError) as refused:
        grant_for(restricted(alice, known, unknown), "@x:else.org")
    assert (refused.value.errcode, refused.value.status) == ("M_FORBIDDEN", 403)
    with pytest.raises(MatrixError) as unseen:
        grant_for(restricted(alice, unknown), "@x:else.org")
    assert (unseen.value.errcode, unseen.value.status) == ("M_UNABLE_TO_AUTHORISE_JOIN", 400)


def lag(room_id: str, user: User, *, said: str, root: bytes) -> None:
    """Let the rows of a room say what an earlier state said: as after a change too large for one transaction."""
    row = LocalMember(room_id, f"local/{user.user_id}")
    row.update([LocalMember.membership.set(said)])
    Head(room_id, HEAD).update([Head.rows_root.set(root)])


def test_rows_that_lag_behind_let_nobody_in_and_keep_nobody_out(alice: User, bob: User) -> None:
    space = create_room(alice, bob)
    inside = bytes(Head.fetch(space, HEAD).root)
    post(bob, space, "leave")
    outside = bytes(Head.fetch(space, HEAD).root)
    room_id = restricted(alice, space)
    lag(space, bob, said="join", root=inside)
    assert refusal(post(bob, room_id, "join", {})) == (403, "M_FORBIDDEN")
    lag(space, bob, said="leave", root=outside)
    post(alice, space, "invite", {"user_id": bob.user_id})
    assert post(bob, space, "join", {}).status == 200
    lag(space, bob, said="leave", root=outside)
    assert post(bob, room_id, "join", {}).status == 200


def test_while_rows_lag_behind_the_room_must_not_move(alice: User, bob: User) -> None:
    space = create_room(alice)
    outside = bytes(Head.fetch(space, HEAD).root)
    post(alice, space, "invite", {"user_id": bob.user_id})
    assert post(bob, space, "join", {}).status == 200
    room_id = restricted(alice, space)
    lag(space, bob, said="leave", root=outside)
    found = grant_for(room_id, bob.user_id)
    assert found is not None
    for moved in (False, True):
        if moved:
            assert set_state(alice, space, "m.room.topic", {"topic": "something else"}).status == 200
        transaction = Transaction()
        found.hold(transaction)
        if moved:
            with pytest.raises(TransactionCancelled, match="condition"):
                transaction.commit()
        else:
            transaction.commit()
