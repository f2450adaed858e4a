"""A homeserver on loopback that tells of its directory and its spaces what a test gave it.

with TellingPeer(folder) as peer:
    peer.directory = {"chunk": [peer.entry("Tea")]}
    peer.spaces["!top:far.test"] = peer.told("!top:far.test", "top", children=["!a:far.test"])
"""

import json
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

from federation_peer import Peer

HIERARCHY = "/_matrix/federation/v1/hierarchy/"
DIRECTORY = "/_matrix/federation/v1/publicRooms"


class TellingPeer(Peer):
    """`questions`: what its directory was asked. `slow`: seconds that it thinks about a space. `at_once`: at most."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.directory: Any = {"chunk": []}
        self.spaces: dict[str, Any] = {}
        self.questions: list[tuple[str, dict[str, Any]]] = []
        self.slow = 0.0
        self.at_once = 0
        self._now = 0
        self._counting = threading.Lock()
        super().__init__(*args, **more)

    def asked_about(self) -> list[str]:
        """The rooms that it was asked about, in order."""
        paths = [path for _, path, _, _ in self.asked if path.startswith(HIERARCHY)]
        return [unquote(path.removeprefix(HIERARCHY).partition("?")[0]) for path in paths]

    def summary(self, room_id: str, name: str, **more: Any) -> dict[str, Any]:
        """A room as its summary."""
        common = {"num_joined_members": 2, "world_readable": False, "guest_can_join": False, "join_rule": "public"}
        return {"room_id": room_id, "name": name, **common, **more}

    def child(self, room_id: str, *, via: Sequence[str] | None = None, **content: Any) -> dict[str, Any]:
        """An `m.space.child` event as a summary has it."""
        return {
            "type": "m.space.child",
            "state_key": room_id,
            "content": {"via": [self.name] if via is None else list(via), **content},
            "sender": f"@owner:{self.name}",
            "origin_server_ts": 1_700_000_000_000,
        }

    def tells(
        self,
        room_id: str,
        name: str,
        *,
        children: Sequence[str | dict[str, Any]] | None = None,
        summaries: Iterable[dict[str, Any]] = (),
        closed: Iterable[str] = (),
        **more: Any,
    ) -> str:
        """Tell of a room from now on; with `children` it is a space."""
        events = [
            self.child(one, order=f"{n:03d}") if isinstance(one, str) else one for n, one in enumerate(children or ())
        ]
        kind = {} if children is None else {"room_type": "m.space"}
        room = self.summary(room_id, name, **{**kind, **more}) | {"children_state": events}
        self.spaces[room_id] = {"room": room, "children": list(summaries), "inaccessible_children": list(closed)}
        return room_id

    def respond(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        if path == DIRECTORY:
            asked = json.loads(body) if body else {name: values[0] for name, values in query.items()}
            self.questions.append((method, asked))
            return 200, self.directory
        if path.startswith(HIERARCHY):
            with self._counting:
                self._now += 1
                self.at_once = max(self.at_once, self._now)
            time.sleep(self.slow)
            with self._counting:
                self._now -= 1
            told = self.spaces.get(unquote(path.removeprefix(HIERARCHY)))
            return (200, told) if told is not None else (404, {"errcode": "M_NOT_FOUND", "error": "no such room"})
        return super().respond(method, path, query, body)
