import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix import unpadded_base64


def test_the_published_vectors_encode_and_decode(vectors):
    for vector in vectors["published"]["unpadded_base64"]:
        assert unpadded_base64.encode(vector["text"].encode()) == vector["unpadded_base64"]
        assert unpadded_base64.decode(vector["unpadded_base64"]) == vector["text"].encode()


@given(st.binary(max_size=100))
def test_decoding_takes_both_alphabets_with_and_without_padding(data):
    padded, urlsafe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    assert unpadded_base64.encode(data) == padded.rstrip("=")
    assert unpadded_base64.encode_urlsafe(data) == urlsafe.rstrip("=")
    for text in (padded, padded.rstrip("="), urlsafe, urlsafe.rstrip("=")):
        assert unpadded_base64.decode(text) == data


@pytest.mark.parametrize("text", ["a", "abcde", "ab c", "ab\ncd", "ab=cd", "abcd====", "é", "ab.d", "===", "\ud800abc"])
def test_what_is_not_base64_is_a_value_error(text):
    with pytest.raises(ValueError, match="base64"):
        unpadded_base64.decode(text)
