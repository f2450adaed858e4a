"""What operations cost in a large room and in a small one: rounds, calls, units.

    room_size.py [--members 5000] [--events 20000] [--scale 1] [--json FILE]

Both rooms are built through the handlers. Each operation is measured with empty caches, as a function that was just
started does it. `make bench` prints the table for the full size, and fails where an operation of `HELD` takes more
than `MORE_ROUNDS` further rounds in the large room. The test suite holds the same for smaller rooms: with `--scale`
what makes a room large (nodes of the state's tree, pages of a Query, the bounds of the code) has that part of its size.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "infra", "functions", "layers/homeserver/python"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.caches import forget_everything  # noqa: E402 - the paths above come first
from benchmarks.measured import V3, MeasuredServer, Person, Row  # noqa: E402

HELD = (
    "join",
    "send",
    "initial sync, lazy",
    "initial sync, whole",
    "incremental sync, lazy",
    "incremental sync, whole",
    "incremental sync over a gap, lazy",
    "incremental sync over a gap, whole",
    "incremental sync of a join, lazy",
    "incremental sync of a join, whole",
    "messages, backwards",
    "messages, backwards, lazy",
    "messages, forwards",
    "context of an old event, lazy",
    "context of an old event, whole state",
    "members at an old event",
    "members since a sync, without those who left",
    "members",
    "state",
    "state of a room that one has left",
)
MORE_ROUNDS = 2
LAZY = json.dumps({"room": {"state": {"lazy_load_members": True}, "timeline": {"lazy_load_members": True}}})


class Room:
    """A public room with some members and a history of messages, and what is measured in it."""

    def __init__(self, server: MeasuredServer, name: str, members: int, events: int) -> None:
        self.server = server
        self.name = name
        self.creator = server.person(f"{name}-creator")
        self.room_id = server.room(self.creator, preset="public_chat", name=name)
        self.old_event = ""
        self.latest = self.creator  # who joined last, and leaves after half of the events
        for number in range(members - 1):
            self.latest = server.person(f"{name}-{number}")
            server.join(self.latest, self.room_id)
            _show(f"{name}: members", number + 2, members)
        for number in range(events):
            answer = server.send(self.creator, self.room_id, f"m{number}", f"message {number}")
            if number == events // 10:
                self.old_event = answer.json["event_id"]
            if number % 50 == 0:
                server.follow()
                _show(f"{name}: events", number, events)
            if number == events // 2:
                self._post(self.latest, "leave")
        server.follow()

    def measure(self) -> dict[str, Row]:
        """Every operation once, cold; rows by operation."""
        server = self.server
        reader = server.person(f"{self.name}-reader")
        self._cold("join", lambda: self._post(reader, "join"))
        server.follow(f"{self.name}: join: follower")
        self._cold("send", lambda: server.send(self.creator, self.room_id, "measured", "hello"))
        server.follow(f"{self.name}: send: follower")
        since = self._cold("initial sync, lazy", lambda: self._sync(reader, filter=LAZY))["next_batch"]
        self._cold("initial sync, whole", lambda: self._sync(reader))
        server.send(self.creator, self.room_id, "another", "hello again")
        server.follow()
        told = self._cold("incremental sync, lazy", lambda: self._sync(reader, since=since, filter=LAZY))
        assert self.room_id in told["rooms"]["join"]
        told = self._cold("incremental sync, whole", lambda: self._sync(reader, since=since))
        assert self.room_id in told["rooms"]["join"]
        get = partial(self._get, reader)
        page = self._cold("messages, backwards", lambda: get("messages", dir="b", limit="20"))
        assert len(page["chunk"]) == 20
        page = self._cold("messages, backwards, lazy", lambda: get("messages", dir="b", limit="20", filter=LAZY_ROOM))
        assert self.creator.user_id in {event["state_key"] for event in page["state"]}
        assert len(self._cold("messages, forwards", lambda: get("messages", dir="f", limit="20"))["chunk"]) == 20
        around = self._cold("context of an old event, lazy", lambda: self._context(get, LAZY_ROOM))
        assert around["event"]["event_id"] == self.old_event
        whole = self._cold("context of an old event, whole state", lambda: self._context(get, "{}"))
        assert len(whole["state"]) >= len(around["state"])
        self._cold("members at an old event", lambda: get("members", at=around["end"]))
        here = {"at": since, "not_membership": "leave"}
        self._cold("members since a sync, without those who left", lambda: get("members", **here))
        self._cold("members", lambda: get("members"))
        state = self._cold("state", lambda: get("state"))
        left = self._cold("state of a room that one has left", lambda: self._get(self.latest, "state"))
        assert len(left) == len(state) - 1  # the reader was not there
        self._move_on(reader, since)
        return {name.split(": ", 1)[1]: row for name, row in server.rows.items() if name.startswith(f"{self.name}: ")}

    def _move_on(self, reader: Person, since: str) -> None:
        """Measure syncs over a gap before, and after, which the room's state changed, and one of a join."""
        server = self.server
        kinds: tuple[tuple[str, dict[str, str]], ...] = (("lazy", {"filter": LAZY}), ("whole", {}))
        newcomer, later, last = (server.person(f"{self.name}-newcomer-{number}") for number in range(3))
        server.join(newcomer, self.room_id)
        path = f"{V3}/rooms/{quote(self.room_id)}/state/m.room.topic"
        server.call("client_events", "PUT", path, {"topic": "what came later"}, token=self.creator.token)
        for number in range(_MESSAGES_OF_A_GAP):
            server.send(self.creator, self.room_id, f"gap{number}", f"message {number} of the gap")
            if number == _MESSAGES_OF_A_GAP - 2:
                server.join(later, self.room_id)
        server.follow()
        for kind, asked in kinds:
            name = f"incremental sync over a gap, {kind}"
            answer = self._cold(name, partial(self._sync, reader, since=since, **asked))
            told = answer["rooms"]["join"][self.room_id]
            assert told["timeline"]["limited"]
            changed = {(event["type"], event["state_key"]) for event in told["state"]["events"]}
            assert changed >= {("m.room.topic", ""), ("m.room.member", newcomer.user_id)}
        since = answer["next_batch"]
        server.join(last, self.room_id)
        for kind, asked in kinds:
            name = f"incremental sync of a join, {kind}"
            answer = self._cold(name, partial(self._sync, reader, since=since, **asked))
            told = answer["rooms"]["join"][self.room_id]
            assert [event["state_key"] for event in told["timeline"]["events"]] == [last.user_id]

    def _cold(self, name: str, work: Callable[[], Any]) -> Any:
        forget_everything()
        return self.server.measure(f"{self.name}: {name}", work)

    def _sync(self, person: Person, **query: str) -> dict[str, Any]:
        asked = {"timeout": "0", **query}
        answer: dict[str, Any] = self.server.call(
            "client_sync", "GET", f"{V3}/sync", token=person.token, query=asked
        ).json
        return answer

    def _post(self, person: Person, action: str) -> Any:
        path = f"{V3}/rooms/{quote(self.room_id)}/{action}"
        return self.server.call("client_rooms", "POST", path, {}, token=person.token).json

    def _get(self, person: Person, tail: str, **query: str) -> Any:
        path = f"{V3}/rooms/{quote(self.room_id)}/{tail}"
        return self.server.call("client_history", "GET", path, token=person.token, query=query).json

    def _context(self, get: Callable[..., Any], event_filter: str) -> Any:
        return get(f"context/{quote(self.old_event, safe='')}", limit="4", filter=event_filter)


