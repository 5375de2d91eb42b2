"""Real nodes, run by `atoll up` and joined by real tokens, in homes below /tmp.

Each ends with this process, also when that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from atoll.demo.ports import free_ports
from atoll.node import credentials
from atoll.node.home import open_home
from atoll.node.postgres.server import LEASH
from support.servers import Connection, make_folder

COMMAND = "from atoll.cli.app import main; main()"
SECONDS_MAX = 120.0


@dataclass(frozen=True)
class Node:
    """A running node: its home and its process."""

    home: Path
    process: asyncio.subprocess.Process
    seconds_to_ready: float

    async def connect(self, database: str | None = None) -> Connection:
        found = credentials.dsn(open_home(self.home), is_admin=True)
        if database:
            found = psycopg.conninfo.make_conninfo(found, dbname=database)
        return await psycopg.AsyncConnection.connect(found, autocommit=True)

    def processes(self) -> list[int]:
        """The node's process and all that come from it."""
        parents = dict(_parents())
        found = {self.process.pid}
        for _ in range(8):
            found |= {pid for pid, parent in parents.items() if parent in found}
        return sorted(found)


def cpu_seconds(pid: int) -> float:
    """Of a process, and of those of its children that have ended and been waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def homes() -> Iterator[Path]:
    """A folder for homes, which the user that runs PostgreSQL can reach."""
    folder = make_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def node(home: Path, *flags: str) -> AsyncIterator[Node]:
    """A node from its start until it is ready, and its end."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *_leashed("up", "--home", str(home), *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_environment(),
    )
    drain: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(SECONDS_MAX):
            await _wait_for_ready(process)
        drain = asyncio.create_task(_drain(process))
        yield Node(home, process, time.perf_counter() - began)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        if drain is not None:
            await drain


@contextlib.asynccontextmanager
async def pair(folder: Path, *more: str) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes that replicate both ways over their link."""
    ports = free_ports(2)
    flags = [
        ("--name", f"n{i}", "--http", "off", "--link", f"127.0.0.1:{port}", *more)
        for i, port in enumerate(ports, 1)
    ]
    async with node(folder / "1", *flags[0]) as first:
        token = (await command("invite", "--home", str(first.home))).strip().splitlines()[-1]
        await command("join", token, "--home", str(folder / "2"), *flags[1])
        async with node(folder / "2", *flags[1]) as second:
            yield first, second


async def command(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *_leashed(*arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"atoll {arguments[0]} ended with {process.returncode}:\n{errors.decode()}")
    return output.decode()


def _leashed(*arguments: str) -> list[str]:
    leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), str(int(signal.SIGTERM))]
    return [*leash, str(os.geteuid()), str(os.getegid()), "", "--", sys.executable, "-c", COMMAND, *arguments]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("ATOLL_", "PG"))}


async def _wait_for_ready(process: asyncio.subprocess.Process) -> None:
    said = []
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode(errors="replace"):
        said.append(line)
        if line.startswith("READY"):
            return
    raise RuntimeError("the node ended before it was ready:\n" + "".join(said))


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass


def _parents() -> Iterator[tuple[int, int]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                text = Path("/proc", entry, "stat").read_text()
                yield int(entry), int(text.rsplit(")", 1)[1].split()[1])
