"""How long after it was written does a row show on the other node?

Two real nodes and their link on this machine. A thousand one-row transactions a second are written on one;
on the other a reader asks every two milliseconds for rows that it has not seen. The lag of a row is the
time from its INSERT, before the commit, until the answer that holds it: commit and reader are in it.

    python benchmarks/lag.py [--seconds 10] [--rate 1000] [--rounds 2]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time

from atoll.node.postgres import programs
from support import nodes, report
from support.servers import CATCH_UP_SECONDS_MAX, Connection, script, trusted

WRITERS = 4
READ_EVERY_SECONDS = 0.002
TABLE = "create table tick (id bigint primary key, a text, sent timestamptz default clock_timestamp())"
INSERT = "insert into tick (id, a) values (nextval('s'), 'some text here');"
READ = "select id, extract(epoch from sent)::float8 from tick where id >= %s"
P50_MS_WANTED, P99_MS_WANTED = 10.0, 50.0


async def write(connection: Connection, seconds: float, rate: float) -> int:
    """Write at a steady rate; the number of rows."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(programs.bundled(18).path("pgbench")), "--no-vacuum"]
        command += ["--file", str(script(folder, INSERT))]
        command += ["--client", str(WRITERS), "--rate", str(rate), "--time", str(int(seconds))]
        process = await asyncio.create_subprocess_exec(
            *command, connection.info.dsn, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"pgbench ended with {process.returncode}:\n{output.decode(errors='replace')}")
    found = await (await connection.execute("select count(*) from tick")).fetchone()
    assert found is not None
    return int(found[0])


async def read(
    connection: Connection, first: int, found: dict[int, float], writing: asyncio.Task[int]
) -> None:
    """Rows come in the order in which they were committed, which is almost that of their numbers."""
    async with asyncio.timeout(CATCH_UP_SECONDS_MAX):
        while not writing.done() or len(found) < writing.result():
            rows = await (await connection.execute(READ, [first])).fetchall()
            now = time.time()
            for number, sent in rows:
                found.setdefault(number, (now - sent) * 1000)
            while first in found:
                first += 1
            await asyncio.sleep(READ_EVERY_SECONDS)


async def lags(
    here: nodes.Node, there: nodes.Node, database: str, seconds: float, rate: float
) -> list[float]:
    """Milliseconds, row by row. The first second warms caches and plans and is left out."""
    async with await here.connect(database) as writer, await there.connect(database) as reader:
        await writer.execute("delete from tick")
        async with asyncio.timeout(CATCH_UP_SECONDS_MAX):
            while await (await reader.execute("select from tick limit 1")).fetchone() is not None:
                await asyncio.sleep(0.05)
        last = await (await writer.execute("select nextval('s')")).fetchone()
        assert last is not None
        found: dict[int, float] = {}
        began = time.perf_counter()
        writing = asyncio.create_task(write(writer, seconds, rate))
        await read(reader, last[0] + 1, found, writing)
        took = time.perf_counter() - began
        print(f"          {database}: {len(found)} rows were written and read in {took:.1f} s", flush=True)
        return [found[number] for number in sorted(found)][int(rate) :]


async def share(here: nodes.Node, there: nodes.Node) -> None:
    """The table shared by the nodes in one database, and replicated natively over the socket in another."""
    async with await here.connect() as connection, await there.connect() as other:
        await connection.execute(trusted(TABLE))
        await connection.execute("create sequence s")
        await connection.execute("select atoll.share('tick')")
        async with asyncio.timeout(nodes.SECONDS_MAX):
            while (await (await other.execute("select to_regclass('tick')")).fetchone()) == (None,):
                await asyncio.sleep(0.1)
        for each in (connection, other):
            await each.execute("create database native")
    async with await here.connect("native") as connection, await there.connect("native") as other:
        await connection.execute(trusted(TABLE))
        await connection.execute("create sequence s")
        await other.execute(trusted(TABLE))
        await connection.execute("create publication p for table tick")
        conninfo = connection.info.dsn.replace("'", "''")
        await other.execute(
            trusted(f"create subscription s connection '{conninfo}' publication p with (binary = true)")
        )


async def drop_native(there: nodes.Node) -> None:
    async with await there.connect("native") as other:
        await other.execute("drop subscription s")


async def measure(seconds: float, rate: float, rounds: int) -> None:
    with nodes.homes() as folder:
        async with nodes.pair(folder) as (here, there):
            async with await here.connect() as connection:
                version = connection.info.parameter_status("server_version") or ""
            report.heading(
                f"How long until a row shows on the other node, at {rate:g} writes a second?",
                0,
                version,
                "native logical replication over a Unix socket between the same servers; both take turns, "
                f"{rounds} rounds of {seconds:g} s; writers, reader, nodes and servers share the processors",
            )
            await share(here, there)
            found: dict[str, list[float]] = {"native": [], "atoll": []}
            for _ in range(rounds):
                for database, values in found.items():
                    values += await lags(here, there, database, seconds, rate)
            await drop_native(there)
    for database, values in found.items():
        p50, p99 = report.percentile(values, 0.5), report.percentile(values, 0.99)
        print(
            f"{database:<9} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  most {max(values):6.1f} ms  "
            f"of {len(values)} rows"
        )
    native, atoll = ([report.percentile(found[name], share) for share in (0.5, 0.99)] for name in found)
    short = "" if atoll[0] <= P50_MS_WANTED and atoll[1] <= P99_MS_WANTED else "  SHORT"
    print(f"ratio     p50 {atoll[0] / native[0]:.1f} x  p99 {atoll[1] / native[1]:.1f} x")
    print(f"wanted    p50 at most {P50_MS_WANTED:g} ms, p99 at most {P99_MS_WANTED:g} ms{short}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    asyncio.run(measure(given.seconds, given.rate, given.rounds))


if __name__ == "__main__":
    main()
