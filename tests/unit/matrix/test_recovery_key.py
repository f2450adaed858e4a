import pytest

from homeserver.matrix.recovery_key import encode_recovery_key


def test_the_derived_key_has_its_representation(vectors):
    for vector in vectors["derived"]["recovery_key"]:
        assert encode_recovery_key(bytes.fromhex(vector["raw_hex"])) == vector["representation"]


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length):
    with pytest.raises(ValueError, match="32 bytes"):
        encode_recovery_key(bytes(length))
