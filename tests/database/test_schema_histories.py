"""Schema changes and writes at random on three nodes, arriving in any order: the same table, the same rows.

A failure prints its seed; ATOLL_SCHEMA_SEED plays it again, ATOLL_EXAMPLES says how many are played.
"""

from __future__ import annotations

import os
import random

import psycopg
import pytest

from database.test_schema import same, same_shape
from support.fix_nodes import Change, Node, Nodes

pytestmark = pytest.mark.slow

SEEDS = (
    [int(os.environ["ATOLL_SCHEMA_SEED"])]
    if "ATOLL_SCHEMA_SEED" in os.environ
    else list(range(int(os.environ.get("ATOLL_EXAMPLES", "20")) // 5))
)
STEPS = 40
START = 3 * 10**11  # milliseconds: later than all that the nodes did before
NAMES = ("a", "b", "c", "d")
TYPES = ("int default 1", "int default 2 not null", "text default 'x'", "bigint", "jsonb default '[1]'")
REFUSED = (psycopg.errors.DuplicateColumn, psycopg.errors.UndefinedColumn, psycopg.errors.DuplicateTable)


def columns(node: Node) -> dict[str, str]:
    found = node.run(
        "select attname, format_type(atttypid, -1) from pg_attribute"
        " where attrelid = 'item'::regclass and attnum > 1 and not attisdropped order by 1"
    )
    return dict(found)


def alter(dice: random.Random, node: Node) -> str:
    there = list(columns(node))
    free = [name for name in NAMES if name not in there]
    # A name is not given twice: that has a limit of its own, which the page on schema changes tells.
    used = {
        name
        for (name,) in node.owner(
            "select distinct substr(item, 3) from atoll.schema_item where item like 'c:_'"
        )
    }
    fresh = [name for name in free if name not in used]
    kinds = ["add", "default", "index"] + (["drop", "rename", "type"] if there else [])
    kind = dice.choice(kinds)
    if kind == "add" and fresh:
        return f"alter table item add column {dice.choice(fresh)} {dice.choice(TYPES)}"
    if kind == "index":
        return (
            "create index if not exists item_by_n on item (n)"
            if dice.random() < 0.5
            else "drop index if exists item_by_n"
        )
    if kind == "drop" and len(there) > 1:
        return (
            f"alter table item drop column {dice.choice([name for name in there if name != 'n'] or ['n_'])}"
        )
    if kind == "rename" and there:
        name = dice.choice([name for name in there if name != "n"] or ["n_"])
        return f"alter table item rename column {name} to {name}{node.number}{dice.randrange(10**6)}"
    return f"alter table item alter column n set default {dice.randrange(100)}"


def write(dice: random.Random, node: Node) -> None:
    key, there = dice.randrange(6), columns(node)
    match dice.choice(["insert", "update", "update", "delete"]):
        case "insert":
            node.run("insert into item (id) values (%s) on conflict do nothing", key)
        case "delete":
            node.run("delete from item where id = %s", key)
        case _:
            name = dice.choice(list(there))
            value = {"jsonb": "[%s]", "text": "t%s"}.get(there[name], "%s") % dice.randrange(1000)
            node.run(f"update item set {name} = %s where id = %s", value, key)


def deliver(dice: random.Random, node: Node, inbox: list[Change]) -> None:
    """Some of what is on its way arrives: of each origin in its order, as a link brings it."""
    origin = dice.choice([change.origin for change in inbox])
    some = [change for change in inbox if change.origin == origin][: dice.randrange(1, 6)]
    node.receive(some)
    for change in some:
        inbox.remove(change)


@pytest.mark.parametrize("seed", SEEDS)
def test_any_history_of_changes_and_writes_converges(three_nodes: Nodes, seed: int) -> None:
    print(f"ATOLL_SCHEMA_SEED={seed}")
    dice = random.Random(seed)
    first = three_nodes[0]
    for node in three_nodes:
        node.clock(START - 10**5)
    first.run("create table item (id bigint primary key, n int default 0, note text)")
    first.share("item", '{"n": "counter"}' if seed % 2 else "{}")
    first.run("insert into item (id, n) values (0, 5), (1, 6)")
    three_nodes.sync()
    inboxes: list[list[Change]] = [[], [], []]
    for node in three_nodes:
        node.run("set atoll.force_schema = on")
    for step in range(STEPS):
        place = dice.randrange(3)
        node = three_nodes[place]
        node.clock(START + step * 3 + dice.randrange(-40, 40))
        if dice.random() < 0.3:
            statement = alter(dice, node)
            print(f"node {node.number}: {statement}")
            try:
                node.run(statement)
            except REFUSED:
                continue
        else:
            write(dice, node)
        news = node.changes()
        for other, inbox in enumerate(inboxes):
            if other != place:
                inbox += news
        place = dice.randrange(3)
        if inboxes[place] and dice.random() < 0.6:
            deliver(dice, three_nodes[place], inboxes[place])
    for node, inbox in zip(three_nodes, inboxes, strict=True):
        while inbox:
            deliver(dice, node, inbox)
    for _ in range(3):
        for node in three_nodes:
            node.clock(START + 10**6)
            node.owner("select atoll.apply_schema(true)")
            node.retry()
        three_nodes.sync()
    assert [node.parked() for node in three_nodes] == [[], [], []]
    waiting = "select problem from atoll.schema_done where problem is not null"
    assert [node.owner(waiting) for node in three_nodes] == [[], [], []]
    same_shape(three_nodes)
    same(three_nodes)
