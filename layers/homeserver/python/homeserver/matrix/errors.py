"""Matrix errors: the one place that knows statuses, error codes and their texts.

Source: client-server API v1.19, "Standard error response". Services raise these; the web layer turns them
into `{"errcode", "error", ...}` with the status.
"""

from collections.abc import Mapping
from typing import Any


class MatrixError(Exception):
    """An answer that is an error: HTTP status, `errcode`, a sentence for the person who reads it, extra keys."""

    status = 400
    errcode = "M_UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        errcode: str | None = None,
        status: int | None = None,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.errcode = errcode or type(self).errcode
        self.status = status or type(self).status
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        return {"errcode": self.errcode, "error": self.message, **self.extra}


class BadJson(MatrixError):
    """JSON of the wrong shape: a missing key, a value of the wrong type or range."""

    errcode = "M_BAD_JSON"


class NotJson(MatrixError):
    """The body is no JSON at all."""

    errcode = "M_NOT_JSON"


class InvalidParam(MatrixError):
    """A parameter has a value that cannot be used."""

    errcode = "M_INVALID_PARAM"


class BadPagination(InvalidParam):
    """A token of the stream or of a timeline that cannot be used, in the words of the 2014 draft."""

    errcode = "M_BAD_PAGINATION"


class MissingParam(MatrixError):
    """A required parameter is absent."""

    errcode = "M_MISSING_PARAM"


class MissingToken(MatrixError):
    """No access token was given."""

    status = 401
    errcode = "M_MISSING_TOKEN"


class UnknownToken(MatrixError):
    """The access or refresh token is not, or no longer, valid."""

    status = 401
    errcode = "M_UNKNOWN_TOKEN"


class Unauthorized(MatrixError):
    """A request of another server that is not signed as it must be."""

    status = 401
    errcode = "M_UNAUTHORIZED"


class Forbidden(MatrixError):
    """The requester may not do this."""

    status = 403
    errcode = "M_FORBIDDEN"


class NotFound(MatrixError):
    """The thing does not exist, or the requester must not learn whether it does."""

    status = 404
    errcode = "M_NOT_FOUND"


class Unrecognized(MatrixError):
    """No such endpoint (404) or no such method on it (405)."""

    status = 404
    errcode = "M_UNRECOGNIZED"


class TooLarge(MatrixError):
    """The event or request exceeds a size limit."""

    status = 413
    errcode = "M_TOO_LARGE"


class LimitExceeded(MatrixError):
    """Too many requests: wait `retry_after_ms` milliseconds."""

    status = 429
    errcode = "M_LIMIT_EXCEEDED"

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        seconds = -(-retry_after_ms // 1000)
        super().__init__(message, extra={"retry_after_ms": retry_after_ms}, headers={"Retry-After": str(seconds)})


class AuthRuleViolation(Forbidden):
    """An event that the room version's authorisation rules refuse; `rule` is the number of the rule that failed.

    Numbers follow the merged text of the rules (room versions 1 to 12) in `docs/auth-rules.md`.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule
