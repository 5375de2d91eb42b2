"""Serving: gives callers the runtime of a model, and keeps loaded what decide.py says.

Who makes runtimes and where files come from is known to whoever wires this; a model is given by name.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import NamedTuple

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError
from atoll.runtimes.contract import Facts, Runtime
from atoll.serving import decide
from atoll.serving.berth import Berth, Loaded, Wanted
from atoll.serving.decide import Load, Refuse, Replace, State, Step, Unload

IDLE_SECONDS_MAX = 900.0
LOOK_SECONDS_MAX = 30.0
LOANS_MAX = 8
log = logging.getLogger(__name__)


class Word(NamedTuple):
    """How one model is, for those who ask."""

    model: str
    version: str
    variant: str
    state: State
    asking: int
    problem: str | None
    facts: Facts  # measured where it is loaded, else what its manifest says
    adapters: Mapping[str, str]  # that it is to have, each with its version
    loaded_adapters: Mapping[str, str]


class Serving:
    def __init__(
        self,
        memory_max_bytes: int,
        idle_seconds_max: float = IDLE_SECONDS_MAX,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`changed` is told whenever a model is loaded, unloaded or broken."""
        self._memory_max_bytes = memory_max_bytes
        self._idle_seconds_max = idle_seconds_max
        self._clock = clock
        self._changed = changed
        self._berths: dict[str, Berth] = {}
        self._lent_bytes = self._loans = 0
        self._woken = asyncio.Event()
        self._waits_for_rest = False

    def models(self) -> list[Word]:
        """Every model that this node is to have."""
        return [word for name in self._berths if (word := self.word(name)) is not None]

    def word(self, model: str) -> Word | None:
        """One of them."""
        berth = self._berths.get(model)
        if berth is None or berth.wanted is None:
            return None
        return Word(
            berth.model,
            berth.wanted.version,
            berth.wanted.variant,
            berth.state,
            berth.asking,
            str(berth.problem) if berth.problem is not None else None,
            berth.loaded.facts if berth.loaded is not None else berth.wanted.said,
            berth.wanted.adapters,
            berth.loaded.wanted.adapters if berth.loaded is not None else {},
        )

    def taken_bytes(self) -> int:
        """Of memory, by what is loaded or being loaded, and by what other nodes have borrowed."""
        return self._lent_bytes + decide.taken_bytes([berth.facts() for berth in self._berths.values()])

    @contextmanager
    def lend(self, size: int) -> Iterator[None]:
        """Memory for what another node's model needs here, during the block; nothing makes way for it."""
        free = self._memory_max_bytes - self.taken_bytes()
        if size > free:
            wanted, there = size // decide.MEGABYTE, max(0, free) // decide.MEGABYTE
            raise LinkError(
                "room-lacking", f"cannot hold {wanted} MB for another node: {there} MB are free for models"
            )
        if self._loans >= LOANS_MAX:
            raise LinkError(
                "room-lacking", f"cannot hold more for other nodes: {LOANS_MAX} workers are here already"
            )
        self._lent_bytes += size
        self._loans += 1
        self._changed()
        try:
            yield
        finally:
            self._lent_bytes -= size
            self._loans -= 1
            self._tell()

    def use(
        self, model: str, version: str | None = None, adapter: str | None = None
    ) -> AbstractAsyncContextManager[Runtime]:
        """The runtime of a model, for the time of a request. It is loaded where it is not yet."""
        berth = self._berths.get(model)
        if berth is None or berth.wanted is None:
            raise DataError("model-unknown", f'this node has no model "{model}"', hint=self._near(model))
        if version not in (None, berth.wanted.version):
            raise DataError(
                "model-unknown",
                f'this node has no version "{version}" of model "{model}"',
                hint=f'It has "{berth.wanted.version}".',
            )
        if adapter is not None and adapter not in berth.wanted.adapters:
            known = ", ".join(f"{model}:{name}" for name in berth.wanted.adapters)
            raise DataError(
                "model-unknown",
                f'model "{model}" has no adapter "{adapter}" on this node',
                hint=f"There are: {known}."
                if known
                else f"Add one: atoll model add FILE --adapter-of {model}",
            )
        return berth.use(adapter)

    async def until_another(self, model: str, runtime: Runtime, seconds: float) -> bool:
        """Wait until it was noticed that a runtime broke: whoever asks again then gets the next one."""
        berth = self._berths.get(model)
        return berth is not None and await berth.until_another(runtime, seconds)

    def loaded(self, model: str) -> Loaded | None:
        """What answers for a model; asked right after `use` was entered, it is whose runtime was given."""
        berth = self._berths.get(model)
        return berth.loaded if berth is not None else None

    async def desire(self, wanted: Iterable[Wanted]) -> None:
        """This is what the node is to have from now on, and nothing else."""
        named = {one.model: one for one in wanted}
        for model, one in named.items():
            if model in self._berths:
                await self._berths[model].want(one)
            else:
                self._berths[model] = Berth(one, self._clock, self._woken.set, self._rested)
        for model in self._berths.keys() - named.keys():
            await self._berths[model].want(None)
        self._tell()

    async def run(self) -> None:
        """Load and unload until cancelled; then unload everything."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._woken.clear()
                    while (step := self._next_step()) is not None:
                        await self._take(step, group)
                    self._waits_for_rest = decide.waits_for_rest(self._facts())
                    try:
                        async with asyncio.timeout(self._seconds_to_look()):
                            await self._woken.wait()
                    except TimeoutError:
                        pass
        finally:
            loaded = [berth.loaded for berth in self._berths.values() if berth.loaded is not None]
            await asyncio.gather(*(one.stop() for one in loaded), return_exceptions=True)

    def _next_step(self) -> Step | None:
        return decide.next_step(
            self._facts(), self._memory_max_bytes, self._idle_seconds_max, self._lent_bytes
        )

    def _facts(self) -> list[decide.Berth]:
        return [berth.facts() for berth in self._berths.values()]

    def _rested(self) -> None:
        """A model has answered all its callers."""
        if self._waits_for_rest:
            self._woken.set()

    def _seconds_to_look(self) -> float | None:
        """When something may be due without anybody saying so; never, where nothing is loaded or paused."""
        facts, longest = self._facts(), self._idle_seconds_max
        pauses = [one.pause_seconds for one in facts if 0 < one.pause_seconds < math.inf]
        rests = [
            longest if one.asking else longest - one.idle_seconds for one in facts if one.state is State.READY
        ]
        soon = min([*pauses, *(rest for rest in rests if rest > 0)], default=None)
        return None if soon is None else min(soon + 0.01, LOOK_SECONDS_MAX)

    async def _take(self, step: Step, group: asyncio.TaskGroup) -> None:
        berth = self._berths[step.model]
        wanted = berth.wanted
        match step:
            case Load() | Replace():
                assert wanted is not None, "nothing is loaded that is not wanted"
                berth.is_replacing = isinstance(step, Replace)
                await berth.set_state(State.READY if berth.is_replacing else State.LOADING)
                group.create_task(self._load(berth, wanted, group))
            case Unload(why=why):
                log.info('unloading model "%s": %s', step.model, why)
                await berth.set_state(State.LEAVING)
                group.create_task(self._unload(berth))
            case Refuse(why=why):
                await berth.refuse(_too_large(step.model, why))
                self._tell()

    async def _load(self, berth: Berth, wanted: Wanted, group: asyncio.TaskGroup) -> None:
        """Load this; what was loaded before goes on answering until then, and is unloaded after."""
        before, began = berth.loaded, self._clock()
        try:
            runtime, facts = await _started(wanted)
        except AtollError as error:
            log.warning('could not load model "%s": %s', wanted.model, error)
            await berth.give_up(error)
        else:
            log.info(
                'model "%s" %s is loaded: %d MB in %.1f s',
                wanted.model,
                wanted.version,
                facts.memory_bytes // decide.MEGABYTE,
                self._clock() - began,
            )
            loaded = Loaded(wanted, runtime, facts, self._clock())
            loaded.watch = group.create_task(self._watch(berth, loaded))
            await berth.put(loaded)
            if before is not None:
                await berth.empty_of(before)
                await before.stop()
        self._tell()

    async def _unload(self, berth: Berth) -> None:
        loaded = berth.loaded
        assert loaded is not None, "only what is loaded is unloaded"
        await berth.empty_of(loaded)
        await berth.clear()
        await loaded.stop()
        self._tell()

    async def _watch(self, berth: Berth, loaded: Loaded) -> None:
        """Until the engine ends by itself."""
        why = await loaded.runtime.ended()
        log.warning('model "%s" broke: %s', berth.model, why)
        if berth.loaded is loaded:
            await berth.fail(LinkError("runtime-broken", f'model "{berth.model}" broke', detail=f"{why}."))
            await berth.clear()
        loaded.watch = None
        await loaded.stop()
        self._tell()

    def _tell(self) -> None:
        for model in [name for name, berth in self._berths.items() if berth.is_forgotten()]:
            del self._berths[model]
        self._woken.set()
        self._changed()

    def _near(self, model: str) -> str:
        names = [berth.model for berth in self._berths.values() if berth.wanted is not None]
        near = difflib.get_close_matches(model, names, n=1)
        if near:
            return f'Did you mean "{near[0]}"?'
        return f"There are: {', '.join(sorted(names))}." if names else "Add one: atoll model add FILE"


async def _started(wanted: Wanted) -> tuple[Runtime, Facts]:
    """A runtime that answers. What an engine stumbles over unforeseen must not take the others along."""
    try:
        runtime = wanted.open()
        try:
            return runtime, await runtime.start()
        except BaseException:
            await runtime.stop()
            raise
    except AtollError:
        raise
    except Exception as error:
        log.exception('could not load model "%s"', wanted.model)
        raise LinkError("runtime-broken", "could not start the engine", detail=f"{error!r}.") from error


def _too_large(model: str, why: str) -> ConfigError:
    log.warning('model "%s" is not loaded: %s', model, why)
    return ConfigError(
        "model-too-large",
        f'cannot load model "{model}": {why}',
        hint="Choose a smaller variant, or raise --models-memory.",
    )
