"""A client of 2014 that distrusts its server: initialSync, then /events for as long as it is wanted.

It shows its token in the query, as the draft has it, and sends by `PUT` with a transaction ID.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from e2e.client import PASSWORD, Answer, Client

L = "/_matrix/client/api/v1"
# What only one of the two dialects has at the top of an event.
DRAFT_KEYS = {"user_id", "age", "prev_content", "required_power_level", "redacted_because", "feedback"}
_numbers = itertools.count(1)


class DraftClient:
    """One device. `seen`: the events of each room in the order in which they were told, none of them twice."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.token, self.user_id, self.at = client.token, client.user_id, ""
        self.seen: dict[str, list[dict[str, Any]]] = {}
        self.rooms: dict[str, dict[str, Any]] = {}
        self.others: list[dict[str, Any]] = []  # what is no event of a room

    def twin(self) -> "DraftClient":
        """The same device with connections of its own, for another thread."""
        return DraftClient(self._client.twin())

    def log_in(self, user: str) -> "DraftClient":
        """The draft's login: the flow that is offered first, which must be the password."""
        offered = self.ask("GET", "login").json
        assert (offered["type"], offered["flows"][0]["type"]) == ("m.login.password", "m.login.password")
        answer = self.ask("POST", "login", body={"type": "m.login.password", "user": user, "password": PASSWORD})
        assert answer.status == 200, answer
        self.token, self.user_id = answer.json["access_token"], answer.json["user_id"]
        return self

    def ask(self, method: str, *parts: str, body: Any = None, **query: Any) -> Answer:
        """One request with the token in the query."""
        where = "/".join([L, *(quote(part, safe="") for part in parts)])
        asked = {"access_token": self.token, **query} if self.token else query
        return self._client.ask_anything(method, where, body, query=asked, token="")

    def ok(self, method: str, *parts: str, body: Any = None, **query: Any) -> Any:
        answer = self.ask(method, *parts, body=body, **query)
        assert answer.status == 200, (method, parts, answer.status, answer.json)
        return answer.json

    def send(self, room_id: str, text: str) -> str:
        content = {"msgtype": "m.text", "body": text}
        parts = ("rooms", room_id, "send", "m.room.message", f"d{next(_numbers)}")
        event_id: str = self.ok("PUT", *parts, body=content)["event_id"]
        return event_id

    def start(self, *, limit: int = 100) -> dict[str, Any]:
        """initialSync: all rooms as they are."""
        body: dict[str, Any] = self.ok("GET", "initialSync", limit=limit)
        self.at = body["end"]
        self.rooms = {room["room_id"]: room for room in body["rooms"]}
        self.seen = {
            room_id: list(room["messages"]["chunk"]) for room_id, room in self.rooms.items() if "messages" in room
        }
        return body

    def listen(self, *, timeout: float = 0.0, **query: Any) -> list[dict[str, Any]]:
        """One request to /events, whose token is the next one's."""
        body = self.ok("GET", "events", **{"from": self.at, "timeout": int(timeout * 1000), **query})
        assert body["start"] == self.at
        self.at = body["end"]
        for event in body["chunk"]:
            if "event_id" not in event:
                self.others.append(event)
                continue
            known = self.seen.setdefault(event["room_id"], [])
            assert event["event_id"] not in {other["event_id"] for other in known}, f"told twice: {event}"
            known.append(event)
        chunk: list[dict[str, Any]] = body["chunk"]
        return chunk

    def listen_until(self, done: Callable[[], bool], seconds: float = 20.0, **query: Any) -> None:
        """Listen until `done`, waiting in each request as a client does."""
        deadline = time.monotonic() + seconds
        while not done():
            left = deadline - time.monotonic()
            assert left > 0, f"{self.user_id} waits in vain"
            self.listen(timeout=min(left, 5.0), **query)

    def bodies(self, room_id: str) -> list[str]:
        """The texts of the messages that were told."""
        events = self.seen.get(room_id, ())
        return [event["content"].get("body", "") for event in events if event["type"] == "m.room.message"]

    def ids(self, room_id: str) -> list[str]:
        return [event["event_id"] for event in self.seen.get(room_id, ())]
