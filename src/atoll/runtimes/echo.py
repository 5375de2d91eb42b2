"""A runtime without a model: it says the words of the prompt, for tests and for trying a set-up.

The same request gives the same answer, whichever node it is asked on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from atoll.domain.errors import DataError, LinkError
from atoll.domain.models import Skill
from atoll.runtimes import refusals, speech, vectors
from atoll.runtimes.contract import STREAMED, Array, Ask, Embeddings, Facts
from atoll.runtimes.gate import Gate

DIMENSIONS = 32
WORDS_MAX = 4096
AT_ONCE, WAITING, QUEUE_SECONDS = 64, 256, 60.0


class EchoRuntime:
    """Says what it was told. A delay stands before each event; it ends instead of the event that is named."""

    def __init__(
        self,
        *,
        name: str = "echo",
        event_seconds: float = 0.0,
        fails_at_event: int | None = None,
        context_tokens: int = WORDS_MAX,
        at_once: int = AT_ONCE,
        waiting: int = WAITING,
    ) -> None:
        self._name = name
        self._event_seconds = event_seconds
        self._fails_at_event = fails_at_event
        self._context_tokens = context_tokens
        self._gate = Gate(at_once, waiting, QUEUE_SECONDS)
        self._end: str | None = "it was not started"
        self._has_ended = asyncio.Event()

    async def start(self) -> Facts:
        self._end = None
        return Facts(frozenset(Skill), 0, self._context_tokens, DIMENSIONS, details={"engine": "echo"})

    async def stop(self) -> None:
        self.end("it was unloaded")

    def end(self, reason: str) -> None:
        """End as an engine does that crashes."""
        self._end = self._end or reason
        self._has_ended.set()

    async def ended(self) -> str:
        await self._has_ended.wait()
        return self._end or ""

    @asynccontextmanager
    async def generate(self, ask: Ask) -> AsyncIterator[AsyncIterator[bytes]]:
        said = _words(ask)
        if len(said) > self._context_tokens:
            words = f"{len(said):,} words are more than the {self._context_tokens:,} that it reads."
            raise refusals.too_long(words)
        self._check_alive()
        async with self._gate, aclosing(self._speak(ask, said)) as spoken:
            yield _after(await anext(spoken), spoken)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        self._check_alive()
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise _refused("there has to be a text, and none may be empty")
        rows = np.stack([_vector(text) for text in texts])
        return Embeddings(vectors.normalized(rows), sum(len(text.split()) for text in texts))

    async def infer(self, inputs: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        self._check_alive()
        unknown = [name for name in wanted if name not in inputs]
        if unknown:
            raise _refused(f'it has no output "{unknown[0]}"')
        return {name: inputs[name] for name in wanted or inputs}

    async def _speak(self, ask: Ask, read: Sequence[str]) -> AsyncGenerator[bytes, None]:
        kept = read[: _limit(ask)]
        saying = speech.Saying(self._name, kept, len(read), len(kept) < len(read))
        wants_usage = not ask.body.get("stream") or bool(
            (ask.body.get("stream_options") or {}).get("include_usage")
        )
        for number, event in enumerate(speech.events(ask.path, saying, wants_usage)):
            if number == self._fails_at_event:
                self.end("it failed as it was told to")
            if self._event_seconds:
                await asyncio.sleep(self._event_seconds)
            self._check_alive()
            yield event

    def _check_alive(self) -> None:
        if self._end is not None:
            raise LinkError("runtime-broken", "could not answer: the engine is away", detail=f"{self._end}.")


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in rest:
        yield event


def _words(ask: Ask) -> list[str]:
    """The words of the last thing that was said to it, each but the first with a space before it."""
    if ask.path not in STREAMED:
        raise _refused(f"it does not know the path {ask.path}")
    body = ask.body
    said = body.get("messages") if ask.path in ("/v1/chat/completions", "/v1/messages") else None
    if said is None:
        said = body.get("prompt") if ask.path == "/v1/completions" else body.get("input")
    if "messages" in body and not isinstance(said, list):
        said = None
    if isinstance(said, list) and said and isinstance(said[-1], Mapping):
        said = said[-1].get("content")
    if isinstance(said, list):
        texts = [part.get("text") for part in said if isinstance(part, Mapping)]
        said = " ".join(text for text in texts if isinstance(text, str)) or None
    if not isinstance(said, str):
        raise _refused("there is no prompt in it")
    return [word if number == 0 else f" {word}" for number, word in enumerate(said.split())]


def _limit(ask: Ask) -> int:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = ask.body.get(name)
        if value is not None:
            if not isinstance(value, int) or value < 1:
                raise _refused(f'"{name}" has to be a whole number from 1')
            return value
    return WORDS_MAX


def _vector(text: str) -> NDArray[np.float32]:
    """Numbers that depend on the words and on how often each is there, not on their order."""
    row = np.zeros(DIMENSIONS, np.float32)
    for word in text.lower().split() or [text]:
        digest = hashlib.blake2b(word.encode(errors="replace"), digest_size=DIMENSIONS).digest()
        row += np.frombuffer(digest, np.uint8).astype(np.float32) - 127.5
    return row


def _refused(problem: str) -> DataError:
    return DataError("request-refused", f"cannot answer the request: {problem}")
