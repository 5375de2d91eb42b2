"""Passes bytes between two pairs of streams until both directions have ended, with back-pressure."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter

CHUNK_BYTES_MAX = 64 * 1024


async def splice(one: tuple[StreamReader, StreamWriter], other: tuple[StreamReader, StreamWriter]) -> None:
    """Returns when both are closed. PostgreSQL never half-closes: where one side ends, so does the other."""
    ways = [asyncio.create_task(_pass(a[0], b[1])) for a, b in ((one, other), (other, one))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Both at once, before anything is waited for: whoever stops us may do so a second time.
        for writer in (one[1], other[1]):
            writer.close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass(reader: StreamReader, writer: StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES_MAX):
        writer.write(chunk)
        await writer.drain()


async def close(writer: StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
