import pytest

from homeserver.matrix.errors import MatrixError
from homeserver.services import passwords
from homeserver.settings import settings


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("PASSWORD_COST", "low")
    monkeypatch.setenv("SERVER_NAME", "example.org")
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_a_hash_is_argon2id_and_differs_each_time():
    first, second = passwords.hash_password("secret"), passwords.hash_password("secret")
    assert first.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert first != second


def test_the_normal_cost_is_19_mebibytes_and_two_passes(monkeypatch):
    monkeypatch.setenv("PASSWORD_COST", "normal")
    settings.cache_clear()
    assert passwords.hash_password("secret").startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_only_the_right_password_is_verified():
    stored = passwords.hash_password("pässword")
    assert passwords.verify_password("pässword", stored) is True
    assert passwords.verify_password("password", stored) is False
    assert passwords.verify_password("", stored) is False


def test_nobodys_password_is_never_right():
    assert passwords.verify_password("the password of nobody", None) is False


def test_a_stored_text_that_is_no_hash_verifies_nothing():
    assert passwords.verify_password("secret", "secret") is False


def test_a_password_of_more_than_512_bytes_is_refused_and_never_right():
    passwords.check_new_password("x" * 512)
    with pytest.raises(MatrixError) as refused:
        passwords.check_new_password("x" * 513)
    assert refused.value.errcode == "M_INVALID_PARAM"
    assert passwords.verify_password("x" * 513, passwords.hash_password("x" * 513)) is False


def test_an_empty_password_is_weak():
    with pytest.raises(MatrixError) as refused:
        passwords.check_new_password("")
    assert refused.value.errcode == "M_WEAK_PASSWORD"


def test_a_hash_of_other_parameters_is_to_be_renewed(monkeypatch):
    stored = passwords.hash_password("secret")
    assert passwords.needs_rehash(stored) is False
    monkeypatch.setenv("PASSWORD_COST", "normal")
    settings.cache_clear()
    assert passwords.needs_rehash(stored) is True


@pytest.mark.parametrize(
    ("body", "user_id"),
    [
        ({"identifier": {"type": "m.id.user", "user": "alice"}}, "@alice:example.org"),
        ({"identifier": {"type": "m.id.user", "user": "@Alice:example.org"}}, "@alice:example.org"),
        ({"identifier": {"type": "m.id.user", "user": "alice"}, "user": "bob"}, "@alice:example.org"),
        ({"user": "@alice:example.org"}, "@alice:example.org"),
        ({"user": "@alice:elsewhere.org"}, None),
        ({"user": "@alice:example.org:8448"}, None),
        ({"user": "@alice"}, None),
        ({"user": "a b"}, None),
        ({"user": "a" * 255}, None),
        ({"identifier": {"type": "m.id.thirdparty", "medium": "msisdn", "address": "4917012345"}}, None),
        ({"identifier": {"type": "m.id.phone", "country": "DE", "phone": "017012345"}}, None),
    ],
)
def test_an_identifier_names_a_local_user_or_nobody(body, user_id):
    assert passwords.user_of_identifier(body) == user_id
