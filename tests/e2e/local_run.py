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
        super().__init__(data_dir, template=ROOT / "template.yaml", **_KIND | environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def client(self, user: "Client | None" = None, **options: Any) -> Client:
        """A client of nobody, or of a user who was logged in before this process was started."""
        if user is None:
            return Client(self.url, **options)
        return Client(self.url, user_id=user.user_id, device_id=user.device_id, token=user.token, **options)

    def register(self, name: str, **options: Any) -> Client:
        """A new user."""
        client = Client(self.url, **options)
        client.register(name)
        return client

    def log_in(self, user: Client) -> Client:
        """Another device of a user."""
        client = Client(self.url)
        client.log_in(user.user_id, PASSWORD)
        return client

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
