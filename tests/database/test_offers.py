"""Offers in the shared table: written by each node for itself, when something has changed, and read by the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from atoll.domain.models import Skill
from atoll.node import peers as node_peers
from atoll.node import room as node_room
from atoll.node.config import Settings
from atoll.node.offering import Me, own_offers, steadied
from atoll.node.peers import Peers
from atoll.node.room import Room
from atoll.runtimes.contract import Ask, Facts
from atoll.runtimes.echo import EchoRuntime
from atoll.serving.berth import Wanted
from atoll.serving.decide import State
from atoll.serving.offer import Offer
from atoll.serving.service import Serving, Word
from atoll.sql import query
from support.fix_link import Shore, connect, eventually
from support.fix_nodes import REGIONS, Nodes

SAID = Facts(frozenset({Skill.GENERATE}), 0, context_tokens=512)
WHO = Me(1, "n1", "edge", "eu")


def wanted(model: str, variant: str = "echo", **options: Any) -> Wanted:
    return Wanted(model, "v1", variant, options, SAID, False, EchoRuntime)


class Settled:
    """What a node's settings say of it."""

    def __init__(self, number: int) -> None:
        self.name, self.tier, self.region = f"n{number}", "edge", REGIONS[number - 1]


class Place:
    """A node as far as its offers go: a real database, links, and models."""

    def __init__(self, number: int) -> None:
        self.serving = Serving(2**40)
        self.wanted: list[Wanted] = []
        self.peers = Peers(
            self.serving,
            cast("Settings", Settled(number)),
            lambda: {one.model: one.options for one in self.wanted},
        )

    async def want(self, *models: Wanted) -> None:
        self.wanted = list(models)
        await self.serving.desire(models)


MakePlace = Callable[[int], Awaitable[Place]]


