"""Signing keys of other servers: the table SERVER_KEYS.

Two items a server: `keys` is what a signature is checked with, `answer` is what the server last published, word for
word, for servers that ask this one about it. The answer is written first. Both may be forgotten: they can be asked for
again, as long as the server is there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import PutError
from pynamodb.expressions.condition import Condition

from homeserver.matrix import unpadded_base64
from homeserver.matrix.server_keys import VerifyKey
from homeserver.settings import table_name
from homeserver.storage.connection import Item, Key, batch_get

FORMAT = 1
_KEYS, _ANSWER = "keys", "answer"
# Old events are checked with old keys, also of servers that are gone; what failed is soon forgotten.
_KEPT_S = 2 * 365 * 24 * 3600
_FAILURE_KEPT_S = 24 * 3600


class ServerKeysItem(Item):
    """An item of either kind. Times in milliseconds, `expires` in seconds."""

    class Meta:
        table_name = table_name("SERVER_KEYS")

    server = UnicodeAttribute(hash_key=True)
    k = UnicodeAttribute(range_key=True)
    f = NumberAttribute(default=FORMAT)
    keys = JSONAttribute(null=True)  # {key ID: [base64, valid until, expired or null]}
    answer = BinaryAttribute(legacy_encoding=False, null=True)
    fetched = NumberAttribute(default=0)
    failures = NumberAttribute(default=0)
    retry = NumberAttribute(default=0)
    expires = NumberAttribute()


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """What is known of one server's keys.

    `fetched_ms`: when it last told, or somebody for it; 0 for never. `failures`: tries in vain since then, after which
    it is left alone until `retry_ms`.
    """

    keys: Mapping[str, VerifyKey] = field(default_factory=dict)
    fetched_ms: int = 0
    failures: int = 0
    retry_ms: int = 0


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What a server published, and when that was read (milliseconds)."""

    answer: dict[str, Any]
    fetched_ms: int


def load_keys(server: str) -> KnownKeys:
    """What is known of a server's keys; one read of half a unit to eight of them."""
    return _known(ServerKeysItem.fetch(server, _KEYS, consistent=False))


def load_all(servers: Iterable[str]) -> dict[str, tuple[KnownKeys, StoredAnswer | None]]:
    """Keys and answers of several servers, in one round for each fifty."""
    names = list(servers)
    wanted: list[Key] = [(ServerKeysItem, server, k) for server in names for k in (_KEYS, _ANSWER)]
    found = batch_get(wanted, consistent=False) if wanted else {}
    return {
        server: (
            _known(found.get((ServerKeysItem, server, _KEYS))),
            _answer(found.get((ServerKeysItem, server, _ANSWER))),
        )
        for server in names
    }


def store_keys(server: str, before: KnownKeys, after: KnownKeys) -> bool:
    """Write what is known now, if nobody has written since `before` was read. False if somebody has."""
    kept = _KEPT_S if after.keys else _FAILURE_KEPT_S
    item = ServerKeysItem(
        server,
        _KEYS,
        keys={
            key_id: [unpadded_base64.encode(key.key), key.valid_until_ts, key.expired_ts]
            for key_id, key in after.keys.items()
        },
        fetched=after.fetched_ms,
        failures=after.failures,
        retry=after.retry_ms,
        expires=max(after.fetched_ms, after.retry_ms) // 1000 + kept,
    )
    same: Condition = (ServerKeysItem.fetched == before.fetched_ms) & (ServerKeysItem.retry == before.retry_ms)
    try:
        item.save(ServerKeysItem.server.does_not_exist() | same)
    except PutError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True


def store_answer(server: str, answer: Mapping[str, Any], fetched_ms: int) -> None:
    """Keep what a server published."""
    ServerKeysItem(
        server, _ANSWER, answer=orjson.dumps(dict(answer)), fetched=fetched_ms, expires=fetched_ms // 1000 + _KEPT_S
    ).save()


def _known(item: ServerKeysItem | None) -> KnownKeys:
    if item is None:
        return KnownKeys()
    keys = {
        key_id: VerifyKey(unpadded_base64.decode(key), valid_until, expired)
        for key_id, (key, valid_until, expired) in (item.keys or {}).items()
    }
    return KnownKeys(keys, int(item.fetched), int(item.failures), int(item.retry))


def _answer(item: ServerKeysItem | None) -> StoredAnswer | None:
    return StoredAnswer(orjson.loads(item.answer), int(item.fetched)) if item is not None and item.answer else None
