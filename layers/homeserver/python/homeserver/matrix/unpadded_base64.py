"""Base64 without padding, in both alphabets.

Source: Matrix v1.19, appendices, "Unpadded Base64"; RFC 4648 sections 4 (standard) and 5 (URL-safe).
"""

from binascii import Error, a2b_base64, b2a_base64

_TO_URLSAFE = str.maketrans("+/", "-_")
_TO_STANDARD = str.maketrans("-_", "+/")


def encode(data: bytes) -> str:
    """Unpadded base64 in the standard alphabet."""
    return b2a_base64(data, newline=False).rstrip(b"=").decode("ascii")


def encode_urlsafe(data: bytes) -> str:
    """Unpadded base64 in the URL-safe alphabet."""
    return encode(data).translate(_TO_URLSAFE)


def decode(text: str) -> bytes:
    """The bytes of base64 in either alphabet, padded or not.

    Keys and signatures arrive in any of these forms. Raises ValueError for everything else: other characters,
    white space, an impossible length.
    """
    digits = text.translate(_TO_STANDARD).rstrip("=")
    if len(text) - len(digits) > 2:
        raise ValueError("too much base64 padding")
    try:
        return a2b_base64((digits + "=" * (-len(digits) % 4)).encode("ascii"), strict_mode=True)
    except (Error, UnicodeEncodeError) as error:
        raise ValueError(f"not base64: {error}") from None
