"""Rollups under random histories: at every moment they are what a plain GROUP BY over the rows says."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from support import tally
from support.fix_nodes import Node, Nodes
from support.fix_postgres import APP_ROLE

pytestmark = pytest.mark.slow

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
INSERT = "insert into readings values (%s, %s, %s, %s, %s, %s)"


class History:
    """Statements of an application on one node, drawn from a seed. Ids of nodes differ."""

    def __init__(self, node: Node, chance: random.Random) -> None:
        self._node, self._chance = node, chance
        self._last = node.number * 1_000_000

    def row(self) -> tuple[Any, ...]:
        chance = self._chance
        self._last += 1
        seconds = chance.choice([chance.randrange(180), chance.randrange(180), -chance.randrange(90_000)])
        at = None if chance.random() < 0.05 else NOON + timedelta(seconds=seconds, microseconds=seconds % 7)
        temp = chance.choice([None, 0.0, -3.25, 1e300, float("inf"), float("-inf"), float("nan")])
        if chance.random() < 0.8:
            temp = round(chance.gauss(20, 30), 3)
        power = chance.choice([None, Decimal("NaN"), Decimal(chance.randrange(-5000, 5000)) / 100])
        if chance.random() < 0.7:
            power = Decimal(chance.randrange(10**6)) / 1000
        return (self._last, at, chance.choice(["a", "b", None]), temp, power, chance.randrange(12))

    def step(self) -> None:
        chance, run = self._chance, self._node.run
        some = f"id % 7 = {chance.randrange(7)}"
        match chance.randrange(13):
            case 0 | 1 | 2:
                run(INSERT, *self.row())
            case 3:
                with self._node.app.cursor() as cursor, cursor.copy("copy readings from stdin") as copy:
                    for _ in range(chance.randrange(40)):
                        copy.write_row(self.row())
            case 4:
                again = (self._last + 1 - chance.randrange(3), *self.row()[1:])
                run(f"{INSERT} on conflict (id) do update set temp = 7, machine = 'b'", *again)
            case 5:
                run(f"update readings set temp = temp + 1, power = power - 1.5 where {some}")
            case 6:
                run(f"update readings set taken_at = taken_at - interval '55 s' where {some}")
            case 7:
                run(f"update readings set machine = nullif(machine, 'a'), visitor = 3 where {some}")
            case 8:
                run("update readings set temp = temp")
            case 9:
                run(f"delete from readings where {some}")
            case 10:
                with self._node.app.transaction(force_rollback=True):
                    run("delete from readings")
                    run(INSERT, *self.row())
            case 11 if chance.random() < 0.3:
                run("truncate readings")
            case _:
                self._node.owner("select atoll.tend_rollups(%s)", chance.choice([1, 5, 10_000]))


def make(node: Node) -> None:
    node.run(f"create table readings ({tally.COLUMNS})")
    node.run("create index on readings (taken_at)")


def settle(nodes: Nodes) -> None:
    for _ in range(2):
        for node in nodes:
            while node.owner("select atoll.tend_rollups()")[0][0] >= 10_000:
                pass
        nodes.sync()


@pytest.mark.parametrize("sharing", ["not shared", "node", "region", "global"])
def test_a_rollup_is_what_the_rows_come_to(nodes: Nodes, sharing: str) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    one = nodes[0]
    for node in nodes if sharing == "not shared" else nodes[:1]:
        make(node)
    if sharing != "not shared":
        one.run("select atoll.share('readings', scope => %s)", sharing)
        nodes.sync()
    histories = [History(node, chance) for node in nodes]
    for history in histories:
        for _ in range(5):
            history.step()
    tally.rollup(one)
    settle(nodes)
    for _ in range(12):
        for _ in range(chance.randrange(8)):
            chance.choice(histories).step()
        for node in nodes:
            tally.check(tally.own(node), tally.raw(node))
        if chance.random() < 0.5:
            nodes.sync()
    settle(nodes)
    together = [row for node in nodes for row in tally.raw(node)]
    for node in nodes:
        held = together if sharing in ("not shared", "node") else tally.raw(node)
        tally.check(tally.shown(node), held)
    for node in nodes:
        node.run("select atoll.refresh_rollup('readings_1min')")
        tally.check(tally.own(node), tally.raw(node))
    assert [node.parked() for node in nodes] == [[], []]


def test_sessions_at_once_lose_no_row_and_wait_for_no_other(node: Node) -> None:
    """Writers of the same group, who fold and refresh meanwhile, and a reader to whom every moment is whole."""
    make(node)
    tally.rollup(node)
    errors: list[BaseException] = []
    is_over = threading.Event()

    def write(number: int) -> None:
        chance = random.Random(number)
        with psycopg.connect(node.database.conninfo(APP_ROLE), autocommit=True) as session:
            for i in range(120):
                with session.transaction():
                    values = (number * 1000 + i, NOON, "a", float(chance.randrange(50)), Decimal(1), i % 5)
                    session.execute(INSERT, values)
                    if i % 3 == 2:
                        query = "update readings set temp = temp + 1 where id = %s"
                        session.execute(query, [number * 1000 + i])
                        session.execute("delete from readings where id = %s", [number * 1000 + i - 2])

    def tend() -> None:
        with psycopg.connect(node.database.conninfo(), autocommit=True) as session:
            while not is_over.is_set():
                session.execute("select atoll.tend_rollups(50)")
                session.execute("select atoll.refresh_rollup('public.readings_1min')")

    def look() -> None:
        with psycopg.connect(node.database.conninfo(APP_ROLE), autocommit=True) as session:
            while not is_over.is_set():
                with session.transaction():
                    session.execute("set transaction isolation level repeatable read")
                    rows = session.execute(tally.RAW).fetchall()
                    found = session.execute(f"select {tally.SHOWN} from readings_1min").fetchall()
                tally.check(found, rows)

    def guarded(job: Any, *values: Any) -> None:
        try:
            job(*values)
        except BaseException as error:  # told by the test, not by the thread
            errors.append(error)

    writers = [threading.Thread(target=guarded, args=(write, number)) for number in range(4)]
    others = [threading.Thread(target=guarded, args=(job,)) for job in (tend, look)]
    for thread in writers + others:
        thread.start()
    for thread in writers:
        thread.join()
    is_over.set()
    for thread in others:
        thread.join()
    assert errors == []
    rows = tally.raw(node)
    assert len(rows) == 4 * 80
    tally.check(tally.shown(node), rows)
    node.owner("select atoll.tend_rollups()")
    tally.check(tally.shown(node), rows)


def test_rows_that_were_there_are_counted_while_writers_go_on(node: Node) -> None:
    make(node)
    node.run(
        "insert into readings select g, %s::timestamptz - g * interval '1 s', 'm' || g %% 3, g, g, g %% 90"
        " from generate_series(1, 30000) g",
        NOON,
    )
    tally.rollup(node)
    assert node.value("select state from atoll.rollups") == "filling"
    node.run("update readings set temp = temp + 1 where id % 100 = 0")
    node.run("delete from readings where id % 100 = 1")
    while node.value("select state from atoll.rollups") == "filling":
        node.owner("select atoll.tend_rollups(700)")
        node.run("update readings set machine = 'b' where id % 1000 = 7")
    assert node.value("select state from atoll.rollups") == "kept"
    tally.check(tally.shown(node), tally.raw(node))
