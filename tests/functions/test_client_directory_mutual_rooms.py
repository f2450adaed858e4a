"""GET /mutual_rooms, and the name that clients had for it before."""

from collections.abc import Callable
from typing import Any

import pytest

from functions.harness import Answer, User, call, register
from functions.rooms import create_room, follow, post, request

pytestmark = pytest.mark.usefixtures("signing_key_of_the_server")
FUNCTION = "client_directory"
MUTUAL = "/_matrix/client/v1/mutual_rooms"
UNSTABLE = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"


def mutual(user: User, **query: Any) -> Answer:
    return request(FUNCTION, "GET", MUTUAL, token=user.token, query=query or None)


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode


def test_rooms_in_which_both_are_joined_are_mutual(alice: User, bob: User) -> None:
    carol = register("carol")
    shared = sorted([create_room(alice, bob), create_room(bob, alice)])
    create_room(alice)
    create_room(alice, carol)
    post(alice, create_room(alice), "invite", {"user_id": bob.user_id})
    left = create_room(alice, bob)
    post(bob, left, "leave")
    follow()
    for one, other in ((alice, bob), (bob, alice)):
        answer = mutual(one, user_id=other.user_id)
        assert (answer.status, answer.json) == (200, {"joined": shared, "count": 2})
    assert mutual(bob, user_id=carol.user_id).json == {"joined": [], "count": 0}


@pytest.mark.parametrize("user_id", ["@nobody:example.org", "@nobody:elsewhere.org"])
def test_a_user_who_does_not_exist_shares_no_room(alice: User, user_id: str) -> None:
    create_room(alice)
    assert mutual(alice, user_id=user_id).json == {"joined": [], "count": 0}


def test_batches_go_on_while_rooms_come_and_go(alice: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    from homeserver.services import mutual_rooms

    monkeypatch.setattr(mutual_rooms, "ROOMS_AT_ONCE", 2)
    rooms = sorted(create_room(alice, bob) for _ in range(5))
    follow()
    first = mutual(alice, user_id=bob.user_id).json
    assert (first["joined"], first["count"]) == (rooms[:2], 5)
    post(bob, rooms[1], "leave")  # the one that the token names
    post(bob, rooms[2], "leave")
    follow()
    second = mutual(alice, user_id=bob.user_id, **{"from": first["next_batch"]}).json
    assert second == {"joined": rooms[3:], "count": 3}
    old = call(FUNCTION, "GET", UNSTABLE, token=alice.token, query={"user_id": bob.user_id}).json
    assert (old["joined"], old["count"]) == ([rooms[0], rooms[3]], 3)
    query = {"user_id": bob.user_id, "batch_token": old["next_batch_token"]}
    assert call(FUNCTION, "GET", UNSTABLE, token=alice.token, query=query).json == {"joined": rooms[4:], "count": 3}


def test_bad_questions_are_refused(alice: User, bob: User, call: Callable[..., Answer]) -> None:
    assert refusal(mutual(alice)) == (400, "M_MISSING_PARAM")
    for user_id in (alice.user_id, "bob", "", "!bob:example.org"):
        assert refusal(mutual(alice, user_id=user_id)) == (400, "M_INVALID_PARAM")
    for token in ("", "x", "bm90IGEgcm9vbQ", "%%"):
        assert refusal(mutual(alice, user_id=bob.user_id, **{"from": token})) == (400, "M_INVALID_PARAM")
    for where in (MUTUAL, UNSTABLE):
        assert refusal(call(FUNCTION, "GET", where, query={"user_id": bob.user_id})) == (401, "M_MISSING_TOKEN")


def test_clients_are_told_that_the_older_name_works(call: Callable[..., Answer]) -> None:
    features = call("server_discovery", "GET", "/_matrix/client/versions").json["unstable_features"]
    assert features["uk.half-shot.msc2666.query_mutual_rooms"] is True
    assert features["uk.half-shot.msc2666.query_mutual_rooms.stable"] is True


def test_both_lists_are_read_at_once(alice: User, bob: User) -> None:
    from homeserver.observability import metered
    from homeserver.services.access_tokens import Requester
    from homeserver.services.mutual_rooms import mutual_rooms

    create_room(alice, bob)
    follow()
    with metered() as meter:
        assert mutual_rooms(Requester(alice.user_id, "", ""), bob.user_id)["count"] == 1
    assert (meter.rounds, meter.calls, meter.rru, meter.wru) == (1, 2, 2, 0)
