"""What entering rooms of other servers costs, by size: prints rows as JSON.

    enter_costs.py MEMBERS...

Nobody knows the room here; its members are of one other server. A row is what `benchmarks.measured.Row` counts: of
the checks of what that server told, of entering, and of the followers, which bring rows and memberships along.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "infra", "functions", "layers/homeserver/python"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.measured import MeasuredServer, Person  # noqa: E402 - the paths above come first


def measure(server: MeasuredServer, person: Person, members: int) -> None:
    from functions.backfilling import HistoryRoom  # the server had to set the environment first
    from functions.foreign_pdus import KEY, know_keys
    from functions.gap_peer import answer_to
    from functions.remote_server import head_of, rows_of, state_of
    from homeserver.matrix.event_builder import Edge, EventDraft, build_event
    from homeserver.services.enter_room import enter_room
    from homeserver.services.pdu_checks import check_pdus

    room = HistoryRoom("remote.test", start=1_700_000_000_000 + members)
    know_keys(room.name, KEY)
    state = room.after[room.tip[0]]
    keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")]
    authority = [Edge.to(room.events[state[key]]) for key in keys]
    others = []
    for number in range(members):
        user = room.user(f"user{number}")
        content = {"membership": "join", "displayname": f"User {number}"}
        join = build_event(
            EventDraft("m.room.member", content, user),
            rules=room.rules,
            room_id=room.room_id,
            sender=user,
            prev_events=authority[-1:],
            auth_events=authority,
            origin_server_ts=room.now + number,
            server_name=room.name,
            key=KEY,
        )
        others.append(join)
    join = room.join(person.user_id)
    told, chain = answer_to(room, join)
    pdus = [event.pdu for event in (*told, *others)]
    checked = server.measure(f"checks, {members}", lambda: check_pdus(pdus, room.rules, room.room_id))
    found = [one.event for one in checked if one.event is not None]
    assert len(found) == len(pdus)
    server.measure(f"entering, {members}", lambda: enter_room(room.room_id, room.rules, join, found, chain, room.name))
    expected = {**room.after[join.event_id], **{event.key: event.event_id for event in others}}
    assert state_of(room.room_id) == expected
    server.follow(f"followers, {members}")
    head = head_of(room.room_id)
    assert head.rows_root == head.root
    assert rows_of(room.room_id) == expected


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = MeasuredServer(Path(folder))
        try:
            person = server.person("alice")
            for argument in sys.argv[1:]:
                measure(server, person, int(argument))
            print(json.dumps([asdict(row) for row in server.rows.values()]))
        finally:
            server.close()


if __name__ == "__main__":
    main()
