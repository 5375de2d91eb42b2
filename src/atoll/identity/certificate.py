"""A node's own key and certificate, and who a peer is according to its certificate.

Issuing is the authority's part. Checking the signature is TLS's part: what is read here was verified before.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from atoll.domain.errors import ConfigError, PolicyDenied
from atoll.identity.files import read_text, write_private

NUMBER_MAX = 65535
NAME_LENGTH_MAX = 63
NODE_URI = re.compile(r"atoll://([0-9a-f-]{36})/node/([1-9][0-9]{0,4})")
KEY_FILE = "node.key"
CERTIFICATE_FILE = "node.pem"
AUTHORITY_FILE = "authority.pem"


@dataclass(frozen=True)
class PeerIdentity:
    """Who a certificate says that its owner is. The serial is lower-case hex."""

    atoll_id: str
    number: int
    name: str
    serial: str


@dataclass(frozen=True)
class Identity:
    """What a node proves itself with, in the folder where TLS reads it."""

    folder: Path
    me: PeerIdentity
    authority_pem: str

    @property
    def key_path(self) -> Path:
        return self.folder / KEY_FILE

    @property
    def certificate_path(self) -> Path:
        return self.folder / CERTIFICATE_FILE


def make_key() -> str:
    """A new private key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


def make_request(key_pem: str, name: str) -> str:
    """The certificate request (PEM) that proves possession of the key."""
    key = private_key(key_pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:NAME_LENGTH_MAX] or "node")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


def save_identity(folder: Path, *, key_pem: str, certificate_pem: str, authority_pem: str) -> Identity:
    """Write the three files and read them back, so that what was written is known to be usable."""
    write_private(folder / KEY_FILE, key_pem)
    write_private(folder / AUTHORITY_FILE, authority_pem)
    write_private(folder / CERTIFICATE_FILE, certificate_pem)
    return load_identity(folder)


def load_identity(folder: Path) -> Identity:
    """The identity that `save_identity` wrote to this folder."""
    certificate = parse_certificate(read_text(folder / CERTIFICATE_FILE))
    if private_key(read_text(folder / KEY_FILE)).public_key() != certificate.public_key():
        raise ConfigError(
            "identity-mismatch",
            f'cannot use node key "{folder / KEY_FILE}": the certificate beside it has another key',
            hint="Restore both files from the same backup, or join the atoll again with a new token.",
        )
    authority_pem = read_text(folder / AUTHORITY_FILE)
    try:
        certificate.verify_directly_issued_by(parse_certificate(authority_pem))
    except Exception as error:
        raise ConfigError(
            "identity-mismatch",
            f'cannot use node certificate "{folder / CERTIFICATE_FILE}": another authority issued it',
            hint="Restore all files from the same backup, or join the atoll again with a new token.",
        ) from error
    return Identity(folder, _identity_of(certificate), authority_pem)


def read_peer(der: bytes) -> PeerIdentity:
    """Who the owner of this (already verified) certificate is."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise PolicyDenied("certificate-invalid", "cannot read the peer's certificate") from error
    return _identity_of(certificate)


def read_pem(pem: str) -> PeerIdentity:
    """Who a certificate names; whether it is true has still to be checked."""
    return _identity_of(parse_certificate(pem))


def verify_member(pem: str, authority_pem: str) -> x509.Certificate:
    """The certificate of a member, checked against the authority and its dates."""
    found = parse_certificate(pem)
    try:
        found.verify_directly_issued_by(parse_certificate(authority_pem))
    except Exception as error:
        raise PolicyDenied(
            "wrong-authority", "the certificate belongs to another atoll", detail=f"{error}."
        ) from error
    return found


def days_left(pem: str, *, now: datetime) -> int:
    """Whole days until the certificate expires; negative when it has expired."""
    return (parse_certificate(pem).not_valid_after_utc - now).days


def parse_certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError as error:
        raise PolicyDenied(
            "certificate-invalid", "cannot read the certificate", detail=f"{error}."
        ) from error


def _identity_of(certificate: x509.Certificate) -> PeerIdentity:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        match = NODE_URI.fullmatch(uris[0]) if len(uris) == 1 else None
        common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (x509.ExtensionNotFound, ValueError):
        match, common_names = None, []
    if match is None or len(common_names) != 1 or int(match[2]) > NUMBER_MAX:
        raise PolicyDenied("certificate-invalid", "the certificate does not name a node of an atoll")
    return PeerIdentity(
        atoll_id=str(uuid.UUID(match[1])),
        number=int(match[2]),
        name=str(common_names[0].value),
        serial=f"{certificate.serial_number:x}",
    )


def private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    """A private key, read from PEM."""
    try:
        key = serialization.load_pem_private_key(pem.encode("ascii"), None)
    except (ValueError, TypeError) as error:
        raise ConfigError("identity-unreadable", "cannot read the node's key", detail=f"{error}.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("identity-unreadable", "cannot use the node's key: it is not an elliptic curve key")
    return key
