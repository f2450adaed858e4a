"""What function tests of rooms do again and again, through the handlers."""

from typing import Any
from urllib.parse import quote

from functions.harness import Answer, User, call

V3 = "/_matrix/client/v3"


def path(*segments: str) -> str:
    """A client path of v3 with every segment percent-encoded."""
    return "/".join([V3, *(quote(segment, safe="") for segment in segments)])


def create_room(user: User, **body: Any) -> str:
    answer = call("client_rooms", "POST", path("createRoom"), body, token=user.token)
    assert answer.status == 200, answer
    room_id: str = answer.json["room_id"]
    return room_id


def post(user: User, room_id: str, action: str, body: dict[str, Any] | None = None) -> Answer:
    return call("client_rooms", "POST", path("rooms", room_id, action), body or {}, token=user.token)


def send(user: User, room_id: str, body: str, txn: str) -> Answer:
    content = {"msgtype": "m.text", "body": body}
    return call("client_events", "PUT", path("rooms", room_id, "send", "m.room.message", txn), content, token=user.token)


def get(user: User, *segments: str, **query: Any) -> Answer:
    return call("client_history", "GET", path(*segments), token=user.token, query=query or None)


def follow() -> None:
    """Let the followers work, as the stream would."""
    call_sweep = __import__("room_sweep_worker.app", fromlist=["lambda_handler"]).lambda_handler
    call_sweep({"source": "aws.events"}, None)


def sync(user: User, since: str | None = None, **query: Any) -> dict[str, Any]:
    """One sync's body, built at once."""
    import json

    from sync_answer.app import lambda_handler

    answer = lambda_handler(
        {
            "user_id": user.user_id,
            "device_id": user.device_id,
            "since": since,
            "filter": json.dumps(query["filter"]) if "filter" in query else None,
            "full_state": query.get("full_state", False),
        },
        None,
    )
    assert answer["status"] == 200, answer
    body: dict[str, Any] = json.loads(answer["body"])
    return body
