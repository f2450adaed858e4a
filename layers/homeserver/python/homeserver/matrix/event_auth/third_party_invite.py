"""Rule M4: an invitation that redeems one made to a third-party identifier, such as a mail address.

Source: the rule on `m.room.member` in the room versions' authorisation rules; client-server API v1.19,
"m.room.third_party_invite".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

from homeserver.matrix import unpadded_base64
from homeserver.matrix.errors import AuthRuleViolation
from homeserver.matrix.event import Event
from homeserver.matrix.event_auth.state import AuthState
from homeserver.matrix.signing import SignatureError, signature_key_ids, verify_signed_json

# Whether any signature on the object (`signed` of the invitation) is by any of these keys of 32 bytes.
ThirdPartyVerifier = Callable[[Mapping[str, Any], Sequence[bytes]], bool]

_KEY_BYTES = 32
# Identity servers give one or two keys and one signature. One event has room for half a million pairs of them.
_MOST_PAIRS = 256


def check_third_party_invite(event: Event, target: str, state: AuthState, *, verify: ThirdPartyVerifier | None) -> None:
    """Rule M4. Raises AuthRuleViolation."""
    # M4.1: who is banned gets no invitation.
    if state.membership(target) == "ban":
        raise AuthRuleViolation("M4.1", "the user is banned from the room")
    # M4.2: the identity server's statement is there.
    invite = event.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, Mapping) else None
    if not isinstance(signed, Mapping):
        raise AuthRuleViolation("M4.2", "the third-party invite has nothing signed")
    # M4.3: it says who may redeem which invitation.
    mxid, token = signed.get("mxid"), signed.get("token")
    if not isinstance(mxid, str) or not isinstance(token, str):
        raise AuthRuleViolation("M4.3", "the signed object has no mxid or no token")
    # M4.4: the user is the one it names.
    if mxid != target:
        raise AuthRuleViolation("M4.4", "the third-party invite is for another user")
    # M4.5: the room has made that invitation.
    pending = state.get("m.room.third_party_invite", token)
    if pending is None:
        raise AuthRuleViolation("M4.5", "the room has no such third-party invite")
    # M4.6: it is redeemed in the name of the user who made it.
    if pending.sender != event.sender:
        raise AuthRuleViolation("M4.6", "the third-party invite is of another sender")
    # M4.7: a key that the invitation trusts has signed the statement.
    if not (verify or is_signed_by_any)(signed, list(_public_keys(pending.content))):
        raise AuthRuleViolation("M4.7", "no key of the third-party invite has signed it")


def is_signed_by_any(signed: Mapping[str, Any], keys: Sequence[bytes]) -> bool:
    """Whether any Ed25519 signature on an object, of whatever server and key ID, is by any of these keys.

    Looks at 256 pairs of signature and key and no further.
    """
    signatures = signed.get("signatures")
    servers = signatures if isinstance(signatures, Mapping) else {}
    given = ((server, key_id) for server in servers for key_id in sorted(signature_key_ids(signed, server)))
    for (server, key_id), key in islice(product(given, keys), _MOST_PAIRS):
        try:
            verify_signed_json(signed, server, {key_id: key})
        except SignatureError:
            continue
        return True
    return False


def _public_keys(content: Mapping[str, Any]) -> Iterator[bytes]:
    """The keys of an `m.room.third_party_invite`; what is no key in base64 (of either alphabet) is passed over."""
    candidates = [content.get("public_key")]
    listed = content.get("public_keys")
    if isinstance(listed, list):
        candidates.extend(entry.get("public_key") for entry in listed if isinstance(entry, Mapping))
    for candidate in candidates:
        try:
            key = unpadded_base64.decode(candidate) if isinstance(candidate, str) else b""
        except ValueError:
            continue
        if len(key) == _KEY_BYTES:
            yield key
