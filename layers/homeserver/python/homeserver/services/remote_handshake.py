"""The handshakes with which a user of this server enters, knocks at or leaves a room through another server.

First the other server makes a template of the event, then this one signs the event and sends it back. Of a template
only the event's place in the room's graph is taken: whatever else it says, nothing else is signed with it.

Source: Matrix v1.19, server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)".
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.adapters.federation_http import (
    BadAnswer,
    FederationClient,
    FederationError,
    HttpError,
    TimedOut,
    federation_path,
)
from homeserver.adapters.signing_key import signing_key
from homeserver.matrix.errors import Forbidden, LimitExceeded, MatrixError, NotFound
from homeserver.matrix.event import Event
from homeserver.matrix.event_builder import Edge, EventDraft, build_event
from homeserver.matrix.event_format import MAX_AUTH_EVENTS, MAX_PREV_EVENTS
from homeserver.matrix.identifiers import domain_of, is_event_id, is_user_id
from homeserver.matrix.room_versions import ROOM_VERSIONS, RoomVersionRules
from homeserver.observability import log
from homeserver.services.clock import now_ms
from homeserver.settings import settings

AUTHORISER = "join_authorised_via_users_server"
_TEMPLATE_S = 12.0
_MOST_TEMPLATE_BYTES = 256 * 1024
_LEAST_S = 3.0  # with less time than this nobody is asked any more
_LONGEST_ERROR = 300
# What a client may be told in the words of another server. Other codes mean things between client and its own server.
_TOLD = frozenset(
    {
        "M_BAD_STATE",
        "M_FORBIDDEN",
        "M_INCOMPATIBLE_ROOM_VERSION",
        "M_INVITE_BLOCKED",
        "M_UNABLE_TO_AUTHORISE_JOIN",
        "M_UNABLE_TO_GRANT_JOIN",
        "M_UNSUPPORTED_ROOM_VERSION",
    }
)
# "If M_MISSING_PARAM or M_INVALID_PARAM is returned ..., the Client-Server API request SHOULD fail with a 5xx error."
_OUR_FAULT = frozenset({"M_MISSING_PARAM", "M_INVALID_PARAM"})


@dataclass(frozen=True, slots=True)
class Template:
    """The place of an event in a room's graph, and who of the other server lets the user in (restricted rooms)."""

    rules: RoomVersionRules
    prev_events: tuple[Edge, ...]
    auth_events: tuple[Edge, ...]
    authoriser: str | None


class Asked:
    """What the candidates for a handshake answered, until one of them helps. `what`: join, knock, leave.

    Which error ends it: 403, as the room does not let the user do it, and M_INCOMPATIBLE_ROOM_VERSION, as it is the
    same everywhere. With any other one the next candidate is asked, also with a 400 (M_UNABLE_TO_GRANT_JOIN says so),
    and with answers that are malformed.
    """

    def __init__(self, what: str, *, seconds: float) -> None:
        self.what = what
        self.end = time.monotonic() + seconds
        self._told: list[MatrixError] = []
        self._failed = self._unknown = 0

    def has_time(self) -> bool:
        """Whether another candidate can be asked."""
        return self.end - time.monotonic() >= _LEAST_S

    def seconds(self, most: float) -> float:
        """The time that one request may take."""
        return max(0.1, min(most, self.end - time.monotonic()))

    def failed(self, server: str, error: FederationError | MatrixError) -> None:
        """Take up why a candidate was of no use. Raises what the client is to be told, where that ends it."""
        log.info("%s could not %s through %s: %s", settings().server_name, self.what, server, error)
        if isinstance(error, LimitExceeded):
            raise error  # this server's own
        if not isinstance(error, HttpError):
            self._failed += 1
            return
        if error.status == 403 or error.errcode == "M_INCOMPATIBLE_ROOM_VERSION":
            raise told(error)
        if error.status == 404:
            self._unknown += 1
        elif error.status == 400 and error.errcode not in _OUR_FAULT:
            self._told.append(told(error))
        else:
            self._failed += 1

    def verdict(self) -> MatrixError:
        """What the client is told after nobody helped."""
        if self._told:
            return self._told[0]
        if self._failed:
            return MatrixError(f"No server through which you could {self.what} can be reached.", status=502)
        return NotFound("No server that was asked knows this room.")


def told(error: HttpError) -> MatrixError:
    """What a client is told of another server's refusal."""
    errcode = error.errcode if error.errcode in _TOLD else None
    text = f"{error.destination}: {error.error[:_LONGEST_ERROR] or 'refused'}"
    if error.status == 403:
        return Forbidden(text, errcode=errcode)
    version = error.answer.get("room_version")
    extra = {"room_version": version[:32]} if isinstance(version, str) else None
    return MatrixError(text, errcode=errcode, extra=extra)


