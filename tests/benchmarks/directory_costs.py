"""What it costs to keep the directories of rooms and users: prints rows as JSON.

A row is what `benchmarks.measured.Row` counts, under the name of the operation.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "infra", "functions", "layers/homeserver/python"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.measured import V3, MeasuredServer, Person  # noqa: E402 - the paths above come first


def change_profiles(server: MeasuredServer) -> None:
    from homeserver.services.user_index import forget_user, index_user

    user_id = "@bob:example.org"
    for row, name in (
        ("three words", "Robert Smith"),
        ("the same name", "Robert Smith"),
        ("one word of three", "Robert Jones"),
    ):
        server.measure(f"index: {row}", lambda name=name: index_user(user_id, {"displayname": name}))
    server.measure("index: forget three words", lambda: forget_user(user_id))


def keep_rooms(server: MeasuredServer, alice: Person) -> None:
    from homeserver.services.room_listing import keep_listing
    from homeserver.storage.room_items import HEAD, Head

    def make(row: str, **body: str) -> str:
        answer = server.call("client_rooms", "POST", f"{V3}/createRoom", {"name": "Tea", **body}, token=alice.token)
        room_id = str(answer.json["room_id"])
        server.measure(row, lambda: keep_listing(room_id))
        server.follow()
        return room_id

    make("new room", preset="private_chat")
    make("new open room", preset="public_chat")
    room_id = make("new published room", preset="public_chat", visibility="public")

    def rename(name: str) -> None:
        server.call(
            "client_events", "PUT", f"{V3}/rooms/{room_id}/state/m.room.name/", {"name": name}, token=alice.token
        )

    rename("Coffee")
    server.measure("name of a published room", lambda: keep_listing(room_id))
    for members, row in ((1000, "count that is due"), (1001, "count that is not due")):
        Head(room_id, HEAD).update([Head.local_members.set(members)])
        server.measure(row, lambda: keep_listing(room_id))


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = MeasuredServer(Path(directory))
        try:
            change_profiles(server)
            keep_rooms(server, server.person("alice"))
            rows = [asdict(row) for row in server.rows.values()]
        finally:
            server.close()
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
