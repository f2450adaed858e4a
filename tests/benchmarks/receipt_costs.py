"""What receipts and typing cost, in rooms of several sizes: prints rows as JSON.

    receipt_costs.py MEMBERS...

A row is what `benchmarks.measured.Row` counts, under the name of the operation and the number of joined members.
"""

import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "infra", "functions", "layers/homeserver/python"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.measured import V3, MeasuredServer, Person  # noqa: E402 - the paths above come first


def read(server: MeasuredServer, name: str, person: Person, where: str, **body: str) -> None:
    """Send one receipt, measured under a name; `where` is room ID, type and event ID."""
    room_id, _, rest = where.partition("/")
    path = f"{V3}/rooms/{room_id}/receipt/{rest}"
    server.measure(name, lambda: server.call("client_ephemeral", "POST", path, body, token=person.token))


def type_in(server: MeasuredServer, name: str, person: Person, room_id: str, *, typing: bool) -> None:
    """Say that somebody types, or stopped, measured under a name."""
    path = f"{V3}/rooms/{room_id}/typing/{person.user_id}"
    body = {"typing": typing}
    server.measure(name, lambda: server.call("client_ephemeral", "PUT", path, body, token=person.token))


def enrol(server: MeasuredServer, count: int) -> list[Person]:
    """So many people, all from one address."""
    from homeserver.services import rate_limits

    rate_limits.REGISTRATION_PER_ADDRESS = replace(rate_limits.REGISTRATION_PER_ADDRESS, burst=1_000)
    return [server.person(f"reader{number}") for number in range(count)]


def measure(server: MeasuredServer, people: list[Person]) -> None:
    members = len(people)
    room_id = server.room(people[0], preset="public_chat")
    for person in people[1:]:
        server.join(person, room_id)
    for number in range(6):
        event_id = server.send(people[0], room_id, f"m{number}", f"message {number}").json["event_id"]
        server.follow()
        for person in people[:12]:
            where = f"{room_id}/m.read/{event_id}"
            read(server, f"receipt, {members} members", person, where)
            read(server, f"receipt again, {members} members", person, where)
            read(server, f"threaded receipt, {members} members", person, where, thread_id="main")
            read(server, f"private receipt, {members} members", person, f"{room_id}/m.read.private/{event_id}")
    for _ in range(2):
        type_in(server, f"typing, {members} members", people[1], room_id, typing=True)
        type_in(server, f"typing again, {members} members", people[1], room_id, typing=True)
        type_in(server, f"stopped typing, {members} members", people[1], room_id, typing=False)
        type_in(server, f"stopped typing again, {members} members", people[1], room_id, typing=False)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = MeasuredServer(Path(folder))
        try:
            sizes = [int(argument) for argument in sys.argv[1:]]
            people = enrol(server, max(sizes))
            for members in sizes:
                measure(server, people[:members])
        finally:
            server.close()
        print(json.dumps([asdict(row) for row in server.rows.values()]))


if __name__ == "__main__":
    main()
