"""Filters that clients upload once and then name by an ID.

Source: client-server API v1.19, "Filtering". A filter's ID is a hash of the filter: uploading the same one again,
as clients do at each start, gives the same ID and stores nothing.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from homeserver.matrix import unpadded_base64
from homeserver.matrix.canonical_json import NotCanonical, encode_lenient
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, NotFound, NotJson, TooLarge
from homeserver.matrix.filters import Filter, parse_filter
from homeserver.matrix.identifiers import is_opaque_identifier
from homeserver.services.access_tokens import Requester
from homeserver.storage import user_data

MAX_FILTER_BYTES = 64 * 1024
# 96 bits: no two filters of one user share an ID by chance, and nobody gains from making two of their own do so.
_ID_BYTES = 12


def create_filter(requester: Requester, user_id: str, definition: Mapping[str, Any]) -> str:
    """Store a filter of the requester and return its ID.

    Raises Forbidden for another user; BadJson or InvalidParam for what is no filter; TooLarge above 64 KiB.
    """
    _check_own(requester, user_id)
    parse_filter(definition)
    try:
        filter_json = encode_lenient(dict(definition))
    except NotCanonical as error:
        raise BadJson(f"The filter cannot be stored: {error}") from error
    if len(filter_json) > MAX_FILTER_BYTES:
        raise TooLarge(f"A filter has at most {MAX_FILTER_BYTES} bytes.")
    filter_id = unpadded_base64.encode_urlsafe(hashlib.sha256(filter_json).digest()[:_ID_BYTES])
    user_data.store_filter(user_id, filter_id, filter_json)
    return filter_id


def get_filter(requester: Requester, user_id: str, filter_id: str) -> bytes:
    """The JSON of an uploaded filter of the requester. Raises Forbidden, or NotFound for an unknown ID."""
    _check_own(requester, user_id)
    filter_json = user_data.load_filter(user_id, filter_id) if is_opaque_identifier(filter_id) else None
    if filter_json is None:
        raise NotFound("There is no such filter.")
    return filter_json


def load_filter(user_id: str, text_or_id: str) -> Filter:
    """The filter that a request names: JSON where the text begins with `{`, else the ID of an uploaded filter.

    Raises NotJson or BadJson for JSON that is no filter, InvalidParam for an ID that is unknown.
    """
    if text_or_id.startswith("{"):
        return _inline_filter(text_or_id)
    return _stored_filter(user_id, text_or_id)


@lru_cache(maxsize=256)
def _inline_filter(text: str) -> Filter:
    try:
        definition = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotJson(f"The filter is not JSON: {error}") from error
    return parse_filter(definition)


@lru_cache(maxsize=1024)  # an ID always names the same filter; failures are not kept
def _stored_filter(user_id: str, filter_id: str) -> Filter:
    filter_json = user_data.load_filter(user_id, filter_id) if is_opaque_identifier(filter_id) else None
    if filter_json is None:
        raise InvalidParam("There is no such filter.")
    return parse_filter(orjson.loads(filter_json))


def _check_own(requester: Requester, user_id: str) -> None:
    if requester.user_id != user_id:
        raise Forbidden("A user has access to their own filters only.")
