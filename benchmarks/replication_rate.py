"""How fast does Atoll replicate, against PostgreSQL's own logical replication of the same table?

Two servers, and in each of them two databases with the same tables: one replicates its tables natively, the
other shares them. Both take turns at the same statements. The rate is the sustainable one: statements (or
rows) divided by the time until the other server has applied the last of them.

    python benchmarks/replication_rate.py [--rounds 3] [--rows 100000] [--transactions 8000] [--postgres 18]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import report
from support.servers import Server, link, make_atoll, servers, subscribe, wait_until_caught_up

TABLE = "(id bigint primary key, a text, b int, c float8, d timestamptz default now())"
CLIENTS = 4
SEEDED_ROWS = 20_000
INSERT = "insert into {} (id, a, b, c) values (nextval('s'), 'some text here', 5, 1.5);"
UPDATE = f"\\set i random(1, {SEEDED_ROWS})\nupdate t set b = b + 1, a = 'other text' where id = :i;"
NATIVE, ATOLL = "native", "atoll"


@dataclass(frozen=True)
class Options:
    rounds: int
    rows: int
    transactions: int
    seed: int
    streaming: str


@dataclass(frozen=True)
class Workload:
    """Statements of one kind, and the share of the native rate that is wanted."""

    name: str
    unit: str
    wanted: float | None
    count: int
    run: Callable[[Server, str], Awaitable[None]]


def workloads(options: Options, folder: str) -> list[Workload]:
    def one_row(script: str, name: str) -> Callable[[Server, str], Awaitable[None]]:
        path = Path(folder, name)
        path.write_text(script)
        each = options.transactions // CLIENTS
        arguments = ["--client", str(CLIENTS), "--jobs", "2", "--transactions", str(each)]
        arguments += ["--random-seed", str(options.seed)]
        return lambda server, database: server.pgbench(database, path, *arguments)

    def bulk(statement: str) -> Callable[[Server, str], Awaitable[None]]:
        return lambda server, database: server.run(database, statement)

    fill = (
        "insert into {} (id, a, b, c) select nextval('s'), 'some text ' || g, g, g * 1.5 "
        f"from generate_series(1, {options.rows}) g"
    )
    statements, rows = options.transactions // CLIENTS * CLIENTS, options.rows
    behind = f"id > (select max(id) - {rows} from t)"
    return [
        Workload("one-row INSERT", "tx", 0.6, statements, one_row(INSERT.format("t"), "insert")),
        Workload("one-row UPDATE", "tx", 0.6, statements, one_row(UPDATE, "update")),
        Workload("one-row INSERT, append", "tx", 0.8, statements, one_row(INSERT.format("f"), "append")),
        Workload("bulk INSERT", "rows", 0.4, rows, bulk(fill.format("t"))),
        Workload("bulk UPDATE", "rows", 0.4, rows, bulk(f"update t set b = b + 1 where {behind}")),
        Workload("bulk DELETE", "rows", None, rows, bulk(f"delete from t where {behind}")),
        Workload("bulk INSERT, append", "rows", 0.8, rows, bulk(fill.format("f"))),
    ]


async def prepare(here: Server, there: Server, options: Options) -> None:
    tables = [f"create table {name} {TABLE}" for name in ("t", "f")]
    for server in (here, there):
        await server.run("postgres", f"create database {NATIVE}")
        await server.run(NATIVE, *tables)
        await make_atoll(server, ATOLL)
    await here.run(NATIVE, "create publication p for table t, f")
    await subscribe(there, here, NATIVE, "p", f"streaming = {options.streaming}")
    await link(there, here, ATOLL, options.streaming)
    await here.run(ATOLL, *tables, "select atoll.share('t')", "select atoll.share('f', kind => 'append')")
    for database in (NATIVE, ATOLL):
        await here.run(
            database,
            "create sequence s",
            "insert into t (id, a, b, c) select nextval('s'), 'some text here', 5, 1.5 "
            f"from generate_series(1, {SEEDED_ROWS})",
            "analyze",
        )


async def seconds_of(here: Server, there: Server, database: str, workload: Workload) -> float:
    for server in (here, there):
        await server.run(database, "checkpoint")
    async with await here.connect(database) as connection:
        began = time.perf_counter()
        await workload.run(here, database)
        await wait_until_caught_up(connection)
        return time.perf_counter() - began


async def check_same(here: Server, there: Server, database: str) -> None:
    for table in ("t", "f"):
        query = f"select count(*), sum(hashtextextended(r::text, 0)::numeric) from {table} r"
        one, other = [await server.values(database, query) for server in (here, there)]
        if one != other:
            sys.exit(f"error: table {table} of {database} differs: {one} here, {other} there")


def print_result(workload: Workload, seconds: dict[str, list[float]]) -> None:
    rates = {name: [workload.count / s for s in found] for name, found in seconds.items()}
    ratios = [n / a for n, a in zip(seconds[NATIVE], seconds[ATOLL], strict=True)]
    ratio = statistics.median(ratios)
    wanted = "" if workload.wanted is None else f"wanted {workload.wanted:.1f}"
    short = "  SHORT" if workload.wanted and ratio < workload.wanted else ""
    print(
        f"{workload.name:<23} {workload.unit:>4}/s  native {report.spread(rates[NATIVE]):>26}  "
        f"atoll {report.spread(rates[ATOLL]):>26}  ratio {report.spread(ratios, '.2f'):>18}  {wanted}{short}",
        flush=True,
    )


async def measure(options: Options, major: int, only: Sequence[str]) -> None:
    async with servers(2, major) as (here, there):
        report.heading(
            "How fast does Atoll replicate, against native logical replication of the same table?",
            options.seed,
            await here.value("postgres", "show server_version"),
            f"native logical replication (binary, streaming = {options.streaming}, as here) in the same "
            f"servers; both take turns, {options.rounds} rounds after one to warm up: median (least-most); "
            "all on one machine's processors",
        )
        await prepare(here, there, options)
        with tempfile.TemporaryDirectory() as folder:
            chosen = [w for w in workloads(options, folder) if not only or w.name in only]
            seconds: dict[str, dict[str, list[float]]] = {w.name: {NATIVE: [], ATOLL: []} for w in chosen}
            for turn in range(options.rounds + 1):
                for workload in chosen:
                    for database in (NATIVE, ATOLL) if turn % 2 else (ATOLL, NATIVE):
                        taken = await seconds_of(here, there, database, workload)
                        if turn:
                            seconds[workload.name][database].append(taken)
        for workload in chosen:
            print_result(workload, seconds[workload.name])
        for database in (NATIVE, ATOLL):
            await check_same(here, there, database)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--transactions", type=int, default=8_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--streaming", default="parallel", choices=("parallel", "on", "off"))
    parser.add_argument("--postgres", type=int, default=18, choices=(16, 18))
    parser.add_argument("--only", action="append", default=[], help="a workload's name; may be repeated")
    given = parser.parse_args()
    options = Options(given.rounds, given.rows, given.transactions, given.seed, given.streaming)
    asyncio.run(measure(options, given.postgres, given.only))


if __name__ == "__main__":
    main()
