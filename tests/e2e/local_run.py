"""The homeserver as `make run` starts it, for tests: the real template, a free port, a folder of its own."""

from pathlib import Path
from typing import Any

import orjson

from e2e.client import PASSWORD, Client
from infrastructure.local_process import ROOT, LocalProcess

SERVER_NAME = "e2e.test"
_KIND = {
    "SERVER_NAME": SERVER_NAME,
    "RATE_LIMITS": "off",
    "PASSWORD_COST": "low",
    "SYNC_POLL_MS": "20",
}


class Server(LocalProcess):
    """One local run of the project's template, on 127.0.0.1. Ends with its `with` block, by its own process ID."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self._clients: list[Client] = []
        super().__init__(data_dir, template=ROOT / "template.yaml", **_KIND | environment)

    def __exit__(self, *exception: object) -> None:
        for client in self._clients:
            client.close()
        super().__exit__(*exception)
        if exception[0] is not None:
            print(self.log)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def client(self) -> Client:
        """A client of nobody yet; closed with the server."""
        client = Client(self.url)
        self._clients.append(client)
        return client

    def welcome(self, user: Client) -> Client:
        """A device that was logged in before this process was started, with its token and its sync chain."""
        client = user.moved_to(self.url)
        self._clients.append(client)
        return client

    def register(self, name: str) -> Client:
        """A new user."""
        return self.client().register(name)

    def log_in(self, user: Client) -> Client:
        """Another device of a user."""
        return self.client().log_in(user.user_id, PASSWORD)

    def stored(self, table: str) -> list[dict[str, Any]]:
        """The items of a table in the last snapshot, in DynamoDB's JSON: for a server that has stopped."""
        store = self.data_dir / "store"
        files = orjson.loads((store / "manifest.json").read_bytes())["tables"]
        file = next(file for name, file in files.items() if table.lower() in name.lower())
        return [item for line in (store / file).read_bytes().splitlines() for item in orjson.loads(line)]

    def lagging_rooms(self) -> list[str]:
        """Rooms whose head is ahead of the inbox follower's cursor, in the last snapshot."""
        rows = {(item["room"]["S"], item["k"]["S"]): item for item in self.stored("Rooms")}
        heads = {room: int(item["p"]["N"]) for (room, k), item in rows.items() if k == "head"}
        cursors = {room: int(item["p"]["N"]) for (room, k), item in rows.items() if k == "cursor/inbox"}
        return [room for room, position in heads.items() if cursors.get(room, 0) != position]
