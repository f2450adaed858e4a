"""The keys that other servers sign with, and this server's own, as others ask for them.

Source: Matrix v1.19, server-server API, "Retrieving server keys"; "Signing key validity period" of room version 5.

A server is asked when none of the wanted keys is known and counts; then, if it does not answer, those that the operator
trusts (`TRUSTED_KEY_SERVERS`). Who does not answer is left alone for a while, which grows from 5 seconds to an hour.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any

from homeserver.adapters.federation_http import FederationClient, FederationError
from homeserver.adapters.signing_key import signing_key, signing_keys
from homeserver.matrix.canonical_json import encode_canonical
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.identifiers import is_server_name
from homeserver.matrix.room_versions import RoomVersionRules
from homeserver.matrix.server_keys import VerifyKey, published_keys, read_published_keys, with_hearsay, with_news
from homeserver.matrix.signing import sign_json, verify_signed_json
from homeserver.observability import log
from homeserver.services.clock import now_ms
from homeserver.settings import settings
from homeserver.storage import server_keys as stored
from homeserver.storage.server_keys import KnownKeys, StoredAnswer

_FRESH_S = 300.0  # what a process remembers of the table
_MOST_REMEMBERED = 4096
_FETCH_S = 8.0
_MOST_ANSWER_BYTES = 32 * 1024
_REPEAT_MS = 30_000  # a server that answered is not asked again sooner, whatever it signs with
_FIRST_RETRY_MS, _LAST_RETRY_MS = 5_000, 3_600_000
_WRITE_TRIES = 3
_MOST_FETCHES = 20  # for one question of another server
_AT_ONCE = 8

_known: dict[str, tuple[float, KnownKeys]] = {}  # by server: when it was read (monotonic seconds), and what
_asking: dict[str, threading.Lock] = {}
_asking_lock = threading.Lock()


def verify_keys(
    server_name: str, key_ids: Iterable[str], *, valid_at_ms: int, rules: RoomVersionRules | None
) -> dict[str, bytes]:
    """Those of a server's keys, 32 bytes each by ID, that count for a signature of this time (milliseconds).

    `rules` are those of the event's room; None is for requests, where validity is always enforced. May ask the server,
    if none of the keys is known and counts, which takes seconds. Empty where no key can be had.
    """
    wanted = set(key_ids)
    if not wanted or not is_server_name(server_name):
        return {}
    enforce = rules is None or rules.enforce_key_validity

    def counting(keys: Mapping[str, VerifyKey]) -> dict[str, bytes]:
        return {
            key_id: keys[key_id].key
            for key_id in wanted & keys.keys()
            if keys[key_id].counts_at(valid_at_ms, enforce_validity=enforce)
        }

    if server_name == settings().server_name:
        return counting(_own_keys())
    if found := counting(_remembered(server_name).keys):
        return found
    with _one_at_a_time(server_name):
        # Somebody else may have asked while this one waited.
        known = stored.load_keys(server_name)
        _remember(server_name, known)
        if found := counting(known.keys):
            return found
        asked = _ask(server_name, known)
        found = counting(asked.keys)
        if not found and asked != known:
            found = counting(_ask_notaries(server_name, asked, wanted, valid_at_ms).keys)
        return found


def forget_keys() -> None:
    """Read the table again for whatever is asked next."""
    _known.clear()


# ── Asking ──────────────────────────────────────────────────────────────────────────────────────────


def _ask(server_name: str, known: KnownKeys) -> KnownKeys:
    """Ask a server for its keys, unless it is to be left alone; what is known afterwards."""
    now = now_ms()
    if now < max(known.retry_ms, known.fetched_ms + _REPEAT_MS if known.fetched_ms else 0):
        return known
    try:
        _, answer = FederationClient().request(
            "GET", server_name, "/_matrix/key/v2/server", timeout_s=_FETCH_S, max_bytes=_MOST_ANSWER_BYTES, signed=False
        )
        news = read_published_keys(answer, server_name, now_ms=now)
    except (FederationError, MatrixError) as error:
        log.info("no keys of %s: %s", server_name, error)
        return _store_failure(server_name, known, now)
    return _store_news(server_name, known, news, answer, now)


def _ask_notaries(server_name: str, known: KnownKeys, wanted: set[str], valid_at_ms: int) -> KnownKeys:
    """Ask those whom the operator trusts about keys that the server itself does not tell; what is known afterwards."""
    criteria = {key_id: {"minimum_valid_until_ts": valid_at_ms} for key_id in wanted}
    for notary in settings().trusted_key_servers:
        if notary in {server_name, settings().server_name}:
            continue
        now = now_ms()
        try:
            _, body = FederationClient().request(
                "POST",
                notary,
                "/_matrix/key/v2/query",
                content={"server_keys": {server_name: criteria}},
                timeout_s=_FETCH_S,
                max_bytes=8 * _MOST_ANSWER_BYTES,
                signed=False,
            )
        except FederationError as error:
            log.info("no keys of %s from a notary: %s", server_name, error)
            continue
        answers = body.get("server_keys") if isinstance(body, dict) else None
        for answer in answers if isinstance(answers, list) else ():
            try:
                news = read_published_keys(answer, server_name, now_ms=now)
                _check_notary(answer, notary, now)
                if len(encode_canonical(answer)) > _MOST_ANSWER_BYTES:
                    continue
            except MatrixError as error:
                log.info("%s tells nothing usable about %s: %s", notary, server_name, error)
                continue
            known = _store_news(server_name, known, news, answer, now, told_by_itself=False)
            if wanted & news.keys():
                return known
    return known


def _check_notary(answer: Mapping[str, Any], notary: str, now: int) -> None:
    """Raise SignatureError unless a notary has signed what it tells, with a key that it publishes itself."""
    known = _ask(notary, _remembered(notary))
    keys = {key_id: key.key for key_id, key in known.keys.items() if key.counts_at(now, enforce_validity=True)}
    verify_signed_json(answer, notary, keys)


def _store_news(
    server_name: str,
    known: KnownKeys,
    news: Mapping[str, VerifyKey],
    answer: Mapping[str, Any],
    now: int,
    *,
    told_by_itself: bool = True,
) -> KnownKeys:
    stored.store_answer(server_name, answer, now)

    def change(before: KnownKeys) -> KnownKeys:
        if told_by_itself:
            return KnownKeys(with_news(before.keys, news), now)
        return replace(before, keys=with_hearsay(before.keys, news))

    return _written(server_name, known, change)


def _store_failure(server_name: str, known: KnownKeys, now: int) -> KnownKeys:
    def change(before: KnownKeys) -> KnownKeys:
        pause = min(_FIRST_RETRY_MS << min(before.failures, 16), _LAST_RETRY_MS)
        return replace(before, failures=before.failures + 1, retry_ms=now + pause)

    return _written(server_name, known, change)


def _written(server_name: str, before: KnownKeys, change: Callable[[KnownKeys], KnownKeys]) -> KnownKeys:
    after = change(before)
    for _ in range(_WRITE_TRIES):
        if stored.store_keys(server_name, before, after):
            break
        before = stored.load_keys(server_name)
        after = change(before)
    _remember(server_name, after)
    return after


def _one_at_a_time(server_name: str) -> threading.Lock:
    """A lock for this server in this process: many requests of a new server ask it once."""
    with _asking_lock:
        if len(_asking) >= _MOST_REMEMBERED:
            for name in [name for name, lock in _asking.items() if not lock.locked()]:
                del _asking[name]
        return _asking.setdefault(server_name, threading.Lock())


def _remembered(server_name: str) -> KnownKeys:
    read, known = _known.get(server_name, (0.0, None))
    if known is None or time.monotonic() - read > _FRESH_S:
        known = stored.load_keys(server_name)
        _remember(server_name, known)
    return known


def _remember(server_name: str, known: KnownKeys) -> None:
    if len(_known) >= _MOST_REMEMBERED:
        _known.clear()
    _known[server_name] = (time.monotonic(), known)


# ── Answering ───────────────────────────────────────────────────────────────────────────────────────


def own_answer() -> dict[str, Any]:
    """What this server publishes about its keys, signed; the same for an hour.

    Raises MatrixError (503) before the server was set up.
    """
    name, keys = settings().server_name, signing_keys()
    if not name:
        raise MatrixError("This server has no name yet.", status=503)
    return published_keys(name, keys.current, keys.old, now_ms=now_ms())


def seed_answer() -> dict[str, Any]:
    """The key in use as the draft of 2014 published it, signed; without the certificate, which is not this server's.

    To look at: no server of today asks for it. Raises MatrixError (503) before the server was set up.
    """
    published = own_answer()
    keys = {key_id: key["key"] for key_id, key in published["verify_keys"].items()}
    name = published["server_name"]
    return sign_json({"server_name": name, "verify_keys": keys}, name, signing_key())


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """What somebody wants to know of a server: these keys (none named: all it has), valid until this time at least."""

    key_ids: frozenset[str]
    minimum_valid_until_ts: int


def notary_answers(queries: Mapping[str, KeyQuery]) -> list[dict[str, Any]]:
    """What other servers published about their keys, signed by this one, too. `queries`: by server name.

    A stored answer that serves is given until half of its time is over; else the server is asked, at most twenty for
    one question. Who does not answer is answered for with what was stored, if anything was.
    """
    names = [name for name in queries if is_server_name(name) and name != settings().server_name]
    answers = stored.load_all(names)
    now = now_ms()
    stale = [name for name in names if not _serves(answers[name][1], queries[name], now)][:_MOST_FETCHES]
    if stale:
        with ThreadPoolExecutor(min(_AT_ONCE, len(stale))) as threads:
            # The meter of this request counts on in the threads.
            list(threads.map(lambda name, context: context.run(_refresh, name), stale, [copy_context() for _ in stale]))
        answers |= stored.load_all(stale)
    own = [own_answer()] if settings().server_name in queries else []
    key = signing_key()
    found = [answer.answer for name in names if (answer := answers[name][1]) is not None]
    return own + [sign_json(answer, settings().server_name, key) for answer in found]


def _refresh(server_name: str) -> None:
    with _one_at_a_time(server_name):
        _ask(server_name, stored.load_keys(server_name))


def _serves(answer: StoredAnswer | None, query: KeyQuery, now: int) -> bool:
    if answer is None:
        return False
    valid_until = answer.answer["valid_until_ts"]
    listed = answer.answer["verify_keys"].keys() | answer.answer.get("old_verify_keys", {}).keys()
    in_time: bool = valid_until >= query.minimum_valid_until_ts
    fresh = now < answer.fetched_ms + (valid_until - answer.fetched_ms) // 2
    return in_time and fresh and query.key_ids <= listed


def _own_keys() -> dict[str, VerifyKey]:
    keys = signing_keys()
    return {
        **{old.key_id: VerifyKey(old.key, old.expired_ts, old.expired_ts) for old in keys.old},
        keys.current.key_id: VerifyKey(keys.current.verify_key, 2**53),
    }
