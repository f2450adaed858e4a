"""Profiles: one item a user, which exists from registration on, also while no field is set.

All fields lie in one attribute, so that the limit of the whole profile is exact; a version keeps two changes at the
same time from losing one.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.exceptions import UpdateError
from pynamodb.expressions.update import Action

from homeserver.matrix.canonical_json import encode_lenient
from homeserver.settings import table_name
from homeserver.storage.connection import Item, Transaction

FORMAT = 1


class Profile(Item):
    """The profile of a local user. `packed` is the JSON object of its fields; `version` counts its changes."""

    class Meta:
        table_name = table_name("PROFILES")

    user = UnicodeAttribute(hash_key=True)
    f = NumberAttribute(default=FORMAT)
    version = NumberAttribute(attr_name="v")
    packed = BinaryAttribute(attr_name="j", legacy_encoding=False)


def profile_fields(profile: Profile | None) -> dict[str, Any]:
    """The fields of a profile by their names; empty for a user who has none, or who does not exist."""
    return dict(orjson.loads(profile.packed)) if profile is not None else {}


def pack_fields(fields: Mapping[str, Any]) -> bytes:
    """The fields as they are stored, and measured. Raises NotCanonical for more than 200 levels."""
    return encode_lenient(dict(fields))


def create_profile(transaction: Transaction, user_id: str, displayname: str | None) -> None:
    """Add a new user's profile to the transaction that creates the account; its label is `profile`."""
    fields = {} if displayname is None else {"displayname": displayname}
    transaction.put("profile", Profile(user_id, version=1, packed=pack_fields(fields)))


def replace_fields(before: Profile, packed: bytes) -> bool:
    """Store other fields, if the profile is still what `before` was read as. False if it has changed since."""
    version = int(before.version)
    actions: list[Action] = [Profile.version.set(version + 1), Profile.packed.set(packed)]
    try:
        Profile(before.user).update(actions, Profile.version == version)
    except UpdateError as error:
        if error.cause_response_code != "ConditionalCheckFailedException":
            raise
        return False
    return True
