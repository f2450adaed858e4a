import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.access_token import ACCESS, REFRESH, claimed_user, format_token, token_hash


@given(st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable()), st.binary(min_size=32, max_size=32))
def test_a_token_names_its_user_whatever_the_localpart_and_the_randomness(localpart, randomness):
    token = format_token(ACCESS, localpart, randomness)
    assert token.isascii()
    if len(token) <= 512:
        assert claimed_user(token, "example.org") == f"@{localpart}:example.org"


def test_the_format_is_the_documented_one():
    assert format_token(ACCESS, "alice", bytes(32)) == "eig_YWxpY2U_" + "A" * 43
    assert format_token(REFRESH, "alice", bytes(32)) == "eigr_YWxpY2U_" + "A" * 43


def test_a_refresh_token_claims_nobody():
    assert claimed_user(format_token(REFRESH, "alice", bytes(32)), "example.org") is None


@pytest.mark.parametrize(
    "text",
    ["", "eig_", "eig__", "eig_YWxpY2U", "eig_YWxpY2U-" + "A" * 43, "syt_YWxpY2U_" + "A" * 43, "eig_!!_" + "A" * 43],
)
def test_a_text_that_is_no_token_claims_nobody(text):
    assert claimed_user(text, "example.org") is None


def test_bytes_that_are_no_utf8_claim_nobody():
    assert claimed_user("eig__w_" + "A" * 43, "example.org") is None


@given(st.text(max_size=600))
def test_any_text_is_read_without_an_error(text):
    assert claimed_user(text, "example.org") is None or text.startswith("eig_")
    assert claimed_user("eig_" + text, "example.org") is None or len(text) <= 508


def test_the_randomness_must_be_32_bytes():
    with pytest.raises(ValueError, match="32 random bytes"):
        format_token(ACCESS, "alice", bytes(31))


def test_the_hash_is_unpadded_base64url_of_sha256():
    assert token_hash("abc") == "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"
