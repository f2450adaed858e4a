"""Rooms that this server is not in, as other servers tell of them: asked for by `GET /hierarchy/{roomId}`.

It is the one question about a room that a server answers to one that is not there. What it says is believed, as there
is nothing to check it by: so it is shown, and decides whether it is shown, and nothing else.

Source: Matrix v1.19, server-server API, "Spaces"; client-server API, "Room summary", "Spaces".
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from homeserver.adapters.federation_http import FederationClient, FederationError, HttpError, federation_path
from homeserver.matrix.told_room import ToldRoom, told_children
from homeserver.observability import log
from homeserver.services.remembered_answers import RememberedAnswers
from homeserver.services.residency import candidates, server_of_id
from homeserver.services.resident_servers import resident_servers
from homeserver.services.room_preview import Preview
from homeserver.services.stub_rooms import stub_of

MOST_ASKED = 60  # rooms that one request asks about
SECONDS = 12.0  # for all of them
MOST_SERVERS = 3  # that are asked about one room
_REQUEST_S = 6.0
_MOST_BYTES = 2 * 1024 * 1024
_AT_ONCE = 8
_MOST_SUMMARIES = 400
_REMEMBERED_S = 60.0
_REMEMBERED_BYTES = 8 * 1024 * 1024
_LEAST_BYTES = 500


@dataclass(frozen=True, slots=True)
class ToldSpace:
    """What `server` tells of a room: the room, its children if it is a space, and what is known of these.

    `closed`: children that nobody of this server can join or read, as the other server has it.
    """

    server: str
    room: ToldRoom
    children: Sequence[Mapping[str, Any]]
    summaries: Mapping[str, ToldRoom]
    closed: frozenset[str]


@dataclass(frozen=True, slots=True)
class RemotePreview(Preview):
    """The preview of a room that this server is not in, with its children if it is a space."""

    told: ToldSpace | None

    @classmethod
    def of(cls, room: ToldRoom, membership: str, told: ToldSpace | None = None) -> "RemotePreview":
        return cls(room.room_id, room.facts, room.joined_members, membership, told)


def known_servers(room_id: str, user_id: str | None) -> list[str]:
    """Servers to ask about a room that this server is not in, as far as it knows any itself.

    Those of the user's invitation or knock, the one in the room's ID, and those that were there when this server was.
    """
    stub = stub_of(room_id, user_id) if user_id is not None else None
    return candidates(stub.servers if stub else (), server_of_id(room_id), resident_servers(room_id))


class Asking:
    """What one request may ask other servers: about so many rooms, for so many seconds."""

    def __init__(self, *, suggested_only: bool = False) -> None:
        self._suggested_only = suggested_only
        self._left = MOST_ASKED
        self._deadline: float | None = None

    def ask(self, rooms: Mapping[str, Sequence[str]]) -> dict[str, ToldSpace | None]:
        """What the first server that knows a room tells of it, by room ID; None where nobody does.

        `rooms`: whom to ask about each, of which the first three are. Rooms that are not in the answer were not asked
        about, as number or time were used up; the first call asks about something.
        """
        if self._deadline is None:
            self._deadline = time.monotonic() + SECONDS
        chosen = list(rooms.items())[: self._left]
        self._left -= len(chosen)
        if not chosen:
            return {}
        with ThreadPoolExecutor(min(_AT_ONCE, len(chosen))) as pool:
            calls = [partial(copy_context().run, self._told, *one) for one in chosen]
            found = pool.map(lambda call: call(), calls)
            return {room_id: told[0] for (room_id, _), told in zip(chosen, found, strict=True) if told}

    def _told(self, room_id: str, servers: Sequence[str]) -> tuple[ToldSpace | None, ...]:
        """One answer, or none where there is no time left to ask."""
        for number, server in enumerate(servers[:MOST_SERVERS]):
            left = (self._deadline or 0.0) - time.monotonic()
            if left <= 0:
                return (None,) if number else ()
            told = _asked(server, room_id, suggested_only=self._suggested_only, seconds=min(left, _REQUEST_S))
            if told is not None:
                return (told,)
            if not number and left < _REQUEST_S and time.monotonic() >= (self._deadline or 0.0):
                return ()  # it had less time than a server gets
        return (None,)


_remembered: RememberedAnswers[tuple[ToldSpace | None]] = RememberedAnswers(
    seconds=_REMEMBERED_S, most_bytes=_REMEMBERED_BYTES
)


def forget_hierarchies() -> None:
    """Forget what other servers told."""
    _remembered.clear()


def _asked(server: str, room_id: str, *, suggested_only: bool, seconds: float) -> ToldSpace | None:
    question = server, room_id, suggested_only
    if (known := _remembered.get(question)) is not None:
        return known[0]
    try:
        _, answer = FederationClient().request(
            "GET",
            server,
            federation_path("v1", "hierarchy", room_id),
            {"suggested_only": suggested_only},
            timeout_s=seconds,
            max_bytes=_MOST_BYTES,
        )
    except FederationError as error:
        log.info("nothing of %s: %s", room_id, error)
        if isinstance(error, HttpError) and error.status in (403, 404):
            _remembered.put(question, (None,), _LEAST_BYTES)
        return None
    told = _read(server, room_id, answer)
    _remembered.put(question, (told,), _LEAST_BYTES + (len(str(answer)) if told is not None else 0))
    return told


def _read(server: str, room_id: str, answer: object) -> ToldSpace | None:
    if not isinstance(answer, dict):
        return None
    told = answer.get("room")
    room = ToldRoom.read(told)
    if not isinstance(told, dict) or room is None or room.room_id != room_id:
        return None
    children = told_children(told.get("children_state")) if room.facts.is_space else []
    ids = {child["state_key"] for child in children}
    listed, closed = answer.get("children"), answer.get("inaccessible_children")
    summaries = map(ToldRoom.read, listed[:_MOST_SUMMARIES] if isinstance(listed, list) else [])
    return ToldSpace(
        server,
        room,
        children,
        {summary.room_id: summary for summary in summaries if summary is not None and summary.room_id in ids},
        frozenset(room for room in (closed if isinstance(closed, list) else []) if isinstance(room, str)) & ids,
    )
