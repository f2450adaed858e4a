"""ID tokens: which key and algorithm they may be signed with, and what odd ones come to."""

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from homeserver.matrix.errors import Forbidden
from homeserver.services import id_tokens
from homeserver.services.id_tokens import checked_claims

ISSUER, CLIENT, NONCE = "https://login.example.org", "eigenserver", "n" * 43
PRIVATE = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def public(algorithm, **more):
    maker = jwt.get_algorithm_by_name(algorithm)
    return {**json.loads(maker.to_jwk(PRIVATE[algorithm].public_key())), "kid": algorithm, **more}


def token(algorithm="RS256", headers=None, signed_with=None, **change):
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": "carol", "aud": CLIENT, "exp": now + 60, "iat": now, "nonce": NONCE, **change}
    key = PRIVATE[signed_with or algorithm]
    return jwt.encode(claims, key, algorithm, headers={"kid": algorithm} if headers is None else headers)


def check(text, *keys):
    return checked_claims(text, lambda _: list(keys), issuer=ISSUER, client_id=CLIENT, nonce=NONCE)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "EdDSA"])
def test_signatures_by_key_pairs_are_taken(algorithm):
    assert check(token(algorithm), public(algorithm))["sub"] == "carol"


def test_rsa_with_another_padding_is_taken():
    text = token("PS256", headers={"kid": "RS256"}, signed_with="RS256")
    assert check(text, {key: value for key, value in public("RS256").items() if key != "alg"})["sub"] == "carol"


@pytest.mark.parametrize(
    "key",
    [
        public("RS256", kid="another"),
        public("RS256", use="enc"),
        public("RS256", alg="RS512"),
        public("RS256", kty="oct"),
        {"kty": "oct", "kid": "RS256", "k": "c2VjcmV0"},
        {"kty": "RSA", "kid": "RS256"},
        {"kty": "RSA", "kid": "RS256", "n": "!", "e": "AQAB"},
        {},
    ],
    ids=["id", "use", "algorithm", "kind", "symmetric", "no numbers", "bad numbers", "empty"],
)
def test_a_key_that_is_for_something_else_or_none_at_all_is_not_used(key):
    with pytest.raises(Forbidden):
        check(token(), key)


def test_a_key_of_the_wrong_curve_is_not_used():
    text = token("ES384")
    with pytest.raises(Forbidden):
        check(text, {**public("ES256"), "kid": "ES384"})


def test_a_token_that_names_no_key_needs_the_provider_to_have_one_that_fits():
    text = token(headers={})
    assert check(text, public("RS256"), public("ES256"))["sub"] == "carol"
    with pytest.raises(Forbidden):
        check(text, public("RS256"), public("RS256", kid="second"))


def test_keys_are_asked_for_again_when_one_is_missing():
    asked = []

    def keys(missing):
        asked.append(missing)
        return [public("RS256")] if missing else []

    assert checked_claims(token(), keys, issuer=ISSUER, client_id=CLIENT, nonce=NONCE)["sub"] == "carol"
    assert asked == [False, True]


@pytest.mark.parametrize(
    "text",
    ["", "x", "a.b.c", "..", token().rsplit(".", 1)[0] + ".", token()[:-8] + "AAAAAAAA", "é.é.é", token() + ".x"],
    ids=["empty", "a letter", "letters", "points", "unsigned", "changed", "beyond ascii", "too many parts"],
)
def test_what_is_no_token_is_refused(text):
    with pytest.raises(Forbidden):
        check(text, public("RS256"))


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "\ud800"},
        {"sub": None},
        {"iat": True},
        {"iat": 1e400},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"aud": []},
        {"aud": [1]},
        {"aud": {}},
        {"azp": 5},
    ],
    ids=str,
)
def test_claims_of_odd_kinds_are_refused(change):
    with pytest.raises(Forbidden):
        check(token(**change), public("RS256"))


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "iat", "nonce"])
def test_every_claim_that_is_checked_has_to_be_there(name):
    claims = jwt.decode(token(), options={"verify_signature": False})
    del claims[name]
    text = jwt.encode(claims, PRIVATE["RS256"], "RS256", headers={"kid": "RS256"})
    with pytest.raises(Forbidden):
        check(text, public("RS256"))


def test_clocks_may_differ_by_a_minute_and_no_more():
    now = int(time.time())
    early, late = id_tokens.LEEWAY_S - 10, id_tokens.LEEWAY_S + 10
    assert check(token(exp=now - early, iat=now - 300), public("RS256"))["sub"] == "carol"
    assert check(token(iat=now + early), public("RS256"))["sub"] == "carol"
    for change in ({"exp": now - late, "iat": now - 300}, {"iat": now + late}):
        with pytest.raises(Forbidden):
            check(token(**change), public("RS256"))
