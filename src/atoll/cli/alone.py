"""A model in an engine of the command's own, without a node: loaded for as long as a block lasts.

Engines live in an event loop; it runs in a thread beside, so that the command can wait for a person's words
while the engine is looked after. Ctrl-C takes back what is being asked; leaving the block ends the engine.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from atoll.runtimes.contract import Facts, Runtime

ENDING_SECONDS_MAX = 10.0
FOLDER_BYTES_MAX = 60  # the path of an engine's socket in a folder below may have 107
T = TypeVar("T")


@dataclass(frozen=True)
class Alone:
    """The model, loaded."""

    runtime: Runtime
    facts: Facts
    loop: asyncio.AbstractEventLoop
    load_seconds: float

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return _call(self.loop, work)

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What a language model says, as it says it. Who stops listening frees the engine."""
        from atoll.runtimes.contract import Ask
        from atoll.runtimes.events import content

        said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

        async def listen() -> None:
            try:
                async with self.runtime.generate(Ask(path, body)) as found:
                    async for event in found:
                        if told := content(event):
                            said.put(told)
            finally:
                said.put(None)

        listening = asyncio.run_coroutine_threadsafe(listen(), self.loop)
        try:
            while (event := said.get()) is not None:
                yield event
            listening.result()
        finally:
            listening.cancel()


@contextmanager
def load(path: Path, options: Mapping[str, Any], library: Path | None = None) -> Iterator[Alone]:
    from atoll.node.engines import open_file

    place = gettempdir() if len(os.fsencode(gettempdir())) <= FOLDER_BYTES_MAX else "/tmp"  # noqa: S108
    with TemporaryDirectory(prefix="atoll-run-", dir=place) as folder, _running_loop() as loop:
        runtime = open_file(path, Path(folder), options, library)
        try:
            began = time.perf_counter()
            with waiting("loading"):
                facts = _call(loop, runtime.start())
            yield Alone(runtime, facts, loop, time.perf_counter() - began)
        finally:
            _call(loop, runtime.stop())


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """A word on a terminal for as long as something takes; it may be changed meanwhile."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda word: None
        return
    with console.status(what) as status:
        yield status.update


@contextmanager
def _running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="engine", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _call(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Whoever is interrupted while waiting takes the work back, and waits until it has ended."""
    ended = threading.Event()

    async def run() -> T:
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(run(), loop)
    try:
        return future.result()
    except BaseException:
        if future.cancel():
            ended.wait(ENDING_SECONDS_MAX)
        raise
