"""Unsigned integers in as few bytes as they need: seven bits a byte, low bits first (LEB128).

Numbers are 0 to 2**63 - 1, one to nine bytes. Each number has one encoding: longer ones are refused, so that
what is built of varints can be compared, hashed and signed as bytes.
"""

MAX_VARINT = 2**63 - 1
_MAX_BYTES = 9
_ONE_BYTE = tuple(bytes([value]) for value in range(0x80))


def encode_varint(value: int) -> bytes:
    """The bytes of a number. Raises ValueError outside 0 to 2**63 - 1."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} has no varint")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `data[at]`, and the index after it.

    Raises ValueError when the bytes end inside the number, or it is longer than it needs to be or than nine bytes.
    """
    value = shift = 0
    for index in range(at, min(at + _MAX_BYTES, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and index > at:
                raise ValueError("a varint is longer than it needs to be")
            return value, index + 1
        shift += 7
    raise ValueError("a varint is cut off or too long")
