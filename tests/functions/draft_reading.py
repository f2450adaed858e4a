"""Requests of a client of 2014 that reads, through the handlers: `read` for one, and the stream."""

from typing import Any
from urllib.parse import quote

from functions.harness import Answer, User, call
from functions.rooms import V3, path, request

L = "/_matrix/client/api/v1"
OLD_L = "/matrix/client/api/v1"
JSON = dict[str, Any]
STREAM = {"events", "initialSync"}


def where(*segments: str, prefix: str = L) -> str:
    """A path of the draft with every segment percent-encoded."""
    return "/".join([prefix, *(quote(segment, safe="") for segment in segments)])


def function_of(*segments: str) -> str:
    """The function that answers a GET."""
    if len(segments) == 1 and segments[0] in STREAM:
        return "client_sync"
    if segments[0] == "rooms" and segments[2] in {"initialSync", "messages"}:
        return "client_history"
    return "client_account" if segments[0] == "admin" else "client_legacy_events"


def read(user: User | None, *segments: str, prefix: str = L, **query: Any) -> Answer:
    """GET with the token in the query, as the draft has it."""
    asked = {"access_token": user.token} if user is not None else {}
    return call(function_of(*segments), "GET", where(*segments, prefix=prefix), query={**asked, **query} or None)


def ok(user: User | None, *segments: str, **query: Any) -> Any:
    """The body of an answer that must be 200. `since` stands for `from`."""
    if "since" in query:
        query["from"] = query.pop("since")
    answer = read(user, *segments, **query)
    assert answer.status == 200, answer
    return answer.json


def snapshot(user: User, **query: Any) -> JSON:
    """GET /initialSync"""
    body: JSON = ok(user, "initialSync", **query)
    assert {"end", "rooms", "presence"} <= set(body)
    return body


def events(user: User, since: str | None = None, *, timeout: int = 0, **query: Any) -> JSON:
    """GET /events, at once unless a timeout is given."""
    body: JSON = ok(user, "events", timeout=timeout, **({"since": since} if since else {}), **query)
    assert set(body) == {"start", "end", "chunk"}
    return body


def room_in(body: JSON, room_id: str) -> JSON:
    """A room of an initial sync."""
    (found,) = [room for room in body["rooms"] if room["room_id"] == room_id]
    return dict(found)


def react(user: User, room_id: str, event_id: str, kind: str = "m.read") -> None:
    """POST /rooms/{roomId}/receipt/... of the API of today."""
    answer = request(
        "client_ephemeral", "POST", path("rooms", room_id, "receipt", kind, event_id), {}, token=user.token
    )
    assert answer.status == 200, answer


def publish(user: User, room_id: str) -> None:
    """Put a room into the directory."""
    target = f"{V3}/directory/list/room/{quote(room_id, safe='')}"
    assert call("client_directory", "PUT", target, {"visibility": "public"}, token=user.token).status == 200


def give_alias(user: User, room_id: str, name: str) -> str:
    """A new alias of the room."""
    alias = f"#{name}:example.org"
    target = path("directory", "room", alias)
    assert call("client_rooms", "PUT", target, {"room_id": room_id}, token=user.token).status == 200
    return alias
