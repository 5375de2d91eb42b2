"""The certificate authority of an atoll: who holds its key may admit nodes.

The first node creates it; every certificate that it issues names one node by atoll id and number. Who is
admitted, and under which number, is decided by the invitations; revocation is a row in a shared table.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from atoll.domain.errors import ConfigError, PolicyDenied
from atoll.identity.certificate import NAME_LENGTH_MAX, NUMBER_MAX, parse_certificate
from atoll.identity.files import read_text, write_private

VALIDITY = timedelta(days=3653)
# Clocks of sites differ; a certificate must already be valid where the clock is behind.
BACKDATING = timedelta(days=1)
KEY_FILE = "authority.key"
CERTIFICATE_FILE = "authority.pem"


@dataclass(frozen=True)
class Authority:
    """The key and the certificate that every node of one atoll trusts."""

    atoll_id: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def issue(self, csr_pem: str, *, number: int, name: str, now: datetime) -> str:
        """A certificate for the key that signed `csr_pem`. Everything but the key is decided here."""
        if not 1 <= number <= NUMBER_MAX:
            raise ConfigError("number-invalid", f"cannot issue a certificate for node number {number}")
        if not 1 <= len(name) <= NAME_LENGTH_MAX:
            raise ConfigError("name-invalid", f'cannot issue a certificate for node name "{name}"')
        public_key = key_of_request(csr_pem)
        uri = f"atoll://{self.atoll_id}/node/{number}"
        certificate = (
            _draft(name, self.certificate.subject, public_key, now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def save(self, folder: Path) -> None:
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_private(folder / KEY_FILE, key.decode("ascii"))
        write_private(folder / CERTIFICATE_FILE, self.pem)


def create(*, now: datetime, atoll_id: str | None = None) -> Authority:
    """A new authority, and with it a new atoll."""
    atoll_id = atoll_id or str(uuid.uuid4())
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"atoll {atoll_id}")])
    certificate = (
        _draft(f"atoll {atoll_id}", name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"atoll://{atoll_id}")]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return Authority(atoll_id, key, certificate)


def load(folder: Path) -> Authority:
    """The authority that `save` wrote to this folder."""
    certificate = parse_certificate(read_text(folder / CERTIFICATE_FILE))
    try:
        key = serialization.load_pem_private_key(read_text(folder / KEY_FILE).encode("ascii"), None)
    except ValueError as error:
        raise ConfigError(
            "identity-unreadable",
            f'cannot use authority key "{folder / KEY_FILE}"',
            detail=f"{error}.",
            hint="Restore the file from a backup of this home.",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(
            "identity-mismatch",
            f'cannot use authority key "{folder / KEY_FILE}": the certificate beside it has another key',
            hint="Restore both files from the same backup.",
        )
    return Authority(atoll_id_of(certificate), key, certificate)


def fingerprint(pem: str) -> str:
    """The sha256 of the certificate's DER, in hex: what a token names an authority by."""
    return parse_certificate(pem).fingerprint(hashes.SHA256()).hex()


def atoll_id_of(certificate: x509.Certificate) -> str:
    """The atoll that this authority certificate belongs to."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uri = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
        return str(uuid.UUID(uri.removeprefix("atoll://")))
    except (x509.ExtensionNotFound, IndexError, ValueError) as error:
        raise PolicyDenied("certificate-invalid", "the certificate is not an atoll's authority") from error


def key_of_request(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """The key that signed a certificate request."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode("ascii"))
        public_key = request.public_key()
        sound = request.is_signature_valid
    except (ValueError, TypeError) as error:
        raise PolicyDenied("csr-invalid", "cannot read the certificate request") from error
    if not sound or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise PolicyDenied(
            "csr-invalid",
            "cannot accept the certificate request",
            detail="It has to be signed by its own elliptic curve key.",
        )
    return public_key


def _draft(
    name: str, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATING)
        .not_valid_after(now + VALIDITY)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
