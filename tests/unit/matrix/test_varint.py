import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.varint import MAX_VARINT, encode_varint, read_varint


@given(st.integers(0, MAX_VARINT), st.binary(max_size=5), st.binary(max_size=5))
def test_a_number_is_read_back_from_where_it_stands(value, before, after):
    encoded = encode_varint(value)
    assert read_varint(before + encoded + after, len(before)) == (value, len(before) + len(encoded))


@given(st.binary(min_size=1, max_size=12))
def test_every_number_has_one_encoding(data):
    try:
        value, end = read_varint(data, 0)
    except ValueError:
        return
    assert encode_varint(value) == data[:end]


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02"), (MAX_VARINT, b"\xff" * 8 + b"\x7f")],
)
def test_known_numbers_have_known_bytes(value, encoded):
    assert encode_varint(value) == encoded
    assert read_varint(encoded, 0) == (value, len(encoded))


@pytest.mark.parametrize("value", [-1, MAX_VARINT + 1])
def test_numbers_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="has no varint"):
        encode_varint(value)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9 + b"\x01", b"\x80\x00", b"\x81\x80\x00"])
def test_cut_off_and_overlong_numbers_are_refused(data):
    with pytest.raises(ValueError, match="varint"):
        read_varint(data, 0)
