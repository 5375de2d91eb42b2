"""SCRAM-SHA-256 (RFC 5802, 7677) without channel binding, both halves, as PostgreSQL speaks it. Pure.

The client half proves the node to somebody else's PostgreSQL, the server half lets that PostgreSQL prove
itself to the node's door. Nonces and salt are handed in. Moving the messages is the caller's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import unicodedata

MECHANISM = "SCRAM-SHA-256"
ITERATIONS = 4096
ITERATIONS_MAX = 1_000_000
MESSAGE_BYTES_MAX = 2048


class ScramError(ValueError):
    """The other side said what it may not say, or could not prove that it knows the password."""


class Client:
    """Three steps: `first`, `final` for the server's challenge, `check` of the server's own proof."""

    def __init__(self, password: str, nonce: str) -> None:
        self._password = prepared(password)
        self._nonce = nonce
        self._bare = f"n=,r={nonce}"
        self._expected = b""

    def first(self) -> bytes:
        return b"n,," + self._bare.encode()

    def final(self, challenge: bytes) -> bytes:
        told = fields(challenge)
        nonce, salt, rounds = told.get("r", ""), told.get("s", ""), told.get("i", "")
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramError("the server's nonce does not continue ours")
        if not rounds.isdigit() or not 1 <= int(rounds) <= ITERATIONS_MAX:
            raise ScramError("the server's number of iterations is out of bounds")
        without_proof = f"c=biws,r={nonce}"
        salted = hashlib.pbkdf2_hmac("sha256", self._password, decoded(salt), int(rounds))
        signed = b",".join((self._bare.encode(), challenge, without_proof.encode()))
        self._expected = _hmac(_hmac(salted, b"Server Key"), signed)
        return f"{without_proof},p={_proof(salted, signed)}".encode()

    def check(self, told: bytes) -> None:
        """Whether the server knows the password too."""
        signature = decoded(fields(told).get("v", ""))
        if not self._expected or not hmac.compare_digest(signature, self._expected):
            raise ScramError("the server could not prove that it knows the password")


class Server:
    """Two steps: `challenge` for the client's first message, `verify` for its last one."""

    def __init__(self, password: str, nonce: str, salt: bytes) -> None:
        self._salted = hashlib.pbkdf2_hmac("sha256", prepared(password), salt, ITERATIONS)
        self._salt = base64.b64encode(salt).decode()
        self._nonce = nonce
        self._header = self._bare = self._challenge = b""

    def challenge(self, first: bytes) -> bytes:
        flag, name, bare = (*first.split(b",", 2), b"", b"")[:3]
        if flag not in (b"n", b"y") or name:
            raise ScramError("only SCRAM without channel binding is spoken here")
        self._header, self._bare = flag + b",,", bare
        theirs = fields(bare).get("r", "")
        if not theirs:
            raise ScramError("the client has no nonce")
        self._nonce = theirs + self._nonce
        self._challenge = f"r={self._nonce},s={self._salt},i={ITERATIONS}".encode()
        return self._challenge

    def verify(self, final: bytes) -> bytes:
        """The proof of this side, if the client's is right."""
        without_proof, found, proof = final.rpartition(b",p=")
        told = fields(without_proof)
        bound = base64.b64encode(self._header).decode()
        if not found or told.get("r") != self._nonce or told.get("c") != bound:
            raise ScramError("the client's answer belongs to another question")
        signed = b",".join((self._bare, self._challenge, without_proof))
        if not hmac.compare_digest(proof, _proof(self._salted, signed).encode()):
            raise ScramError("the client does not know the password")
        return b"v=" + base64.b64encode(_hmac(_hmac(self._salted, b"Server Key"), signed))


def prepared(password: str) -> bytes:
    """The bytes that both sides derive keys from (SASLprep, as far as passwords that people have need it)."""
    return (password if password.isascii() else unicodedata.normalize("NFKC", password)).encode()


def fields(message: bytes) -> dict[str, str]:
    if len(message) > MESSAGE_BYTES_MAX:
        raise ScramError("the message is too long")
    try:
        parts = message.decode("ascii").split(",")
    except UnicodeDecodeError as error:
        raise ScramError("the message is not ASCII") from error
    return {part[:1]: part[2:] for part in parts if part[1:2] == "="}


def decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ScramError("the message is not in base 64") from error


def _proof(salted: bytes, signed: bytes) -> str:
    key = _hmac(salted, b"Client Key")
    signature = _hmac(hashlib.sha256(key).digest(), signed)
    return base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")
