"""The waiting half of `/sync`: check the token, look into the inbox, wait, have the answer built when there is news.

Waiting is what a homeserver of functions is billed for, so this half runs in the smallest function and imports neither
a web framework nor an AWS library. It knows no rooms: it compares the numbers of a sync token with those of the inbox,
and leaves everything else to the function `sync_answer`.

Source: client-server API v1.19, "Syncing" and "GET /_matrix/client/v3/sync"; `docs/architecture.md`.
"""

import json
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from homeserver.adapters import slim_aws
from homeserver.adapters.slim_aws import AwsError, FunctionFailed, dynamodb, in_parallel, invoke
from homeserver.matrix.access_token import claimed_user, token_hash
from homeserver.matrix.errors import MatrixError, MissingToken, UnknownToken
from homeserver.matrix.ports import Waiter
from homeserver.matrix.sync_token import SyncToken
from homeserver.observability import current_meter, log
from homeserver.services.waiting_places import place_to_wait
from homeserver.settings import settings, table_name
from homeserver.storage.inbox_shards import Inbox, parse_inbox, poll_request
from homeserver.storage.large_rooms import look_at_heads
from homeserver.storage.sync_bases import base_request, parse_bases, parse_ephemeral

LONGEST_WAIT = 25.0  # seconds; API Gateway gives up at 30
ANSWER_TIME = 4.0  # seconds of the invocation that waiting leaves, so that late news can still be answered
EPOCH_SECONDS = 60.0  # for which the store's epoch is remembered: sync_answer compares it with the real one
_LONGEST_PAUSE = 5.0  # seconds between two questions to a sync_answer that sees nothing of the news yet
# What sync_answer can be asked for; the last two have the words of the 2014 draft.
SYNC, EVENTS, PEEK, INITIAL_SYNC = "sync", "events", "peek", "initial_sync"
DRAFT_EVENTS, DRAFT_INITIAL_SYNC = "draft_events", "draft_initial_sync"
_STREAMS = (EVENTS, DRAFT_EVENTS)  # who begins to listen there waits for what comes from now on


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What a client asks of `/sync`. `timeout` in seconds; `query` are the parameters that have no field here.

    `kind`: the endpoint that is answered, where it is one of those that came before `/sync`.
    """

    access_token: str | None
    since: str | None = None
    timeout: float = 0.0
    full_state: bool = False
    filter: str | None = None
    set_presence: str = "online"
    use_state_after: bool = False
    query: Mapping[str, str] = field(default_factory=dict)
    kind: str = SYNC


@dataclass(frozen=True, slots=True)
class SyncAnswer:
    """Status and JSON text of an answer. `empty`: it tells nothing but `next_batch`."""

    status: int
    body: str
    empty: bool = False
    next_batch: str = ""


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the loop takes its time from, in seconds: tests bring their own."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class Device:
    """The device that an access token is of."""

    user_id: str
    device_id: str


def wait_for_news(
    request: SyncRequest, *, remaining: float, waiter: Waiter | None = None, clock: Clock = CLOCK
) -> SyncAnswer:
    """The answer of `/sync`: at once if there is something to tell, else when there is or the time is over.

    `remaining` is how many seconds this invocation may still take. Without `since` or `timeout`, and with
    `full_state`, the answer is built at once; `/events` waits without `since` too, for what comes from now on. A token
    of an older epoch, or one whose base is gone, is news by itself.
    Raises MissingToken or UnknownToken (401); InvalidParam for a `since` that is no token, or another user's, of this
    server; LimitExceeded when the user has too many waiting requests; MatrixError (500) when no answer can be built.
    """
    ends = clock.monotonic() + remaining
    waits = request.since is not None or request.kind in _STREAMS
    patient = waits and request.timeout > 0 and not request.full_state
    if patient:
        device, inbox, epoch = _read_all(request.access_token, clock)
    else:
        device, inbox, epoch = device_of(request.access_token, clock), Inbox(), None
    latest = request.since
    token = SyncToken.decode(latest, user_id=device.user_id) if latest is not None else None
    told = _complete(token, device) if token and patient else None  # who does not wait needs no base here
    if told is None or told.epoch != epoch or is_ahead(inbox, told, now=clock.wall()):
        answer = build_answer(request, device, latest, ends - clock.monotonic())
        told = _told(answer.next_batch, device) if patient and answer.empty else None
        if told is None:
            return answer
        latest = answer.next_batch
    deadline = waits_until(request, ends, remaining)
    waiter = waiter or PollingWaiter(clock)
    with place_to_wait(device.user_id, now=clock.wall()):
        pause = 0.0
        while waiter.news(device.user_id, told, seconds=deadline - clock.monotonic()):
            try:
                answer = build_answer(request, device, latest, ends - clock.monotonic())
            except TimeoutError:
                break  # the news came late: the client's next request has all the time again
            told = _told(answer.next_batch, device) if answer.empty else None
            if told is None:
                return answer
            # Nothing was told and nothing counted as told: sync_answer does not see yet what the inbox announces.
            pause = min(max(2 * pause, poll_seconds()), _LONGEST_PAUSE) if answer.next_batch == latest else 0.0
            latest = answer.next_batch
            if pause and deadline > clock.monotonic():
                clock.sleep(min(pause, deadline - clock.monotonic()))
    return SyncAnswer(200, json.dumps(_nothing(request, latest)), empty=True, next_batch=latest or "")


def waits_until(request: SyncRequest, ends: float, remaining: float) -> float:
    """Until when a request may wait, where its invocation `ends` and had so many seconds `remaining`."""
    return min(ends - remaining + min(request.timeout, LONGEST_WAIT), ends - ANSWER_TIME)


def _nothing(request: SyncRequest, latest: str | None) -> dict[str, Any]:
    """The answer that tells nothing but where the client stands."""
    if request.kind in _STREAMS:
        return {"start": request.since or latest, "end": latest, "chunk": []}
    return {"next_batch": latest}


def is_ahead(inbox: Inbox, told: SyncToken, *, now: float = 0.0) -> bool:
    """Whether an inbox announces anything that a token (complete, without a base) was not told.

    Looks may go backwards, as they are eventually consistent: what is behind the token is no news. That somebody has
    stopped typing no inbox says but the time: `now` in seconds since 1970.
    """
    return (
        any(
            state.position > told.positions.get(slot, 0) or state.ephemeral > told.ephemeral.get(slot, 0)
            for slot, state in inbox.slots.items()
        )
        or any(number > told.streams.get(name, 0) for name, number in inbox.streams.items())
        or _typing_ends(told, now)
    )


def _typing_ends(told: SyncToken, now: float) -> bool:
    return any(end <= now * 1000 for end in told.typing.values())


@dataclass(slots=True)
class PollingWaiter:
    """Waits by looking: one Query each `SYNC_POLL_MS`, a tenth more or less so that waits do not fall into step."""

    clock: Clock = CLOCK

    def news(self, user_id: str, told: SyncToken, *, seconds: float) -> bool:
        """Whether the inbox got ahead of the token within the time; the last look is at its end."""
        deadline = self.clock.monotonic() + seconds
        seen: list[Any] | None = None
        inbox = Inbox()
        while (left := deadline - self.clock.monotonic()) > 0:
            pause = poll_seconds() * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
            self.clock.sleep(min(pause, left))
            items = _poll(user_id)
            # Comparing what came is much cheaper than taking it apart, and mostly it is the same as before.
            if items != seen:
                inbox, seen = parse_inbox(items), items
            elif not inbox.has_large_rooms and not _typing_ends(told, self.clock.wall()):
                continue
            # Receipts of large rooms end no wait; but where it ends anyway, they are told.
            look_at_heads(dynamodb, user_id, inbox, consistent=False, ephemeral=pause >= left)
            if is_ahead(inbox, told, now=self.clock.wall()):
                return True
        return False


def _look(user_id: str) -> Inbox:
    inbox = parse_inbox(_poll(user_id))
    look_at_heads(dynamodb, user_id, inbox, consistent=False)
    return inbox


def poll_seconds() -> float:
    """The time between two looks."""
    return settings().sync_poll_ms / 1000


def _poll(user_id: str) -> list[Any]:
    request = poll_request(user_id)
    items: list[Any] = []
    while True:
        answer = dynamodb("Query", request)
        items += answer["Items"]
        if "LastEvaluatedKey" not in answer:
            return items
        request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def _told(text: str, device: Device) -> SyncToken | None:
    """A token with all its positions, or None when its base is unknown. Raises InvalidParam."""
    return _complete(SyncToken.decode(text, user_id=device.user_id), device)


def _complete(token: SyncToken, device: Device) -> SyncToken | None:
    if not token.base:
        return token
    item = dynamodb("GetItem", base_request(device.user_id, device.device_id)).get("Item")
    bases = parse_bases(item)
    if token.base not in bases:
        return None
    return token.with_base(bases[token.base], parse_ephemeral(item).get(token.base))


# ── Who asks ─────────────────────────────────────────────────────────────────────────────────────────────


def _claim(token: str | None) -> tuple[str, str]:
    """An access token and the user that it claims to be of."""
    if not token:
        raise MissingToken("An access token is needed.")
    claimed = claimed_user(token, settings().server_name)
    if claimed is None:
        raise UnknownToken("This is no access token of this server.")
    return token, claimed


def _read_all(access_token: str | None, clock: Clock) -> tuple[Device, Inbox, int | None]:
    """Requester, inbox and epoch in one round: the inbox of whom the token claims, used once the claim holds."""
    claim = _claim(access_token)
    calls: list[Callable[[], Any]] = [lambda: _checked(claim, clock), lambda: _look(claim[1])]
    if _known_epoch is None or clock.monotonic() >= _known_epoch[1]:
        calls.append(lambda: _read_epoch(clock))
    device, inbox, *_ = in_parallel(*calls)
    return device, inbox, _known_epoch[0] if _known_epoch else None


def device_of(access_token: str | None, clock: Clock) -> Device:
    """The device of an access token. Raises MissingToken or UnknownToken (401)."""
    return _checked(_claim(access_token), clock)


def _checked(claim: tuple[str, str], clock: Clock) -> Device:
    """The device of an access token, by the rules and the records of services.access_tokens."""
    token, claimed = claim
    key = {"hash": {"S": token_hash(token)}}
    request = {"TableName": table_name("TOKENS"), "Key": key, "ConsistentRead": True}
    record = dynamodb("GetItem", request).get("Item")
    if record is None or record["kind"]["S"] != "access" or record["user"]["S"] != claimed:
        raise UnknownToken("This access token is unknown or was revoked.")
    if "valid_until" in record and int(record["valid_until"]["N"]) <= clock.wall() * 1000:
        raise UnknownToken("This access token has expired.", extra={"soft_logout": True})
    if record.get("unused", {}).get("BOOL"):
        _mark_used(key)
    return Device(claimed, record["device"]["S"])


def _mark_used(key: Mapping[str, Any]) -> None:
    """A token that a refresh made is shown for the first time: the pair before it is over."""
    try:
        dynamodb(
            "UpdateItem",
            {
                "TableName": table_name("TOKENS"),
                "Key": key,
                "UpdateExpression": "REMOVE #unused",
                "ConditionExpression": "attribute_exists(#hash)",
                "ExpressionAttributeNames": {"#unused": "unused", "#hash": "hash"},
            },
        )
    except AwsError as error:
        if error.code != "ConditionalCheckFailedException":
            raise
        raise UnknownToken("This access token was revoked.") from error


# The store's epoch, and the monotonic second until which it is taken from here.
_known_epoch: tuple[int, float] | None = None


def forget_epoch() -> None:
    """Read the epoch again on the next request."""
    global _known_epoch  # noqa: PLW0603 - one small cache a process
    _known_epoch = None


def _read_epoch(clock: Clock) -> None:
    global _known_epoch  # noqa: PLW0603 - one small cache a process
    item = dynamodb("GetItem", {"TableName": table_name("SERVER"), "Key": {"k": {"S": "identity"}}}).get("Item")
    _known_epoch = (int(item["epoch"]["N"]), clock.monotonic() + EPOCH_SECONDS) if item else None


# ── Who answers ──────────────────────────────────────────────────────────────────────────────────────────


def build_answer(request: SyncRequest, device: Device, since: str | None, seconds: float) -> SyncAnswer:
    """What the function `sync_answer` answers. Raises MatrixError (500) if it fails, TimeoutError if it is slow."""
    payload: dict[str, Any] = {
        "user_id": device.user_id,
        "device_id": device.device_id,
        "since": since,
        "filter": request.filter,
        "full_state": request.full_state,
        "set_presence": request.set_presence,
        "use_state_after": request.use_state_after,
        "query": dict(request.query),
    }
    if request.kind != SYNC:
        payload["kind"] = request.kind
    try:
        reply = invoke(os.environ["SYNC_ANSWER_FUNCTION"], payload, seconds=max(1.0, seconds - 0.5))
        answer = SyncAnswer(reply["status"], reply["body"], bool(reply.get("empty")), reply.get("next_batch") or "")
    except (FunctionFailed, AwsError, KeyError, TypeError) as error:
        log.exception("sync_answer gave no answer")
        raise MatrixError("The answer could not be built.", status=500) from error
    _add_to_meter(reply.get("meter"))
    return answer


def _add_to_meter(consumed: Mapping[str, float] | None) -> None:
    """Count what building the answer consumed, where sync_answer says so, as part of this request."""
    meter = current_meter()
    if meter is None or consumed is None:
        return
    meter.rounds += int(consumed.get("rounds", 0))
    meter.calls += int(consumed.get("calls", 0))
    meter.rru += consumed.get("rru", 0.0)
    meter.wru += consumed.get("wru", 0.0)
    if slim_aws.transport is None:  # else it ran in this very thread, whose time is counted already
        meter.cpu_started -= consumed.get("cpu", 0.0) / 1000
