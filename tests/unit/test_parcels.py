"""Files of models get from node to node over real links, also through nodes that do not have them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from atoll.identity.certificate import PeerIdentity
from atoll.registry import relay
from atoll.registry.manifest import File
from atoll.registry.parcels import METHOD, PIECE_BYTES, Parcels
from atoll.registry.store import Store
from support.fix_link import Shore, eventually, peer_of, shore

__all__ = ["shore"]

BODY = random.Random(3).randbytes(PIECE_BYTES + 1000)


class Shops:
    """Nodes with a store each, and links between some of them; who is asked how often is counted."""

    def __init__(self, shore: Shore, folder: Path) -> None:
        self._shore, self._folder = shore, folder
        self.stores: dict[int, Store] = {}
        self.parcels: dict[int, Parcels] = {}
        self.asked: Counter[int] = Counter()

    async def open(self, *edges: tuple[int, int]) -> None:
        numbers = sorted({number for edge in edges for number in edge})
        links = {number: await self._shore.links(number) for number in numbers}
        for number in numbers:
            self.stores[number] = Store(self._folder / f"store-{number}")
            self.parcels[number] = Parcels(self.stores[number])
            self.parcels[number].attach(links[number])
            links[number].handle(METHOD, self._counted(number))
        for number in numbers:
            near = [other for edge in edges if number in edge for other in edge if other != number]
            links[number].set_peers([peer_of(links[other]) for other in near])
        states = [report for one in links.values() for report in one.report()]
        assert len(states) == 2 * len(edges)
        await eventually(
            lambda: all(report.state == "up" for one in links.values() for report in one.report()),
            "all links",
        )

    def _counted(self, number: int) -> Callable[[PeerIdentity, dict[str, Any]], Awaitable[dict[str, Any]]]:
        async def give(peer: PeerIdentity, asked: dict[str, Any]) -> dict[str, Any]:
            self.asked[number] += 1
            return await self.parcels[number]._give(peer, asked)

        return give

    def put(self, number: int) -> File:
        source = self._folder / "body"
        source.write_bytes(BODY)
        return self.stores[number].take_in(source, "model.gguf")


@pytest.fixture
def shops(shore: Shore, tmp_path: Path) -> Shops:
    return Shops(shore, tmp_path)


async def test_an_edge_gets_a_file_of_another_through_a_hub_that_keeps_nothing(shops: Shops) -> None:
    await shops.open((1, 2), (2, 3))
    file = shops.put(3)
    assert await shops.parcels[1].fetch([file])
    assert shops.stores[1].path(file.sha256).read_bytes() == BODY
    assert not list((shops._folder / "store-2").rglob("*"))


async def test_a_file_comes_from_a_far_region_and_not_from_further(shops: Shops) -> None:
    await shops.open((1, 2), (2, 3), (3, 4), (4, 5), (5, 6))
    file = shops.put(5)
    assert await shops.parcels[1].fetch([file])
    assert shops.stores[1].has(file)
    shops.stores[5].path(file.sha256).rename(shops._folder / "away")
    shops.stores[1].path(file.sha256).unlink()
    shops.put(6)
    assert not await shops.parcels[1].fetch([file])


async def test_a_request_for_what_nobody_has_goes_in_no_circle(shops: Shops) -> None:
    await shops.open((1, 2), (2, 3), (3, 1), (3, 4), (2, 4))
    missing = File("model.gguf", "0" * 64, 100)
    assert not await shops.parcels[1].fetch([missing])
    assert shops.asked[1] == 0, "who asks is not asked"
    assert shops.asked[2] == shops.asked[3] == 2, "without passing on, and with it"
    assert shops.asked[4] == 2, "once by each of the two that know it"


async def test_who_has_it_is_asked_before_who_may_pass_it_on(shops: Shops) -> None:
    await shops.open((1, 2), (1, 3), (2, 4))
    file = shops.put(3)
    shops.put(4)
    assert await shops.parcels[1].fetch([file])
    assert shops.asked[4] == 0


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"seen": None, "passed_on": 0},
        {"seen": [1], "passed_on": relay.TIMES_MAX},
        {"seen": [1], "passed_on": -1},
        {"seen": [1], "passed_on": True},
        {"seen": ["1"], "passed_on": 0},
        {"seen": [5, 6], "passed_on": 0},
        {"seen": list(range(1000, 1000 + relay.SEEN_MAX)), "passed_on": 0},
    ],
)
def test_a_request_that_is_no_good_or_far_enough_is_not_passed_on(asked: dict[str, Any]) -> None:
    assert relay.next_step(asked, 1, [1, 5, 6], None) is None


def test_the_peer_that_gave_a_file_before_is_asked_first_and_all_are_told_of_each_other() -> None:
    step = relay.next_step({"seen": [2], "passed_on": 0}, 1, [1, 2, 5, 6, 7], 6)
    assert step == relay.Step([6, 5, 7], [2, 1, 6, 5, 7], 1)
