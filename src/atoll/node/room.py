"""What models may take on this node and what they take, as a row for the other nodes, who plan by it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from atoll.node.peers import EVERY_SECONDS, MEMBERS_PER_SECOND
from atoll.runtimes.llama.native import engine_version
from atoll.runtimes.llama.split.plugin import plugin_in
from atoll.serving.service import Serving
from atoll.sql import query


class Room:
    def __init__(self, serving: Serving, bytes_max: int, split: Path) -> None:
        """`split` is where lies what it takes to hold layers of other nodes' models."""
        self._serving = serving
        self._bytes_max = bytes_max
        self._split = split
        self._told: tuple[int, str | None] | None = None
        self._tell_at = 0.0

    def forget(self) -> None:
        """Nothing has been told: this node has another number now, or has just started."""
        self._told, self._tell_at = None, 0.0

    async def tell(self, connection: AsyncConnection[tuple[Any, ...]]) -> None:
        """Where it has changed, and not too often: every node hears of it."""
        now, taken = asyncio.get_running_loop().time(), self._serving.taken_bytes()
        engine = engine_version() if plugin_in(self._split) is not None else None
        if (taken, engine) == self._told or now < self._tell_at:
            return
        told = {"bytes_max": self._bytes_max, "bytes_taken": taken, "split_engine": engine}
        await connection.execute(query("room", "say"), told)
        if self._told is None:
            await connection.execute(query("room", "forget"), (False,))
        row = await (await connection.execute(query("offers", "members"))).fetchone()
        self._told = taken, engine
        self._tell_at = now + max(EVERY_SECONDS, (row[0] if row else 1) / MEMBERS_PER_SECOND)
