"""Packets of PostgreSQL's protocol on a stream, as far as a connection's beginning needs them.

Reading is bounded: who has not proved itself yet gets no more memory than a startup packet.
"""

from __future__ import annotations

import struct
from asyncio import StreamReader
from collections.abc import Mapping

from atoll.link.startup import STARTUP_BYTES_MAX

PROTOCOL = 3 << 16
SSL_REQUEST = 80877103
GSS_REQUEST = 80877104
AUTHENTICATION = b"R"
OK, CLEAR_TEXT, MD5, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 5, 10, 11, 12


class PacketError(ValueError):
    """What came is no packet of the protocol, or none that may come here."""


async def read_startup(reader: StreamReader) -> tuple[int, bytes]:
    """The code of a startup packet and what follows it."""
    size, code = struct.unpack("!II", await reader.readexactly(8))
    if not 8 <= size <= STARTUP_BYTES_MAX:
        raise PacketError("the startup packet has an invalid length")
    return code, await reader.readexactly(size - 8)


def parse_startup(body: bytes) -> dict[str, str]:
    """The parameters of a startup packet."""
    parts = body.rstrip(b"\0").split(b"\0") if body.strip(b"\0") else []
    if len(parts) % 2:
        # The last value may be empty.
        parts.append(b"")
    try:
        texts = [part.decode() for part in parts]
    except UnicodeDecodeError as error:
        raise PacketError("the startup packet is not UTF-8") from error
    return dict(zip(texts[::2], texts[1::2], strict=True))


def startup(parameters: Mapping[str, str]) -> bytes:
    body = b"".join(f"{key}\0{value}\0".encode() for key, value in parameters.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, PROTOCOL) + body


def ssl_request() -> bytes:
    return struct.pack("!II", 8, SSL_REQUEST)


async def read_message(reader: StreamReader) -> tuple[bytes, bytes]:
    """Type and body of a message; a connection's beginning has only short ones."""
    kind = await reader.readexactly(1)
    (size,) = struct.unpack("!I", await reader.readexactly(4))
    if not 4 <= size <= STARTUP_BYTES_MAX:
        raise PacketError("a message has an invalid length")
    return kind, await reader.readexactly(size - 4)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def authentication(code: int, body: bytes = b"") -> bytes:
    return message(AUTHENTICATION, struct.pack("!I", code) + body)


def password(body: bytes) -> bytes:
    """The answer to whatever was asked about a password."""
    return message(b"p", body)


def sasl_first(mechanism: str, body: bytes) -> bytes:
    return password(mechanism.encode() + b"\0" + struct.pack("!I", len(body)) + body)


def parse_sasl_first(body: bytes) -> tuple[str, bytes]:
    mechanism, _, rest = body.partition(b"\0")
    if len(rest) < 4 or struct.unpack_from("!I", rest)[0] != len(rest) - 4:
        raise PacketError("the first message of the authentication is malformed")
    return mechanism.decode("ascii", "replace"), rest[4:]
