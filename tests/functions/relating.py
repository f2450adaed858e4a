"""What tests of events that relate to others do again and again, through the handlers."""

import itertools
from typing import Any
from urllib.parse import quote

from functions.harness import Answer, User
from functions.rooms import event, put, request

JSON = dict[str, Any]
V1 = "/_matrix/client/v1"
_numbers = itertools.count(1)


def send(user: User, room_id: str, event_type: str, content: JSON) -> Answer:
    return put(user, room_id, "send", event_type, f"related{next(_numbers)}", body=content)


def sent(user: User, room_id: str, event_type: str, content: JSON) -> str:
    answer = send(user, room_id, event_type, content)
    assert answer.status == 200, answer
    event_id: str = answer.json["event_id"]
    return event_id


def message(body: str, **more: Any) -> JSON:
    return {"msgtype": "m.text", "body": body, **more}


def relates(rel_type: str, parent: str, **more: Any) -> JSON:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": parent, **more}}


def say(user: User, room_id: str, body: str) -> str:
    return sent(user, room_id, "m.room.message", message(body))


def react(user: User, room_id: str, parent: str, key: str = "👍") -> Answer:
    return send(user, room_id, "m.reaction", relates("m.annotation", parent, key=key))


def edit(user: User, room_id: str, parent: str, body: str) -> str:
    content = message(f"* {body}", **{"m.new_content": message(body)}, **relates("m.replace", parent))
    return sent(user, room_id, "m.room.message", content)


def reply(user: User, room_id: str, root: str, body: str) -> str:
    """A reply in a thread."""
    return sent(user, room_id, "m.room.message", message(body, **relates("m.thread", root)))


def refer(user: User, room_id: str, parent: str, body: str = "see") -> str:
    return sent(user, room_id, "m.room.message", message(body, **relates("m.reference", parent)))


def bundle(user: User, room_id: str, event_id: str) -> JSON:
    """The aggregations that come with an event."""
    answer = event(user, room_id, event_id)
    assert answer.status == 200, answer
    found: JSON = answer.json["unsigned"].get("m.relations", {})
    return found


def relations(user: User, room_id: str, *segments: str, **query: Any) -> Answer:
    """GET /relations/{eventId}[/{relType}[/{eventType}]]"""
    where = "/".join([V1, "rooms", *(quote(s, safe="") for s in (room_id, "relations", *segments))])
    return request("client_history", "GET", where, token=user.token, query=query or None)


def children(user: User, room_id: str, *segments: str, **query: Any) -> list[str]:
    answer = relations(user, room_id, *segments, **query)
    assert answer.status == 200, answer
    return [child["event_id"] for child in answer.json["chunk"]]


def threads(user: User, room_id: str, **query: Any) -> Answer:
    where = f"{V1}/rooms/{quote(room_id, safe='')}/threads"
    return request("client_history", "GET", where, token=user.token, query=query or None)


def roots(user: User, room_id: str, **query: Any) -> list[str]:
    answer = threads(user, room_id, **query)
    assert answer.status == 200, answer
    return [root["event_id"] for root in answer.json["chunk"]]
