"""A stream that carries an engine's bytes between two nodes: a message each way, then its connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
from asyncio import StreamReader, StreamWriter
from typing import Any

from atoll.domain.errors import AtollError, LinkError
from atoll.link.stream import Pipe

MESSAGE_BYTES_MAX = 64 * 1024
LENGTH_BYTES = 4
CHUNK_BYTES_MAX = 256 * 1024


async def write_message(pipe: Pipe, told: dict[str, Any]) -> None:
    body = json.dumps(told).encode()
    await pipe.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)


async def read_message(pipe: Pipe) -> dict[str, Any]:
    length = int.from_bytes(await pipe.read_exactly(LENGTH_BYTES), "big")
    if length > MESSAGE_BYTES_MAX:
        raise LinkError("protocol", "the peer sent a message that is too long")
    try:
        told = json.loads(await pipe.read_exactly(length))
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise LinkError("protocol", "the peer sent a message that cannot be read")
    return told


async def carry(pipe: Pipe, inner: tuple[StreamReader, StreamWriter]) -> None:
    """One connection between engine and worker, both ways, until both sides have ended it.

    An engine connects many times, one after the other, so each end is told: a message of no bytes.
    """
    reader, writer = inner
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_outward(reader, pipe))
            group.create_task(_inward(pipe, writer))
    except* (AtollError, OSError) as errors:
        raise errors.exceptions[0] from None
    finally:
        writer.close()


async def _outward(reader: StreamReader, pipe: Pipe) -> None:
    while chunk := await _read(reader):
        await pipe.write(len(chunk).to_bytes(LENGTH_BYTES, "big") + chunk)
    await pipe.write(bytes(LENGTH_BYTES))


async def _read(reader: StreamReader) -> bytes:
    try:
        return await reader.read(CHUNK_BYTES_MAX)
    except ConnectionError:
        return b""


async def _inward(pipe: Pipe, writer: StreamWriter) -> None:
    while length := int.from_bytes(await pipe.read_exactly(LENGTH_BYTES), "big"):
        if length > CHUNK_BYTES_MAX:
            raise LinkError("protocol", "the peer sent a message that is too long")
        chunk = await pipe.read_exactly(length)
        with contextlib.suppress(ConnectionError):  # who has left needs no answer
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
