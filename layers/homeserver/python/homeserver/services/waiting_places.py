"""How many requests of a user may wait at the same time: `LIMITS`, bucket `wait/<user>`, one attribute a request.

An attribute holds the second at which it stops counting, so a place that a crash left behind frees itself. Imports
neither a web framework nor an AWS library: the waiting loop of `/sync` uses it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from homeserver.adapters.slim_aws import AwsError, dynamodb
from homeserver.matrix.errors import LimitExceeded
from homeserver.observability import log
from homeserver.settings import settings, table_name

WAITS_PER_USER = 20  # requests of one user that may wait at the same time
LEASE_SECONDS = 60  # after which a wait that never said goodbye no longer counts
_RETRY_AFTER_MS = 5_000


@contextmanager
def place_to_wait(user_id: str, *, now: float) -> Iterator[None]:
    """A place among the user's waiting requests; `now` in seconds since 1970. Without rate limits nobody counts.

    Raises LimitExceeded when all places are taken.
    """
    if not settings().rate_limits:
        yield
        return
    mine = f"w{os.urandom(6).hex()}"
    until = {"N": str(int(now) + LEASE_SECONDS)}
    item = _update_places(
        user_id,
        UpdateExpression="SET #mine = :until, #expires = :until",
        ExpressionAttributeNames={"#mine": mine, "#expires": "expires"},
        ExpressionAttributeValues={":until": until},
        ReturnValues="ALL_NEW",
    )["Attributes"]
    places = {name: int(value["N"]) for name, value in item.items() if name[0] == "w"}
    over = [mine, *(name for name, end in places.items() if end <= int(now))]
    try:
        if len(places) - len(over) + 1 > WAITS_PER_USER:
            raise LimitExceeded("Too many requests of this user are waiting.", retry_after_ms=_RETRY_AFTER_MS)
        yield
    finally:
        names = {f"#l{number}": name for number, name in enumerate(over)}
        try:
            _update_places(user_id, UpdateExpression=f"REMOVE {', '.join(names)}", ExpressionAttributeNames=names)
        except (AwsError, OSError):
            log.exception("a place among the waiting requests was not given back; it frees itself")


def _update_places(user_id: str, **update: Any) -> dict[str, Any]:
    key = {"bucket": {"S": f"wait/{user_id}"}}
    return dynamodb("UpdateItem", {"TableName": table_name("LIMITS"), "Key": key, **update})
