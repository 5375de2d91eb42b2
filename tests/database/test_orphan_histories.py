"""Orphans under random histories: whatever is written, delivered and dealt with in whatever order on three nodes, they
end the same, no orphan is left about which something can be done, and nothing is lost that nobody meant to go.
"""

from __future__ import annotations

import contextlib
import os
import random
from typing import Any

import psycopg
import pytest

from support.fix_nodes import Change, Node, Nodes

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("ATOLL_EXAMPLES", "30")) // 6
STEPS = 30
ROUNDS_MAX = 8
POLICIES = ("follow", "remove", "restore", "report")
ACTIONS = ("", "on delete cascade", "on delete set null", "on delete set default", "on delete restrict")
TABLES = ("public.line", "public.part")
CUSTOMERS, LINES = range(1, 4), range(1, 6)


class Sea:
    """What is on its way: what one node tells another arrives in order, between pairs in any."""

    def __init__(self, nodes: Nodes, chance: random.Random) -> None:
        self.nodes, self.chance = nodes, chance
        self.queues: dict[tuple[int, int], list[Change]] = {
            (a.number, b.number): [] for a in nodes for b in nodes if a is not b
        }

    def tell(self) -> None:
        for node in self.nodes:
            for change in node.changes():
                for other in self.nodes:
                    if other is not node:
                        self.queues[node.number, other.number].append(change)

    def carry(self, most: int) -> None:
        """A part of what waits for some node arrives there."""
        place = self.chance.choice(list(self.queues))
        waiting = self.queues[place]
        picked = waiting[: self.chance.randint(0, most)]
        del waiting[: len(picked)]
        self.nodes[place[1] - 1].receive(picked)
        self.tell()

    def calm(self) -> None:
        self.tell()
        while any(self.queues.values()):
            self.carry(1000)


def find(node: Node) -> None:
    for table in TABLES:
        node.owner("select * from atoll.find_orphans(%s, '', 1000, 1000)", table)
    node.owner("select atoll.review_orphans()")


def hear(sea: Sea, at: int) -> None:
    """Marks pass until everybody has heard of what was written before; some milliseconds pass too."""
    for beat in range(3):
        for node in sea.nodes:
            node.clock(at + 20 * beat + sea.chance.randint(0, 10))
            node.owner("select atoll.make_marks(true)")
        sea.calm()
    for node in sea.nodes:
        node.clock(at + 80)


def tend(node: Node) -> int:
    """What the node does about orphans when it is its turn; says how many it dealt with."""
    find(node)
    node.owner("update atoll.orphan set retry_at = '-infinity'")
    ((done,),) = node.owner("select atoll.handle_orphans()")
    return int(done)


def write(node: Node, chance: random.Random, step: int) -> None:
    """Something that an application does; what its constraints forbid it does not."""
    customer, line, part = chance.choice(CUSTOMERS), chance.choice(LINES), chance.choice(LINES)
    orphans = node.owner("select (key::integer[])[1], tbl from atoll.orphan where done is null order by id")
    if orphans and chance.random() < 0.5:
        key, table = chance.choice(orphans)
        column = "note" if table == "public.line" else "word"
        node.run(f"update {table} set {column} = %s where id = %s", f"o{step}", key)
        return
    query, values = chance.choice(
        [
            ("insert into customer values (%s, %s, 1) on conflict do nothing", (customer, f"c{step}")),
            ("update customer set name = %s, visits = visits + 1 where id = %s", (f"c{step}", customer)),
            ("insert into customer values (%s, %s, 1) on conflict do nothing", (customer, f"c{step}")),
            ("delete from customer where id = %s", (customer,)),
            ("delete from customer c where not exists (select from line where customer = c.id)", ()),
            ("delete from customer c where not exists (select from line where customer = c.id)", ()),
            ("insert into line values (%s, %s, %s) on conflict do nothing", (line, customer, f"l{step}")),
            ("insert into line values (%s, %s, %s) on conflict do nothing", (line, customer, f"l{step}")),
            ("update line set customer = %s where id = %s", (customer, line)),
            ("update line set note = %s where id = %s", (f"l{step}", line)),
            ("delete from line where id = %s", (line,)),
            ("insert into part values (%s, %s, null) on conflict do nothing", (part, line)),
            ("delete from line l where not exists (select from part where line = l.id)", ()),
            ("update part set line = %s where id = %s", (line, part)),
        ]
    )
    with contextlib.suppress(psycopg.errors.ForeignKeyViolation, psycopg.errors.RestrictViolation):
        node.run(query, *values)


