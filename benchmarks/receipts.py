"""What does it cost to compare a table with a neighbour all the time?

A shared table is walked in stretches as a node walks it, once with rows that were written once and once after
every row was updated; so is an append table. Beside it the other way is measured: a hash per bucket that a
trigger keeps up to date, as a share of what one-row UPDATEs reach without it.

    python benchmarks/receipts.py [--rows 1000000] [--rounds 3] [--transactions 4000] [--postgres 18]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from typing import LiteralString, cast

from atoll.node.config import BY_KEY
from atoll.node.mesh.witness import ROWS_PER_SLICE
from support import report
from support.servers import Connection, Server, make_atoll, script, servers

TABLE = "(id bigint primary key, a text, b int, c float8, d timestamptz default now())"
CLIENTS = 4
SEEDED_ROWS = 20_000
KEPT = """
create table kept (bucket integer primary key, hash bigint not null);
insert into kept select g, 0 from generate_series(0, 1023) g;
create function keep() returns trigger language plpgsql as $$
begin
    update kept k set hash = k.hash # d.hash
      from (select bucket, bit_xor(hash) as hash
              from (select ('x' || left(md5(id::text), 6))::bit(24)::integer % 1024 as bucket,
                           ('x' || left(md5(r), 16))::bit(64)::bigint as hash
                      from (select id, n::text as r from new_rows n
                            union all select id, o::text from old_rows o) r) u
             group by bucket) d
     where k.bucket = d.bucket;
    return null;
end $$;
create trigger keep after update on with_kept referencing new table as new_rows old table as old_rows
    for each statement execute function keep();
"""


async def walk(connection: Connection, table: str) -> tuple[float, int, list[float]]:
    """Seconds, rows and the seconds of each stretch, without pauses."""
    after, rows, each, began = "", 0, [], time.perf_counter()
    while True:
        at = time.perf_counter()
        asked = await connection.execute("select atoll.slice_end(%s, %s, %s)", (table, after, ROWS_PER_SLICE))
        upto = (await asked.fetchone() or (None,))[0]
        asked = await connection.execute(
            "select n from atoll.slice(%s, %s, %s, '{global}')", (table, after, upto)
        )
        rows += (await asked.fetchone() or (0,))[0]
        each.append(time.perf_counter() - at)
        if upto is None:
            return time.perf_counter() - began, rows, each
        after = upto


async def prepare(server: Server, rows: int) -> None:
    await make_atoll(server)
    for table, kind in (("once", "merge"), ("counted", "merge"), ("facts", "append")):
        policy = '{"b": "counter"}' if table == "counted" else "{}"
        await server.run("atoll", f"create table {table} {TABLE}")
        await server.run("atoll", f"select atoll.share('{table}', '{policy}', '{kind}')")
        new = f"select g, 'some text ' || g, g, g * 1.5 from generate_series(1, {rows}) g"
        await server.run("atoll", f"insert into {table} (id, a, b, c) {new}", "vacuum analyze")


async def compare(server: Server, rows: int, rounds: int) -> None:
    share = cast("float", BY_KEY["receipts"].read(BY_KEY["receipts"].default))
    async with await server.connect("atoll") as connection:
        for title, table, before in (
            ("append", "facts", None),
            ("rows written once", "once", None),
            ("every row updated", "once", "update once set b = b + 1, a = 'other'"),
            ("with a counter, written once", "counted", None),
        ):
            if before:
                await connection.execute(cast("LiteralString", before))
                await connection.execute("vacuum analyze once")
            found = [await walk(connection, f"public.{table}") for _ in range(rounds)]
            assert all(seen == rows for _, seen, _ in found)
            seconds = statistics.median(s for s, _, _ in found)
            each = [one * 1000 for _, _, stretches in found for one in stretches]
            print(
                f"{title:<30} {report.spread([rows / s for s, _, _ in found])} rows/s; a stretch "
                f"{statistics.median(each):.1f} ms, p99 {report.percentile(each, 0.99):.1f} ms; "
                f"1M rows at {share:.0%} of a core: {seconds / rows * 1e6 / share / 3600:.2f} h",
                flush=True,
            )


async def compare_writes(server: Server, rounds: int, transactions: int, seed: int) -> None:
    for table in ("without", "with_kept"):
        await server.run("atoll", f"create table {table} {TABLE}", f"select atoll.share('{table}')")
        new = f"select g, 'some text', 5, 1.5 from generate_series(1, {SEEDED_ROWS}) g"
        await server.run("atoll", f"insert into {table} (id, a, b, c) {new}")
    await server.run("atoll", KEPT, "analyze")
    rates: dict[str, list[float]] = {"without": [], "with_kept": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for table, found in rates.items():
                pick = f"\\set i random(1, {SEEDED_ROWS})\n"
                text = f"{pick}update {table} set b = b + 1, a = 'other text' where id = :i;"
                arguments = ["--client", str(CLIENTS), "--jobs", "2", "--random-seed", str(seed)]
                arguments += ["--transactions", str(transactions // CLIENTS)]
                began = time.perf_counter()
                await server.pgbench("atoll", script(folder, text), *arguments)
                if turn:
                    found.append(transactions / (time.perf_counter() - began))
    ratio = statistics.median(rates["with_kept"]) / statistics.median(rates["without"])
    print(
        f"one-row UPDATE with hashes kept by a trigger: {report.spread(rates['with_kept'])} a second, "
        f"without: {report.spread(rates['without'])}, {ratio:.2f} ×"
    )


async def measure(rows: int, rounds: int, transactions: int, seed: int, major: int) -> None:
    async with servers(1, major) as (server,):
        report.heading(
            "What does it cost to compare a table with a neighbour all the time?",
            seed,
            await server.value("postgres", "show server_version"),
            "hashes that are not kept at all: writing costs nothing more, and each stretch is read anew",
        )
        await prepare(server, rows)
        await compare(server, rows, rounds)
        await compare_writes(server, rounds, transactions, seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transactions", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", type=int, default=18)
    given = parser.parse_args()
    asyncio.run(measure(given.rows, given.rounds, given.transactions, given.seed, given.postgres))
