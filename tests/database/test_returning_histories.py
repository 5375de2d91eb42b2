"""Random histories with a member that is away: what was deleted and forgotten stays gone, what it wrote itself lives."""

from __future__ import annotations

import random

import pytest
from psycopg.types.json import Jsonb

from database.test_returning import BURIED, beat, call, forget, without
from support.fix_mesh import make_seed
from support.fix_nodes import Node, Nodes

pytestmark = pytest.mark.slow
KEYS = range(1, 13)
ROUNDS = 12
Row = tuple[str | None, str]


def rows_of(node: Node) -> dict[int, Row]:
    return {int(key): (word, qty) for key, word, qty in node.rows("item")}


def write(node: Node, chance: random.Random, word: str) -> int:
    """One statement of an application on one key, whatever is there; says which key."""
    key = chance.choice(KEYS)
    statement, *values = chance.choice(
        [
            ("insert into item values (%s, %s, 5) on conflict do nothing", key, word),
            (
                "insert into item values (%s, %s, 5) on conflict (id) do update set word = excluded.word",
                key,
                word,
            ),
            ("update item set word = %s where id = %s", word, key),
            ("update item set qty = qty + 1 where id = %s", key),
            ("delete from item where id = %s", key),
            ("delete from item where id = %s", key),
        ]
    )
    before = node.rows("item")
    node.run(statement, *values)
    return key if node.rows("item") != before else 0


def judge(
    key: int, mine: Row | None, own: set[int], theirs: Row | None, wrote: set[int], now: Row | None
) -> None:
    """What may have become of a row, given both sides before the return, and which keys each of them wrote."""
    if key not in own:
        assert now == theirs, f"row {key}: nobody but the others wrote it"
    elif key not in wrote:
        assert now == mine, f"row {key}: nobody but the one that was away wrote it"
    elif theirs is None and mine is not None:
        assert now is not None, f"row {key} was written while away and deleted elsewhere"
        assert now[0] == mine[0]
    elif mine is not None and theirs is not None:
        assert now is not None
        assert now[0] in (mine[0], theirs[0])


def give_back(nodes: Nodes, away: Node, source: Node, chance: random.Random) -> int:
    """The return, cut short and begun anew as chance has it. Says which key was written on the way."""
    attempts = chance.randrange(1, 4)
    for attempt in range(attempts):
        token = f"{chance.random()}"
        ((known,),) = source.owner("select atoll.known_stamps()")
        away.owner("select atoll.begin_return(%s, %s, %s)", source.number, token, Jsonb(known))
        call(source, "atoll.seed_returning(%s, %s)", away.number, token)
        if attempt < attempts - 1:
            news = source.changes()
            for node in nodes:
                if node is not source:
                    node.receive([c for c in news[: chance.randrange(len(news))] if node.may_have(c)])
            continue
        nodes.sync()
    if chance.random() < 0.5:
        size = away.owner("""select pg_relation_size('atoll_side."public.item"')""")[0][0]
        away.owner("select atoll.sweep_pages('public.item', 0, %s)", size // 8192 // 2)
    key = write(away, chance, "returning")
    call(away, "atoll.finish_return()")
    nodes.sync()
    return key


def give_copy(nodes: Nodes, source: Node, to: Node) -> None:
    source.owner("insert into atoll.progress (peer) values (%s) on conflict do nothing", to.number)
    source.owner("select atoll.owe_seed(%s)", to.number)
    call(source, "atoll.seed(%s)", to.number)
    nodes.sync()


def test_random_returns(three_nodes: Nodes) -> None:
    nodes, chance = three_nodes, make_seed()
    nodes[0].run("create table item (id integer primary key, word text, qty integer not null default 0)")
    nodes[0].share("item", '{"qty": "counter"}')
    nodes.sync()
    for node in nodes:
        node.owner("update atoll.setting set value = '0 s' where name = 'tombstone_retention'")
    for turn in range(ROUNDS):
        play(nodes, chance, turn)


def play(nodes: Nodes, chance: random.Random, turn: int) -> None:
    for _ in range(10):
        write(chance.choice(nodes), chance, f"before {turn}")
        nodes.sync()
    for _ in range(3):
        beat(nodes)
    away = chance.choice(nodes)
    left = without(nodes, away)
    own: set[int] = set()
    wrote: set[int] = set()

    def go_on(times: int) -> None:
        for _ in range(times):
            own.add(write(away, chance, f"alone {turn}"))
            wrote.add(write(chance.choice(left), chance, f"together {turn}"))
            left.sync()

    go_on(6)
    forget(nodes, away)
    go_on(3)
    mine, theirs = rows_of(away), rows_of(left[0])
    remembered = {key for (key,) in left[0].owner(BURIED)}
    is_cut = chance.random() < 0.3
    if is_cut:
        away.changes()  # its log was cut before anybody read it: the others will ask for a copy
    else:
        nodes.sync()
        theirs_then = rows_of(left[0])
        assert {k: theirs_then.get(k) for k in KEYS if k not in own} == {
            k: theirs.get(k) for k in KEYS if k not in own
        }
    last = give_back(nodes, away, chance.choice(left), chance)
    if is_cut:
        for node in left:
            give_copy(nodes, away, node)
    now = rows_of(nodes[0])
    print(f"turn {turn}: node {away.number} away, wrote {sorted(own)}, others {sorted(wrote)}")
    for key in KEYS:
        if key != last and key not in remembered:
            judge(key, mine.get(key), own, theirs.get(key), wrote, now.get(key))
    for node in nodes:
        assert rows_of(node) == now, f"node {node.number} differs"
        assert node.parked() == []
        assert node.owner("select count(*) from atoll.returning") == [(0,)]
