"""Devices and encryption keys of this server's users, for other servers.

Source: server-server API v1.19, "Device Management", "End-to-End Encryption".

Other servers are told of devices that have keys, as only to those one can encrypt. This server does not take keys from
its users yet, so there are none: no device has any, no user has cross-signing keys, no one-time key can be claimed.
The answers say so; they are complete.
"""

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.errors import BadJson, InvalidParam, NotFound, TooLarge
from homeserver.matrix.identifiers import domain_of, is_user_id
from homeserver.settings import settings
from homeserver.storage.profiles import Profile

MOST_USERS = 1000  # in one question


def devices_of(user_id: str) -> dict[str, Any]:
    """The body of `GET /user/devices/{userId}`.

    The version of a device list that never had a device with keys is 0. Raises InvalidParam for a user of another
    server, NotFound for an unknown one.
    """
    _check_local(user_id)
    if Profile.fetch(user_id) is None:  # which everybody has from registration to deactivation
        raise NotFound("There is no such user.")
    return {"user_id": user_id, "stream_id": 0, "devices": []}


def query_keys(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `POST /user/keys/query`; `wanted` has a list of device IDs by user, empty for all devices.

    Raises BadJson for anything else, InvalidParam for users of other servers, TooLarge.
    """
    for user_id, device_ids in _checked(wanted).items():
        if not isinstance(device_ids, list) or not all(isinstance(device_id, str) for device_id in device_ids):
            raise BadJson(f"The devices of {user_id} must be an array of strings.")
    return {"device_keys": {user_id: {} for user_id in wanted}}


def claim_keys(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `POST /user/keys/claim`; `wanted` has algorithms by user and device. Raises as `query_keys` does."""
    for user_id, algorithms in _checked(wanted).items():
        if not isinstance(algorithms, dict) or not all(isinstance(name, str) for name in algorithms.values()):
            raise BadJson(f"What is claimed of {user_id} must be an object of strings.")
    return {"one_time_keys": {}}


def _checked(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(wanted) > MOST_USERS:
        raise TooLarge(f"One question may be about {MOST_USERS} users.")
    for user_id in wanted:
        _check_local(user_id)
    return wanted


def _check_local(user_id: str) -> None:
    if not is_user_id(user_id):
        raise InvalidParam("This is not a user ID.")
    if domain_of(user_id) != settings().server_name:
        raise InvalidParam("This server answers for its own users only.")
