"""What does a node cost that has nothing to do, and how long does it take to start?

Memory of the node's process and all that come from it, as proportional set size where the kernel tells it
(shared pages counted once), else resident size without shared pages; processor time over some idle seconds;
time from `atoll up` to ready on a home that is made already.

    python benchmarks/idle_node.py [--seconds 30] [--starts 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from pathlib import Path

from support import nodes, report
from support.servers import servers

MEGABYTES_WANTED, PERCENT_WANTED, SECONDS_WANTED = 150, 1.0, 3.0
FLAGS = ("--name", "idle", "--http", "127.0.0.1:0", "--link", "127.0.0.1:0")
SETTLE_SECONDS = 5.0


def memory_bytes(pid: int) -> int:
    """None of one that has ended: a database's workers come and go."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    except (OSError, StopIteration):
        try:
            resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
        except OSError:
            return 0
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def total_megabytes(pids: list[int]) -> float:
    return sum(memory_bytes(pid) for pid in pids) / 1024**2


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in found)]


async def bare_postgres_megabytes() -> float:
    async with servers(1) as (server,):
        await asyncio.sleep(SETTLE_SECONDS)
        pid = int((server.postgres.data / "postmaster.pid").read_text().split()[0])
        return total_megabytes(children(pid))


def judged(value: float, wanted: float, unit: str) -> str:
    return f"{value:.2f} {unit}  wanted below {wanted:g}{'' if value < wanted else '  SHORT'}"


async def measure(seconds: float, starts: int) -> None:
    async with servers(1) as (server,):
        version = await server.value("postgres", "show server_version")
    report.heading(
        "What does an idle node cost, and how long does it take to start?",
        0,
        version,
        "the same PostgreSQL with the same settings, alone",
    )
    bare = await bare_postgres_megabytes()
    with nodes.homes() as folder:
        async with nodes.node(folder / "1", *FLAGS):
            pass
        to_ready = []
        for _ in range(starts):
            async with nodes.node(folder / "1", *FLAGS) as node:
                to_ready.append(node.seconds_to_ready)
        async with nodes.node(folder / "1", *FLAGS) as node:
            await asyncio.sleep(SETTLE_SECONDS)
            pids = node.processes()
            before = sum(map(nodes.cpu_seconds, pids))
            await asyncio.sleep(seconds)
            used = sum(map(nodes.cpu_seconds, pids)) - before
            all_of_it = total_megabytes(node.processes())
            own = memory_bytes(node.process.pid) / 1024**2
    print(f"memory    {judged(all_of_it, MEGABYTES_WANTED, 'MB')}")
    print(f"          of which the Python process {own:.1f} MB; {len(pids)} processes")
    print(f"          PostgreSQL alone {bare:.1f} MB: the node is {all_of_it / bare:.1f} x that")
    print(f"processor {judged(used / seconds * 100, PERCENT_WANTED, '% of one')} over {seconds:g} s")
    start = judged(statistics.median(to_ready), SECONDS_WANTED, "s")
    print(f"start     {start}  {report.spread(to_ready, '.2f')}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--starts", type=int, default=3)
    given = parser.parse_args()
    if sys.platform != "linux":
        print("skipped: needs /proc")
        return
    asyncio.run(measure(given.seconds, given.starts))


if __name__ == "__main__":
    main()
