"""What does sharing a table cost the statements that write it, before anything is replicated?

The same statements on the same server on a table that is not shared, on one that is shared with merging, on
one whose rows also say by a column how far they may go, and on one that is shared as append; they take turns.

    python benchmarks/local_write.py [--rounds 3] [--rows 100000] [--transactions 4000] [--postgres 18]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time

from support import report
from support.servers import Server, make_atoll, script, servers

TABLE = "(id bigint primary key, a text, b int, c float8, d timestamptz default now())"
PLAIN, MERGE, SCOPED, APPEND = "plain", "shared", "scoped", "facts"
KINDS = {MERGE: "merge", SCOPED: "scoped", APPEND: "append"}
SEEDED_ROWS = 20_000
CLIENTS = 4


def one_row_scripts(table: str) -> dict[str, str]:
    found = {
        "one-row INSERT": f"insert into {table} (id, a, b, c) values (nextval('s'), 'some text', 5, 1.5);"
    }
    if table != APPEND:
        pick = f"\\set i random(1, {SEEDED_ROWS})\n"
        found["one-row UPDATE"] = f"{pick}update {table} set b = b + 1, a = 'other text' where id = :i;"
    return found


def bulk_statements(table: str, rows: int) -> dict[str, str]:
    new = f"select nextval('s'), 'some text ' || g, g, g * 1.5 from generate_series(1, {rows}) g"
    found = {"bulk INSERT": f"insert into {table} (id, a, b, c) {new}"}
    if table != APPEND:
        # Every table has its turn with as many rows, the last that were inserted.
        last = f"where id in (select id from {table} order by id desc limit {rows})"
        found["bulk UPDATE"] = f"update {table} set b = b + 1 {last}"
        found["bulk DELETE"] = f"delete from {table} {last}"
    return found


async def prepare(server: Server) -> None:
    await make_atoll(server)
    for table in (PLAIN, MERGE, APPEND):
        await server.run("atoll", f"create table {table} {TABLE}")
    scoped = f"(like {PLAIN} including all, place text default 'global')"
    await server.run("atoll", f"create table {SCOPED} {scoped}")
    await server.run(
        "atoll",
        "create sequence s",
        f"select atoll.share('{MERGE}')",
        f"select atoll.share('{SCOPED}', scope_column => 'place')",
        f"select atoll.share('{APPEND}', kind => 'append')",
    )
    for table in (PLAIN, MERGE, SCOPED):
        rows = f"select g, 'some text', 5, 1.5 from generate_series(1, {SEEDED_ROWS}) g"
        await server.run("atoll", f"insert into {table} (id, a, b, c) {rows}")
    await server.run("atoll", f"select setval('s', {SEEDED_ROWS})", "analyze")


async def measure(rounds: int, rows: int, transactions: int, seed: int, major: int) -> None:
    async with servers(1, major) as (server,):
        report.heading(
            "What does sharing a table cost the statements that write it?",
            seed,
            await server.value("postgres", "show server_version"),
            f"the same statement on a table that is not shared; in turns, {rounds} rounds after one to "
            f"warm up: median (least-most); one-row statements by {CLIENTS} clients",
        )
        await prepare(server)
        seconds: dict[tuple[str, str], list[float]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for turn in range(rounds + 1):
                for table in (PLAIN, *KINDS):
                    for name, text in one_row_scripts(table).items():
                        arguments = ["--client", str(CLIENTS), "--jobs", "2", "--random-seed", str(seed)]
                        arguments += ["--transactions", str(transactions // CLIENTS)]
                        began = time.perf_counter()
                        await server.pgbench("atoll", script(folder, text), *arguments)
                        if turn:
                            seconds.setdefault((name, table), []).append(time.perf_counter() - began)
                    for name, statement in bulk_statements(table, rows).items():
                        await server.run("atoll", "checkpoint")
                        began = time.perf_counter()
                        await server.run("atoll", statement)
                        if turn:
                            seconds.setdefault((name, table), []).append(time.perf_counter() - began)
        for (name, table), found in seconds.items():
            if table != PLAIN:
                count = rows if name.startswith("bulk") else transactions
                plain = seconds[name, PLAIN]
                ratio = statistics.median(p / f for p, f in zip(plain, found, strict=True))
                added = (statistics.median(found) - statistics.median(plain)) / count * 1e6
                print(
                    f"{name:<15} {KINDS[table]:<7} "
                    f"plain {report.spread([count / s for s in plain]):>26}/s  "
                    f"shared {report.spread([count / s for s in found]):>26}/s  "
                    f"ratio {ratio:.2f}  adds {added:.1f} us"
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--transactions", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", type=int, default=18, choices=(16, 18))
    given = parser.parse_args()
    asyncio.run(measure(given.rounds, given.rows, given.transactions, given.seed, given.postgres))


if __name__ == "__main__":
    main()
