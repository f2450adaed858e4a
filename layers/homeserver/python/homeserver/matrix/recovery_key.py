"""Recovery keys: a 32-byte secret in a form that people can copy by hand.

Source: Matrix v1.19, appendices, "Cryptographic key representation".
"""

from functools import reduce
from operator import xor

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PREFIX = b"\x8b\x01"
_KEY_BYTES = 32
_GROUP = 4


def encode_recovery_key(key: bytes) -> str:
    """A 32-byte key in base58 with prefix and parity byte, in groups of four. Raises ValueError for another length."""
    if len(key) != _KEY_BYTES:
        raise ValueError(f"a recovery key has {_KEY_BYTES} bytes")
    body = _PREFIX + key
    number = int.from_bytes(body + bytes([reduce(xor, body)]), "big")
    # The prefix is not zero, so base58's rule for leading zero bytes never applies.
    digits = ""
    while number:
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return " ".join(digits[i : i + _GROUP] for i in range(0, len(digits), _GROUP))
