"""A language model whose layers are held by several nodes. When one of them is lost, it is over.

Which nodes hold what is found out when it is loaded, by whoever wires this: nodes come and go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from atoll.domain.errors import LinkError
from atoll.runtimes.contract import Array, Ask, Embeddings, Facts
from atoll.runtimes.llama.runtime import LlamaRuntime
from atoll.runtimes.llama.split.shares import Borrowed, described
from atoll.runtimes.llama.wants import Wants

AGAIN_SECONDS = 5.0
HEARD_SECONDS_MAX = 2.0  # an engine may fail sooner than it is heard that a worker has


class SplitRuntime:
    def __init__(
        self,
        file: Path,
        wants: Wants,
        borrow: Callable[[], AbstractAsyncContextManager[Borrowed]],
        *,
        folder: Path,
        log: Path,
    ) -> None:
        self._file, self._wants, self._borrow = file, wants, borrow
        self._folder, self._log = folder, log
        self._stack = AsyncExitStack()
        self._engine: LlamaRuntime | None = None
        self._guard: asyncio.Task[None] | None = None

    async def start(self) -> Facts:
        try:
            borrowed = await self._stack.enter_async_context(self._borrow())
        except LinkError as error:
            # Nobody has to wait for it: that nodes come, or have memory free, may take long.
            error.retry_after_seconds = error.retry_after_seconds or AGAIN_SECONDS
            raise
        wants = replace(self._wants, workers=tuple(borrowed.workers), plugin=borrowed.plugin)
        self._engine = LlamaRuntime(self._file, wants, folder=self._folder, log=self._log)
        facts = await _started(self._engine, borrowed)
        self._guard = asyncio.create_task(self._watch(self._engine, borrowed))
        return replace(facts, details={**facts.details, "split": described(borrowed)})

    async def stop(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
        if self._engine is not None:
            await self._engine.stop()
        await self._stack.aclose()

    async def ended(self) -> str:
        return await self._whole().ended()

    @asynccontextmanager
    async def generate(self, ask: Ask) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._whole().generate(ask) as events:
            yield events

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        return await self._whole().embed(texts)

    async def infer(self, inputs: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        return await self._whole().infer(inputs, wanted)

    def _whole(self) -> LlamaRuntime:
        if self._engine is None:
            raise LinkError("runtime-broken", "could not answer: the engine was not started")
        return self._engine

    async def _watch(self, engine: LlamaRuntime, borrowed: Borrowed) -> None:
        """An engine without a worker ends itself, but only at the next request."""
        await engine.break_off(await borrowed.lost())


async def _started(engine: LlamaRuntime, borrowed: Borrowed) -> Facts:
    """An engine whose worker is lost fails as it does on a bad file, which would never be tried again."""
    starting, lost = asyncio.create_task(engine.start()), asyncio.create_task(borrowed.lost())
    try:
        await asyncio.wait({starting, lost}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and starting.exception() is not None:
            await asyncio.wait({lost}, timeout=HEARD_SECONDS_MAX)
        if lost.done():
            raise LinkError("runtime-broken", "could not load the model", detail=f"{lost.result()}.")
        return await starting
    finally:
        starting.cancel()
        lost.cancel()
        await asyncio.gather(starting, lost, return_exceptions=True)
