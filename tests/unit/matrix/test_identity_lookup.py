from homeserver.matrix.identity_lookup import hash_address


def test_the_published_addresses_have_their_hashes(vectors):
    given = vectors["published"]["identity_lookup_hash"]
    assert len(given) == 3
    for vector in given:
        address, medium, pepper = vector["input"].split(" ")
        assert hash_address(address, medium, pepper) == vector["sha256_urlsafe_unpadded"]
