"""A file that one member of an atoll writes and one other can read: signed by the one, sealed to the other.

The header is in clear, names both, and is signed; it carries a key made for this file alone, from which, with
the receiver's certificate, the key of the content follows. The content comes in pieces, each authenticated,
numbered, and marked where it is the last: nothing can be changed, moved, added or cut off. What the content
means is not known here.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from atoll.domain.errors import DataError, PolicyDenied
from atoll.identity import certificate

MAGIC = b"ATOLLT1\n"
PURPOSE = b"atoll transfer 1"
PIECE_BYTES_MAX = 1024**2
HEADER_BYTES_MAX = 64 * 1024
TAG_BYTES = 16
CURVE = ec.SECP256R1()


@dataclass(frozen=True)
class Header:
    """Who wrote the file, for whom, and its place among the files between the two."""

    id: str
    atoll_id: str
    sender: int
    receiver: int
    made_at: str
    base: str | None
    """The file before it, whose content it does not repeat; None if it holds everything."""
    received: str | None
    """The last file of the receiver that the sender has read."""
    certificate: str
    ephemeral: str


class Sealer:
    """Writes a file; without `close` it has no end and nobody will read it."""

    def __init__(self, target: IO[bytes], key_pem: str, receiver_pem: str, **facts: Any) -> None:
        made = ec.generate_private_key(CURVE)
        point = made.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
        )
        content = json.dumps(asdict(Header(**facts, ephemeral=point.hex()))).encode()
        signature = certificate.private_key(key_pem).sign(MAGIC + content, ec.ECDSA(hashes.SHA256()))
        start = MAGIC + struct.pack(">I", len(content)) + content
        start += struct.pack(">H", len(signature)) + signature
        receiver = certificate.parse_certificate(receiver_pem).public_key()
        assert isinstance(receiver, ec.EllipticCurvePublicKey)
        self._cipher = AESGCM(_derive(made.exchange(ec.ECDH(), receiver), start))
        self._start = hashlib.sha256(start).digest()
        self._target = target
        self._held = bytearray()
        self._count = 0
        target.write(start)

    def write(self, content: bytes) -> None:
        self._held += content
        while len(self._held) > PIECE_BYTES_MAX:
            self._seal(bytes(self._held[:PIECE_BYTES_MAX]), is_last=False)
            del self._held[:PIECE_BYTES_MAX]

    def close(self) -> None:
        self._seal(bytes(self._held), is_last=True)

    def _seal(self, piece: bytes, *, is_last: bool) -> None:
        sealed = self._cipher.encrypt(_nonce(self._count, is_last), piece, self._start)
        self._target.write(struct.pack(">I", len(sealed)) + sealed)
        self._count += 1


def unseal(
    source: IO[bytes], *, key_pem: str, authority_pem: str, me: certificate.PeerIdentity
) -> tuple[Header, Iterator[bytes]]:
    """The header, checked, and the content, checked piece by piece as it is read."""
    start, content, signature = _read_start(source)
    header = _read_header(content)
    if header.atoll_id != me.atoll_id:
        raise PolicyDenied("wrong-authority", "the file belongs to another atoll")
    sender = certificate.verify_member(header.certificate, authority_pem)
    if certificate.read_pem(header.certificate).number != header.sender:
        raise PolicyDenied("certificate-invalid", "the file names another sender than its certificate does")
    key = sender.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(signature, MAGIC + content, ec.ECDSA(hashes.SHA256()))
        ephemeral = ec.EllipticCurvePublicKey.from_encoded_point(CURVE, bytes.fromhex(header.ephemeral))
    except (InvalidSignature, ValueError) as error:
        raise damaged("Its signature is not the sender's.") from error
    if header.receiver != me.number:
        raise PolicyDenied(
            "transfer-not-for-us",
            f"cannot read the file: it is for node {header.receiver}, and this is node {me.number}",
            hint="Import it there, or have it made for this node.",
        )
    cipher = AESGCM(_derive(certificate.private_key(key_pem).exchange(ec.ECDH(), ephemeral), start))
    return header, _pieces(source, cipher, hashlib.sha256(start).digest())


def _pieces(source: IO[bytes], cipher: AESGCM, start: bytes) -> Iterator[bytes]:
    count, is_last = 0, False
    while not is_last:
        (length,) = struct.unpack(">I", _exactly(source, 4))
        if not TAG_BYTES <= length <= PIECE_BYTES_MAX + TAG_BYTES:
            raise damaged("A piece has a length that none can have.")
        sealed = _exactly(source, length)
        try:
            piece = cipher.decrypt(_nonce(count, False), sealed, start)
        except InvalidTag:
            try:
                piece, is_last = cipher.decrypt(_nonce(count, True), sealed, start), True
            except InvalidTag as error:
                raise damaged("A piece was changed, or was sealed to somebody else.") from error
        count += 1
        yield piece
    if source.read(1):
        raise damaged("There is something behind its end.")


def _read_start(source: IO[bytes]) -> tuple[bytes, bytes, bytes]:
    if source.read(len(MAGIC)) != MAGIC:
        raise damaged("It does not begin as such a file does.")
    (length,) = struct.unpack(">I", _exactly(source, 4))
    if length > HEADER_BYTES_MAX:
        raise damaged("Its header is longer than any can be.")
    content = _exactly(source, length)
    (size,) = struct.unpack(">H", _exactly(source, 2))
    signature = _exactly(source, size)
    start = MAGIC + struct.pack(">I", length) + content + struct.pack(">H", size) + signature
    return start, content, signature


def _read_header(content: bytes) -> Header:
    try:
        return Header(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise damaged("Its header cannot be read.") from error


def _exactly(source: IO[bytes], count: int) -> bytes:
    found = source.read(count)
    if len(found) != count:
        raise damaged("It is cut off.")
    return found


def _derive(shared: bytes, start: bytes) -> bytes:
    salt = hashlib.sha256(start).digest()
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=PURPOSE).derive(shared)


def _nonce(count: int, is_last: bool) -> bytes:
    return struct.pack(">Q3x?", count, is_last)


def damaged(detail: str) -> DataError:
    return DataError(
        "transfer-damaged",
        "cannot read the file: it is damaged",
        detail=detail,
        hint="Copy it again, or have it made again.",
    )
