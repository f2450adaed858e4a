"""Keeping the index of the user directory as profiles are.

Source: client-server API v1.19, "User Directory".
"""

from collections.abc import Mapping
from typing import Any

from homeserver.services.attempts import attempts
from homeserver.storage.user_index import IndexedUser, remove_user, replace_user


def index_user(user_id: str, profile: Mapping[str, Any]) -> None:
    """Let the directory show a user with this profile, or with the profile of a membership event.

    Repeating it changes nothing. Raises LimitExceeded when others keep changing the same user.
    """
    for _ in attempts("The user directory"):
        if replace_user(IndexedUser.of(user_id, profile)):
            return


def forget_user(user_id: str) -> None:
    """Take a user out of the directory, for ever. Raises as `index_user` does."""
    for _ in attempts("The user directory"):
        if remove_user(user_id):
            return
