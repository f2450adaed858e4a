"""Ed25519 signatures on JSON objects and on events.

Source: Matrix v1.19, appendices, "Signing JSON" and "Checking for a Signature"; server-server API, "Signing Events"
and "Validating hashes and signatures on received events".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nacl.bindings import crypto_sign, crypto_sign_BYTES, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from homeserver.matrix import unpadded_base64
from homeserver.matrix.canonical_json import NotCanonical, encode_canonical
from homeserver.matrix.errors import BadJson, Forbidden
from homeserver.matrix.hashes import reference_bytes
from homeserver.matrix.identifiers import domain_of, is_key_id, is_user_id
from homeserver.matrix.room_versions import RoomVersionRules

_ALGORITHM = "ed25519:"
_SEED_BYTES = 32
_VERIFY_KEY_BYTES = 32


class SignatureError(Forbidden):
    """A signature that must be there is missing, cannot be checked, or is wrong."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A server's Ed25519 key: its ID (`ed25519:` and a version) and the 32 bytes it grows from.

    The seed never shows in a repr. Raises ValueError for a malformed ID or seed.
    """

    key_id: str
    seed: bytes = field(repr=False)
    _public: bytes = field(init=False, repr=False, compare=False)
    _secret: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (self.key_id.startswith(_ALGORITHM) and is_key_id(self.key_id)):
            raise ValueError("the ID of a signing key is ed25519:version")
        if len(self.seed) != _SEED_BYTES:
            raise ValueError(f"the seed of a signing key has {_SEED_BYTES} bytes")
        public, secret = crypto_sign_seed_keypair(self.seed)
        object.__setattr__(self, "_public", public)
        object.__setattr__(self, "_secret", secret)

    @classmethod
    def generate(cls, version: str, seed: bytes) -> "SigningKey":
        """The key `ed25519:<version>` of 32 random bytes that the caller provides."""
        return cls(_ALGORITHM + version, seed)

    @property
    def verify_key(self) -> bytes:
        """The 32 bytes that others verify with."""
        return self._public

    def sign(self, message: bytes) -> str:
        """The signature of a message in unpadded standard base64."""
        return unpadded_base64.encode(crypto_sign(message, self._secret)[:crypto_sign_BYTES])


def sign_json(obj: Mapping[str, Any], server_name: str, key: SigningKey) -> dict[str, Any]:
    """A copy of an object with this server's signature added to its `signatures`.

    `signatures` and `unsigned` are not covered by it. Raises NotCanonical.
    """
    return _with_signature(obj, server_name, key, encode_canonical(_signed_part(obj)))


def verify_signed_json(obj: Mapping[str, Any], server_name: str, verify_keys: Mapping[str, bytes]) -> None:
    """Check a server's signatures on an object. `verify_keys`: the known and unexpired keys by ID, 32 bytes each.

    Signatures of other algorithms and by unknown keys are passed over; of the rest there must be one, and each must
    be right. Raises SignatureError.
    """
    try:
        message = encode_canonical(_signed_part(obj))
    except NotCanonical as error:
        raise SignatureError(f"The signed object is not canonical JSON: {error}") from None
    _verify(obj, message, server_name, verify_keys)


def verify_message(
    message: bytes, signatures: Mapping[str, str], server_name: str, verify_keys: Mapping[str, bytes]
) -> None:
    """Check a server's signatures (by key ID) on bytes, by the rules of `verify_signed_json`. Raises SignatureError."""
    _verify({"signatures": {server_name: dict(signatures)}}, message, server_name, verify_keys)


def sign_event(pdu: Mapping[str, Any], rules: RoomVersionRules, server_name: str, key: SigningKey) -> dict[str, Any]:
    """A copy of an event with this server's signature added. The event has its content hash already.

    What is signed is the redacted event, so that the signature outlives redaction. Raises NotCanonical.
    """
    return _with_signature(pdu, server_name, key, reference_bytes(pdu, rules))


def verify_event_signature(
    pdu: Mapping[str, Any], rules: RoomVersionRules, server_name: str, verify_keys: Mapping[str, bytes]
) -> None:
    """Check one server's signatures on an event, by the rules of `verify_signed_json`. Raises SignatureError."""
    try:
        message = reference_bytes(pdu, rules)
    except NotCanonical as error:
        raise SignatureError(f"The event is not canonical JSON: {error}") from None
    _verify(pdu, message, server_name, verify_keys)


def signature_key_ids(obj: Mapping[str, Any], server_name: str) -> set[str]:
    """The Ed25519 keys with which a server says it signed this object: those to have before verifying."""
    signatures = obj.get("signatures")
    own = signatures.get(server_name) if isinstance(signatures, dict) else None
    return {key_id for key_id in own if key_id.startswith(_ALGORITHM)} if isinstance(own, dict) else set()


def servers_that_must_sign(pdu: Mapping[str, Any], rules: RoomVersionRules) -> set[str]:
    """The servers whose signatures an event needs before it may be looked at further.

    The sender's server, save for an invitation that redeems a third-party invite: there another server may send in
    the inviter's name, and the signed token is what the authorisation rules check. In room versions 1 and 2 also the
    server in the event ID; from version 8, for a join through a restricted join rule, also the server of the
    authorising user. Empty for a third-party invitation from room version 3. Raises BadJson for a malformed user.
    """
    content = pdu["content"]
    membership = content.get("membership") if pdu["type"] == "m.room.member" else None
    servers: set[str] = set()
    if not (membership == "invite" and isinstance(content.get("third_party_invite"), dict)):
        servers.add(domain_of(pdu["sender"]))
    if rules.event_id_server_signs:
        servers.add(domain_of(pdu["event_id"]))
    if rules.restricted_joins and membership == "join" and "join_authorised_via_users_server" in content:
        authorising_user = content["join_authorised_via_users_server"]
        if not is_user_id(authorising_user):
            raise BadJson("join_authorised_via_users_server is not a user ID")
        servers.add(domain_of(authorising_user))
    return servers


def _with_signature(obj: Mapping[str, Any], server_name: str, key: SigningKey, message: bytes) -> dict[str, Any]:
    signatures = obj.get("signatures", {})
    own = {**signatures.get(server_name, {}), key.key_id: key.sign(message)}
    return {**obj, "signatures": {**signatures, server_name: own}}


def _signed_part(obj: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in obj.items() if key not in ("signatures", "unsigned")}


def _verify(obj: Mapping[str, Any], message: bytes, server_name: str, verify_keys: Mapping[str, bytes]) -> None:
    key_ids = signature_key_ids(obj, server_name)
    if not key_ids:
        raise SignatureError(f"There is no Ed25519 signature by {server_name}")
    known = sorted(key_ids & verify_keys.keys())
    if not known:
        raise SignatureError(f"No key of {server_name} that signed this is known and valid")
    for key_id in known:
        if not _is_signature(obj["signatures"][server_name][key_id], message, verify_keys[key_id]):
            raise SignatureError(f"The signature by {server_name} with {key_id} is wrong")


def _is_signature(signature: Any, message: bytes, verify_key: bytes) -> bool:
    if not isinstance(signature, str) or len(verify_key) != _VERIFY_KEY_BYTES:
        return False
    try:
        raw = unpadded_base64.decode(signature)
        if len(raw) != crypto_sign_BYTES:
            return False
        crypto_sign_open(raw + message, verify_key)
    except (ValueError, BadSignatureError):
        return False
    return True
