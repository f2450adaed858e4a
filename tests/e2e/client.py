"""A Matrix client that distrusts its server: it checks every answer against the specification, and its own sync chain.

A client is used by one thread at a time; races are made of several clients.
"""

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import httpx

from contract_check import check

PASSWORD = "correct horse battery staple"
V3 = "/_matrix/client/v3"
_numbers = itertools.count(1)


def segments(*parts: str) -> str:
    """A path of v3 with each part percent-encoded as one segment."""
    return "/".join([V3, *(quote(part, safe="") for part in parts)])


def text(body: str) -> dict[str, Any]:
    """The content of a text message."""
    return {"msgtype": "m.text", "body": body}


class Answer(NamedTuple):
    """Status, parsed body (None where there is none), headers."""

    status: int
    json: Any
    headers: httpx.Headers

    @property
    def errcode(self) -> str | None:
        return self.json.get("errcode") if isinstance(self.json, dict) else None


class Client:
    """One device of one user.

    `seen` is the timeline of each room as the chain of sync tokens told it, gaps filled by `/messages`; `sync` fails
    when an event comes twice.
    """

    def __init__(
        self, base: str, *, user_id: str = "", device_id: str = "", token: str = "", since: str | None = None
    ) -> None:
        self.base, self.user_id, self.device_id, self.token, self.since = base, user_id, device_id, token, since
        self.refresh_token = ""
        self.seen: dict[str, list[dict[str, Any]]] = {}
        self.meets_others = False  # events of other kinds of servers, that is
        self.gaps = 0  # limited timelines that were filled
        self._twins: list[Client] = []
        self._http = httpx.Client(base_url=base, timeout=40, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, those of twins too."""
        self._http.close()
        for twin in self._twins:
            twin.close()

    def twin(self) -> "Client":
        """The same device with connections of its own, for another thread; closed with this one."""
        twin = self.moved_to(self.base)
        self._twins.append(twin)
        return twin

    def moved_to(self, base: str) -> "Client":
        """The same device at another address: it goes on where this one's sync chain stands."""
        moved = Client(base, user_id=self.user_id, device_id=self.device_id, token=self.token, since=self.since)
        moved.meets_others = self.meets_others
        moved.seen = {room_id: list(events) for room_id, events in self.seen.items()}
        return moved

    # ── requests ───────────────────────────────────────────────────────────────────────────────────

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Answer:
        """One request, checked against the specification. `body`: bytes go as they are, anything else as JSON."""
        answer = self.ask_anything(method, path, body, query=query, headers=headers, token=token)
        if not (answer.status >= 400 and isinstance(answer.json, dict) and set(answer.json) == {"message"}):
            # Else API Gateway refuses, in words of its own.
            check(method, path, answer.status, answer.json, foreign_contents=self.meets_others)
        return answer

    def ask_anything(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Answer:
        """One request, also one that the specification does not know."""
        sent = dict(headers or {})
        token = self.token if token is None else token
        if token:
            sent["Authorization"] = f"Bearer {token}"
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        answer = self._http.request(method, path, content=content, params=query, headers=sent)
        return Answer(answer.status_code, json.loads(answer.content) if answer.content else None, answer.headers)

    def ok(self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None) -> Any:
        """The body of an answer that must be 200."""
        answer = self.ask(method, path, body, query=query)
        assert answer.status == 200, (method, path, answer.status, answer.json)
        return answer.json

    # ── accounts ───────────────────────────────────────────────────────────────────────────────────

    def register(self, name: str, **more: Any) -> Self:
        body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}, **more}
        return self._logged_in(self.ok("POST", f"{V3}/register", body))

    def log_in(self, user: str, password: str = PASSWORD, **more: Any) -> Self:
        identifier = {"type": "m.id.user", "user": user}
        body = {"type": "m.login.password", "identifier": identifier, "password": password, **more}
        return self._logged_in(self.ok("POST", f"{V3}/login", body))

    def _logged_in(self, answer: Mapping[str, Any]) -> Self:
        self.user_id, self.device_id, self.token = answer["user_id"], answer["device_id"], answer["access_token"]
        self.refresh_token = answer.get("refresh_token", "")
        return self

    # ── rooms ──────────────────────────────────────────────────────────────────────────────────────

    def create_room(self, **body: Any) -> str:
        room_id: str = self.ok("POST", f"{V3}/createRoom", body)["room_id"]
        return room_id

    def act(self, room_id: str, action: str, **body: Any) -> Answer:
        """POST /rooms/{roomId}/{action}."""
        return self.ask("POST", segments("rooms", room_id, action), body)

    def invite(self, room_id: str, user_id: str) -> None:
        assert self.act(room_id, "invite", user_id=user_id).status == 200

    def join(self, room_id: str) -> None:
        answer = self.act(room_id, "join")
        assert (answer.status, answer.json) == (200, {"room_id": room_id}), answer

    def try_send(self, room_id: str, body: str, txn: str | None = None) -> Answer:
        txn = txn or f"t{next(_numbers)}"
        return self.ask("PUT", segments("rooms", room_id, "send", "m.room.message", txn), text(body))

    def send(self, room_id: str, body: str, txn: str | None = None) -> str:
        answer = self.try_send(room_id, body, txn)
        assert answer.status == 200, (answer.status, answer.json)
        event_id: str = answer.json["event_id"]
        return event_id

    def set_state(self, room_id: str, event_type: str, content: Any, key: str = "") -> str:
        event_id: str = self.ok("PUT", segments("rooms", room_id, "state", event_type, key), content)["event_id"]
        return event_id

    def state(self, room_id: str) -> dict[tuple[str, str], dict[str, Any]]:
        events = self.ok("GET", segments("rooms", room_id, "state"))
        return {(event["type"], event["state_key"]): event for event in events}

    def messages(
        self, room_id: str, direction: str, *, start: str | None = None, stop: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """All pages of the room's history in one direction, `stop` a token to stop at."""
        query: dict[str, Any] = {"dir": direction, "limit": limit}
        query |= {"from": start} if start else {}
        query |= {"to": stop} if stop else {}
        events: list[dict[str, Any]] = []
        while True:
            page = self.ok("GET", segments("rooms", room_id, "messages"), query=query)
            events += page["chunk"]
            if "end" not in page or (direction == "f" and not page["chunk"]):
                return events
            assert page["end"] != query.get("from"), "a page that leads nowhere"
            query["from"] = page["end"]

    # ── sync ───────────────────────────────────────────────────────────────────────────────────────

    def sync(self, *, timeout: float = 0.0, **query: Any) -> dict[str, Any]:
        """One link of the sync chain; `timeout` in seconds. `seen` grows by what it told."""
        wanted: dict[str, Any] = {"timeout": int(timeout * 1000), **query}
        if isinstance(wanted.get("filter"), dict):
            wanted["filter"] = json.dumps(wanted["filter"])
        if self.since is not None:
            wanted["since"] = self.since
        body: dict[str, Any] = self.ok("GET", f"{V3}/sync", query=wanted)
        before, self.since = self.since, body["next_batch"]
        for section in ("join", "leave"):
            for room_id, room in body.get("rooms", {}).get(section, {}).items():
                self._take(room_id, room.get("timeline", {}), before)
        return body

    def _take(self, room_id: str, timeline: Mapping[str, Any], before: str | None) -> None:
        seen = self.seen.setdefault(room_id, [])
        new = list(timeline.get("events", ()))
        if timeline.get("limited") and before is not None and seen:
            self.gaps += 1
            gap = self.messages(room_id, "b", start=timeline["prev_batch"], stop=before)
            new = [*reversed(gap), *new]
        ids = [event["event_id"] for event in [*seen, *new]]
        assert len(ids) == len(set(ids)), f"{self.user_id} was told an event of {room_id} twice"
        seen += new

    def sync_until(self, done: Callable[[], bool], seconds: float = 20.0, **query: Any) -> None:
        """Follow the chain until `done`, waiting in each link as a client does."""
        deadline = time.monotonic() + seconds
        while not done():
            left = deadline - time.monotonic()
            assert left > 0, f"{self.user_id} waits in vain: {self.log()}"
            self.sync(timeout=min(left, 5.0), **query)

    def sync_from_scratch(self) -> dict[str, Any]:
        """A sync with a token that the store outlived: rooms are told anew, with limited timelines and whole states."""
        assert self.since is not None
        self.seen = {}
        body = self.sync()
        for room in body["rooms"]["join"].values():
            assert room["timeline"]["limited"] is True
            told = [*room["state"]["events"], *room["timeline"]["events"]]
            assert "m.room.create" in {event["type"] for event in told}
        return body

    def history(self, room_id: str) -> list[dict[str, Any]]:
        """The whole room for who was there from its first event; read both ways, and without a gap in its positions."""
        forward = self.messages(room_id, "f")
        backward = self.messages(room_id, "b")
        assert [event["event_id"] for event in backward] == [event["event_id"] for event in reversed(forward)]
        page = self.ok("GET", segments("rooms", room_id, "messages"), query={"dir": "b", "limit": 1})
        last = re.fullmatch(r"t(\d+)_0", page["start"])
        assert last is not None, page["start"]
        # A room of this server only has an event at every position.
        assert len(forward) == int(last[1])
        return forward

    def catch_up(self, room_id: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Follow the chain to the last of these events, which are all there are: each came once and in this order."""
        order = [event["event_id"] for event in events]
        self.sync_until(lambda: self.ids(room_id)[-1:] == order[-1:])
        assert self.ids(room_id) == order[order.index(self.ids(room_id)[0]) :]

    def bodies(self, room_id: str) -> list[str]:
        """The texts of the messages in `seen`."""
        return [event["content"].get("body", "") for event in self.seen.get(room_id, ()) if is_message(event)]

    def ids(self, room_id: str) -> list[str]:
        return [event["event_id"] for event in self.seen.get(room_id, ())]

    def log(self) -> dict[str, list[str]]:
        """What was seen, for people who read a failure."""
        return {
            room: [str(event["content"].get("body", event["type"])) for event in e] for room, e in self.seen.items()
        }


def is_message(event: Mapping[str, Any]) -> bool:
    return event["type"] == "m.room.message"


T = TypeVar("T")


def at_once(*calls: Callable[[], T]) -> list[T]:
    """The results of calls that start at the same moment, each in a thread; the first exception comes through."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        gate.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(run, call) for call in calls]]
