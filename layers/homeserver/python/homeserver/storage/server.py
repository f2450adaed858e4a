"""The server's identity: the item `identity` of the server table, fixed at first start.

The epoch tells sync tokens of this store from those of an earlier life of it (a restored backup, an unclean local
start), in which positions may have meant something else.
"""

import time
from dataclasses import dataclass

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from homeserver.matrix.errors import MatrixError
from homeserver.settings import table_name
from homeserver.storage.connection import Item

IDENTITY = "identity"
FORMAT = 1
# A warm function learns of a new epoch within this time; the read costs one unit a minute.
_FRESH_S = 60.0


class IdentityItem(Item):
    """`server_name` is absent until the operator has chosen one; `generation` is the last restore that was seen.

    `services.sync_wait` reads `epoch` without this model.
    """

    class Meta:
        table_name = table_name("SERVER")

    k = UnicodeAttribute(hash_key=True)
    f = NumberAttribute(default=FORMAT)
    server_name = UnicodeAttribute(null=True)
    epoch = NumberAttribute()
    generation = NumberAttribute()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this server is. `server_name` is empty until it has been chosen; `epoch` counts from 1."""

    server_name: str
    epoch: int
    generation: int


_known: dict[str, tuple[float, Identity]] = {}  # by table: when it was read (monotonic seconds), and what it was


def load_identity() -> Identity | None:
    """The identity as it is now, or None before the first start."""
    item = IdentityItem.fetch(IDENTITY)
    if item is None:
        return None
    return Identity(item.server_name or "", int(item.epoch), int(item.generation))


def identity(*, refresh: bool = False) -> Identity:
    """The identity, at most a minute old, or with `refresh` as it is now.

    Raises MatrixError (503) before the first start.
    """
    table = IdentityItem.Meta.table_name
    now = time.monotonic()
    if not refresh and table in _known and now - _known[table][0] < _FRESH_S:
        return _known[table][1]
    current = load_identity()
    if current is None:
        raise MatrixError("This server has not been set up yet.", status=503)
    _known[table] = (now, current)
    return current


def forget_identity() -> None:
    """Read the identity again when it is asked for next."""
    _known.clear()


def replace_identity(before: Identity | None, after: Identity) -> bool:
    """Write the identity, if it is still what `before` was read as. False if it has changed since."""
    name, epoch, generation = IdentityItem.server_name, IdentityItem.epoch, IdentityItem.generation
    actions: list[Action] = [epoch.set(after.epoch), generation.set(after.generation)]
    if after.server_name:
        actions.append(name.set(after.server_name))
    if before is None:
        actions.append(IdentityItem.f.set(FORMAT))
        unchanged: Condition = IdentityItem.k.does_not_exist()
    else:
        same_name: Condition = name == before.server_name if before.server_name else name.does_not_exist()
        unchanged = same_name & (epoch == before.epoch) & (generation == before.generation)
    try:
        IdentityItem(IDENTITY).update(actions, unchanged)
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    forget_identity()
    return True
