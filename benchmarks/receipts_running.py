"""What do receipts cost a pair of nodes that is being written to?

Two pairs of real nodes on this machine: one compares its tables as a node does by itself, the other does not.
Both hold the same rows and take turns: one-row UPDATEs as fast as they go, until the other node has them all,
and one-row UPDATEs at a steady rate. CPU is that of both nodes with all their processes, for the steady rate.

    python benchmarks/receipts_running.py [--rows 100000] [--rounds 3] [--transactions 4000] [--rate 100]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from atoll.node.config import BY_KEY
from atoll.node.postgres import programs
from support import nodes, report
from support.servers import CATCH_UP_SECONDS_MAX, script, trusted

TABLE = "create table stock (id bigint primary key, a text, b int, c float8)"
FILL = "insert into stock select g, 'some text ' || g, g, g * 1.5 from generate_series(1, {}) g"
CLIENTS = 4


@dataclass
class Pair:
    """Two nodes with the same table, and what was found on them."""

    both: tuple[nodes.Node, nodes.Node]
    rates: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)

    async def prepare(self, rows: int) -> None:
        async with await self.both[0].connect() as here:
            await here.execute(trusted(TABLE))
            await here.execute("select atoll.share('stock')")
            await here.execute(trusted(FILL.format(rows)))
        await self.caught_up()

    async def caught_up(self) -> None:
        """The other node has all that was written on the first."""
        async with await self.both[0].connect() as here, await self.both[1].connect() as there:
            token = (await (await here.execute("select atoll.token()")).fetchone() or ("",))[0]
            waits = trusted(f"select atoll.wait_for(%s, '{CATCH_UP_SECONDS_MAX:g} s')")
            assert await (await there.execute(waits, [token])).fetchone() == (True,)

    async def update(self, rows: int, *arguments: str) -> None:
        async with await self.both[0].connect() as here:
            dsn = here.info.dsn
        with tempfile.TemporaryDirectory() as folder:
            text = f"\\set i random(1, {rows})\nupdate stock set b = b + 1, a = 'other' where id = :i;"
            command = [str(programs.bundled(18).path("pgbench")), "--no-vacuum", "--client", str(CLIENTS)]
            command += ["--file", str(script(folder, text)), *arguments, dsn]
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"pgbench ended with {process.returncode}:\n{output.decode(errors='replace')}")

    async def race(self, rows: int, transactions: int) -> None:
        began = time.perf_counter()
        await self.update(rows, "--transactions", str(transactions // CLIENTS))
        await self.caught_up()
        self.rates.append(transactions / (time.perf_counter() - began))

    async def walk(self, rows: int, seconds: float, rate: float) -> None:
        before, began = self.cpu_seconds(), time.perf_counter()
        await self.update(rows, "--rate", str(rate), "--time", str(int(seconds)))
        self.cores.append((self.cpu_seconds() - before) / (time.perf_counter() - began))

    def cpu_seconds(self) -> float:
        return sum(nodes.cpu_seconds(pid) for node in self.both for pid in node.processes())


async def measure(rows: int, rounds: int, transactions: int, seconds: float, rate: float) -> None:
    async with AsyncExitStack() as stack:
        pairs: dict[str, Pair] = {}
        for name, share in (("off", "off"), ("on", BY_KEY["receipts"].default)):
            folder = stack.enter_context(nodes.homes())
            both = await stack.enter_async_context(nodes.pair(folder, "--receipts", share))
            pairs[name] = Pair(both)
        async with await pairs["off"].both[0].connect() as connection:
            version = connection.info.parameter_status("server_version") or ""
        report.heading(
            "What do receipts cost a pair of nodes that is being written to?",
            0,
            version,
            f"a pair with receipts off; the other has them at {BY_KEY['receipts'].default} of a core per "
            f"node; {rows} rows, {rounds} rounds in turns",
        )
        for one in pairs.values():
            await one.prepare(rows)
        for turn in range(rounds + 1):
            for one in pairs.values():
                await one.race(rows, transactions)
                await one.walk(rows, seconds, rate)
                if turn == 0:  # caches and plans are warm from here on
                    one.rates.clear()
                    one.cores.clear()
        tell(pairs, rate)


def tell(pairs: dict[str, Pair], rate: float) -> None:
    for name, one in pairs.items():
        print(
            f"receipts {name:<4} {report.spread(one.rates)} one-row UPDATEs a second end to end; "
            f"{report.spread(one.cores, '.3f')} cores at {rate:g} a second, both nodes together"
        )
    on, off = pairs["on"], pairs["off"]
    print(
        f"ratio         {_ratio(on.rates, off.rates):.2f} x the rate; "
        f"{_ratio(on.cores, off.cores):.2f} x the CPU"
    )


def _ratio(a: Sequence[float], b: Sequence[float]) -> float:
    return statistics.median(a) / statistics.median(b)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transactions", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=100.0)
    given = parser.parse_args()
    asyncio.run(measure(given.rows, given.rounds, given.transactions, given.seconds, given.rate))
