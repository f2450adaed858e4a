"""Profiles: who a user says they are.

Source: client-server API v1.19, "Profiles" (custom fields since v1.16).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from homeserver.adapters.federation_http import FederationClient, FederationError, HttpError, federation_path
from homeserver.matrix.canonical_json import NotCanonical
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, MatrixError, MissingParam, NotFound, TooLarge
from homeserver.matrix.identifiers import domain_of, is_namespaced_identifier, is_user_id, parse_mxc_uri
from homeserver.services import membership
from homeserver.services.access_tokens import Requester
from homeserver.services.attempts import attempts
from homeserver.services.remembered_answers import RememberedAnswers
from homeserver.services.user_index import index_user
from homeserver.settings import settings
from homeserver.storage import profiles
from homeserver.storage.profiles import Profile, profile_fields

MAX_KEY_BYTES = 255
MAX_PROFILE_BYTES = 64 * 1024 - 1  # "under 64 KiB"
# Both are copied into the membership event of every joined room, where 65,536 bytes have to hold everything.
MAX_DISPLAYNAME_BYTES = 1024
MAX_AVATAR_URL_BYTES = 1024

_ELSEWHERE_S = 10.0  # for the server of another user to answer

_REMEMBERED_S = 60.0
_REMEMBERED_BYTES = 4 * 1024 * 1024
_LEAST_BYTES = 300

SHOWN_IN_ROOMS = ("displayname", "avatar_url")
# An avatar that a client of the 2014 draft took from the web. It is shown to such clients while there is no avatar_url.
WEB_AVATAR = "org.eigenserver.avatar_url"


@dataclass(frozen=True, slots=True)
class _Told:
    """What another server says of a user; None: there is no such user."""

    fields: Mapping[str, Any] | None


_remembered: RememberedAnswers[_Told] = RememberedAnswers(seconds=_REMEMBERED_S, most_bytes=_REMEMBERED_BYTES)


def forget_profiles() -> None:
    """Forget the profiles that other servers told."""
    _remembered.clear()


def get_profile(user_id: str, *, ask_others: bool = False) -> dict[str, Any]:
    """All fields of a user's profile; with `ask_others` also of a user of another server, which is asked for it.

    Raises InvalidParam for what is no user ID, NotFound for an unknown user, MatrixError (502) where the other server
    does not answer.
    """
    if not is_user_id(user_id):
        raise InvalidParam("This is not a user ID.")
    if domain_of(user_id) != settings().server_name:
        if not ask_others or not settings().federation:
            raise NotFound("This server knows the profiles of its own users only.")
        return _profile_elsewhere(user_id)
    profile = Profile.fetch(user_id)
    if profile is None:
        raise NotFound("There is no such user.")
    return profile_fields(profile)


def _profile_elsewhere(user_id: str) -> dict[str, Any]:
    """The fields, at most a minute old; so is it that there is no such user."""
    known = _remembered.get(user_id)
    if known is None:
        known = _asked_for(user_id)
        _remembered.put(user_id, known, _LEAST_BYTES + len(str(known)))
    if known.fields is None:
        raise NotFound("There is no such user.")
    return dict(known.fields)


def _asked_for(user_id: str) -> "_Told":
    try:
        _, fields = FederationClient().request(
            "GET",
            domain_of(user_id),
            federation_path("v1", "query", "profile"),
            {"user_id": user_id},
            timeout_s=_ELSEWHERE_S,
            max_bytes=2 * MAX_PROFILE_BYTES,
        )
    except HttpError as error:
        if error.status == 404:
            return _Told(None)
        raise MatrixError("The user's server does not tell the profile.", status=502) from error
    except FederationError as error:
        raise MatrixError("The user's server does not answer.", status=502) from error
    if not isinstance(fields, dict):
        raise MatrixError("The user's server does not tell a profile.", status=502)
    # Null is how some servers say that a field is not set.
    return _Told({name: value for name, value in fields.items() if value is not None})


def get_profile_field(user_id: str, key_name: str, *, ask_others: bool = False) -> Any:
    """One field. Raises as `get_profile` does, and NotFound for a field that is not set."""
    fields = get_profile(user_id, ask_others=ask_others)
    if key_name not in fields:
        raise NotFound("The profile has no such field.")
    return fields[key_name]


def get_draft_profile(user_id: str, *, ask_others: bool = False) -> dict[str, Any]:
    """All fields of a profile as the 2014 draft has them: with an avatar from the web. Raises as `get_profile`."""
    fields = get_profile(user_id, ask_others=ask_others)
    web = fields.pop(WEB_AVATAR, None)
    return {"avatar_url": web, **fields} if isinstance(web, str) else fields


def get_draft_profile_field(user_id: str, key_name: str, *, ask_others: bool = False) -> Any:
    """One of these fields. Raises as `get_profile_field`."""
    fields = get_draft_profile(user_id, ask_others=ask_others)
    if key_name not in fields:
        raise NotFound("The profile has no such field.")
    return fields[key_name]


def set_profile_field(requester: Requester, user_id: str, key_name: str, body: Mapping[str, Any]) -> None:
    """Set a field of the requester's own profile to `body[key_name]`, and tell the joined rooms if they show it.

    Raises Forbidden for another user's profile, InvalidParam or `M_KEY_TOO_LARGE` for a name that no field can have,
    MissingParam or BadJson for a body that does not fit, TooLarge for a display name or avatar URL above 1 KiB,
    `M_PROFILE_TOO_LARGE` when the profile would reach 64 KiB, NotFound when the account is gone.
    """
    _check_own(requester, user_id)
    _check_key(key_name)
    if key_name not in body:
        raise MissingParam(f"{key_name} is required.")
    if len(body) > 1:
        raise BadJson(f"The body must have the property {key_name} and no other.")
    value = body[key_name]
    _check_value(key_name, value)
    if key_name in SHOWN_IN_ROOMS and value == "":
        # How clients take their name or picture away since long before there was a DELETE.
        _change(user_id, lambda fields: _without(fields, key_name), key_name)
    else:
        _change(user_id, lambda fields: {**fields, key_name: value}, key_name)


def set_avatar_anywhere(requester: Requester, user_id: str, avatar_url: str) -> None:
    """Set the requester's avatar as the 2014 draft knows it: an mxc:// URI, or an http(s) URL, which is kept verbatim.

    Clients of today know no avatars from the web: for them there is none then, until one of theirs takes its place.
    Raises as `set_profile_field` does.
    """
    _check_own(requester, user_id)
    is_web = avatar_url.startswith(("http://", "https://"))
    if is_web and len(avatar_url.encode()) > MAX_AVATAR_URL_BYTES:
        raise TooLarge(f"An avatar URL has at most {MAX_AVATAR_URL_BYTES} bytes.")
    if not is_web:
        _check_value("avatar_url", avatar_url)
    name = WEB_AVATAR if is_web else "avatar_url"

    def change(fields: dict[str, Any]) -> dict[str, Any]:
        others = _without(_without(fields, WEB_AVATAR), "avatar_url")
        return {**others, name: avatar_url} if avatar_url else others

    _change(user_id, change, "avatar_url")


def delete_profile_field(requester: Requester, user_id: str, key_name: str) -> None:
    """Remove a field of the requester's own profile, if it is set. Raises as `set_profile_field` does."""
    _check_own(requester, user_id)
    _check_key(key_name)
    _change(user_id, lambda fields: _without(fields, key_name), key_name)


