"""What this server says of itself to somebody who knows nothing but its address.

Source: client-server API v1.19, "API Versions", "Server Discovery", "Server administrator contact".
"""

from typing import Any

from homeserver.matrix.errors import NotFound
from homeserver.matrix.identifiers import is_server_name, is_user_id
from homeserver.settings import settings
from homeserver.storage.server import load_identity

# v1.1 is the release at whose paths a conversation is served here: accounts, profiles, account data, filters, rooms,
# history, /sync. Modules beyond that (media, end-to-end encryption, push, receipts, ...) answer M_UNRECOGNIZED until
# they work, and each later release makes some of them, or changes to them, mandatory: so no later one is listed.
# The r0 releases are not listed either: their paths are served for clients that still use them, and nobody has checked
# them against those releases.
VERSIONS = ("v1.1",)

# What works although its release is not listed: profile fields of any name.
UNSTABLE_FEATURES = {"uk.tcpip.msc4133.stable": True}


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


def server_information() -> dict[str, Any]:
    """The body of `/.well-known/matrix/server`. Raises NotFound: other servers find nothing to talk to here."""
    raise NotFound("This server does not take part in federation.")


def support_information(admin_contact: str) -> dict[str, Any]:
    """The body of `/.well-known/matrix/support`, from an e-mail address or a Matrix user ID.

    Raises NotFound if the operator set none.
    """
    if not admin_contact:
        raise NotFound("The operator of this server has not published a contact.")
    kind = "matrix_id" if is_user_id(admin_contact) else "email_address"
    return {"contacts": [{kind: admin_contact, "role": "m.role.admin"}]}
