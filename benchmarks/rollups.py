"""What does a rollup cost those who write, and what does it save those who ask?

The same statements on a table without a rollup, with one of sums, with one of everything, and with a trigger
of the usual kind, which counts straight into one row per window. Then the same questions to rows and rollup.

    python benchmarks/rollups.py [--rounds 3] [--rows 100000] [--asked 1000000] [--postgres 18]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from support import report
from support.servers import Server, make_atoll, script, servers

TABLE = "(id bigint primary key, taken_at timestamptz, machine int, temp float8, visitor int)"
PLAIN, SUMS, FULL, LOCKED = "plain", "sums", "everything", "row_lock"
TABLES = (PLAIN, SUMS, FULL, LOCKED)
MEASURES = {
    SUMS: '{"temp": ["avg"]}',
    FULL: '{"temp": ["avg", "min", "max", "p95"], "visitor": ["distinct"]}',
}
CLIENTS = 4
MACHINES = 10
HOUR = "{0} >= '2026-01-01 06:00+00' and {0} < '2026-01-01 07:00+00'"
MINUTE = "date_bin('1 min', taken_at, '2000-01-01')"
QUESTIONS = {
    "a day, by machine": (
        "select machine, count(*), avg(temp), max(temp) from asked group by 1",
        "select machine, sum(n), sum(temp_avg * temp_count) / sum(temp_count), max(temp_max)"
        " from asked_1min group by 1",
    ),
    "an hour of one machine, by minute, with p95": (
        f"select {MINUTE}, count(*), avg(temp), percentile_cont(0.95) within group (order by temp)"
        f" from asked where machine = 3 and {HOUR.format('taken_at')} group by 1",
        f"select bucket, n, temp_avg, temp_p95 from asked_1min where machine = 3 and {HOUR.format('bucket')}",
    ),
    "the hottest minutes": (
        f"select machine, {MINUTE}, avg(temp) from asked group by 1, 2 order by 3 desc limit 10",
        "select machine, bucket, temp_avg from asked_1min order by 3 desc limit 10",
    ),
}


async def prepare(server: Server) -> None:
    await make_atoll(server)
    await server.run("atoll", "create sequence s")
    for table in TABLES:
        await server.run("atoll", f"create table {table} {TABLE}", f"create index on {table} (taken_at)")
    for table, measures in MEASURES.items():
        await server.run(
            "atoll", f"select atoll.rollup('{table}', '1 min', 'taken_at', '{{machine}}', '{measures}')"
        )
    await server.run("atoll", Path(__file__).with_name("counting_trigger.sql").read_text())


def statements(table: str, rows: int) -> dict[str, str]:
    new = (
        f"select nextval('s'), now() - g * interval '10 ms', g % {MACHINES}, random() * 50, g % 1000"
        f" from generate_series(1, {rows}) g"
    )
    last = f"where id in (select id from {table} order by id desc limit {rows // 10})"
    found = {"bulk INSERT": f"insert into {table} {new}"}
    if table != LOCKED:
        found |= {
            "bulk UPDATE": f"update {table} set temp = temp + 1 {last}",
            "bulk DELETE": f"delete from {table} {last}",
        }
    return found


async def write(server: Server, rounds: int, rows: int, transactions: int, seed: int) -> None:
    one = "insert into {} values (nextval('s'), now(), random(1, 10), random() * 50, 7);"
    seconds: dict[tuple[str, str], list[float]] = {}
    folding: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for table in TABLES:
                for name, clients in (
                    ("one-row INSERT, 1 client", 1),
                    (f"one-row INSERT, {CLIENTS} clients", CLIENTS),
                ):
                    text = one.format(table).replace("random(1, 10)", "(random() * 9)::int")
                    arguments = ["--client", str(clients), "--jobs", "2", "--random-seed", str(seed)]
                    arguments += ["--transactions", str(transactions // clients)]
                    began = time.perf_counter()
                    await server.pgbench("atoll", script(folder, text), *arguments)
                    if turn:
                        seconds.setdefault((name, table), []).append(time.perf_counter() - began)
                began = time.perf_counter()
                notes = await server.value("atoll", "select atoll.tend_rollups(1000000)")
                if table in MEASURES and turn:
                    folding.append((time.perf_counter() - began) / max(notes, 1) * 1e6)
                for name, statement in statements(table, rows).items():
                    await server.run("atoll", "checkpoint")
                    began = time.perf_counter()
                    await server.run("atoll", statement)
                    if turn:
                        seconds.setdefault((name, table), []).append(time.perf_counter() - began)
                await server.run("atoll", "select atoll.tend_rollups(1000000)")
    for (name, table), found in seconds.items():
        if table != PLAIN:
            count = transactions if name.startswith("one") else rows if "INSERT" in name else rows // 10
            plain = seconds[name, PLAIN]
            ratio = statistics.median(p / f for p, f in zip(plain, found, strict=True))
            added = (statistics.median(found) - statistics.median(plain)) / count * 1e6
            print(
                f"{name:<26} {table:<10} plain {report.spread([count / s for s in plain]):>24}/s"
                f" with {report.spread([count / s for s in found]):>24}/s ratio {ratio:.2f} +{added:.1f} us"
            )
    print(f"folding what one-row statements noted: {report.spread(folding, '.1f')} us a note")


async def ask(server: Server, rounds: int, asked: int) -> None:
    await server.run(
        "atoll",
        f"create table asked {TABLE}",
        "insert into asked select g, '2026-01-01'::timestamptz + g * interval '0.1 s',"
        f" g % {MACHINES}, random() * 50, g % 5000 from generate_series(1, {asked}) g",
        "create index on asked (taken_at)",
    )
    began = time.perf_counter()
    measures = '{"temp": ["avg", "count", "max", "p95"]}'
    await server.run(
        "atoll", f"select atoll.rollup('asked', '1 min', 'taken_at', '{{machine}}', '{measures}')"
    )
    while (
        await server.value("atoll", "select state from atoll.rollups where name like '%asked%'") == "filling"
    ):
        await server.run("atoll", "select atoll.tend_rollups()")
    took = time.perf_counter() - began
    parts = await server.value("atoll", "select count(*) from atoll.rollup_part where rollup like '%asked%'")
    print(f"counting {asked:,} rows that are there: {took:.1f} s, {parts:,} parts")
    await server.run("atoll", "vacuum analyze asked", "vacuum analyze atoll.rollup_part")
    for name, (raw, rolled) in QUESTIONS.items():
        seconds: dict[str, list[float]] = {raw: [], rolled: []}
        async with await server.connect("atoll") as connection:
            for turn in range(rounds + 1):
                for query in (raw, rolled):
                    began = time.perf_counter()
                    await (await connection.execute(query.encode())).fetchall()
                    if turn:
                        seconds[query].append(time.perf_counter() - began)
        ratio = statistics.median(r / f for r, f in zip(seconds[raw], seconds[rolled], strict=True))
        rows, kept = (report.spread([s * 1000 for s in seconds[query]], ".1f") for query in (raw, rolled))
        print(f"{name:<44} rows {rows:>22} ms  rollup {kept:>20} ms  ratio {ratio:.1f}")


async def measure(rounds: int, rows: int, asked: int, transactions: int, seed: int, major: int) -> None:
    async with servers(1, major) as (server,):
        report.heading(
            "What does a rollup cost those who write, and what does it save those who ask?",
            seed,
            await server.value("postgres", "show server_version"),
            f"the same statement on a table without one; in turns, {rounds} rounds after one to warm up: "
            "median (least-most)",
        )
        await prepare(server)
        await write(server, rounds, rows, transactions, seed)
        await ask(server, rounds, asked)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--asked", type=int, default=1_000_000)
    parser.add_argument("--transactions", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", type=int, default=18, choices=(16, 18))
    given = parser.parse_args()
    asyncio.run(
        measure(given.rounds, given.rows, given.asked, given.transactions, given.seed, given.postgres)
    )


if __name__ == "__main__":
    main()
