"""Another server that is asked about a room: requests with an end to time and size, and events that are checked.

Source: Matrix v1.19, server-server API, "Retrieving events".
"""

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from homeserver.adapters.federation_http import (
    MOST_BYTES,
    FederationClient,
    FederationError,
    QueryValue,
    TimedOut,
    federation_path,
)
from homeserver.matrix.event import Event
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.observability import log
from homeserver.services.pdu_checks import check_pdus

_REQUEST_S = 10.0
_LEAST_S = 0.5  # with less time left nobody is asked any more
_EVENT_BYTES = 512 * 1024
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class AskedServer:
    """A server that is asked about one room, until `deadline` (monotonic seconds)."""

    name: str
    room_id: str
    rules: RoomVersionRules
    deadline: float

    @property
    def seconds(self) -> float:
        """How much time is left."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def has_time(self) -> bool:
        """Whether there is time for another question."""
        return self.seconds >= _LEAST_S

    def ask(
        self,
        method: str,
        *segments: str,
        query: Mapping[str, QueryValue] | None = None,
        content: Any = None,
        most_s: float = _REQUEST_S,
        max_bytes: int = MOST_BYTES,
    ) -> Any:
        """The answer to a request below `/_matrix/federation/v1`. Raises FederationError."""
        if not self.has_time:
            raise TimedOut(self.name, "there is no time left to ask")
        path = federation_path("v1", *segments)
        timeout = min(most_s, self.seconds)
        client = FederationClient()
        return client.request(method, self.name, path, query, content, timeout_s=timeout, max_bytes=max_bytes)[1]

    def checked(self, pdus: Sequence[Any]) -> list[Event]:
        """Those of some PDUs that are events of this room, checked by `pdu_checks`."""
        checked = check_pdus(pdus, self.rules, self.room_id, seconds=self.seconds)
        return [one.event for one in checked if one.event is not None]

    def event(self, event_id: str) -> Event | None:
        """One event; None if it is not given, or is not what it should be."""
        return self.events([event_id])[0].get(event_id)

    def events(self, event_ids: Collection[str]) -> tuple[dict[str, Event], set[str]]:
        """Events that are asked for one by one, several at a time; and the IDs of those that were not given.

        What was given and does not pass the checks is in neither.
        """
        wanted = list(dict.fromkeys(event_ids))
        if not wanted:
            return {}, set()
        with ThreadPoolExecutor(min(_AT_ONCE, len(wanted)), thread_name_prefix="events") as threads:
            # The meter of this invocation counts on in the threads.
            calls = [threads.submit(copy_context().run, self._pdu, event_id) for event_id in wanted]
            pdus = dict(zip(wanted, (call.result() for call in calls), strict=True))
        found = {event.event_id: event for event in self.checked([pdu for pdu in pdus.values() if pdu is not None])}
        return {i: found[i] for i in wanted if i in found}, {i for i, pdu in pdus.items() if pdu is None}

    def _pdu(self, event_id: str) -> Any:
        try:
            given = listed(self.ask("GET", "event", event_id, max_bytes=_EVENT_BYTES), "pdus")
        except FederationError as error:
            log.info("event %s of %s cannot be had: %s", event_id, self.room_id, error)
            return None
        return given[0] if given else None


def listed(answer: Any, key: str) -> list[Any]:
    """The list that an answer has under a key; empty for anything else."""
    found = answer.get(key) if isinstance(answer, dict) else None
    return found if isinstance(found, list) else []
