"""A language model in llama.cpp: one supervised process, asked over a Unix socket.

When the process ends or hangs, this runtime is over and everything under way breaks off; its owner makes
another one, after a pause. What may be asked is decided in wants.py and bodies.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.domain.models import Skill
from atoll.runtimes import vectors
from atoll.runtimes.contract import Array, Ask, Embeddings, Facts
from atoll.runtimes.gate import Gate
from atoll.runtimes.http.wire import Wire
from atoll.runtimes.llama import bodies, calls, course
from atoll.runtimes.llama.engine import Engine, weights_size
from atoll.runtimes.llama.fields import Bounds
from atoll.runtimes.llama.wants import Patience, Wants, check
from atoll.runtimes.within import Within

TEXTS_MAX, TEXTS_PER_REQUEST = 2048, 16
EXIT_SECONDS_MAX = 1.0
FIRST_QUESTION = Ask("/v1/completions", {"prompt": "a", "max_tokens": 1})


class LlamaRuntime:
    """One GGUF file in one process. Made once, started once."""

    def __init__(
        self, file: Path, wants: Wants, *, folder: Path, log: Path, patience: Patience | None = None
    ) -> None:
        check(wants)
        self._file, self._folder, self._log = file.absolute(), folder.absolute(), log
        self._wants = wants
        self._patience = patience or Patience()
        self._gate = Gate(wants.parallel, wants.waiting, self._patience.queue_seconds)
        self._bounds = Bounds(wants.context_tokens, wants.parallel, tuple(wants.adapters))
        self._engine: Engine | None = None
        self._guard: asyncio.Task[None] | None = None
        self._end: str | None = None
        self._has_ended = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return self._engine.process.pid if self._engine else None

    async def start(self) -> Facts:
        size = sum(weights_size(path) for path in (self._file, *self._wants.adapters.values()))
        self._engine = await Engine.launch(
            self._file, self._wants, self._folder, self._log, self._patience.silence_seconds
        )
        try:
            await self._engine.until_ready(course.start_seconds_max(size))
            facts = await self._warm_up(self._engine)
        except BaseException:
            await self._over(self._engine, "it did not start")
            raise
        self._guard = asyncio.create_task(self._watch(self._engine))
        return facts

    async def stop(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
        if self._engine is not None:
            await self._over(self._engine, "it was unloaded")

    async def break_off(self, reason: str) -> None:
        """What it needs is gone: it is over, for this reason."""
        if self._engine is not None:
            await self._over(self._engine, reason)

    async def ended(self) -> str:
        await self._has_ended.wait()
        return self._end or ""

    def generate(self, ask: Ask) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        if self._wants.skill is not Skill.GENERATE:
            raise _lacks("generate")
        body = bodies.engine_body(ask, self._bounds)
        self._wire()
        answer = Within(self._gate, lambda _: self._wire().stream(ask.path, body, _is_noise))
        if not calls.insists(ask.path, ask.body):
            return answer
        return Within(answer, lambda found: aclosing(calls.as_calls(found)))

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        if self._wants.skill is not Skill.EMBED:
            raise _lacks("embed")
        if not 1 <= len(texts) <= TEXTS_MAX or not all(isinstance(text, str) and text for text in texts):
            raise DataError("request-refused", f"cannot embed: 1 to {TEXTS_MAX:,} texts, none of them empty")
        steps = range(0, len(texts), TEXTS_PER_REQUEST)
        return vectors.joined([await self._embed(texts[at : at + TEXTS_PER_REQUEST]) for at in steps])

    async def infer(self, inputs: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        raise _lacks("infer")

    async def _embed(self, texts: Sequence[str]) -> Embeddings:
        """Few at a time: the engine does not notice when somebody leaves one of these."""
        body = json.dumps({"input": list(texts), "encoding_format": "base64"}).encode()
        self._wire()
        async with self._gate:
            return vectors.of_answer(await self._wire().ask("/v1/embeddings", body), len(texts))

    def _wire(self) -> Wire:
        if self._engine is None or self._end is not None:
            reason = f"The engine has ended: {self._end}." if self._end else "It was not started."
            raise LinkError("runtime-broken", "could not answer: the engine is away", detail=reason)
        return self._engine.wire

    async def _warm_up(self, engine: Engine) -> Facts:
        """Ask once, so that what does not work is known now, and learn what was loaded."""
        dimensions = None
        try:
            if self._wants.skill is Skill.EMBED:
                dimensions = int((await self._embed(["a"])).vectors.shape[1])
            else:
                async with self.generate(FIRST_QUESTION) as found:
                    _ = [event async for event in found]
            context = await engine.context_tokens()
            if self._wants.skill is Skill.EMBED:
                context = min(context, self._wants.context_tokens)  # a text is one batch
        except AtollError as error:
            if (code := await engine.process.wait(EXIT_SECONDS_MAX)) is not None:
                raise engine.why_not_started(code) from error
            detail = error.detail or f"{error}."
            raise DataError("model-unusable", "cannot use the model", detail=detail) from error
        self._bounds = Bounds(context, self._wants.parallel, tuple(self._wants.adapters))
        return Facts(
            frozenset({self._wants.skill}),
            engine.process.memory_bytes(),
            context_tokens=context,
            dimensions=dimensions,
            adapters=tuple(self._wants.adapters),
            details={"engine": "llama.cpp", "parallel": self._wants.parallel},
        )

    async def _watch(self, engine: Engine) -> None:
        """Notice that the engine ended, or that its loop does not come round any more."""
        while (code := await engine.process.wait(self._patience.ask_every_seconds)) is None:
            if await engine.answers("/slots", self._patience.answer_seconds):
                continue
            # Its socket goes before the process has ended.
            if (code := await engine.process.wait(EXIT_SECONDS_MAX)) is None:
                await self._over(engine, f"it did not answer for {self._patience.answer_seconds:g} s")
                return
            break
        await self._over(engine, course.why_ended(code))

    async def _over(self, engine: Engine, reason: str) -> None:
        """The end, for whatever reason came first."""
        if self._end is None:
            self._end = reason
        await engine.close()
        self._has_ended.set()


def _is_noise(event: bytes) -> bool:
    """Progress of reading the prompt, which only keeps the connection awake, and events without content."""
    return b'"prompt_progress":' in event or event.startswith((b"data: null", b":"))


def _lacks(skill: str) -> DataError:
    return DataError("skill-missing", f"cannot {skill}: the model is not made for it")
