"""Builds the answer of `/sync`; invoked by `client_sync` when there is something to tell.

It builds those of the endpoints before `/sync` too: what is listened to, and how, is the same.
"""

from collections.abc import Callable
from typing import Any

import orjson

from homeserver.matrix.errors import MatrixError
from homeserver.observability import cost_metered
from homeserver.services.access_tokens import Requester
from homeserver.services.draft_stream import DEFAULT_EVENTS, draft_events, draft_initial_sync
from homeserver.services.initial_sync import DEFAULT_LIMIT, initial_sync
from homeserver.services.legacy_events import events_of_room, events_since
from homeserver.services.sync import STATE_AFTER, SyncQuestion, SyncResult, sync
from homeserver.settings import settings


def _sync(requester: Requester, event: dict[str, Any]) -> SyncResult:
    asked = {**event.get("query", {}), "use_state_after": "true" if event.get("use_state_after") else "false"}
    return sync(
        SyncQuestion(
            requester,
            since=event.get("since"),
            filter_text=event.get("filter"),
            full_state=bool(event.get("full_state")),
            state_after=tuple(key for parameter, key in STATE_AFTER.items() if asked.get(parameter) == "true"),
        )
    )


def _events(requester: Requester, event: dict[str, Any]) -> SyncResult:
    return events_since(requester, event["since"])


def _peek(requester: Requester, event: dict[str, Any]) -> SyncResult:
    return events_of_room(requester, event["query"]["room_id"], event["since"])


def _initial_sync(requester: Requester, event: dict[str, Any]) -> SyncResult:
    query = event["query"]
    limit = int(query.get("limit", DEFAULT_LIMIT))
    return initial_sync(requester, limit=limit, archived=query.get("archived") == "true")


def _draft_events(requester: Requester, event: dict[str, Any]) -> SyncResult:
    query = event["query"]
    limit = int(query.get("limit", DEFAULT_EVENTS))
    return draft_events(requester, event["since"], limit=limit, from_start=query.get("from_start") == "true")


def _draft_initial_sync(requester: Requester, event: dict[str, Any]) -> SyncResult:
    query = event["query"]
    limit = int(query.get("limit", DEFAULT_LIMIT))
    return draft_initial_sync(requester, limit=limit, feedback=query.get("feedback") == "true")


_ANSWERS: dict[str, Callable[[Requester, dict[str, Any]], SyncResult]] = {
    "sync": _sync,
    "events": _events,
    "peek": _peek,
    "initial_sync": _initial_sync,
    "draft_events": _draft_events,
    "draft_initial_sync": _draft_initial_sync,
}


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """What `services.sync_wait` asks -> `{"status", "body", "empty", "next_batch"}`; `body` is JSON text."""
    requester = Requester(event["user_id"], event["device_id"], "")
    with cost_metered("sync_answer", enabled=settings().cost_meter) as meter:
        try:
            result = _ANSWERS[event.get("kind", "sync")](requester, event)
        except MatrixError as error:
            body = orjson.dumps(error.body()).decode()
            return {"status": error.status, "body": body, "empty": False, "next_batch": ""}
        answer = {
            "status": 200,
            "body": orjson.dumps(result.body).decode(),
            "empty": result.empty,
            "next_batch": result.next_batch,
        }
        if meter is not None:
            answer["meter"] = {"rounds": meter.rounds, "calls": meter.calls, "rru": meter.rru, "wru": meter.wru}
    return answer
