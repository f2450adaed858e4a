"""What each operation costs: `make bench`.

    cost_table.py [--rooms 10,300,1000] [--history 2000] [--repeat 5] [--json FILE]

Prints one line an operation: sequential rounds, calls, read and write request units, CPU of the handler, p50 and p95
of its wall time here, and the price of a million of them by the list prices below. Cold: a function that remembers
nothing; warm: one that has served the room and the user before.
"""

import argparse
import json
import secrets
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "infra", "functions", "layers/homeserver/python"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.caches import forget_everything  # noqa: E402 - the paths above come first
from benchmarks.measured import V3, MeasuredServer, Person, Row  # noqa: E402

# On-demand list prices of us-east-1 in dollars: a million write and read request units, a million HTTP API requests
# and Lambda invocations, and a GB-second on arm64.
WRITE, READ, REQUEST, INVOCATION, GB_SECOND = 0.625, 0.125, 1.00, 0.20, 0.0000133334
MEMORY_GB = 1.0
MESSAGE = secrets.token_hex(190)  # an event of 1 KB with what every event has
LONG_MESSAGE = secrets.token_hex(1000)  # of 3 KB with what every event has; does not compress as repetitions do


def price(row: Row) -> float:
    """Dollars for a million of these operations, as far as requests, units and the handler's own CPU go."""
    seconds = row.median("cpu_ms") / 1000
    return (
        row.median("wru") * WRITE
        + row.median("rru") * READ
        + REQUEST
        + INVOCATION
        + seconds * MEMORY_GB * GB_SECOND * 1_000_000
    )


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| operation | rounds | calls | RRU | WRU | CPU ms | p50 ms | p95 ms | $ a million |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.median('rounds'):.0f} | {row.median('calls'):.0f} | {row.median('rru'):g} "
        f"| {row.median('wru'):g} | {row.median('cpu_ms'):.1f} | {row.median('wall_ms'):.1f} "
        f"| {row.p95('wall_ms'):.1f} | {price(row):.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


class Bench:
    """The operations, measured on one server."""

    def __init__(self, server: MeasuredServer, repeat: int) -> None:
        self.server = server
        self.repeat = repeat
        self._txn = 0

    def _each(self, name: str, work: Callable[[], Any], *, follower: bool = False) -> None:
        for warmth in ("cold", "warm"):
            for _ in range(self.repeat):
                if warmth == "cold":
                    forget_everything()
                self.server.measure(f"{name}, {warmth}", work)
                if follower:
                    if warmth == "cold":
                        forget_everything()
                    self.server.follow(f"{name}, {warmth}: follower")

    def _next(self) -> str:
        self._txn += 1
        return f"t{self._txn}"

    def sending(self, alice: Person, room_id: str, where: str) -> None:
        send = self.server.send
        self._each(f"message of 1 KB {where}", lambda: send(alice, room_id, self._next(), MESSAGE), follower=True)

    def operations(self, alice: Person, bob: Person, room_id: str) -> None:
        server = self.server
        base = f"{V3}/rooms/{room_id}"
        self._each(
            "message of 3 KB into a room of two",
            lambda: server.send(alice, room_id, self._next(), LONG_MESSAGE),
            follower=True,
        )
        self._each(
            "state event",
            lambda: server.call(
                "client_events", "PUT", f"{base}/state/m.room.topic/", {"topic": self._next()}, token=alice.token
            ),
            follower=True,
        )
        self._each("createRoom", lambda: server.call("client_rooms", "POST", f"{V3}/createRoom", {}, token=bob.token))
        server.follow()
        self._each(
            "messages, 20 events",
            lambda: server.call(
                "client_history", "GET", f"{base}/messages", token=bob.token, query={"dir": "b", "limit": "20"}
            ),
        )
        self._each("whoami", lambda: server.call("client_account", "GET", f"{V3}/account/whoami", token=bob.token))

    def syncing(self, bob: Person, alice: Person, room_id: str, where: str) -> None:
        server = self.server
        since = server.sync(bob)["next_batch"]
        told = server.told(bob, since)
        self._each(f"poll of a waiting sync, {where}", lambda: server.poll(bob, told))
        self._each(f"sync with nothing new, timeout=0, {where}", lambda: server.sync(bob, since))
        server.send(alice, room_id, self._next(), MESSAGE)
        server.follow()
        self._each(f"incremental sync, one message, {where}", lambda: server.sync(bob, since))
        self._each(f"initial sync, {where}", lambda: server.sync(bob))


def measure(server: MeasuredServer, rooms: list[int], history: int, repeat: int) -> list[Row]:
    """Run everything; returns the rows in the order in which they were first measured."""
    alice, bob = server.person("alice"), server.person("bob")
    room_id = server.room(alice, preset="public_chat")
    server.join(bob, room_id)
    bench = Bench(server, repeat)
    have = 1
    for wanted in rooms:
        print(f"making rooms up to {wanted} ...", file=sys.stderr, flush=True)
        while have < wanted:
            server.room(bob)
            have += 1
        bench.sending(alice, room_id, f"into a room of two, members in {wanted} rooms")
        bench.syncing(bob, alice, room_id, f"user in {wanted} rooms")
    bench.operations(alice, bob, room_id)
    if history:
        print(f"writing {history} events ...", file=sys.stderr, flush=True)
        long_room = server.room(alice, preset="public_chat")
        server.join(bob, long_room)
        for number in range(history):
            if number in {20, history - 20}:
                bench.sending(alice, long_room, f"as event {number} of a room")
            server.send(alice, long_room, f"h{number}", MESSAGE)
            server.follow()
    return list(server.rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", default="10,300,1000", help="numbers of rooms the syncing user is in")
    parser.add_argument("--history", type=int, default=2000, help="events of the room with a long history; 0: none")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = MeasuredServer(Path(directory))
        try:
            rows = measure(server, [int(n) for n in options.rooms.split(",")], options.history, options.repeat)
        finally:
            server.close()
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")


if __name__ == "__main__":
    main()
