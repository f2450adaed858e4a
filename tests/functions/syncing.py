"""A device that syncs as clients do: it keeps timelines and state, and closes gaps through `/messages`."""

import json
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from contract_check import check
from functions.harness import LambdaContext, User
from functions.rooms import V3, get

JSON = dict[str, Any]


def ask(user: User, since: str | None = None, **query: Any) -> JSON:
    """What `sync_answer` answers, invoked as `client_sync` does it."""
    payload = {
        "user_id": user.user_id,
        "device_id": user.device_id,
        "since": since,
        "filter": json.dumps(query["filter"]) if isinstance(query.get("filter"), dict) else query.get("filter"),
        "full_state": query.get("full_state", False),
        "set_presence": "online",
        "use_state_after": query.get("use_state_after", False),
        "query": query.get("query", {}),
    }
    answer: JSON = import_module("sync_answer.app").lambda_handler(payload, LambdaContext())
    check("GET", f"{V3}/sync", answer["status"], json.loads(answer["body"]))
    return answer


def sync(user: User, since: str | None = None, **query: Any) -> JSON:
    """The body of one sync, which must be right by the specification's schema."""
    answer = ask(user, since, **query)
    assert answer["status"] == 200, answer
    body: JSON = json.loads(answer["body"])
    assert answer["next_batch"] == body["next_batch"]
    assert answer["empty"] is (len(body) == 1)
    return body


def ids(events: list[JSON]) -> list[str]:
    return [event["event_id"] for event in events]


def keys(events: list[JSON]) -> set[tuple[str, str | None]]:
    return {(event["type"], event.get("state_key")) for event in events}


@dataclass(slots=True)
class Device:
    """A client's picture of the world, from nothing but what it was told."""

    user: User
    query: JSON = field(default_factory=dict)
    since: str | None = None
    timelines: dict[str, list[str]] = field(default_factory=dict)
    states: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)
    joined: set[str] = field(default_factory=set)
    invited: set[str] = field(default_factory=set)
    left: list[tuple[str, str]] = field(default_factory=list)  # room, last event of its timeline

    def sync(self, **query: Any) -> JSON:
        """One step; the body that came."""
        body = sync(self.user, self.since, **{**self.query, **query})
        self.since = body["next_batch"]
        rooms = body.get("rooms", {})
        for room_id in rooms.get("invite", {}):
            self.invited.add(room_id)
            self.joined.discard(room_id)
        for room_id, told in rooms.get("join", {}).items():
            if room_id not in self.joined:
                self.states.pop(room_id, None)  # clients forget the state of rooms that they are not in
            self.joined.add(room_id)
            self.invited.discard(room_id)
            self._take(room_id, told)
        for room_id, told in rooms.get("leave", {}).items():
            self.joined.discard(room_id)
            self.invited.discard(room_id)
            if "prev_batch" in told["timeline"]:
                self._take(room_id, told)  # else it was only an invitation that ended
            events = told["timeline"]["events"]
            self.left.append((room_id, events[-1]["event_id"] if events else ""))
        return body

    def sync_until_quiet(self, **query: Any) -> None:
        for _ in range(50):
            if len(self.sync(**query)) == 1:
                return
        raise AssertionError("there is news for ever")

    def _take(self, room_id: str, told: JSON) -> None:
        timeline = told.get("timeline", {"events": [], "limited": False})
        known = self.timelines.setdefault(room_id, [])
        if timeline.get("limited"):
            self._close_gap(room_id, known, timeline["prev_batch"])
        known += ids(timeline["events"])
        state = self.states.setdefault(room_id, {})
        if "state_after" in told:
            changes = told["state_after"]["events"]  # and nothing that the timeline shows
        else:
            changes = [*told.get("state", {}).get("events", []), *timeline["events"]]
        for event in changes:
            if "state_key" in event:
                state[event["type"], event["state_key"]] = event["event_id"]

    def _close_gap(self, room_id: str, known: list[str], start: str) -> None:
        """Page backwards until something known comes, or the history ends."""
        missed: list[str] = []
        at: str | None = start
        while at is not None:
            answer = get(self.user, "rooms", room_id, "messages", dir="b", limit=4, **{"from": at})
            if answer.status != 200:
                break  # forgotten meanwhile
            for event in answer.json["chunk"]:
                if event["event_id"] in known:
                    at = None
                    break
                missed.append(event["event_id"])
            else:
                at = answer.json.get("end")
        known += reversed(missed)
