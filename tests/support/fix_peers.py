"""Two nodes' links in one process, one of them answering for its models, the other asking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from atoll.domain.models import Skill
from atoll.link.greeting import Purpose
from atoll.link.peers import Links
from atoll.runtimes.contract import Facts, Runtime
from atoll.runtimes.peer.pool import Pool
from atoll.runtimes.peer.runtime import Bounds, PeerRuntime
from atoll.serving.answering import Answering
from atoll.serving.berth import Wanted
from atoll.serving.offer import Offer
from atoll.serving.service import Serving
from support.fix_link import Shore, connect

SAID = Facts(frozenset(Skill), 0)


def an_offer(model: str = "talk", **changes: Any) -> Offer:
    facts: dict[str, Any] = {
        "node": 2,
        "name": "n2",
        "tier": "hub",
        "model": model,
        "version": "1",
        "variant": "echo",
        "skills": frozenset(Skill),
        "adapters": (),
        "context_tokens": None,
        "state": "ready",
        "queue": 0,
        "tokens_per_second": None,
        "is_upstream": False,
        "region": "eu",
        "node_region": "eu",
        "price": None,
    }
    return Offer(**facts | changes)


@dataclass
class Strand:
    """Node 1 asks node 2, whose region is eu."""

    asker: Links
    answerer: Links
    serving: Serving
    answering: Answering
    pool: Pool

    def runtime(self, model: str = "talk", **bounds: Any) -> PeerRuntime:
        return PeerRuntime(self.pool, model, SAID, Bounds(**bounds))

    def asking(self, model: str = "talk") -> int:
        """Requests that the answering node has for a model now."""
        return next(word.asking for word in self.serving.models() if word.model == model)


MakeStrand = Callable[..., Awaitable[Strand]]


@pytest.fixture
async def make_strand(shore: Shore) -> AsyncIterator[MakeStrand]:
    running: list[asyncio.Task[None]] = []

    async def make(
        runtime: Runtime, *, both_dial: bool = True, offers: dict[str, Offer] | None = None, **options: Any
    ) -> Strand:
        serving = Serving(2**40)
        wanted = Wanted("talk", "1", "echo", {}, SAID, False, lambda: runtime)
        await serving.desire([wanted])
        running.append(asyncio.create_task(serving.run()))
        one, two = await shore.links(1, **options), await shore.links(2, **options)
        known = {"talk": an_offer()} if offers is None else offers
        answering = Answering(serving, 2, "eu", known.get)
        two.serve_streams(answering.serve, Purpose.MODEL)
        await connect(one, two, both_dial=both_dial)
        pool = Pool("n2", partial(one.open_stream, 2, Purpose.MODEL))
        return Strand(one, two, serving, answering, pool)

    yield make
    for task in running:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
