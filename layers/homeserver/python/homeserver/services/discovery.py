"""What this server says of itself to somebody who knows nothing but its address.

Source: client-server API v1.19, "API Versions", "Server Discovery", "Server administrator contact".
"""

from typing import Any
from urllib.parse import urlsplit

from homeserver import __version__
from homeserver.matrix.errors import NotFound
from homeserver.matrix.identifiers import is_server_name, is_user_id
from homeserver.matrix.server_discovery import parse_server_name
from homeserver.settings import settings
from homeserver.storage.server import load_identity

# v1.1 is the release at whose paths a conversation is served here: accounts, profiles, account data, filters, rooms,
# history, /sync. Modules beyond that (media, end-to-end encryption, push, receipts, ...) answer M_UNRECOGNIZED until
# they work, and each later release makes some of them, or changes to them, mandatory: so no later one is listed.
# The r0 releases are not listed either: their paths are served for clients that still use them, and nobody has checked
# them against those releases.
VERSIONS = ("v1.1",)

# What works although its release is not listed: profile fields of any name, private read receipts and the markers that
# may come with them, receipts for threads, mutual rooms, threads, relations of relations, filters by
# the type of relation.
UNSTABLE_FEATURES = {
    "uk.tcpip.msc4133.stable": True,
    "org.matrix.msc2285.stable": True,
    "org.matrix.msc3771": True,
    "org.matrix.msc3440.stable": True,
    "org.matrix.msc3981": True,
    "org.matrix.msc3874": True,
    "uk.half-shot.msc2666.query_mutual_rooms": True,
    "uk.half-shot.msc2666.query_mutual_rooms.stable": True,
    "org.eigenserver.legacy_v1": True,  # the client API of 2014, docs/legacy.md
}


def versions() -> dict[str, Any]:
    """The body of `GET /_matrix/client/versions`."""
    return {"versions": list(VERSIONS), "unstable_features": dict(UNSTABLE_FEATURES)}


def server_name() -> str:
    """The name this server was given at its set-up; empty as long as it has none."""
    known = load_identity()
    return known.server_name if known is not None else ""


def base_url(scheme: str, host: str) -> str:
    """Where clients reach this server: what the operator set, else the address that was asked.

    Raises NotFound for a request that names no usable host: then there is nothing true to say.
    """
    if settings().public_base_url:
        return settings().public_base_url
    if scheme not in ("http", "https") or not is_server_name(host):
        raise NotFound("This server does not know the address it is reached at.")
    return f"{scheme}://{host}"


def client_information(scheme: str, host: str) -> dict[str, Any]:
    """The body of `/.well-known/matrix/client`. Raises as `base_url` does."""
    return {"m.homeserver": {"base_url": base_url(scheme, host)}}


def server_information(scheme: str, host: str) -> dict[str, Any]:
    """The body of `/.well-known/matrix/server`: where other servers reach this one, with its port.

    That is at the public base URL or the API's domain, if the operator set one, else at the address that was asked.
    Raises NotFound where federation is off, and for a request at an address that other servers cannot use.
    """
    if not settings().federation:
        raise NotFound("This server does not take part in federation.")
    if settings().api_domain:
        return {"m.server": f"{settings().api_domain}:443"}
    if settings().public_base_url:
        scheme, host = urlsplit(settings().public_base_url)[:2]
    try:
        name = parse_server_name(host)
    except ValueError:
        name = None
    if scheme != "https" or name is None:
        raise NotFound("Other servers do not reach this one at this address.")
    return {"m.server": name.text if name.port else f"{name.text}:443"}


def software() -> dict[str, Any]:
    """The body of `GET /_matrix/federation/v1/version`."""
    return {"server": {"name": "Eigenserver", "version": __version__}}


def support_information(admin_contact: str) -> dict[str, Any]:
    """The body of `/.well-known/matrix/support`, from an e-mail address or a Matrix user ID.

    Raises NotFound if the operator set none.
    """
    if not admin_contact:
        raise NotFound("The operator of this server has not published a contact.")
    kind = "matrix_id" if is_user_id(admin_contact) else "email_address"
    return {"contacts": [{kind: admin_contact, "role": "m.role.admin"}]}
