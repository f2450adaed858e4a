"""ID tokens: what a provider says of somebody, believed only if all of it is right.

Source: OpenID Connect Core 1.0, section 3.1.3.7; JSON Web Token Best Current Practices (RFC 8725).
"""

import hmac
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from homeserver.matrix.errors import Forbidden
from homeserver.observability import log

if TYPE_CHECKING:
    from jwt import PyJWK

# Signatures of a key pair only, each with the kind of key that it takes. An HMAC would make everybody who knows the
# client secret, or takes a public key for one, an issuer; `none` needs no key at all.
_KEY_TYPES = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
LEEWAY_S = 60  # clocks differ
# It was made while we asked for it.
MOST_AGE_S = 10 * 60
_REQUIRED = ("iss", "sub", "aud", "exp", "iat", "nonce")

# The keys of the provider; with True: one is missing among those, ask again.
Keys = Callable[[bool], list[dict[str, Any]]]


def checked_claims(token: str, keys: Keys, *, issuer: str, client_id: str, nonce: str) -> Mapping[str, Any]:
    """The claims of an ID token that this issuer signed for this client, just now, in answer to this nonce.

    Raises Forbidden; which check failed is logged, nothing of the token is.
    """
    # Not at the top: it takes a twentieth of a second, and most requests check no token.
    import jwt  # noqa: PLC0415 - see above

    try:
        key, algorithm = _key_for(token, keys)
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=client_id,
            issuer=issuer,
            leeway=LEEWAY_S,
            options={"require": list(_REQUIRED)},
        )
    except jwt.PyJWTError as error:
        raise _refused(type(error).__name__) from None
    except _Unusable as error:
        raise _refused(str(error)) from None
    said = claims["nonce"]
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(errors="replace"), nonce.encode()):
        raise _refused("the nonce is another one")
    audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    if claims.get("azp", None if len(audiences) > 1 else client_id) != client_id:
        raise _refused("it is for somebody else to use (azp)")
    issued = claims["iat"]
    if isinstance(issued, bool) or not isinstance(issued, int | float) or issued < time.time() - MOST_AGE_S - LEEWAY_S:
        raise _refused("it is old")
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise _refused("the subject cannot be used")
    return claims


class _Unusable(Exception):
    """A token, or a key, that nothing can be checked with."""


def _refused(why: str) -> Forbidden:
    log.warning("an ID token is refused: %s", why)
    return Forbidden("The provider's answer is not what this server asked for.")


def _key_for(token: str, keys: Keys) -> "tuple[PyJWK, str]":
    """The key that a token names, and the algorithm, which is one that such a key is for."""
    import jwt  # noqa: PLC0415 - as above

    header = jwt.get_unverified_header(token)
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _KEY_TYPES:
        raise _Unusable("its algorithm is none that is taken")
    for missing in (False, True):
        fitting = [key for key in keys(missing) if _fits(key, algorithm, key_id)]
        if len(fitting) == 1:
            return jwt.PyJWK(fitting[0], algorithm), algorithm
        if fitting:
            raise _Unusable("it does not say which key it was signed with")
    raise _Unusable("the provider has no such key")


def _fits(key: Mapping[str, Any], algorithm: str, key_id: object) -> bool:
    return (
        key.get("kty") == _KEY_TYPES[algorithm]
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (key_id is None or key.get("kid") == key_id)
    )
