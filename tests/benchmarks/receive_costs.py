"""What events of other servers cost, in rooms of several sizes: prints rows as JSON.

    receive_costs.py REMOTE_MEMBERS...

A room has two local members and so many of another server, each of whom has said something. A row is what
`benchmarks.measured.Row` counts, under the name of the operation and the number of remote members.
"""

import json
import secrets
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "infra", "functions", "layers/homeserver/python"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.measured import MeasuredServer, Person  # noqa: E402 - the paths above come first

MESSAGE = secrets.token_hex(190)  # an event of 1 KB with what every event has
REPEATED = 3


def grow(remote: Any, members: int) -> None:
    """So many users of the other server join and say something, delivered in large batches."""
    last, events = remote.tips(), []
    for number in range(members):
        user = remote.user(f"user{number}")
        for event in (lambda: remote.join(user, prev=last), lambda: remote.say(user, "hello", prev=last)):  # noqa: B023
            events.append(event())
            last = [events[-1].event_id]
    remote.receive(*events)


def measure(server: MeasuredServer, alice: Person, bob: Person, members: int) -> None:
    from benchmarks.caches import forget_everything
    from functions.remote_server import RemoteServer  # the server had to set the environment first

    room_id = server.room(alice, preset="public_chat", room_version="11")
    server.join(bob, room_id)
    remote = RemoteServer(room_id)
    carol, dave = remote.user("carol"), remote.user("dave")
    remote.accepted(remote.join(carol), remote.join(dave), remote.power(alice.user_id, {carol: 50, dave: 50}))
    grow(remote, members)
    server.follow()
    for warmth in ("cold", "warm"):
        for _ in range(REPEATED):
            message = remote.say(carol, MESSAGE)
            if warmth == "cold":
                forget_everything()
            name = f"message, {members} remote members, {warmth}"
            server.measure(name, lambda message=message: remote.accepted(message))
            server.follow(f"{name}: follower")
    batch = [remote.say(carol, MESSAGE)]
    for _ in range(9):
        batch.append(remote.say(carol, MESSAGE, prev=[batch[-1].event_id]))
    server.measure(f"ten messages, {members} remote members", lambda: remote.receive(*batch))
    server.follow(f"ten messages, {members} remote members: follower")
    for number in range(REPEATED + 1):
        tip = remote.tips()
        ours, theirs = remote.topic(carol, f"{number}", prev=tip), remote.topic(dave, f"{number}!", prev=tip)
        remote.accepted(ours)
        what = "the first fork" if number == 0 else "a further fork"
        server.measure(f"{what}, {members} remote members", lambda theirs=theirs: remote.accepted(theirs))
        remote.accepted(remote.say(carol, "merged"))
        server.follow()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = MeasuredServer(Path(folder))
        try:
            alice, bob = server.person("alice"), server.person("bob")
            for argument in sys.argv[1:]:
                measure(server, alice, bob, int(argument))
        finally:
            server.close()
        print(json.dumps([asdict(row) for row in server.rows.values()]))


if __name__ == "__main__":
    main()
