"""`m.login.recaptcha`: a puzzle that programs do not solve, checked by whoever made it.

The answer of the puzzle is sent to `RECAPTCHA_VERIFY_URL` as a form (`secret`, `response`, `remoteip`), which answers
JSON with `success`. Services besides Google's understand the same form.

Source: client-server API v1.19, "Google ReCaptcha".
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from homeserver.adapters.guarded_http import Reply, RequestFailed, fetch_json
from homeserver.matrix.errors import BadJson, Forbidden, MatrixError, MissingParam
from homeserver.observability import log
from homeserver.services.login_stages.stage import Attempt, Completed
from homeserver.settings import settings

_SECONDS = 8.0
_LONGEST = 8192
# What is wrong with our request, not with the person's answer.
_OUR_MISTAKES = frozenset({"missing-input-secret", "invalid-input-secret", "bad-request"})


class Unchecked(MatrixError):
    """502: the answer could not be checked. Nobody passes unchecked, and nobody's tries are counted for it."""

    status = 502

    def __init__(self) -> None:
        super().__init__("The captcha cannot be checked at the moment: try again later.")


class Recaptcha:
    """Whoever submits it has solved a puzzle."""

    stage_type: ClassVar[str] = "m.login.recaptcha"

    def describe(self) -> Mapping[str, Any]:
        return {"public_key": settings().recaptcha_public_key}

    def start(self, attempt: Attempt) -> Completed:
        response = attempt.submitted.get("response")
        if response is None or response == "":
            raise MissingParam("response is required: the answer of the captcha.")
        if not isinstance(response, str) or len(response) > _LONGEST:
            raise BadJson(f"response must be a string of at most {_LONGEST} characters.")
        reply = _asked(response, attempt.origin.address)
        errors = reply.json.get("error-codes")
        mistakes = _OUR_MISTAKES.intersection(code for code in errors or () if isinstance(code, str))
        if reply.status != 200 or mistakes:
            log.error("the captcha's provider refuses our question: status %s, %s", reply.status, sorted(mistakes))
            raise Unchecked
        if reply.json.get("success") is not True:
            raise Forbidden("The captcha was not solved: try again.", errcode="M_CAPTCHA_INVALID")
        return Completed()

    submit = start


def _asked(response: str, address: str) -> Reply:
    form = {"secret": settings().recaptcha_private_key, "response": response, "remoteip": address}
    try:
        return fetch_json("POST", settings().recaptcha_verify_url, form=form, seconds=_SECONDS)
    except RequestFailed as failed:
        log.warning("the captcha's provider does not answer: %s", failed)
        raise Unchecked from failed


STAGE = Recaptcha()
