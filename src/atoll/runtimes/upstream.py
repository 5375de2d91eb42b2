"""Any address that speaks the OpenAI API: a cluster, a provider, another engine on this machine.

What a caller sent goes there as it is, but for the model's name, and comes back byte for byte. What may be
sent where is decided above.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError
from atoll.domain.models import Skill
from atoll.runtimes import refusals, vectors
from atoll.runtimes.bodies import write
from atoll.runtimes.contract import STREAMED, Array, Ask, Embeddings, Facts
from atoll.runtimes.gate import Gate
from atoll.runtimes.http.client import Client
from atoll.runtimes.http.wire import Wire
from atoll.runtimes.within import Within

TEXTS_MAX, TEXTS_PER_REQUEST = 2048, 128


@dataclass(frozen=True)
class Address:
    """Where the other side is. `socket` reaches it on this machine."""

    base: str  # up to, not including, /v1
    model: str
    key: str | None = field(default=None, repr=False)
    socket: str | None = None
    skills: frozenset[Skill] = frozenset({Skill.GENERATE, Skill.EMBED})
    context_tokens: int | None = None
    at_once: int = 64
    waiting: int = 256
    queue_seconds: float = 60.0
    silence_seconds: float = 120.0


class UpstreamRuntime:
    """One model of somebody else's."""

    def __init__(self, address: Address) -> None:
        if not address.base.startswith(("http://", "https://")):
            raise ConfigError(
                "runtime-settings",
                f'cannot ask "{address.base}": it is no address of HTTP',
                hint="Write it as https://HOST or http://HOST:PORT.",
            )
        self._address = address
        self._gate = Gate(address.at_once, address.waiting, address.queue_seconds)
        self._wire: Wire | None = None
        self._stopped = asyncio.Event()

    async def start(self) -> Facts:
        """Nothing is asked yet: an upstream that is away now may be there when somebody needs it."""
        address = self._address
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        client = Client(address.base, address.silence_seconds, headers, address.socket)
        self._wire = Wire(client, self._explain)
        return Facts(address.skills, 0, address.context_tokens, details={"engine": "upstream"})

    async def stop(self) -> None:
        self._stopped.set()
        if self._wire is not None:
            self._wire.client.close()

    async def ended(self) -> str:
        """It never ends by itself: what is away is asked again."""
        await self._stopped.wait()
        return "it was unloaded"

    def generate(self, ask: Ask) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        self._check(Skill.GENERATE)
        if ask.path not in STREAMED:
            raise DataError("request-refused", f"cannot answer the request: no such path {ask.path}")
        # Servers that know adapters take them by the name of a model.
        body = {**ask.body, "model": ask.adapter or self._address.model, "stream": True}
        if not ask.body.get("stream") and ask.path in STREAMED[:2]:
            body["stream_options"] = {"include_usage": True}  # for whoever puts the answer together
        text = write(body)
        return Within(self._gate, lambda _: self._open().stream(ask.path, text))

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        self._check(Skill.EMBED)
        if not 1 <= len(texts) <= TEXTS_MAX or not all(isinstance(text, str) and text for text in texts):
            raise DataError("request-refused", f"cannot embed: 1 to {TEXTS_MAX:,} texts, none of them empty")
        steps = range(0, len(texts), TEXTS_PER_REQUEST)
        return vectors.joined([await self._embed(texts[at : at + TEXTS_PER_REQUEST]) for at in steps])

    async def infer(self, inputs: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        raise _lacks(Skill.INFER)

    async def _embed(self, texts: Sequence[str]) -> Embeddings:
        body = write({"model": self._address.model, "input": list(texts), "encoding_format": "float"})
        async with self._gate:
            return vectors.of_answer(await self._open().ask("/v1/embeddings", body), len(texts))

    def _explain(self, status: int, body: str, retry_after: str | None) -> AtollError:
        """Some servers repeat the key where they refuse it."""
        key = self._address.key
        return refusals.explain(status, body.replace(key, "…") if key else body, retry_after)

    def _check(self, skill: Skill) -> None:
        if skill not in self._address.skills:
            raise _lacks(skill)

    def _open(self) -> Wire:
        if self._wire is None or self._stopped.is_set():
            raise LinkError("runtime-broken", "could not answer: the upstream is not in use")
        return self._wire


def _lacks(skill: Skill) -> DataError:
    return DataError("skill-missing", f"cannot {skill}: the model is not made for it")
