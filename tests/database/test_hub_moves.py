"""Rows that move while links lag and edges are restored, behind a hub: each ends where its latest move took it, whole.

Nodes 1 (the hub) and 2 are in region eu, node 3 is in region us. The log of a node reaches another region only
through nodes that may have the rows: so a row moves between the region of its birth and everywhere, and is moved
there only.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import pytest

from support.fix_nodes import REGIONS, Nodes
from support.fix_postgres import DatabaseMaker
from support.hub import Hub

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("ATOLL_EXAMPLES", "60")) // 30
ROUNDS = 8
STEPS = 40
RESTORES_EVERY = 4
MAKE = """
create table parcel (
    id bigint primary key, born text not null, home text not null, body text not null,
    stops integer not null default 0, tags jsonb
)
"""
SEND = "update parcel set home = %s where id = %s and born = %s and home <> %s returning 1"


@dataclass
class Book:
    """What was written to a parcel last, as the clocks have it, and how often it was stamped."""

    born: str
    home: str
    body: str
    stops: int = 0
    story: list[str] = field(default_factory=list)


class History:
    def __init__(self, hub: Hub, chance: random.Random, counts: bool) -> None:
        self.hub, self.chance, self.books, self.now = hub, chance, dict[int, Book](), 0
        self.kept: str | None = None
        self.number, self.place, self.counts, self.slow = 40_000, 0, counts, 1

    def tick(self) -> None:
        self.now += 1000
        self.hub.clock(self.now)

    def write(self) -> None:
        """One statement of an application at one place, and its consequence in the books."""
        self.tick()
        if self.chance.random() < 0.4:
            self.place = self.chance.choice(range(3))
        place = self.place
        node, region = self.hub.nodes[place], REGIONS[place]
        what = self.chance.choices(["ship", "send", "wrap", "stamp"], [1, 6, 4, 2 * self.counts])[0]
        home, word = self.chance.choice([region, "global"]), f"{what}-{self.now}"
        key = self.chance.choice([*self.books][-2:] or [0])
        if what == "ship":
            key = self.now
            node.run("insert into parcel values (%s, %s, %s, %s)", key, region, home, word)
            self.books[key] = Book(region, home, word)
        else:
            query, *values = {
                "send": (SEND, home, key, region, home),
                "wrap": ("update parcel set body = %s where id = %s returning 1", word, key),
                "stamp": ("update parcel set stops = stops + 1 where id = %s returning 1", key),
            }[what]
            if not node.run(str(query), *values):
                return
            book = self.books[key]
            if what == "send":
                book.home = home
            elif what == "wrap":
                book.body = word
            else:
                book.stops += 1
        self.books[key].story.append(
            f"{self.now}: {node.number} {what} {home if what in ('ship', 'send') else ''}"
        )
        self.hub.tell(place)

    def carry(self) -> None:
        """Some of what waits arrives; the links of one edge lag behind the others."""
        link = self.chance.choice([*self.hub.links])
        if self.slow not in link or self.chance.random() < 0.2:
            self.hub.carry(link, self.chance.randint(1, 40))

    def back_up(self) -> None:
        self.kept = self.hub.snapshot(1)

    def restore(self) -> None:
        """Node 2 is lost after the hub has heard everything from it, and comes back as it was."""
        assert self.kept is not None
        self.hub.carry((1, 0))
        self.number += 1
        self.hub.put_back(1, self.kept, self.number, "n2")
        for book in self.books.values():
            book.story.append("restored")

    def odd(self) -> list[str]:
        """What is otherwise somewhere than the books have it."""
        told = []
        for place, node in enumerate(self.hub.nodes):
            assert node.parked() == []
            found = {int(row[0]): row[1:5] for row in node.rows("parcel", "1")}
            for key, book in self.books.items():
                wanted = (book.born, book.home, book.body, str(book.stops))
                may = book.home in ("global", REGIONS[place])
                if found.get(key) != (wanted if may else None):
                    told.append(
                        f"{node.number}: {key} is {found.get(key)}, not {wanted if may else None}: {book.story}"
                    )
        return told


def make(nodes: Nodes, make_database: DatabaseMaker, policies: str) -> Hub:
    nodes[0].run(MAKE)
    nodes[0].run("select atoll.share('parcel', %s::jsonb, scope_column => 'home')", policies)
    nodes.sync()
    return Hub(nodes, make_database)


@pytest.fixture
def hub(three_nodes: Nodes, make_database: DatabaseMaker) -> Hub:
    return make(three_nodes, make_database, "{}")


def at(hub: Hub, second: int, place: int, statement: str) -> None:
    """A statement of an application at a place, and at a time."""
    hub.clock(second * 1000)
    hub.nodes[place].run(statement)
    hub.tell(place)


def test_what_a_mover_had_not_heard_comes_back_with_the_row(hub: Hub) -> None:
    at(hub, 1, 2, "insert into parcel values (1, 'us', 'global', 'Ann')")
    hub.settle()
    at(hub, 2, 1, "update parcel set body = 'Bea'")
    hub.carry((1, 0))
    at(hub, 3, 2, "update parcel set home = 'us'")
    at(hub, 4, 2, "update parcel set home = 'global'")
    hub.carry((2, 0))
    hub.settle()
    assert [node.run("select home, body from parcel") for node in hub.nodes] == [[("global", "Bea")]] * 3


def test_a_part_of_a_counter_outlives_that_its_row_was_away(
    three_nodes: Nodes, make_database: DatabaseMaker
) -> None:
    hub = make(three_nodes, make_database, '{"stops": "counter"}')
    at(hub, 1, 0, "insert into parcel values (1, 'eu', 'global', 'Ann')")
    hub.settle()
    at(hub, 2, 2, "update parcel set stops = stops + 3")
    at(hub, 3, 0, "update parcel set home = 'eu'")
    at(hub, 4, 0, "update parcel set home = 'global'")
    hub.carry((0, 2))
    at(hub, 5, 2, "update parcel set stops = stops + 1")
    hub.settle()
    assert [node.run("select home, stops from parcel") for node in hub.nodes] == [[("global", 4)]] * 3


@pytest.mark.parametrize("policies", ["{}", '{"stops": "counter", "tags": "set"}'], ids=["plain", "merged"])
@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_random_moves_behind_a_hub(
    three_nodes: Nodes, make_database: DatabaseMaker, policies: str, seed: int
) -> None:
    hub = make(three_nodes, make_database, policies)
    history = History(hub, random.Random(seed), counts="stops" in policies)
    for turn in range(ROUNDS):
        history.slow = history.chance.choice([1, 2])
        is_restored = turn % RESTORES_EVERY == RESTORES_EVERY - 1
        for step in range(STEPS):
            if is_restored and step == STEPS // 4:
                history.back_up()
            elif is_restored and step == STEPS // 2:
                history.restore()
            history.write()
            if history.chance.random() < 0.5:
                history.carry()
        hub.settle()
        odd = history.odd()
        assert not odd, "\n".join([f"seed {seed}, round {turn}", *odd])
