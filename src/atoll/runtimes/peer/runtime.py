"""A model of another node as a runtime: asked over the link, answered by that node's own engine.

The peer judges by itself whether it may answer. Which node to ask is decided above.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from atoll.domain.errors import DataError, LinkError
from atoll.runtimes.bodies import write
from atoll.runtimes.contract import Array, Ask, Embeddings, Facts
from atoll.runtimes.peer.messages import Kind, encode, encode_head, pieces, read_head
from atoll.runtimes.peer.pool import Answer, Pool


@dataclass(frozen=True)
class Bounds:
    """What goes along with every request, where its call has no words for it."""

    scopes: frozenset[str] = frozenset()
    deadline_seconds: float | None = None


class PeerRuntime:
    def __init__(self, pool: Pool, model: str, facts: Facts, bounds: Bounds | None = None) -> None:
        self._pool = pool
        self._model = model
        self._facts = facts
        self._bounds = bounds or Bounds()
        self._open: set[Answer] = set()
        self._stopped = asyncio.Event()

    async def start(self) -> Facts:
        """Nothing is loaded here: these are the words of the peer."""
        return self._facts

    async def stop(self) -> None:
        """Others that ask the same peer go on."""
        self._stopped.set()
        for answer in self._open:
            answer.channel.close(self._unloaded())

    async def ended(self) -> str:
        """It never ends by itself: a peer that is away is asked again."""
        await self._stopped.wait()
        return "it was unloaded"

    @asynccontextmanager
    async def generate(self, ask: Ask) -> AsyncIterator[AsyncIterator[bytes]]:
        bounds = Bounds(ask.scopes | self._bounds.scopes, ask.deadline_seconds)
        head = {"path": ask.path, "adapter": ask.adapter, "hops": ask.hops}
        request = self._request("generate", head, write(dict(ask.body)), bounds)
        async with self._asked(request) as answer:
            yield self._events(await answer.next(), answer)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        head, found = await self._arrays(self._request("embed", {}, write(list(texts))))
        vectors, tokens = found.get("vectors"), head.get("tokens")
        if vectors is None or vectors.shape[:1] != (len(texts),) or type(tokens) is not int:
            raise self._strange("another number of vectors than there are texts")
        return Embeddings(vectors, tokens)

    async def infer(self, inputs: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        from atoll.runtimes.peer import arrays  # numpy comes with it

        told, body = arrays.describe(inputs)
        request = self._request("infer", {"arrays": told, "wanted": list(wanted)}, body)
        return (await self._arrays(request))[1]

    @asynccontextmanager
    async def _asked(self, request: Sequence[bytes]) -> AsyncIterator[Answer]:
        if self._stopped.is_set():
            raise self._unloaded()
        async with self._pool.ask(request) as answer:
            self._open.add(answer)
            try:
                yield answer
            finally:
                self._open.discard(answer)

    def _unloaded(self) -> LinkError:
        return LinkError("runtime-broken", f'could not ask node "{self._pool.name}": the model is not in use')

    def _request(
        self, do: str, more: Mapping[str, Any], body: bytes, bounds: Bounds | None = None
    ) -> list[bytes]:
        bounds = bounds or self._bounds
        head = {"do": do, "model": self._model, "hops": 0, **more}
        head |= {"scopes": sorted(bounds.scopes), "deadline_seconds": bounds.deadline_seconds}
        first, *others = [encode_head(head), *pieces(body), encode(Kind.DONE)]
        # Most requests are small, and one write of a few bytes is as quick as three are slow.
        return [first + others[0] + others[1]] if len(others) == 2 else [first, *others]

    async def _events(self, first: tuple[Kind, bytes] | None, answer: Answer) -> AsyncIterator[bytes]:
        found = first
        while found is not None:
            kind, content = found
            if kind is not Kind.EVENT:
                raise self._strange(f"a {kind.name} in the middle of events")
            yield content
            found = await answer.next()

    async def _arrays(self, request: Sequence[bytes]) -> tuple[dict[str, Any], dict[str, Array]]:
        from atoll.runtimes.peer import arrays

        body = bytearray()
        async with self._asked(request) as answer:
            first = await answer.next()
            if first is None or first[0] is not Kind.HEAD:
                raise self._strange("no head")
            head = read_head(first[1])
            while (found := await answer.next()) is not None:
                body += found[1]
                if found[0] is not Kind.PIECE or len(body) > arrays.BODY_BYTES_MAX:
                    raise self._strange("more than an answer may have")
        try:
            return head, arrays.read(head.get("arrays"), body)
        except DataError as error:
            raise self._strange(error.message) from error

    def _strange(self, what: str) -> LinkError:
        why = f'node "{self._pool.name}" sent an answer that cannot be read'
        return LinkError("runtime-broken", why, detail=f"There was {what}.")
