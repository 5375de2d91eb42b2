"""A stream that carries an engine's bytes between two nodes: a message each way, then whatever comes."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from typing import Any

from atoll.domain.errors import LinkError
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


async def pass_on(pipe: Pipe, inner: tuple[StreamReader, StreamWriter]) -> None:
    """Both ways until one side ends; then neither has anybody to talk to."""
    reader, writer = inner
    ways = [asyncio.create_task(_outward(reader, pipe)), asyncio.create_task(_inward(pipe, writer))]
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()


async def _outward(reader: StreamReader, pipe: Pipe) -> None:
    while chunk := await reader.read(CHUNK_BYTES_MAX):
        await pipe.write(chunk)


async def _inward(pipe: Pipe, writer: StreamWriter) -> None:
    while chunk := await pipe.read():
        writer.write(chunk)
        await writer.drain()