def _without(fields: dict[str, Any], key_name: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != key_name}


def _check_own(requester: Requester, user_id: str) -> None:
    if requester.user_id != user_id:
        raise Forbidden("A user can change their own profile only.")


def _check_key(key_name: str) -> None:
    if len(key_name.encode()) > MAX_KEY_BYTES:
        raise MatrixError("The name of a profile field has at most 255 bytes.", errcode="M_KEY_TOO_LARGE")
    # The grammar itself would allow names without a dot. A namespace is what tells custom fields apart, so only the
    # specification's own two names do without.
    if key_name not in SHOWN_IN_ROOMS and not (is_namespaced_identifier(key_name) and "." in key_name.strip(".")):
        raise InvalidParam("The name of a profile field is displayname, avatar_url or a namespaced identifier.")


def _check_value(key_name: str, value: Any) -> None:
    if key_name in ("displayname", "avatar_url", "m.tz") and not isinstance(value, str):
        raise BadJson(f"{key_name} must be a string.")
    if key_name == "displayname" and len(value.encode()) > MAX_DISPLAYNAME_BYTES:
        raise TooLarge(f"A display name has at most {MAX_DISPLAYNAME_BYTES} bytes.")
    if key_name == "avatar_url" and value:
        if len(value.encode()) > MAX_AVATAR_URL_BYTES:
            raise TooLarge(f"An avatar URL has at most {MAX_AVATAR_URL_BYTES} bytes.")
        if parse_mxc_uri(value) is None:
            raise BadJson("avatar_url must be an mxc:// URI.")


def _change(user_id: str, change: Callable[[dict[str, Any]], dict[str, Any]], key_name: str) -> None:
    for _ in attempts("The profile"):
        before = Profile.fetch(user_id)
        if before is None:  # deactivated meanwhile: a profile exists from registration on
            raise NotFound("There is no such user.")
        fields = change(profile_fields(before))
        packed = _pack(fields)
        if packed == before.packed or profiles.replace_fields(before, packed):
            break
    if key_name in SHOWN_IN_ROOMS:
        # Also when nothing changed: an earlier try may have stored the field and stopped before it told the rooms.
        _tell_rooms(user_id, fields)


def _pack(fields: Mapping[str, Any]) -> bytes:
    try:
        packed = profiles.pack_fields(fields)
    except NotCanonical as error:
        raise BadJson(f"The value cannot be stored: {error}") from error
    if len(packed) > MAX_PROFILE_BYTES:
        raise MatrixError("The profile would reach 64 KiB.", errcode="M_PROFILE_TOO_LARGE")
    return packed


def _tell_rooms(user_id: str, fields: dict[str, Any]) -> None:
    # Two changes at the same time may tell the rooms in another order than they were stored in: whoever comes last
    # looks again, and corrects what the rooms were told.
    for _ in attempts("The profile"):
        index_user(user_id, fields)
        membership.update_profile_in_rooms(user_id, fields)
        now = profile_fields(Profile.fetch(user_id))
        if all(now.get(name) == fields.get(name) for name in SHOWN_IN_ROOMS):
            return
        fields = now
