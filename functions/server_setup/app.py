"""The Lambda handler of the function `server_setup`, behind the CloudFormation resource `Custom::ServerIdentity`.

Its properties: `ServerName`; `StoreGeneration`, raised by one after a restore; `SigningKeyGeneration`, raised by one
for a new key; `UncleanStart` ("true": the local run found that its store was not saved). Its attributes: `ServerName`,
`Epoch`, `KeyId`. Deleting it keeps everything.

CloudFormation waits for an answer at a pre-signed URL. A request without one comes from the local run, which takes
the handler's own answer or exception.
"""

import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

from homeserver.matrix.errors import MatrixError
from homeserver.observability import log
from homeserver.services.server_setup import set_up

PHYSICAL_ID = "server-identity"  # always the same: an update never replaces the identity
_ANSWER_TRIES = 3
_MAX_REASON = 1000  # CloudFormation takes an answer of 4 KB


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Set the server up, and tell CloudFormation. Raises what went wrong if nobody waits for an answer."""
    answer: dict[str, Any] = {
        "Status": "SUCCESS",
        "PhysicalResourceId": event.get("PhysicalResourceId") or PHYSICAL_ID,
        **{key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId") if key in event},
    }
    try:
        if event["RequestType"] != "Delete":
            answer["Data"] = _set_up(event.get("ResourceProperties", {}))
    except Exception as error:
        # Whatever it is, CloudFormation must hear of it: it waits for an hour otherwise.
        if not event.get("ResponseURL"):
            raise
        if not isinstance(error, MatrixError):
            log.exception("the set-up failed")
        answer |= {"Status": "FAILED", "Reason": (str(error) or type(error).__name__)[:_MAX_REASON]}
    if event.get("ResponseURL"):
        _tell_cloudformation(event["ResponseURL"], answer)
    return answer


def _set_up(properties: Mapping[str, Any]) -> dict[str, Any]:
    done = set_up(
        str(properties.get("ServerName", "")),
        generation=int(properties.get("StoreGeneration", 1)),
        key_generation=int(properties.get("SigningKeyGeneration", 1)),
        unclean_start=str(properties.get("UncleanStart", "")).lower() == "true",
    )
    return {"ServerName": done.server_name, "Epoch": done.epoch, "KeyId": done.key_id}


def _tell_cloudformation(url: str, answer: Mapping[str, Any]) -> None:
    # The URL is signed for an empty content type, and for nothing else that a client might add.
    request = urllib.request.Request(  # noqa: S310 - CloudFormation names the URL
        url, json.dumps(answer).encode(), {"Content-Type": ""}, method="PUT"
    )
    for attempt in range(_ANSWER_TRIES):
        try:
            urllib.request.urlopen(request, timeout=5).close()  # noqa: S310 - CloudFormation names the URL
        except OSError:
            if attempt == _ANSWER_TRIES - 1:
                raise
            time.sleep(0.5)
        else:
            return
