"""Who says that a manifest is true: the node that added it signs it, and each checks that before it loads.

A signature is by a key that the atoll's authority has certified; a manifest of another atoll is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from atoll.domain.errors import PolicyDenied
from atoll.identity import certificate
from atoll.identity.certificate import Identity
from atoll.identity.files import read_text
from atoll.registry.manifest import signed_bytes

PURPOSE = b"atoll model manifest 1\n"


@dataclass(frozen=True)
class Signature:
    signature: str
    certificate: str


def sign(told: Mapping[str, Any], identity: Identity) -> Signature:
    key = certificate.private_key(read_text(identity.key_path))
    made = key.sign(PURPOSE + signed_bytes(told), ec.ECDSA(hashes.SHA256()))
    return Signature(base64.b64encode(made).decode(), read_text(identity.certificate_path))


def verify(told: Mapping[str, Any], signature: Signature, authority_pem: str) -> str:
    """Says which node signed."""
    member = certificate.verify_member(signature.certificate, authority_pem)
    key = member.public_key()
    try:
        made = base64.b64decode(signature.signature, validate=True)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(made, PURPOSE + signed_bytes(told), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error) as error:
        raise PolicyDenied(
            "model-unsigned",
            f'the manifest of model "{told.get("name")}" was changed after it was signed',
            hint="Add the model again on a node that you trust.",
        ) from error
    return certificate.read_pem(signature.certificate).name
