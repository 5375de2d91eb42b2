"""What is measured of a node while it runs: disk, log, sidecars, memory, connections, files.

A sample is taken from outside, through SQL and /proc; what it means is for bounds.py to say.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.node.postgres.leftover import processes_in
from support.fix_mesh import Mesh, MeshNode

MB = 1024**2
TAKEN = """
    select (select sum(size) from pg_ls_waldir())::float8, pg_total_relation_size('atoll.change')::float8,
           (select count(*) from pg_stat_activity
             where backend_type in ('client backend', 'walsender'))::float8
"""
SIDES = (
    "select name, side from atoll.local_table where kind = 'merge' and name like 'public.%%' order by name"
)


@dataclass(frozen=True)
class Sample:
    """One node at one moment. Memory of PostgreSQL counts what its processes share once."""

    node: str
    seconds: float
    gauges: dict[str, float]


async def take(mesh: Mesh, node: MeshNode, seconds: float) -> Sample:
    assert node.running is not None
    wal, log, connections = (await mesh.sql(node, TAKEN))[0]
    rows = kept = 0
    for table, side in await mesh.sql(node, SIDES):
        counts = f'select (select count(*) from {table}), (select count(*) from atoll_side."{side}")'
        found = (await mesh.sql(node, counts))[0]
        rows, kept = rows + found[0], kept + found[1]
    servers = processes_in(node.home / "data")
    return Sample(
        node.name,
        seconds,
        {
            "WAL, MB": wal / MB,
            "change log, MB": log / MB,
            "sidecar rows per row": kept / max(rows, 1),
            "node, MB": memory(node.running.pid, "Rss") / MB,
            "PostgreSQL, MB": sum(memory(pid, "Pss") for pid in servers) / MB,
            "connections": connections,
            "open files, node": open_files([node.running.pid]),
            "open files, PostgreSQL": open_files(servers),
        },
    )


def memory(pid: int, kind: str) -> float:
    """Bytes; none of a process that has ended."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found = re.search(rf"^{kind}:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return 0


def open_files(pids: Sequence[int]) -> int:
    count = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            count += len(os.listdir(f"/proc/{pid}/fd"))
    return count
