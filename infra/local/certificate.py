"""The certificate that the local run shows to other servers: the operator's, or one that signs itself."""

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from homeserver.matrix.server_discovery import parse_server_name
from local.template import TemplateError

CERTIFICATE, KEY = "tls.crt", "tls.key"
_VALID = timedelta(days=365)
_RENEW = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """Paths of a certificate (PEM, with its chain) and its private key."""

    certificate: Path
    key: Path


def certificate_of(folder: Path, server_name: str, given: tuple[str | None, str | None]) -> CertificatePair:
    """The pair that was given, or one in this folder, made if it is absent, for another name, or about to expire.

    A made one is for the host of the server name and for this machine; nobody vouches for it. Raises TemplateError for
    one of two files, or for files that are not there.
    """
    if any(given):
        paths = [Path(path or "") for path in given]
        if not all(given) or not all(path.is_file() for path in paths):
            raise TemplateError("TLS_CERT and TLS_KEY must both name a file, or be absent")
        return CertificatePair(*paths)
    pair = CertificatePair(folder / CERTIFICATE, folder / KEY)
    names = _names(server_name)
    if not _serves(pair, names):
        _make(pair, names)
    return pair


def _names(server_name: str) -> list[x509.GeneralName]:
    try:
        host = parse_server_name(server_name).host
    except ValueError:
        host = "localhost"  # the start will say what is wrong with the name
    hosts = dict.fromkeys([host, "localhost", "127.0.0.1", "::1"])
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _serves(pair: CertificatePair, names: list[x509.GeneralName]) -> bool:
    if not pair.certificate.is_file() or not pair.key.is_file():
        return False
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    known = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return list(known) == names and certificate.not_valid_after_utc > datetime.now(UTC) + _RENEW


def _make(pair: CertificatePair, names: list[x509.GeneralName]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Eigenserver on this machine")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        # So that another server can be told to believe this very certificate (FEDERATION_VERIFY).
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(pair.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secret)
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
