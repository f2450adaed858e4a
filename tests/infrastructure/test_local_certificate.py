"""The certificate of the local run's second port."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from local import certificate
from local.certificate import certificate_of
from local.template import TemplateError

NOBODY = (None, None)


def names(path: Path) -> list[str]:
    found = x509.load_pem_x509_certificate(path.read_bytes())
    alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in alternatives]


@pytest.mark.parametrize(
    ("server_name", "host"),
    [("a.org:8448", "a.org"), ("192.0.2.1", "192.0.2.1"), ("[2001:db8::1]:8448", "2001:db8::1")],
)
def test_a_pair_is_made_for_the_server_name_and_this_machine(tmp_path: Path, server_name: str, host: str) -> None:
    pair = certificate_of(tmp_path, server_name, NOBODY)
    assert names(pair.certificate) == [host, "localhost", "127.0.0.1", "::1"]
    assert pair.key.stat().st_mode & 0o777 == 0o600


def test_a_pair_is_kept_until_the_name_changes_or_it_is_about_to_expire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = certificate_of(tmp_path, "a.org", NOBODY).certificate.read_bytes()
    assert certificate_of(tmp_path, "a.org:8448", NOBODY).certificate.read_bytes() == first
    second = certificate_of(tmp_path, "b.org", NOBODY).certificate.read_bytes()
    assert second != first

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = UTC) -> datetime:  # type: ignore[override]  # a clock, and nothing more
            assert tz is UTC
            return datetime.now(UTC) + timedelta(days=340)

    monkeypatch.setattr(certificate, "datetime", Later)
    assert certificate_of(tmp_path, "b.org", NOBODY).certificate.read_bytes() != second


def test_a_pair_that_is_given_is_taken(tmp_path: Path) -> None:
    made = certificate_of(tmp_path, "a.org", NOBODY)
    given = certificate_of(tmp_path / "data", "b.org", (str(made.certificate), str(made.key)))
    assert given == made


def test_half_a_pair_or_files_that_are_not_there_stop_the_start(tmp_path: Path) -> None:
    made = certificate_of(tmp_path, "a.org", NOBODY)
    for given in ((str(made.certificate), None), (None, str(made.key)), (str(made.certificate), "/nowhere")):
        with pytest.raises(TemplateError, match="TLS_CERT and TLS_KEY"):
            certificate_of(tmp_path, "a.org", given)
