"""Do three nodes end with the same rows after links were cut and clocks were apart?

One history, made from a seed: inserts, updates and deletes on three nodes, single directions of links cut and
healed, clocks up to 300 ms off. It is played twice on the same servers: against tables that PostgreSQL itself
replicates in a mesh, with triggers that let the last writer win (last_writer_wins.sql); and against shared
tables. When all links are back and everything has been applied, rows that are not the same on all three nodes
are counted.

    python benchmarks/divergence.py [--operations 6000] [--seed 1] [--postgres 18]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from support import report
from support.servers import Connection, Server, link, make_atoll, servers, subscribe, trusted

NODES = 3
PER_TICK = 12
TICK_SECONDS = 0.01
SKEW_MS_MAX = 300
CUT_TICKS_MAX = 60
QUIET_SECONDS_MAX = 120.0
TABLE = "create table item (id bigint primary key, a int, b text)"

NATIVE = Path(__file__).with_name("last_writer_wins.sql")


@dataclass(frozen=True)
class Tick:
    """What happens in one moment: statements by node, and directions of links that change."""

    statements: tuple[tuple[int, str], ...]
    cuts: tuple[tuple[int, int], ...]
    heals: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class History:
    skews_ms: tuple[int, ...]
    ticks: tuple[Tick, ...]


def make_history(seed: int, operations: int) -> History:
    rng = random.Random(seed)
    known: list[int] = []
    ends: dict[tuple[int, int], int] = {}
    ticks = []
    for number in range(operations // PER_TICK):
        heals = tuple(pair for pair, end in ends.items() if end <= number)
        for pair in heals:
            del ends[pair]
        cuts = []
        if rng.random() < 0.08:
            pair = rng.choice(list(permutations(range(NODES), 2)))
            if pair not in ends:
                ends[pair] = number + rng.randint(5, CUT_TICKS_MAX)
                cuts.append(pair)
        statements = tuple((rng.randrange(NODES), statement(rng, known)) for _ in range(PER_TICK))
        ticks.append(Tick(statements, tuple(cuts), heals))
    return History(tuple(rng.sample((-SKEW_MS_MAX, 0, SKEW_MS_MAX), NODES)), tuple(ticks))


def statement(rng: random.Random, known: list[int]) -> str:
    kind = rng.random()
    # Mostly what is new is written again: that is what applications do, and where the races are.
    recent = known[-40:] if rng.random() < 0.8 else known
    if kind < 0.4 or not known:
        known.append(len(known) + 1)
        return f"insert into item (id, a, b) values ({known[-1]}, {rng.randrange(1000)}, 'new')"
    if kind < 0.85:
        return f"update item set a = {rng.randrange(1000)}, b = 'changed' where id = {rng.choice(recent)}"
    if kind < 0.95:
        return f"delete from item where id = {rng.choice(recent)}"
    value = rng.randrange(1000)
    return (
        f"insert into item (id, a, b) values ({rng.choice(recent)}, {value}, 'again') on conflict do nothing"
    )


async def make_native(nodes: Sequence[Server], history: History) -> None:
    triggers = await asyncio.to_thread(NATIVE.read_text)
    for node, skew in zip(nodes, history.skews_ms, strict=True):
        await node.run("postgres", "create database native")
        await node.run("postgres", f"alter database native set bench.skew_ms = '{skew}'")
        await node.run("postgres", f"alter database native set bench.node = '{node.number}'")
        await node.run("native", TABLE, triggers)
    for to, origin in permutations(nodes, 2):
        await subscribe(to, origin, "native", "mesh", "origin = none, copy_data = false")


async def make_shared(nodes: Sequence[Server], history: History) -> None:
    for node, skew in zip(nodes, history.skews_ms, strict=True):
        await make_atoll(node)
        await node.run("postgres", f"alter database atoll set atoll.clock_offset_ms = '{skew}'")
    for to, origin in permutations(nodes, 2):
        await link(to, origin)
    await nodes[0].run("atoll", TABLE, "select atoll.share('item')")
    async with asyncio.timeout(QUIET_SECONDS_MAX):
        while not all([await n.value("atoll", "select to_regclass('item') is not null") for n in nodes]):
            await asyncio.sleep(0.1)


async def play(nodes: Sequence[Server], database: str, history: History) -> int:
    """Play the history; how many statements were refused to the writer."""
    connections = [await node.connect(database) for node in nodes]
    refused = 0

    async def write(node: int, statements: list[str]) -> None:
        nonlocal refused
        for text in statements:
            try:
                await connections[node].execute(trusted(text))
            except Exception as error:
                if getattr(error, "sqlstate", None) not in ("40001", "40P01", "23505"):
                    raise
                refused += 1

    try:
        for tick in history.ticks:
            for (to, origin), word in [(p, "disable") for p in tick.cuts] + [
                (p, "enable") for p in tick.heals
            ]:
                name = f"{database}_from_{nodes[origin].number}_at_{nodes[to].number}"
                await connections[to].execute(trusted(f"alter subscription {name} {word}"))
            await asyncio.gather(
                *(write(n, [text for node, text in tick.statements if node == n]) for n in range(NODES))
            )
            await asyncio.sleep(TICK_SECONDS)
        for to, origin in permutations(range(NODES), 2):
            name = f"{database}_from_{nodes[origin].number}_at_{nodes[to].number}"
            await connections[to].execute(trusted(f"alter subscription {name} enable"))
        await wait_until_quiet(connections)
    finally:
        for connection in connections:
            await connection.close()
    return refused


async def wait_until_quiet(connections: Sequence[Connection]) -> None:
    """Until every subscriber has all there is; applying writes WAL too, so ask until nothing moves."""
    behind = (
        "select count(*) filter (where confirmed_flush_lsn < %s) from pg_replication_slots "
        "where database = current_database()"
    )
    calm = 0
    async with asyncio.timeout(QUIET_SECONDS_MAX):
        while calm < 3:
            is_calm = True
            for connection in connections:
                at = await (await connection.execute("select pg_current_wal_lsn()")).fetchone()
                await asyncio.sleep(0.3)
                is_calm &= await (await connection.execute(behind, at)).fetchone() == (0,)
            calm = calm + 1 if is_calm else 0


async def differing(nodes: Sequence[Server], database: str) -> tuple[int, int, list[str]]:
    """Rows that are not the same everywhere, rows in all, and some of the former."""
    query = "select id, a, b from item"
    found = [{row[0]: row[1:] for row in await node.values(database, query)} for node in nodes]
    everything = sorted(set().union(*found))
    bad = [i for i in everything if len({rows.get(i) for rows in found}) > 1]
    return len(bad), len(everything), [f"item {i}: {[rows.get(i) for rows in found]}" for i in bad[:3]]


async def measure(operations: int, seed: int, major: int) -> int:
    history = make_history(seed, operations)
    cuts = sum(len(tick.cuts) for tick in history.ticks)
    makers: dict[str, Callable[[Sequence[Server], History], Awaitable[None]]] = {
        "native": make_native,
        "atoll": make_shared,
    }
    counts = {}
    async with servers(NODES, major) as nodes:
        report.heading(
            "Do three nodes end with the same rows after links were cut and clocks were apart?",
            seed,
            await nodes[0].value("postgres", "show server_version"),
            "native logical replication in a mesh on the same servers, with triggers: last writer wins",
        )
        print(
            f"history   {operations} statements, {cuts} cuts of one direction of a link, "
            f"clocks off by {', '.join(map(str, history.skews_ms))} ms"
        )
        for database, make in makers.items():
            await make(nodes, history)
            began = time.perf_counter()
            refused = await play(nodes, database, history)
            bad, rows, examples = await differing(nodes, database)
            counts[database] = bad
            print(
                f"{database:<9} {bad} of {rows} rows differ for good; {refused} statements were refused "
                f"to the writer; {time.perf_counter() - began:.0f} s",
                flush=True,
            )
            for example in examples:
                print(f"          {example}")
            if database == "atoll":
                parked = sum([await n.value("atoll", "select count(*) from atoll.parked") for n in nodes])
                print(f"          {parked} changes parked")
    return counts["atoll"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", type=int, default=18, choices=(16, 18))
    given = parser.parse_args()
    if asyncio.run(measure(given.operations, given.seed, given.postgres)):
        sys.exit("error: shared tables differ")


if __name__ == "__main__":
    main()
