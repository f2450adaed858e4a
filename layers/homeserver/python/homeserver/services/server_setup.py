"""The first start of a server, and every later one: its name, its signing key, the epoch of its store."""

import secrets
import string
from dataclasses import dataclass

from homeserver.adapters.signing_key import keep_signing_key
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.identifiers import is_server_name
from homeserver.matrix.signing import SigningKey
from homeserver.services.attempts import attempts
from homeserver.services.clock import now_ms
from homeserver.storage.server import Identity, load_identity, replace_identity

# A user ID has at most 255 bytes, "@", localpart and ":" included.
MAX_SERVER_NAME_BYTES = 230
_KEY_VERSION_LENGTH = 6
_SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class SetUp:
    """How the server stands after its set-up. `server_name` is empty as long as none has been chosen."""

    server_name: str
    epoch: int
    key_id: str


def set_up(server_name: str, *, generation: int = 1, key_generation: int = 1, unclean_start: bool = False) -> SetUp:
    """Fix the server's name, keep its signing key, and raise the epoch if the store may have lost something.

    `server_name` may be empty on a first deployment whose name only comes of it; once chosen it stands for ever,
    because it is in every user ID, event and signature. `generation` is a number that the operator raises with each
    restore of the tables; it and `unclean_start` (the local store was not saved) raise the epoch. `key_generation` is
    one that the operator raises for a new signing key. Safe to repeat.

    Raises InvalidParam for a malformed name and for any other name than the server has.
    """
    if server_name and not (is_server_name(server_name) and len(server_name) <= MAX_SERVER_NAME_BYTES):
        raise InvalidParam(
            f"{server_name!r} is not a server name: it is a host name or address, with a port if need be, "
            f"of at most {MAX_SERVER_NAME_BYTES} characters."
        )
    for _ in attempts("The set-up of this server"):
        before = load_identity()
        after = _next_identity(before, server_name, generation, unclean_start=unclean_start)
        if after == before or replace_identity(before, after):
            break
    candidate = SigningKey.generate(_key_version(), secrets.token_bytes(_SEED_BYTES))
    key = keep_signing_key(candidate, generation=key_generation, now_ms=now_ms())
    return SetUp(after.server_name, after.epoch, key.key_id)


def _next_identity(before: Identity | None, server_name: str, generation: int, *, unclean_start: bool) -> Identity:
    if before is None:
        return Identity(server_name, 1, generation)
    if before.server_name and server_name != before.server_name:
        raise InvalidParam(
            f"This server is {before.server_name} and cannot become {server_name or 'nameless'!r}: its name is in "
            f"every user ID, event and signature. Start it as {before.server_name}, or another one on an empty store."
        )
    epoch = before.epoch
    if generation > before.generation:
        # The restored table says what the epoch was when the backup was made; the operator's number has only grown
        # since. So two restores of the same backup do not end in the same epoch.
        epoch = max(epoch + 1, generation)
    elif unclean_start:
        epoch += 1
    return Identity(server_name, epoch, max(generation, before.generation))


def _key_version() -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(_KEY_VERSION_LENGTH))
