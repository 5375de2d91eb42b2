"""The place of one model in memory: what is wanted there, what is loaded, and who waits for it.

A berth keeps the books and lets callers wait; what is loaded and unloaded when is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.runtimes.contract import Facts, Runtime
from atoll.serving import decide
from atoll.serving.decide import State

WAITING_MAX = 64
READY_SECONDS_MAX = 60.0
STEADY_SECONDS = 60.0


@dataclass(frozen=True)
class Wanted:
    """A model in the version and variant that this node is to have."""

    model: str
    version: str
    variant: str
    options: Mapping[str, Any]
    said: Facts  # what its manifest says; the memory is an estimate
    is_kept: bool
    open: Callable[[], Runtime] = field(compare=False)
    adapters: Mapping[str, str] = field(default_factory=dict)  # each with its version

    def is_served_by(self, other: Wanted) -> bool:
        """Is what is loaded for the other what this one asks for?"""
        mine = (self.version, self.variant, self.options, self.adapters)
        return mine == (other.version, other.variant, other.options, other.adapters)


@dataclass
class Loaded:
    """A runtime that has started, and how many callers it has."""

    wanted: Wanted
    runtime: Runtime
    facts: Facts
    since: float
    callers: int = 0
    watch: asyncio.Task[None] | None = None

    def has(self, adapter: str | None) -> bool:
        return adapter is None or adapter in self.wanted.adapters

    async def stop(self) -> None:
        if self.watch is not None:
            self.watch.cancel()
        await self.runtime.stop()


class Berth:
    def __init__(
        self, wanted: Wanted, clock: Callable[[], float], wake: Callable[[], None], rest: Callable[[], None]
    ) -> None:
        """`wake` is called where it has to be loaded for somebody, `rest` when nobody asks any more."""
        self.model = wanted.model
        self.wanted: Wanted | None = wanted
        self.loaded: Loaded | None = None
        self.state = State.EMPTY
        self.problem: AtollError | None = None
        self.is_refused = False
        self.is_replacing = False  # its next version is being loaded beside it
        self.asking = 0
        self._clock = clock
        self._wake = wake
        self._rest = rest
        self._tries = 0
        self._not_before = 0.0
        self._used_at = clock()
        self._changed = asyncio.Condition()

    # What is known of it

    def facts(self) -> decide.Berth:
        now = self._clock()
        wanted, loaded = self.wanted, self.loaded
        estimate = wanted.said.memory_bytes if wanted is not None else 0
        held = loaded.facts.memory_bytes if loaded is not None else estimate
        has_next = wanted is not None and loaded is not None and not wanted.is_served_by(loaded.wanted)
        return decide.Berth(
            model=self.model,
            state=self.state,
            memory_bytes=held + (estimate if self.is_replacing else 0),
            is_wanted=wanted is not None,
            is_kept=wanted is not None and wanted.is_kept,
            asking=self.asking,
            idle_seconds=now - self._used_at,
            pause_seconds=math.inf if self.is_refused else max(0.0, self._not_before - now),
            next_bytes=estimate if has_next and not self.is_replacing else None,
        )

    def is_forgotten(self) -> bool:
        return self.wanted is None and self.state is State.EMPTY and not self.asking

    # What happens to it

    async def want(self, wanted: Wanted | None) -> None:
        """Another version, or none any more; what was held against the one before is forgotten."""
        if wanted == self.wanted:
            return
        self.wanted = wanted
        self.problem, self.is_refused, self._tries, self._not_before = None, False, 0, 0.0
        await self._tell()

    async def set_state(self, state: State) -> None:
        self.state = state
        await self._tell()

    async def give_up(self, error: AtollError) -> None:
        """What was being loaded could not be. A file that is no good is not tried again."""
        await (self.refuse if isinstance(error, DataError) else self.fail)(error)
        self.is_replacing = False
        await self.set_state(State.READY if self.loaded is not None else State.EMPTY)

    async def put(self, loaded: Loaded) -> None:
        """This is loaded from now on, and answers whoever comes."""
        self.loaded, self.state, self.problem, self.is_replacing = loaded, State.READY, None, False
        self._used_at = self._clock()
        await self._tell()

    async def clear(self) -> None:
        """Nothing is loaded here any more."""
        self.loaded, self.state = None, State.EMPTY
        await self._tell()

    async def fail(self, error: AtollError) -> None:
        """It broke, or could not be loaded; it may be tried again after a pause."""
        if self.loaded is not None and self._clock() - self.loaded.since > STEADY_SECONDS:
            self._tries = 0
        self._tries += 1
        self._not_before = self._clock() + decide.pause_before(self._tries)
        self.problem = error
        await self._tell()

    async def refuse(self, error: AtollError) -> None:
        """It will not be tried again until something else is wanted."""
        self.problem, self.is_refused = error, True
        await self._tell()

    async def empty_of(self, loaded: Loaded) -> None:
        """Wait until nobody is being answered by this any more."""
        async with self._changed:
            await self._changed.wait_for(lambda: loaded.callers == 0)

    async def until_another(self, runtime: Runtime, seconds: float) -> bool:
        def is_another() -> bool:
            return self.loaded is None or self.loaded.runtime is not runtime

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(is_another)
        return is_another()

    # Who asks

    def use(self, adapter: str | None = None) -> AbstractAsyncContextManager[Runtime]:
        """The runtime, once it is loaded. How many it answers at once, and who waits for that, is its own."""
        return _Use(self, adapter)

    async def come(self, adapter: str | None) -> Loaded:
        if not (self.loaded and self.loaded.has(adapter)) and self.asking >= WAITING_MAX:
            raise LinkError(
                "runtime-crowded",
                f'{self.asking} requests wait for model "{self.model}" to be loaded',
                hint="Ask again in a moment.",
            )
        self.asking += 1
        if self.state is not State.READY:
            self._wake()
        try:
            loaded = await self._until_ready(adapter)
        except BaseException:
            self._leave()
            raise
        loaded.callers += 1
        return loaded

    async def go(self, loaded: Loaded) -> None:
        loaded.callers -= 1
        self._leave()
        if not loaded.callers and not (loaded is self.loaded and self.state is State.READY):
            await self._tell()  # it leaves, once it is empty

    def _leave(self) -> None:
        self.asking -= 1
        self._used_at = self._clock()
        if not self.asking:
            self._rest()

    async def _until_ready(self, adapter: str | None) -> Loaded:
        def is_settled() -> bool:
            if self.wanted is None or self._has_no_hope() or self._comes_later():
                return True
            # A new adapter comes with the engine that is being loaded beside the one before.
            waits = adapter in self.wanted.adapters and not (self.loaded and self.loaded.has(adapter))
            return self.state is State.READY and (not waits or self.is_refused)

        try:
            if not is_settled():
                async with asyncio.timeout(READY_SECONDS_MAX), self._changed:
                    await self._changed.wait_for(is_settled)
        except TimeoutError:
            raise LinkError(
                "model-loading",
                f'model "{self.model}" could not be loaded in time',
                detail=f"{self.problem}." if self.problem else None,
                hint="Ask again in a moment; atoll model list shows how it is.",
            ) from self.problem
        if self.loaded is not None and self.wanted is not None and self.loaded.has(adapter):
            return self.loaded
        raise self.problem or DataError("model-unknown", f'this node has no model "{self.model}"')

    def _has_no_hope(self) -> bool:
        return self.is_refused and self.loaded is None

    def _comes_later(self) -> bool:
        """It could not be loaded, and said when to come again."""
        later = isinstance(self.problem, LinkError) and self.problem.retry_after_seconds is not None
        return later and self.loaded is None and self._clock() < self._not_before

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class _Use:
    """What is loaded in a berth, for the time of a request."""

    def __init__(self, berth: Berth, adapter: str | None) -> None:
        self._berth = berth
        self._adapter = adapter
        self._loaded: Loaded | None = None

    async def __aenter__(self) -> Runtime:
        self._loaded = await self._berth.come(self._adapter)
        return self._loaded.runtime

    async def __aexit__(self, *problem: object) -> None:
        assert self._loaded is not None
        await self._berth.go(self._loaded)
