"""What function tests of the 2014 draft's writing half do again and again, through the handlers."""

from typing import Any
from urllib.parse import quote

from functions.harness import Answer, User, call
from functions.rooms import state

L = "/_matrix/client/api/v1"
OLDEST = "/matrix/client/api/v1"


def where(*segments: str, root: str = L) -> str:
    """A path of the draft with every segment percent-encoded."""
    return "/".join([root, *(quote(segment, safe="") for segment in segments)])


def write(user: User | None, method: str, *segments: str, body: Any = None, root: str = L) -> Answer:
    """One writing request of a user (or of nobody)."""
    token = user.token if user else None
    return call("client_legacy_rooms", method, where(*segments, root=root), body, token=token)


def post(user: User, *segments: str, **body: Any) -> Answer:
    return write(user, "POST", *segments, body=body)


def put(user: User, *segments: str, **body: Any) -> Answer:
    return write(user, "PUT", *segments, body=body)


def draft_room(user: User, *members: User, **body: Any) -> str:
    """A room made as the draft makes it, in which the members are invited and joined."""
    answer = post(user, "createRoom", invite=[member.user_id for member in members], **body)
    assert answer.status == 200, answer
    room_id: str = answer.json["room_id"]
    for member in members:
        assert post(member, "rooms", room_id, "join").json == {"room_id": room_id}
    return room_id


def levels(user: User, room_id: str) -> dict[str, Any]:
    """The content of `m.room.power_levels` as clients of today see it."""
    content: dict[str, Any] = state(user, room_id, "m.room.power_levels").json
    return content


def refusal(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.errcode