def make(kind: str, server: str, room_id: str, user_id: str, asked: Asked) -> Template:
    """Let a server make a template; `kind` is join, knock or leave. Raises FederationError, BadAnswer for a bad one."""
    query = None if kind == "leave" else {"ver": list(ROOM_VERSIONS)}
    path = federation_path("v1", f"make_{kind}", room_id, user_id)
    _, answer = FederationClient().request(
        "GET",
        server,
        path,
        query,
        timeout_s=asked.seconds(_TEMPLATE_S),
        max_bytes=_MOST_TEMPLATE_BYTES,
    )
    return _template(kind, server, room_id, user_id, answer)


def _template(kind: str, server: str, room_id: str, user_id: str, answer: Any) -> Template:
    """The checks that must be made before anything is signed."""
    version = answer.get("room_version", "1") if isinstance(answer, dict) else None
    rules = ROOM_VERSIONS.get(version) if isinstance(version, str) else None
    event = answer.get("event") if isinstance(answer, dict) else None
    content = event.get("content") if isinstance(event, dict) else None
    if rules is None or not isinstance(event, dict) or not isinstance(content, dict):
        raise BadAnswer(server, f"its template to {kind} is malformed")
    wanted = {"room_id": room_id, "sender": user_id, "state_key": user_id, "type": "m.room.member"}
    wrong = [name for name, value in wanted.items() if event.get(name) != value]
    if content.get("membership") != kind:
        wrong.append("membership")
    if wrong:
        raise BadAnswer(server, f"its template to {kind} is for something else: {', '.join(wrong)}")
    prev_events = _edges(event, "prev_events", MAX_PREV_EVENTS, rules, depth=_depth(event))
    auth_events = _edges(event, "auth_events", MAX_AUTH_EVENTS, rules)
    if not prev_events or auth_events is None:
        raise BadAnswer(server, f"its template to {kind} has no place in the room")
    authoriser = content.get(AUTHORISER) if kind == "join" and rules.restricted_joins else None
    # "An arbitrary user ID belonging to the resident server": it has to sign, so that it may vouch only for its own.
    if authoriser is not None and not (is_user_id(authoriser) and domain_of(authoriser) == server):
        raise BadAnswer(server, "its template lets a user of another server vouch")
    return Template(rules, prev_events, auth_events, authoriser)


def _depth(event: Mapping[str, Any]) -> int:
    depth = event.get("depth")
    return depth - 1 if type(depth) is int and 0 < depth < 2**63 else 0


def _edges(
    event: Mapping[str, Any], name: str, most: int, rules: RoomVersionRules, *, depth: int = 0
) -> tuple[Edge, ...] | None:
    """The edges of a template; None where they are none."""
    listed = event.get(name)
    if not isinstance(listed, list) or len(listed) > most:
        return None
    edges = []
    for entry in listed:
        event_id, sha256 = entry, None
        if rules.hashed_edges:
            hashes = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
            sha256 = hashes.get("sha256") if isinstance(hashes, dict) else None
            if not isinstance(sha256, str) or len(sha256) > 64:
                return None
            event_id = entry[0]
        if not is_event_id(event_id, rules.event_id_format):
            return None
        edges.append(Edge(event_id, depth, sha256))
    return tuple(edges)


def membership_event(template: Template, room_id: str, user_id: str, content: Mapping[str, Any]) -> Event:
    """The signed membership event of a local user, at the template's place. Raises BadJson or TooLarge."""
    own = {key: value for key, value in content.items() if key != AUTHORISER}
    if template.authoriser is not None:
        own[AUTHORISER] = template.authoriser
    return build_event(
        EventDraft("m.room.member", own, user_id),
        rules=template.rules,
        room_id=room_id,
        sender=user_id,
        prev_events=template.prev_events,
        auth_events=template.auth_events,
        origin_server_ts=now_ms(),
        server_name=settings().server_name,
        key=signing_key(),
        opaque_id=secrets.token_urlsafe(18) if template.rules.hashed_edges else None,
    )


def send(
    kind: str,
    server: str,
    event: Event,
    asked: Asked,
    *,
    versions: Sequence[str] = ("v2", "v1"),
    query: Mapping[str, bool] | None = None,
    timeout_s: float,
    max_bytes: int,
) -> Any:
    """Send the event back to who made its template; the answer, of whatever version of the endpoint is there.

    Raises FederationError.
    """
    for number, version in enumerate(versions):
        path = federation_path(version, f"send_{kind}", event.room_id, event.event_id)
        try:
            _, answer = FederationClient().request(
                "PUT",
                server,
                path,
                query if version == "v2" else None,
                event.pdu,
                timeout_s=asked.seconds(timeout_s),
                max_bytes=max_bytes,
            )
        except HttpError as error:
            if not _is_unrecognized(error) or number == len(versions) - 1:
                raise
            continue
        if version == "v1" and "v2" in versions:  # as a pair of a status and what version 2 answers
            if not (isinstance(answer, list) and len(answer) == 2):
                raise BadAnswer(server, f"its answer to send_{kind} is malformed")
            return answer[1]
        return answer
    raise TimedOut(server, "no answer in time")


def _is_unrecognized(error: HttpError) -> bool:
    """Whether a server does not know the endpoint, rather than the room."""
    return error.errcode == "M_UNRECOGNIZED" or (error.status in {404, 405} and error.errcode == "M_UNKNOWN")
