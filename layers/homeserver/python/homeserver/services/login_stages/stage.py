"""What a stage of a login, of a registration or of User-Interactive Authentication is.

Source: the 2014 draft, "Registration and login" (`type`, `stages`, `session`, `next`); client-server API v1.19,
"User-Interactive Authentication API", "Authentication types".

A stage starts with the first body that names it and is submitted with each further one. It knows nothing of the order
of stages, of sessions in storage or of the dialect: it looks at what a client submitted and says how far that goes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from homeserver.matrix.errors import MatrixError

Kind = Literal["login", "register", "interactive"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from, and the address under which it reached us (for links; no slash at its end)."""

    address: str
    user_agent: str = ""
    base_url: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a client submits to one stage.

    `session`: the ID, also of a session that is not stored yet. `submitted`: the keys of the body (the draft's
    dialect) or of `auth`. `user_id`: who asks (interactive), or whom the session is for so far (login); None if that
    is not known. `pending`: what this stage left in the session when it last said Waiting, `{}` at its start.
    `facts`: what completed stages found out. `operation`: of an interactive session, the request that it is for, such
    as "POST /register".
    """

    kind: Kind
    session: str
    submitted: Mapping[str, Any]
    user_id: str | None
    origin: Origin
    pending: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    operation: str | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """The stage is done. `facts` are kept in the session (no secrets: hashes of them).

    `user_id`: the local user that it was done as or for; None if it tells nothing about a user. `proves`: whether it
    proved to be that user, and not only named them.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    user_id: str | None = None
    proves: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """The stage waits for something outside this request, or for another body of the client.

    `pending` is stored in the session (no secrets: hashes of them). `answer` is what the client is told besides
    `type` and `session`. `user_id`: the local user whom the client named, if it did. `then` is called with the
    session's ID once all that is stored: it sends the mail.
    """

    pending: Mapping[str, Any]
    answer: Mapping[str, Any] = field(default_factory=dict)
    user_id: str | None = None
    then: Callable[[str], None] | None = None


class NotYet(MatrixError):
    """400: what the stage waits for has not happened. No wrong answer: it is not counted."""


class UserChanged(MatrixError):
    """400: a later stage names another user than the session is for."""

    def __init__(self) -> None:
        super().__init__("A session is for one user: cannot change user.")


class Stage(Protocol):
    """One step of a flow. Implementations have no state: one instance serves everybody.

    A wrong answer raises Forbidden (403), which counts against the session; other Matrix errors (a missing key,
    NotYet, LimitExceeded) do not count.
    """

    stage_type: ClassVar[str]

    def describe(self) -> Mapping[str, Any]:
        """What clients must know to attempt the stage (UIA's `params`); empty if nothing."""

    def start(self, attempt: Attempt) -> Completed | Waiting:
        """The first body that names this stage in a session."""

    def submit(self, attempt: Attempt) -> Completed | Waiting:
        """A further body, after the stage said Waiting. A stage that never waits is never submitted to."""
