"""The wire format below TLS: a byte of kind, three bytes of length, the payload; messages are JSON."""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any

from atoll.domain.errors import LinkError

HEADER_BYTES = 4
LENGTH_MASK = 0xFFFFFF


class Kind(IntEnum):
    DATA = 1
    PACKED = 2
    EOF = 3
    PING = 4
    PONG = 5
    MESSAGE = 6
    CLOSE = 7


SHORT_KINDS = {Kind.EOF: 0, Kind.PING: 8, Kind.PONG: 8}


def encode_header(kind: Kind, length: int) -> bytes:
    return struct.pack("!I", kind << 24 | length)


def encode_message(content: dict[str, Any], bytes_max: int = LENGTH_MASK) -> bytes:
    payload = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    if len(payload) > bytes_max:
        raise LinkError("message-too-large", f"cannot send a message of {len(payload)} bytes")
    return payload


def decode_message(payload: bytes) -> dict[str, Any]:
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise LinkError("protocol", "the peer sent a message that is not JSON") from error
    if not isinstance(content, dict):
        raise LinkError("protocol", "the peer sent a message that is not an object")
    return content
