"""What function tests of rooms do again and again, through the handlers; every answer is checked by the contract."""

import json
from importlib import import_module
from typing import Any
from urllib.parse import quote

from contract_check import check
from functions.harness import Answer, User, call

V3 = "/_matrix/client/v3"


def path(*segments: str) -> str:
    """A client path of v3 with every segment percent-encoded."""
    return "/".join([V3, *(quote(segment, safe="") for segment in segments)])


def request(function: str, method: str, where: str, body: Any = None, **more: Any) -> Answer:
    """One request whose answer must be what the specification documents, strictly."""
    answer = call(function, method, where, body, **more)
    check(method, where, answer.status, answer.json)
    return answer


def post(user: User, room_id: str, action: str, body: Any = None) -> Answer:
    """join, invite, leave, kick, ban, unban, forget."""
    return request("client_rooms", "POST", path("rooms", room_id, action), body or {}, token=user.token)


def make(user: User, **body: Any) -> Answer:
    return request("client_rooms", "POST", path("createRoom"), body, token=user.token)


def create_room(user: User, *members: User, **body: Any) -> str:
    """A room in which the members are invited and joined."""
    if members:
        body["invite"] = [member.user_id for member in members]
    answer = make(user, **body)
    assert answer.status == 200, answer
    room_id: str = answer.json["room_id"]
    for member in members:
        assert post(member, room_id, "join").json == {"room_id": room_id}
    return room_id


def put(user: User, *segments: str, body: Any) -> Answer:
    """PUT /rooms/...: send, state, redact."""
    return request("client_events", "PUT", path("rooms", *segments), body, token=user.token)


def send(user: User, room_id: str, body: str, txn: str) -> Answer:
    return put(user, room_id, "send", "m.room.message", txn, body={"msgtype": "m.text", "body": body})


def say(user: User, room_id: str, *texts: str) -> list[str]:
    """Send messages; their event IDs."""
    answers = [send(user, room_id, text, f"say-{text}") for text in texts]
    assert [answer.status for answer in answers] == [200] * len(texts), answers
    return [answer.json["event_id"] for answer in answers]


def set_state(user: User, room_id: str, event_type: str, content: Any, key: str = "") -> Answer:
    return put(user, room_id, "state", event_type, key, body=content)


def redact(user: User, room_id: str, event_id: str, txn: str = "r", **content: Any) -> Answer:
    return put(user, room_id, "redact", event_id, txn, body=content)


def get(user: User, *segments: str, **query: Any) -> Answer:
    if isinstance(query.get("filter"), dict):
        query["filter"] = json.dumps(query["filter"])
    return request("client_history", "GET", path(*segments), token=user.token, query=query or None)


def event(user: User, room_id: str, event_id: str) -> Answer:
    return get(user, "rooms", room_id, "event", event_id)


def state(user: User, room_id: str, event_type: str, key: str = "") -> Answer:
    """The content of a state event; its keys are no concern of the endpoint's contract."""
    return call("client_history", "GET", path("rooms", room_id, "state", event_type, key), token=user.token)


def messages(user: User, room_id: str, **query: Any) -> Answer:
    return get(user, "rooms", room_id, "messages", **{"dir": "b", "limit": 100, **query})


def texts(events: list[dict[str, Any]]) -> list[str | None]:
    """The bodies of the messages among events; None for redacted ones."""
    return [found["content"].get("body") for found in events if found["type"] == "m.room.message"]


def membership(user: User, room_id: str, of: User) -> str:
    """What a member sees as the membership of a user."""
    answer = state(user, room_id, "m.room.member", of.user_id)
    assert answer.status in {200, 404}, answer
    return str(answer.json["membership"]) if answer.status == 200 else "none"


def events_of(user: User, room_id: str) -> list[tuple[str, str | None]]:
    """Type and state key of all that the user sees in the room, oldest first."""
    chunk = messages(user, room_id, dir="f", limit=500).json["chunk"]
    return [(found["type"], found.get("state_key")) for found in chunk]


def follow() -> None:
    """Let the followers work, as the stream would."""
    import_module("room_sweep_worker.app").lambda_handler({"source": "aws.events"}, None)


def sync(user: User, since: str | None = None, **query: Any) -> dict[str, Any]:
    """One sync's body, built at once."""
    answer = import_module("sync_answer.app").lambda_handler(
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