_MESSAGES_OF_A_GAP = 12  # more than a timeline shows
_ITEMS_OF_A_PAGE = 1600  # rows of memberships in 1 MB
LAZY_ROOM = json.dumps({"lazy_load_members": True})


def _show(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty() or done % 1000 == 0:
        print(f"\r{what} {done} of {of}", end="", file=sys.stderr, flush=True)


def shrink(scale: int) -> None:
    """Let everything that makes a room large be a fraction of its size, so that a smaller one is as large."""
    from homeserver.matrix import state_tree
    from homeserver.storage import large_rooms, state_cache  # as in measured.py: not before there is a server
    from homeserver.storage.connection import connection

    if scale == 1:
        return
    for module, name in (
        (state_tree, "LEAF_LIMIT"),
        (large_rooms, "LARGE_FROM"),
        (large_rooms, "LARGE_UNTIL"),
        (state_cache, "CROWD"),
        (state_cache, "_ROWS_AT_ONCE"),
    ):
        setattr(module, name, getattr(module, name) // scale)
    dispatch = connection().dispatch
    items = _ITEMS_OF_A_PAGE // scale

    def in_small_pages(operation: str, request: dict[str, Any]) -> dict[str, Any]:
        whole = operation == "Query" and "Limit" not in request
        return dispatch(operation, {**request, "Limit": items} if whole else request)

    setattr(connection(), "dispatch", in_small_pages)  # noqa: B010 - a method of one object; mypy forbids the other way


def too_many_rounds(small: dict[str, Row], large: dict[str, Row]) -> list[str]:
    """The operations of `HELD` that take more rounds in the large room than they may."""
    return [name for name in HELD if large[name].rounds[0] > small[name].rounds[0] + MORE_ROUNDS]


def main() -> None:
    """Build both rooms, measure, print."""
    parser = argparse.ArgumentParser(description="Costs in a large room and in a small one.")
    parser.add_argument("--members", type=int, default=5000)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = MeasuredServer(Path(folder), RATE_LIMITS="off")
        small = Room(server, "small", 10, 30).measure()
        shrink(arguments.scale)
        large = Room(server, "large", arguments.members, arguments.events).measure()
        server.close()
    print(
        f"\nA room of 10 members and 30 events | a room of {arguments.members} members and {arguments.events} events\n"
    )
    print("| operation, cold | rounds | calls | RRU | WRU |")
    print("|---|---|---|---|---|")
    for name, row in large.items():
        pairs = [(getattr(small[name], what)[0], getattr(row, what)[0]) for what in ("rounds", "calls", "rru", "wru")]
        print(f"| {name} | " + " | ".join(f"{a:g} / {b:g}" for a, b in pairs) + " |")
    if arguments.json is not None:
        rows = {"small": small, "large": large}
        figures = {size: {name: asdict(row) for name, row in found.items()} for size, found in rows.items()}
        arguments.json.write_text(json.dumps(figures), encoding="utf-8")
    if broken := too_many_rounds(small, large):
        sys.exit(f"too many rounds in the large room: {', '.join(broken)}")


if __name__ == "__main__":
    main()