@pytest.fixture
async def make_place() -> AsyncIterator[MakePlace]:
    running: list[asyncio.Task[None]] = []

    async def make(number: int) -> Place:
        place = Place(number)
        running.append(asyncio.create_task(place.serving.run()))
        return place

    yield make
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_what_one_node_offers_the_other_finds_and_asks(
    nodes: Nodes, shore: Shore, make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_peers, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(node_peers, "MEMBERS_PER_SECOND", 1e9)
    here, there = await make_place(1), await make_place(2)
    links = [await shore.links(1), await shore.links(2)]
    for place, link in zip((here, there), links, strict=True):
        place.peers.attach(link)
    await connect(*links)
    assert here.peers.round_trip(3) is None
    await eventually(lambda: here.peers.round_trip(2) is not None)
    terms = {"shared": True, "region": "us", "price": [0.5, 1.5]}
    await there.want(wanted("talk"), wanted("far", "upstream", **terms), wanted("own", "upstream"))

    one, two = nodes[0].database.connect(), nodes[1].database.connect()
    async with await one as near, await two as far:

        async def exchange() -> None:
            await there.peers.tell(far)
            await asyncio.to_thread(nodes.sync)
            await here.peers.read(near)

        await exchange()
        found = {offer.model: offer for offer in here.peers.offers()}
        assert found.keys() == {"talk", "far"}, "an upstream is its node's own unless it is shared"
        talk, upstream = found["talk"], found["far"]
        assert (talk.node, talk.name, talk.region, talk.price) == (2, "n2", "eu", None)
        assert (talk.context_tokens, talk.skills) == (512, {Skill.GENERATE})
        assert (upstream.region, upstream.node_region, upstream.is_upstream) == ("us", "eu", True)
        assert upstream.price == (0.5, 1.5)

        ask = Ask("/v1/completions", {"prompt": "low tide"})
        async with here.peers.runtime(2, "talk").generate(ask) as events:
            assert [event async for event in events]
        await exchange()
        assert {offer.state for offer in here.peers.offers()} == {"ready", "empty"}

        count = "select count(*) from atoll.change where tbl = 'atoll.offer'"
        before = nodes[1].owner(count)
        for _ in range(3):
            await there.peers.tell(far)
        assert nodes[1].owner(count) == before, "nothing has changed, so nothing is written"
        there.peers.attach(links[1])
        await there.peers.tell(far)
        assert nodes[1].owner(count) == before, "nor is it after a start"

        await there.want(wanted("talk"))
        await exchange()
        assert [offer.model for offer in here.peers.offers()] == ["talk"]
        await links[1].stop()
        await eventually(lambda: not here.peers.offers(), "offers of a node that is away going")
        await here.peers.read(near)
        assert nodes[0].value("select count(*) from atoll.offer") == 1, "its row stays for when it comes back"
        nodes[0].owner(
            "insert into atoll.node (number, name, region, tier, revoked_at) values (2, 'n2', 'eu', 'edge', now())"
        )
        here.peers.attach(links[0])
        await here.want(wanted("mine"))
        await here.peers.tell(near)
        assert nodes[0].run("select node, model from atoll.offer") == [(1, "mine")]


async def test_a_node_says_what_its_models_may_take_and_take_where_that_changes(
    nodes: Nodes, make_place: MakePlace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(node_room, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(node_room, "MEMBERS_PER_SECOND", 1e9)
    there = await make_place(2)
    room = Room(there.serving, 1000, tmp_path)
    seen = "select bytes_max, bytes_taken from atoll.room where node = 2"
    count = "select count(*) from atoll.change where tbl = 'atoll.room'"
    async with await nodes[1].database.connect() as connection:
        await there.want(
            Wanted("talk", "v1", "echo", {}, replace(SAID, memory_bytes=300), False, EchoRuntime)
        )
        for _ in range(3):
            await room.tell(connection)
        nodes.sync()
        assert nodes[0].run(seen) == [(1000, 0)], "what is not loaded takes nothing"
        assert nodes[1].owner(count) == [(1,)]
        room.forget()
        await room.tell(connection)
        assert nodes[1].owner(count) == [(1,)], "after a start nothing has changed"
        async with there.serving.use("talk") as runtime:
            taken = (await runtime.start()).memory_bytes
            assert there.serving.taken_bytes() == taken
        await room.tell(connection)
        nodes.sync()
        assert nodes[0].run(seen) == [(1000, taken)]
        await connection.execute(query("room", "forget"), (True,))
        nodes.sync()
        assert not nodes[0].run(seen), "a node without models has no room for any"


def word(model: str = "talk", **changes: Any) -> Word:
    facts: dict[str, Any] = {
        "version": "v1",
        "variant": "q4",
        "state": State.READY,
        "asking": 0,
        "problem": None,
        "facts": SAID,
        "adapters": {},
        "loaded_adapters": {},
    }
    return Word(model, **facts | changes)


def offered(*words: Word, options: dict[str, Any] | None = None) -> dict[str, Offer]:
    return own_offers(WHO, words, options or {}, {"talk": 40.0})


def test_what_is_broken_is_not_offered_and_queues_are_told_roughly() -> None:
    assert not offered(word(state=State.EMPTY, problem="it is no good"))
    assert offered(word(problem="the next version is no good"))["talk"].tokens_per_second == 40.0
    for asking, told in ((0, 0), (1, 1), (3, 2), (4, 4), (63, 32)):
        assert offered(word(asking=asking))["talk"].queue == told
    many = [word(f"m{number}") for number in range(100)]
    assert len(offered(*many)) == 64


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shared": True, "region": "us"},
        {"shared": True, "price": [1, 2]},
        {"shared": 1, "region": "us", "price": [1, 2]},
        {"shared": True, "region": "us", "price": [1, -2]},
        {"shared": True, "region": "us", "price": ["1", "2"]},
        {"shared": True, "region": 7, "price": [1, 2]},
    ],
)
def test_an_upstream_without_region_price_and_leave_is_not_offered(options: dict[str, Any]) -> None:
    assert not offered(word(variant="upstream"), options={"talk": options})


def test_a_model_that_is_not_loaded_offers_the_context_that_it_will_have() -> None:
    trained = Facts(frozenset({Skill.GENERATE}), 0, context_tokens=100_000)
    asleep = word(facts=trained, state=State.EMPTY)
    assert offered(asleep)["talk"].context_tokens == 4096
    assert offered(asleep, options={"talk": {"context_tokens": 8000}})["talk"].context_tokens == 8000
    assert offered(word(facts=trained))["talk"].context_tokens == 100_000


def test_a_speed_that_differs_by_little_is_no_news() -> None:
    told = offered(word())["talk"]
    for speed, news in ((44.0, 40.0), (31.0, 40.0), (60.0, 60.0), (None, 40.0)):
        now = own_offers(WHO, [word()], {}, {"talk": speed} if speed else {})["talk"]
        assert steadied(now, told).tokens_per_second == news
    assert steadied(told, None) == told