WRITES = """
    select unnest(c.vals[1]::text[]), c.at, c.op::text, unnest(c.vals[array_position(c.cols, 'name')]::text[])
      from atoll.change c where c.origin = atoll.me() and c.tbl = %s and c.op in ('I', 'U')
"""
REMOVALS = """
    select key->>'id', lost_stamp, won_stamp from atoll.conflict where kind = 'orphan' and col is null and tbl = %s
"""


def check_removals(nodes: Nodes, table: str) -> None:
    """No write lost to a removal by a node that had not seen it."""
    written = [row for node in nodes for row in node.owner(WRITES, table)]
    for node in nodes:
        for key, seen, at in node.owner(REMOVALS, table):
            unseen = [row for row in written if row[0] == key and seen < row[1] < at]
            assert not unseen, f"node {node.number} removed {table} {key} and with it {unseen}"


def check_names(nodes: Nodes) -> None:
    """What was brought back did not overrule what somebody wrote."""
    written = sorted(
        (at, key, name)
        for node in nodes
        for key, at, _, name in node.owner(WRITES, "public.customer")
        if name is not None
    )
    latest = {key: name for _, key, name in written}
    for key, name, _ in nodes[0].rows("customer"):
        assert name == latest[key], f"customer {key}"


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_histories_with_orphans_end_the_same_and_lose_nothing(three_nodes: Nodes, seed: int) -> None:
    chance = random.Random(seed)
    nodes = three_nodes
    one = nodes[0]
    actions = [chance.choice(ACTIONS) for _ in TABLES]
    rules = [chance.choice(POLICIES) for _ in TABLES]
    told = f"seed {seed}: line {actions[0]} {rules[0]}, part {actions[1]} {rules[1]}"
    print(told)
    one.run("create table customer (id integer primary key, name text, visits integer)")
    one.share("customer", '{"visits": "counter"}')
    one.run(
        "create table line (id integer primary key, customer integer default 1"
        f" references customer {actions[0]}, note text)"
    )
    one.share("line")
    one.run(
        "create table part (id integer primary key, line integer default 1"
        f" references line {actions[1]}, word text)"
    )
    one.share("part")
    for table, rule in zip(TABLES, rules, strict=True):
        one.run("select atoll.on_orphans(%s, %s)", table, rule)
    nodes.sync()
    sea = Sea(nodes, chance)
    for step in range(STEPS):
        for node in nodes:
            node.clock(1000 * (step + 1) + chance.randint(0, 400))
        for node in chance.choices(nodes, k=6):
            write(node, chance, step)
        if step % 6 == 5:
            # Orphans are seen, and everybody is heard: now and then they are dealt with while others write.
            sea.calm()
            for node in nodes:
                find(node)
            hear(sea, 1000 * (step + 1) + 500)
            for at, node in enumerate(chance.choices(nodes, k=9)):
                for each in nodes:
                    each.clock(1000 * (step + 1) + 700 + 10 * at)
                if chance.random() < 0.5:
                    tend(node)
                else:
                    write(node, chance, 100 * step + at)
        if chance.random() < 0.5:
            tend(chance.choice(nodes))
        sea.tell()
        if chance.random() < 0.5:
            sea.carry(20)
    sea.calm()
    for rounds in range(1, ROUNDS_MAX + 1):
        at = 1000 * (STEPS + 10 * rounds)
        for node in nodes:
            node.clock(at)
            find(node)
        hear(sea, at + 1)
        done = sum(tend(node) for node in nodes)
        sea.calm()
        if not done:
            break
    else:
        pytest.fail(f"{told}: still something to do after {ROUNDS_MAX} rounds")
    for table in ("customer", *TABLES):
        nodes.same(table if "." in table else f"public.{table}", "1")
    for node in nodes:
        assert node.parked() == [], told
        assert node.owner("select * from atoll.review_orphans()")
        left: list[Any] = node.owner(
            "select tbl, key, policy, problem from atoll.orphan join atoll.orphan_rule using (tbl)"
            " where done is null and policy <> 'report' and problem is null"
        )
        assert left == [], f"{told}: node {node.number} could have done something about {left}"
    for table in TABLES:
        check_removals(nodes, table)
    check_names(nodes)
