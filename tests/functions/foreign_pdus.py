"""PDUs as other servers send them, right or wrong, and keys of servers that nobody needs to ask."""

from collections.abc import Iterable, Mapping
from typing import Any

from homeserver.matrix.hashes import content_hash
from homeserver.matrix.room_versions import V1, V3, RoomVersionRules
from homeserver.matrix.server_keys import WEEK_MS, VerifyKey
from homeserver.matrix.signing import SigningKey, sign_event
from homeserver.services.clock import now_ms
from homeserver.services.server_keys import forget_keys
from homeserver.storage.server_keys import KnownKeys, load_keys, store_keys

REMOTE = "remote.test"
KEY = SigningKey.generate("r1", bytes(range(1, 33)))  # of RemoteServer
OTHER_KEY = SigningKey.generate("r1", b"x" * 32)  # the same ID, and another key
ROOM = "!room:remote.test"
HASH_ROOM = "!" + "A" * 43


def know_keys(
    server: str, *keys: SigningKey, valid_until: int | None = None, expired: int | None = None, failures: int = 0
) -> None:
    """Let the server under test know another one's keys, as if it had just told them; or that it does not answer."""
    now = now_ms()
    until = now + WEEK_MS if valid_until is None else valid_until
    known = {key.key_id: VerifyKey(key.verify_key, expired or until, expired) for key in keys}
    retry = now + 60_000 if failures else 0
    assert store_keys(server, load_keys(server), KnownKeys(known, 0 if failures else now, failures, retry))
    forget_keys()


def edge(rules: RoomVersionRules, name: str) -> Any:
    """An edge to an event that does not exist."""
    if rules.hashed_edges:
        return [f"${name}:{REMOTE}", {"sha256": "A" * 43}]
    return "$" + name.ljust(43, "x")


def unsigned_pdu(rules: RoomVersionRules, **change: Any) -> dict[str, Any]:
    """A message of this room version, well formed, with its content hash. A change of None takes a field away."""
    pdu: dict[str, Any] = {
        "type": "m.room.message",
        "sender": f"@carol:{REMOTE}",
        "room_id": HASH_ROOM if rules.room_id_is_create_hash else ROOM,
        "content": {"msgtype": "m.text", "body": "hello"},
        "origin_server_ts": now_ms() - 1000,
        "depth": 5,
        "prev_events": [edge(rules, "before")],
        "auth_events": [edge(rules, "create")],
    }
    if rules.hashed_edges:
        pdu["event_id"] = f"$e1:{REMOTE}"
    pdu |= change
    pdu = {key: value for key, value in pdu.items() if value is not None}
    pdu.setdefault("signatures", {})
    pdu["hashes"] = {"sha256": content_hash(pdu, V1 if not rules.strict_canonical_json else V3)}
    return pdu


def signed_pdu(
    rules: RoomVersionRules,
    *,
    by: Mapping[str, SigningKey] | Iterable[tuple[str, SigningKey]] = ((REMOTE, KEY),),
    **change: Any,
) -> dict[str, Any]:
    """The same with signatures: of the server of its sender, or of those named in `by`."""
    pdu = unsigned_pdu(rules, **change)
    for server, key in by.items() if isinstance(by, Mapping) else by:
        pdu = sign_event(pdu, rules, server, key)
    return pdu
