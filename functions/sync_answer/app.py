"""Builds the answer of `/sync`; invoked by `client_sync` when there is something to tell."""

from typing import Any

import orjson

from homeserver.matrix.errors import MatrixError
from homeserver.observability import cost_metered
from homeserver.services.access_tokens import Requester
from homeserver.services.sync import SyncQuestion, sync
from homeserver.settings import settings


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """What `services.sync_wait` asks -> `{"status", "body", "empty", "next_batch"}`; `body` is JSON text."""
    question = SyncQuestion(
        Requester(event["user_id"], event["device_id"], ""),
        since=event.get("since"),
        filter_text=event.get("filter"),
        full_state=bool(event.get("full_state")),
        use_state_after=bool(event.get("use_state_after")),
    )
    with cost_metered("sync_answer", enabled=settings().cost_meter) as meter:
        try:
            result = sync(question)
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
