"""A node as far as requests are routed there: its own model, clouds on loopback, peers that are handed in.

The model of this node is the echo behind Serving; the clouds are servers that are late, broken, busy or cut
off as they are told; a peer is a runtime, as the link gives one.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette

from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.node import listen
from atoll.node.values import Address as At
from atoll.router.asked import Asked
from atoll.router.budgets.book import Budgets
from atoll.router.budgets.lease import Budget
from atoll.router.place import Price
from atoll.router.placing.places import Terms
from atoll.router.placing.record import Trip
from atoll.router.policy.key import Key, from_row
from atoll.router.service import Router
from atoll.runtimes.contract import Facts, Runtime
from atoll.runtimes.echo import EchoRuntime
from atoll.runtimes.upstream import Address, UpstreamRuntime
from atoll.serving.berth import Wanted
from atoll.serving.offer import Offer
from atoll.serving.service import Serving
from atoll.web.app import WebServer
from atoll.web.keys import Keys, hash_key
from atoll.web.language import language_routes
from atoll.web.limits import Limits
from atoll.web.retrieving import Retriever
from atoll.web.routed import routing_routes
from atoll.web.search import Asked as Search
from atoll.web.search import Found
from atoll.web.tensors import tensor_routes
from support.fix_peers import an_offer
from support.providers import Provider, running

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "said here"}]}
TERMS = Terms("eu", Price(1.0, 2.0))
ROUTE: dict[str, Any] = {
    "me": 1,
    "name": "ask",
    "models": {"here": ["own"], "peer": ["own"], "cloud": ["one", "two"]},
    "prefer": ["cloud", "here"],
    "deadline_seconds": 30,
    "first_token_seconds": None,
    "max_cost": None,
    "labels": {"patient": "local"},
    "hedge_after_seconds": None,
    "options": {},
}


def offered(node: int, name: str, model: str = "own", **changes: Any) -> Offer:
    return an_offer(model, **{"node": node, "name": name, "tier": "edge", "variant": "f16"} | changes)


class Neighbours:
    """Other nodes, whose models are asked as runtimes."""

    def __init__(self) -> None:
        self.nodes: dict[int, tuple[Offer, Runtime]] = {}
        self.asked: list[tuple[int, frozenset[str], float | None]] = []

    def offers(self) -> Sequence[Offer]:
        return [offer for offer, _ in self.nodes.values()]

    def runtime(
        self,
        node: int,
        model: str,
        scopes: frozenset[str] = frozenset(),
        deadline_seconds: float | None = None,
    ) -> Runtime:
        self.asked.append((node, scopes, deadline_seconds))
        return self.nodes[node][1]

    def round_trip(self, node: int) -> float | None:
        return 0.001


async def _no_database() -> Any:
    raise OSError("there is none")


async def _nothing(asked: Search) -> Found:
    return Found([])


class Site:
    def __init__(self, providers: list[Provider]) -> None:
        self.one, self.two, *self.others = providers
        self.providers = providers
        self.serving = Serving(1000)
        self.peers = Neighbours()
        self.now = 0.0
        self.tasks: list[asyncio.Task[None]] = []
        self.budgets = Budgets(_no_database)
        self.router = Router(
            self.serving,
            "eu",
            lambda model: TERMS if model != "own" else Terms(),
            self.peers,
            self._clock,
            self.budgets,
        )
        self.limits = Limits(self.budgets, self._clock)
        self.keys: dict[str, Key | DataError] = {}
        self.listener = listen.bind(At("127.0.0.1", 0), "--http")
        self.address = f"http://{listen.bound(self.listener)}"
        keys = Keys(lambda: {hash_key(name): name for name in self.keys}, False)
        retriever = Retriever(_nothing, lambda: self.keys)
        routes = [
            *language_routes(self.serving, keys.check, retriever, self.router, limits=self.limits),
            *tensor_routes(self.serving, keys.check, self.router, self.limits),
            *routing_routes(self.router, keys.check, lambda: "secret"),
        ]
        self.server = WebServer(Starlette(routes=routes), self.listener)

    def _clock(self) -> float:
        """Real time, and what a test adds to it."""
        return asyncio.get_running_loop().time() + self.now

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    def route(self, **changed: Any) -> None:
        self.router.set_routes([ROUTE | changed])

    def key(self, name: str, **told: Any) -> dict[str, str]:
        """There is such a key, called like itself; the header that shows it."""
        usual = {"may_read": False, "rate": None, "token_rate": None, "budget": None, "scope": None}
        self.keys[name] = from_row({"name": name, **usual, "tables": None, **told})
        self.router.set_keys(self.keys)
        self.limits.set_keys(self.keys)
        return {"Authorization": f"Bearer {name}"}

    def budget(self, name: str, unit: str, amount: int) -> Budget:
        """One of which this node has drawn so much, and that is all."""
        made = Budget(name, unit, lambda: None, self._clock)
        made.fill(1, amount, 3600)
        made.in_vain_until = math.inf
        self.budgets._budgets[name] = made
        return made

    async def desire(self) -> None:
        """One model of its own, and a cloud's for each provider."""
        said = Facts(frozenset(Skill), 0)
        wanted = [Wanted("own", "1", "f16", {}, said, True, lambda: EchoRuntime(name="own"))]
        for provider in self.providers:
            skills = frozenset({Skill.GENERATE, Skill.EMBED})
            made = Address(provider.base, "m", skills=skills, silence_seconds=60)
            wanted.append(
                Wanted(
                    provider.name,
                    "1",
                    "upstream",
                    {},
                    Facts(skills, 0),
                    False,
                    lambda made=made: UpstreamRuntime(made),
                )
            )
        await self.serving.desire(wanted)

    async def say(self, **changed: Any) -> tuple[str, Trip]:
        """What is answered, and how that came."""
        asked = Asked("ask", CHAT, Skill.GENERATE, **changed)
        chain = self.router.generate(asked, BODY)
        said = b""
        async with chain.answer() as events:
            async for event in events:
                said += event
        lines = [line[6:] for line in said.split(b"\n") if line.startswith(b"data: {")]
        parts = [choice["delta"].get("content") for line in lines for choice in json.loads(line)["choices"]]
        return "".join(part or "" for part in parts).strip(), chain.trip

    async def post(self, path: str = CHAT, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """Status, headers and content."""
        status, head, content = await self.ask(path, headers, **body)
        return status, head, json.loads(content)

    async def ask(self, path: str = CHAT, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """The same, with the content as it came."""
        if len(self.tasks) == 1:
            self.run(self.server.run())
        asked = {"model": "ask", **BODY, **body}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(self.address + path, json=asked) as answer,
        ):
            return answer.status, answer.headers, await answer.read()

    async def quiet(self) -> None:
        """Until no provider answers anybody."""
        async with asyncio.timeout(30):
            while any(provider.open for provider in self.providers):
                await asyncio.sleep(0.01)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running("one", "two") as providers:
        made = Site(providers)
        await made.desire()
        made.route()
        made.run(made.serving.run())
        yield made
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)
        made.listener.close()
