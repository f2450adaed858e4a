"""Errors in the words of the 2014 draft: what its client API answers where today's says it differently.

| Today | The draft |
|---|---|
| `M_MISSING_PARAM` | `M_BAD_JSON`: a key that is missing makes a body as wrong as one of another type |
| a token of a page or stream that is none: `M_INVALID_PARAM` | `M_BAD_PAGINATION`: services raise `BadPagination` |

All else has the same code in both: tokens are 401 as today, not 403 as in 2014, so that clients log in anew.
`M_ROOM_IN_USE` and `M_FAILED_HUMAN_ID_CHECK` come from the services that know what was taken.

Source: the draft of 2014, "Standard error response".
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from starlette.responses import Response

from homeserver.matrix.errors import BadJson, MatrixError, MissingParam

P = ParamSpec("P")


def as_draft(error: MatrixError) -> MatrixError:
    """The error that the draft's client API answers instead of another."""
    if isinstance(error, MissingParam):
        return BadJson(error.message)
    return error


def in_draft_words(handler: Callable[P, Response]) -> Callable[P, Response]:
    """An endpoint of the draft's client API whose errors are the draft's. Stands below the routes of a handler."""

    @wraps(handler)
    def answered(*args: P.args, **kwargs: P.kwargs) -> Response:
        try:
            return handler(*args, **kwargs)
        except MatrixError as error:
            draft = as_draft(error)
            if draft is error:
                raise
            raise draft from error

    return answered
